//! Gossip without the feature `gossip`: the configuration rejects `cluster.gossip = true`, so
//! that no [`GossipSocket`] is made.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::sync::watch;

use crate::cluster::membership::Membership;
use crate::config::{ClusterConfig, Secret};
use crate::observe::metrics::Metrics;

/// The state of this edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    Serve,
    Drain,
    Leave,
}

/// The socket of gossip, or the address at which it will be.
#[allow(dead_code)] // its fields are for gossip
pub(crate) enum GossipSocket {
    Bound(UdpSocket),
    InUse(SocketAddr),
}

/// This edge's part in gossip.
pub(crate) struct Gossip;

impl Gossip {
    pub(crate) fn new(
        _config: &ClusterConfig,
        _edge: &str,
        _seed: u64,
        _secrets: watch::Receiver<Vec<Secret>>,
        _membership: Arc<Membership>,
        _metrics: Arc<Metrics>,
    ) -> Self {
        Self
    }

    #[allow(clippy::unused_async)] // as with the feature
    pub(crate) async fn run(self, ear: GossipSocket, _intent: watch::Receiver<Intent>) {
        drop(ear);
    }
}
