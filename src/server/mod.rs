//! The server of an [`Edge`](crate::Edge): its listeners, connections and tasks, its drain, and
//! the reload of its configuration.

mod acceptor;
mod bind;
mod certificates;
mod connection;
#[cfg_attr(not(feature = "gossip"), path = "gossip/disabled.rs")]
mod gossip;
mod handshake;
mod listeners;
mod parts;
mod reload;
mod run;
mod supervisor;
mod ticket_sharing;

pub use bind::{Addresses, Server};
pub(crate) use certificates::follow_for_peers;
pub(crate) use parts::{Supplied, edge, embedded_origin, http_origin, peer_tls};
#[cfg(feature = "cli")]
pub(crate) use parts::{discovery, policies, tls_acceptor};
pub use reload::Reloading;
