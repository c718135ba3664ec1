//! The peers that are asked for a key, in order of rank.

use std::sync::Arc;
use std::time::Instant;

use super::peering::Peering;
use crate::key::AssetKey;
use crate::store::tiers::Store;

/// Returns the peers that rank before this edge, at most `attempts`. Peers that had wrong
/// contents for the key lately, or do not answer, are left out.
pub(super) fn higher_ranked(peering: &Peering, store: &Store, key: &AssetKey) -> Vec<Arc<str>> {
    let view = peering.membership.view();
    let before = view.ring.rank(key.hash()).into_iter().map(|member| Arc::clone(member.name()));
    let before = before.take_while(|name| name != peering.membership.own());
    // After a purge, only an owner that was up throughout has certainly received it: the others
    // are skipped.
    let now = Instant::now();
    let changed = store.changed_for(key).map(|left| peering.membership.memory().saturating_sub(left));
    let owner = view.ring.owner(key.hash());
    let has_heard = |name: &Arc<str>| {
        let was_there =
            |for_long| view.member(name).is_some_and(|seen| now.saturating_duration_since(seen.since) >= for_long);
        changed.is_none_or(|ago| owner.is_some_and(|owner| owner.name() == name) && was_there(ago))
    };
    let before = before.filter(has_heard);
    let up = before.filter(|name| view.peer(name).is_some_and(|peer| peer.is_up()));
    up.filter(|name| !store.doubts(name, key)).take(peering.attempts).collect()
}

/// Returns the peers that may hold an asset which this edge would fetch from the origin, at
/// most `attempts`.
pub(super) fn holders(peering: &Peering, store: &Store, key: &AssetKey) -> Vec<Arc<str>> {
    // A purge may not have reached all of them yet.
    if store.has_changed(key) {
        return Vec::new();
    }
    let mut holders = peering.membership.may_hold(key.hash(), Instant::now());
    holders.retain(|name| !store.doubts(name, key));
    holders.truncate(peering.attempts);
    holders
}

/// Returns the owner of a key if it is another edge, is not in doubt, and had no wrong copy
/// lately.
pub(super) fn peekable_owner(peering: &Peering, store: &Store, key: &AssetKey) -> Option<Arc<str>> {
    let view = peering.membership.view();
    let owner = view.ring.owner(key.hash())?.name();
    let good = owner != peering.membership.own() && !view.is_in_doubt(owner) && !store.doubts(owner, key);
    good.then(|| Arc::clone(owner))
}
