//! Peerage: an HTTP caching reverse proxy whose edges act as one cache.
//!
//! A request's way:
//!
//! 1. `server` accepts it, on the listener for clients or on that for peers.
//! 2. [`Edge`] decides and composes; nobody else does. What is not GET or HEAD
//!    is forwarded to the origin.
//! 3. [`AssetKey`] is its canonical name: for the cache, the ring, the origin.
//! 4. `memory` may hold a fresh response: then it is answered from there.
//! 5. A `flight` is led, or followed: one fill of one key at a time.
//! 6. The fill asks the owner on the [ring](cluster::ring), its successors, or
//!    the [`Origin`].
//! 7. The head decides by [`semantics`]: everybody streams from the growing
//!    [`Body`], or everybody goes on alone.
//! 8. The answer: conditions, range, Age, Cache-Status, Via.
//!
//! A program that embeds Peerage gives [`Server::bind_with`] a closure from
//! key to bytes; `examples/embed.rs` is one.

mod access;
mod admin;
mod body;
mod budget;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod digest;
mod edge;
mod error;
mod flight;
mod gossip;
mod interim;
mod key;
mod memory;
mod metrics;
pub mod naming;
mod origin;
mod outgoing;
mod publishing;
pub mod semantics;
mod server;
mod stored;
mod sync;
mod tunnel;

pub use body::Body;
pub use config::Config;
pub use edge::Edge;
pub use error::{Error, Fault, StartError};
pub use key::AssetKey;
pub use origin::Origin;
pub use server::{Addresses, Reloading, Server};
