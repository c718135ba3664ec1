//! [`PeerSecurity`]: TLS to peers, and the peers that are dialled in cleartext during a rollout.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::endpoint::Endpoint;
use crate::tls::{PeerMode, PeerTls};

/// The time for which a peer is dialled in cleartext before TLS is tried again.
const REMEMBERED: Duration = Duration::from_secs(10);
/// The most peers that are remembered; the others are dialled with TLS first.
const MAX_PEERS: usize = 4096;

/// TLS to peers. With [`PeerMode::Accept`], a peer that answers a TLS handshake with something else
/// than TLS is dialled in cleartext.
#[derive(Clone)]
pub(crate) struct PeerSecurity {
    pub(super) tls: Arc<PeerTls>,
    /// The peers without TLS; `None` if none is dialled in cleartext.
    cleartext: Option<Arc<CleartextPeers>>,
}

/// The peers without TLS, with the time at which that was found.
#[derive(Default)]
struct CleartextPeers(Mutex<HashMap<Endpoint, Instant>>);

impl PeerSecurity {
    /// Creates the security of connections to peers, which may be in cleartext if the mode allows it.
    pub(crate) fn new(tls: Arc<PeerTls>) -> Self {
        let cleartext = (tls.mode() == PeerMode::Accept).then(Arc::default);
        Self { tls, cleartext }
    }

    /// Creates the security of connections that are never in cleartext.
    pub(crate) fn strict(tls: Arc<PeerTls>) -> Self {
        Self { tls, cleartext: None }
    }

    /// Returns true if cleartext is allowed, and `peer` did not speak TLS a short time ago.
    pub(super) fn uses_cleartext(&self, peer: &Endpoint) -> bool {
        let is_recent = |since: &Instant| since.elapsed() < REMEMBERED;
        self.cleartext.as_ref().is_some_and(|cleartext| cleartext.lock().get(peer).is_some_and(is_recent))
    }

    /// Remembers that `peer` does not speak TLS. Returns true if cleartext is allowed.
    pub(super) fn falls_back(&self, peer: &Endpoint) -> bool {
        let Some(mut peers) = self.cleartext.as_ref().map(|cleartext| cleartext.lock()) else { return false };
        if peers.len() >= MAX_PEERS {
            peers.retain(|_, since| since.elapsed() < REMEMBERED);
        }
        if peers.len() < MAX_PEERS && peers.insert(peer.clone(), Instant::now()).is_none() {
            tracing::warn!(%peer, "peer does not speak TLS, using cleartext (cluster.tls.mode)");
        }
        true
    }

    /// Forgets `peer`: it speaks TLS now, or is not reachable and may be restarted with TLS.
    pub(super) fn forget(&self, peer: &Endpoint) {
        if let Some(cleartext) = &self.cleartext {
            cleartext.lock().remove(peer);
        }
    }
}

impl CleartextPeers {
    fn lock(&self) -> MutexGuard<'_, HashMap<Endpoint, Instant>> {
        // No critical section can panic halfway through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
