//! [`KeyList`]: lists the stored keys that a starting edge will own, for its warm-up.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use tokio::sync::Semaphore;

use super::memory::Memory;
use super::peering::Peering;
use super::settings::Settings;
use crate::cluster::ring::Ring;
use crate::key::{AssetKey, Scope, split_scope};
use crate::semantics::authority::is_host;
use crate::semantics::scheme::Scheme;
use crate::site::Sites;

/// The header of a request for this hop that asks a peer for a list: the keys that it holds and
/// that the edge at this address would own. The response has a line for each key: the number of
/// uses, the path with its query, the identifier of the site, the scheme, and the host if the key has
/// one.
pub(super) const WANTED: HeaderName = HeaderName::from_static("peerage-wanted");

/// Lists stored keys for peers.
pub(super) struct KeyList {
    settings: Arc<Settings>,
    cache: Arc<Memory>,
    peering: Arc<Peering>,
    /// The number of keys that are listed.
    pub(super) most: usize,
    /// Held while the store is listed.
    listing: Semaphore,
}

impl KeyList {
    pub(super) fn new(settings: Arc<Settings>, cache: Arc<Memory>, peering: Arc<Peering>, most: usize) -> Self {
        Self { settings, cache, peering, most, listing: Semaphore::new(1) }
    }

    /// Returns the list of stored keys that the edge at `address` would own, the most used first.
    pub(super) async fn list_for(&self, address: &HeaderValue) -> Option<String> {
        let address = address.to_str().ok()?.to_owned();
        let (cache, peering, most) = (Arc::clone(&self.cache), Arc::clone(&self.peering), self.most);
        let settings = Arc::clone(&self.settings);
        // The listing walks over the whole store, so one runs at a time.
        let _turn = self.listing.acquire().await.ok()?;
        let list = tokio::task::spawn_blocking(move || {
            let view = peering.membership.view();
            let members = view.ring.members().iter().map(|member| &**member.name());
            let ring = Ring::new(members.chain([&*address]));
            let owned = |hash| ring.owner(hash).is_some_and(|owner| **owner.name() == *address);
            let policies = settings.policies.load();
            let wanted = cache.store.most_used(most, owned);
            wanted.into_iter().map(|(uses, text)| line(&policies.sites, uses, &text)).collect()
        });
        list.await.ok()
    }
}

/// Returns the line of a list for the stored key with this text.
fn line(sites: &Sites, uses: u32, text: &str) -> String {
    let (site, scheme, host, name) = split_scope(text);
    let (site, scheme) = (sites.at(site).key.id, scheme.name());
    let host = host.map(|host| format!(" {host}")).unwrap_or_default();
    format!("{uses} {name} {site} {scheme}{host}\n")
}

/// Returns the uses and the key of a line. `None` if the line is malformed, or names a site that
/// this edge does not know.
pub(super) fn parse_line(sites: &Sites, line: &str, limit: usize) -> Option<(u32, AssetKey)> {
    let mut words = line.split(' ');
    let (uses, name, site) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
    let scheme = Scheme::of_name(words.next()?.as_bytes())?;
    let host = words.next().filter(|host| is_host(host.as_bytes()));
    let scope = Scope { site: sites.of_peer(Some(site.as_bytes())).ok()?.key, scheme, host };
    Some((uses, AssetKey::of_target(&scope, name, limit).ok()?))
}
