//! The HTTP client for origins, peers and etcd: HTTP/1.1, and HTTP/2 to origins that select it by
//! ALPN.

mod client;
mod connections;
mod connector;
mod endpoint;
mod failure;
mod framing;
mod http2;
mod http2_pool;
mod io;
mod peer_security;
mod pool;
mod reply;
pub(crate) mod tunnel;

pub(crate) use client::{Client, DEFAULT_LIFETIME, ErrorKinds, Timeouts};
pub(crate) use connector::Connector;
pub(crate) use endpoint::Endpoint;
pub(crate) use io::Io;
pub(crate) use peer_security::PeerSecurity;
pub(crate) use reply::BaseUrl;
pub use reply::{Framing, Reply};
