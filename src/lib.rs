//! Peerage: an HTTP caching reverse proxy whose edges act as one cache.
//!
//! A request's way:
//!
//! 1. `server` accepts it, on the listener for clients or on that for peers.
//! 2. [`Edge`] decides and composes; nobody else does. What is not GET or HEAD
//!    is forwarded to the origin.
//! 3. [`AssetKey`] is its canonical name: for the cache, the ring, the origin.
//! 4. `memory` may hold a fresh response: then it is answered from there.
//!    So may that of its owner: a small asset is had from there by a `link`.
//! 5. A `flight` is led, or followed: one fill of one key at a time.
//! 6. The fill asks the owner on the [ring](cluster::ring), its successors, or
//!    the [`Origin`].
//! 7. The head decides by [`semantics`]: everybody streams from the growing
//!    [`Body`], or everybody goes on alone.
//! 8. The answer: conditions, range, Age, Cache-Status, Via.
//!
//! A program that embeds Peerage gives [`Server::bind_with`] a closure from
//! key to bytes; `examples/embed.rs` is one. Where it knows by itself who its
//! members are, it says so, as often as that changes:
//!
//! ```no_run
//! # async fn start(config: peerage::Config) -> Result<(), Box<dyn std::error::Error>> {
//! # use peerage::{AssetKey, Server};
//! # let origin = |_: AssetKey| async { Ok::<_, std::io::Error>(None) };
//! # let mut found = tokio::sync::mpsc::channel::<Vec<String>>(1).1;
//! let server = Server::bind_with(config, origin).await?;
//! let edge = server.edge().clone();
//! tokio::spawn(async move {
//!     while let Some(members) = found.recv().await {
//!         edge.membership().replace(members.iter().map(String::as_str));
//!     }
//! });
//! server.run(std::future::pending()).await?;
//! # Ok(())
//! # }
//! ```

mod admin;
mod body;
pub mod cli;
mod clients;
pub mod cluster;
pub mod config;
mod conn;
mod edge;
mod error;
mod flight;
mod http1;
mod key;
mod observe;
mod origin;
mod peer;
mod random;
pub mod semantics;
mod server;
pub mod site;
mod store;
mod sync;
mod upstream;

pub use body::Body;
pub use config::Config;
pub use edge::Edge;
pub use error::{Error, Fault, RunError, StartError};
pub use key::AssetKey;
pub use origin::{Call, Origin};
pub use server::{Addresses, Reloading, Server};
pub use upstream::{Framing, Reply};
