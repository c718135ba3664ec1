//! Who is in the cluster, and how each of them has been answering.
//!
//! The list is the configuration's. It is published as a [`Ring`], which the
//! request path reads without a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::ring::Ring;

/// How a peer has been answering.
#[derive(Debug)]
pub struct Standing {
    /// Its address, which is its name.
    pub name: Arc<str>,
    up: AtomicBool,
    errors: AtomicU64,
}

impl Standing {
    /// Whether the last request to it was answered.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// How many requests to it failed.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }
}

/// What a request reads: the ring, and the standing of its members.
#[derive(Debug)]
pub struct View {
    /// Who owns what.
    pub ring: Ring,
    peers: Vec<Arc<Standing>>,
}

impl View {
    /// The standing of a member.
    pub fn peer(&self, name: &str) -> Option<&Arc<Standing>> {
        self.peers.iter().find(|peer| *peer.name == *name)
    }

    /// All members but this edge, by name.
    pub fn peers(&self) -> &[Arc<Standing>] {
        &self.peers
    }
}

/// The members of the cluster, as this edge knows them.
#[derive(Debug)]
pub struct Membership {
    own: Arc<str>,
    view: ArcSwap<View>,
}

impl Membership {
    /// The cluster of `own` and `peers`. An edge that is not among its own
    /// peers owns nothing: it asks the others, and answers them.
    pub fn new<'a>(own: &str, peers: impl IntoIterator<Item = &'a str>) -> Self {
        let empty = View { ring: Ring::default(), peers: Vec::new() };
        let membership = Self { own: own.into(), view: ArcSwap::from_pointee(empty) };
        membership.replace(peers);
        membership
    }

    /// An edge alone.
    pub fn alone() -> Self {
        Self::new("", [])
    }

    /// How peers reach this edge: its name on the ring.
    pub fn own(&self) -> &Arc<str> {
        &self.own
    }

    /// What holds now.
    pub fn view(&self) -> arc_swap::Guard<Arc<View>> {
        self.view.load()
    }

    /// Publishes another list; an empty one is an edge alone. Who stays keeps
    /// its standing.
    pub fn replace<'a>(&self, peers: impl IntoIterator<Item = &'a str>) {
        let mut ring = Ring::new(peers);
        if ring.members().is_empty() {
            ring = Ring::new([&*self.own]);
        }
        let before = self.view.load();
        let standing = |name: &Arc<str>| {
            before.peer(name).cloned().unwrap_or_else(|| {
                Arc::new(Standing { name: Arc::clone(name), up: AtomicBool::new(true), errors: AtomicU64::new(0) })
            })
        };
        let names = ring.members().iter().map(super::ring::Member::name);
        let peers = names.filter(|name| **name != self.own).map(standing).collect();
        self.view.store(Arc::new(View { ring, peers }));
    }

    /// Notes how a request to `name` went; says whether that is news.
    pub fn note(&self, name: &str, heard: Heard) -> bool {
        let view = self.view.load();
        let Some(peer) = view.peer(name) else {
            return false;
        };
        if heard == Heard::Nothing {
            peer.errors.fetch_add(1, Ordering::Relaxed);
        }
        let up = heard == Heard::Answer;
        peer.up.swap(up, Ordering::Relaxed) != up
    }
}

/// What came back from a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// An answer, whatever it says.
    Answer,
    /// A refused connection, a timeout, a broken answer.
    Nothing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stays_keeps_its_standing() {
        let members = Membership::new("a:1", ["a:1", "b:1", "c:1"]);
        assert!(members.note("b:1", Heard::Nothing));
        assert!(!members.note("b:1", Heard::Nothing));
        members.replace(["a:1", "b:1", "d:1"]);
        let view = members.view();
        let peers: Vec<_> = view.peers().iter().map(|peer| (&*peer.name, peer.is_up(), peer.errors())).collect();
        assert_eq!(peers, [("b:1", false, 2), ("d:1", true, 0)]);
        assert!(members.note("b:1", Heard::Answer));
        assert!(!members.note("gone:1", Heard::Answer));
    }

    #[test]
    fn an_edge_alone_owns_everything() {
        let alone = Membership::alone();
        assert_eq!(alone.view().ring.owner(7).unwrap().name(), alone.own());
        assert!(alone.view().peers().is_empty());
    }
}
