//! Connections: accepting them, their timeouts, their requests, and sending large bodies.

pub(crate) mod accept;
#[cfg(feature = "zero-copy")]
mod costs;
mod frames;
pub(crate) mod handler;
pub(crate) mod https;
mod io;
mod sniff;
mod ticket_exchange;
mod timeout_io;
#[cfg_attr(not(feature = "zero-copy"), path = "zero_copy/disabled.rs")]
mod zero_copy;

pub(crate) use io::Io;
pub(crate) use timeout_io::TimeoutIo;
pub(crate) use zero_copy::{Splicer, Splicers};
