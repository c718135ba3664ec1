//! [`MissedPurges`]: the purges that unreachable peers have missed.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cluster::health::Health;
use crate::key::AssetKey;

/// The number of missed purges that are kept for an unreachable peer.
pub(super) const MAX_KEYS: usize = 1024;

/// The purges that a peer has missed.
pub(super) enum Missed {
    /// The purges of these keys, at most [`MAX_KEYS`].
    Keys(HashSet<AssetKey>),
    /// More keys than are kept: every response may be outdated.
    Everything,
}

/// The result of recording a missed purge.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Noted {
    /// The purge will be sent.
    Kept,
    /// It was one too many: the peer will be told to drop every response without a proven name.
    Overflowed,
}

/// The purges that peers have missed, by peer.
#[derive(Default)]
pub(super) struct MissedPurges(Mutex<HashMap<Arc<str>, Missed>>);

impl MissedPurges {
    fn peers(&self) -> MutexGuard<'_, HashMap<Arc<str>, Missed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the records of peers that are no longer members.
    pub(super) fn retain_members(&self, members: &[Arc<Health>]) {
        self.peers().retain(|peer, _| members.iter().any(|member| member.name == *peer));
    }

    pub(super) fn note(&self, peer: &Arc<str>, key: &AssetKey) -> Noted {
        let mut peers = self.peers();
        let missed = peers.entry(Arc::clone(peer)).or_insert_with(|| Missed::Keys(HashSet::new()));
        if let Missed::Keys(keys) = missed {
            keys.insert(key.asset());
            if keys.len() > MAX_KEYS {
                *missed = Missed::Everything;
                return Noted::Overflowed;
            }
        }
        Noted::Kept
    }

    pub(super) fn note_everything(&self, peer: &Arc<str>) {
        self.peers().insert(Arc::clone(peer), Missed::Everything);
    }

    pub(super) fn take(&self, peer: &str) -> Option<Missed> {
        self.peers().remove(peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_list_of_missed_invalidations_becomes_an_invalidation_of_everything() {
        let (missed, peer) = (MissedPurges::default(), Arc::from("b:1"));
        let key = |number: usize| AssetKey::parse(&format!("/{number}"), 100).unwrap();
        for number in (0..MAX_KEYS).chain(0..MAX_KEYS) {
            assert_eq!(missed.note(&peer, &key(number)), Noted::Kept);
        }
        assert!(matches!(missed.take(&peer), Some(Missed::Keys(keys)) if keys.len() == MAX_KEYS));
        for number in 0..MAX_KEYS {
            missed.note(&peer, &key(number));
        }
        assert_eq!(missed.note(&peer, &key(MAX_KEYS)), Noted::Overflowed);
        assert_eq!(missed.note(&peer, &key(0)), Noted::Kept);
        assert!(matches!(missed.take(&peer), Some(Missed::Everything)));
        assert!(missed.take(&peer).is_none());
        missed.note(&peer, &key(0));
        missed.note_everything(&peer);
        assert!(matches!(missed.take(&peer), Some(Missed::Everything)));
    }
}
