//! Gossip: drives [`Swim`](crate::cluster::swim::Swim) with a UDP socket, and publishes its
//! findings.
//!
//! Datagrams use the port that peers' requests use over TCP, so no other address has to be
//! configured.

mod driver;
mod hosts;
mod rejection_log;
mod socket;

pub(super) use driver::{Gossip, Intent};
pub(super) use socket::GossipSocket;
