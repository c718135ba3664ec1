//! One connection: its acceptance, its timeouts, its requests, and how large bodies are sent on it.

pub(crate) mod accept;
#[cfg(feature = "zero-copy")]
pub(crate) mod costs;
mod frames;
pub(crate) mod serving;
mod timeout_io;
#[cfg_attr(not(feature = "zero-copy"), path = "zero_copy/disabled.rs")]
mod zero_copy;

pub(crate) use timeout_io::TimeoutIo;
pub(crate) use zero_copy::{Splicer, Splicers};
