//! The HTTP/1.1 client for origins, peers and etcd.

mod client;
mod pool;
pub(crate) mod tunnel;

pub(crate) use client::{Client, DEFAULT_LIFETIME, ErrorKinds, Timeouts, Unframed};
