//! Bodies of messages: [`Body`] and its adapters, the shared body of a flight, informational
//! responses, and the memory that sockets send without a copy.

mod content;
mod end_hook;
mod error_chain;
mod follower;
pub(crate) mod growing;
pub(crate) mod informational;
mod progress;
mod proof;
pub(crate) mod proven;
mod room;
mod skip;
mod slice;
mod timed_body;
mod turn;
#[cfg_attr(not(feature = "zero-copy"), path = "zero_copy/disabled.rs")]
pub(crate) mod zero_copy;

pub use content::Body;
pub(crate) use content::{Resume, next_data};
pub(crate) use end_hook::Ended;
pub(crate) use error_chain::describe;
pub(crate) use progress::Progress;
pub(crate) use room::Room;
pub(crate) use skip::{Delivered, Position};
pub(crate) use slice::{RUN, Run};
pub(crate) use timed_body::ReceivedFrom;

#[cfg(test)]
mod tests;
