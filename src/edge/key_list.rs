//! [`KeyList`]: lists the stored keys that a starting edge will own, for its warm-up.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use tokio::sync::Semaphore;

use super::memory::Memory;
use super::peering::Peering;
use crate::cluster::ring::Ring;

/// The header of a request for this hop that asks a peer for a list: the keys that it holds and
/// that the edge at this address would own. The response has a line for each path: the number of
/// uses, and the path.
pub(super) const WANTED: HeaderName = HeaderName::from_static("peerage-wanted");

/// Lists stored keys for peers.
pub(super) struct KeyList {
    cache: Arc<Memory>,
    peering: Arc<Peering>,
    /// The number of keys that are listed.
    pub(super) most: usize,
    /// Held while the store is listed.
    listing: Semaphore,
}

impl KeyList {
    pub(super) fn new(cache: Arc<Memory>, peering: Arc<Peering>, most: usize) -> Self {
        Self { cache, peering, most, listing: Semaphore::new(1) }
    }

    /// Returns the list of stored keys that the edge at `address` would own, the most used first.
    pub(super) async fn list_for(&self, address: &HeaderValue) -> Option<String> {
        let address = address.to_str().ok()?.to_owned();
        let (cache, peering, most) = (Arc::clone(&self.cache), Arc::clone(&self.peering), self.most);
        // The listing walks over the whole store, so one runs at a time.
        let _turn = self.listing.acquire().await.ok()?;
        let list = tokio::task::spawn_blocking(move || {
            let view = peering.membership.view();
            let members = view.ring.members().iter().map(|member| &**member.name());
            let ring = Ring::new(members.chain([&*address]));
            let owned = |hash| ring.owner(hash).is_some_and(|owner| **owner.name() == *address);
            let wanted = cache.store.most_used(most, owned);
            wanted.into_iter().map(|(uses, name)| format!("{uses} {name}\n")).collect()
        });
        list.await.ok()
    }
}
