//! [`View`]: what an edge knows of the cluster at a moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ring::{Member, Ring};
use crate::cluster::health::{Health, Heard};

/// How many former rings are remembered at the most.
const FORMER: usize = 64;

/// How a member is, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum State {
    /// It answers.
    Alive,
    /// It is going to leave: it answers, and owns nothing.
    Draining,
    /// It did not, lately; it owns what it owns until it is certain.
    Suspect,
    /// Another member has its name: it owns nothing, and is not asked.
    Refused,
    /// It is gone, and owns nothing.
    Down,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Alive, Self::Draining, Self::Suspect, Self::Refused, Self::Down];

    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Draining => "draining",
            Self::Refused => "refused",
            Self::Down => "down",
        }
    }

    fn owns(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}

/// What is known of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) address: Arc<str>,
    /// Its `edge.name`; empty while it has not been heard.
    pub(crate) edge: Arc<str>,
    pub(crate) state: State,
}

/// A member, in a view.
#[derive(Debug, Clone)]
pub struct Seen {
    /// By which peers reach it: its name on the ring.
    pub address: Arc<str>,
    /// Its `edge.name`; empty while it has not been heard.
    pub edge: Arc<str>,
    /// How it is.
    pub state: State,
    /// Since when it has been so: by a clock that nobody sets, for it is compared with the
    /// times of writes.
    pub since: Instant,
}

impl Seen {
    /// What is known now. A state that has not changed keeps the time of its beginning.
    fn new(known: Known, before: &View, now: Instant) -> Self {
        let Known { address, edge, state } = known;
        let old = before.member(&address);
        let since = old.filter(|old| old.state == state).map_or(now, |old| old.since);
        match (old.map(|old| old.state), state) {
            (Some(old), new) if old == new => {}
            (_, State::Down) => tracing::warn!(peer = %address, %edge, "peer is down, it owns no keys"),
            (_, State::Refused) => tracing::error!(
                peer = %address, %edge,
                "member refused: another member has the same edge.name; it owns nothing until edge.name is unique"
            ),
            (Some(State::Down | State::Draining | State::Refused), State::Alive) => {
                tracing::info!(peer = %address, %edge, "peer is back");
            }
            (_, state) => tracing::debug!(peer = %address, %edge, state = state.name(), "peer state changed"),
        }
        Self { address, edge, state, since }
    }

    /// A member that stays keeps its standing. One that is down counts as not answering,
    /// and goes on to do so when it is back, until it has answered.
    fn health(&self, before: &View) -> Arc<Health> {
        let health = before.peer(&self.address).cloned().unwrap_or_else(|| Arc::new(Health::new(&self.address)));
        if matches!(self.state, State::Refused | State::Down) {
            health.note(Heard::Silence);
        }
        health
    }

    /// Whether it is worth asking. A suspect of which nothing has been heard yet may be
    /// there.
    fn may_answer(&self) -> bool {
        match self.state {
            State::Alive | State::Draining => true,
            State::Suspect => self.edge.is_empty(),
            State::Refused | State::Down => false,
        }
    }
}

/// What a request reads: the ring, and the standing of its members. The default is a
/// cluster without members.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The ring by which keys have owners.
    pub ring: Arc<Ring>,
    /// Grows with each change.
    pub epoch: u64,
    members: Vec<Seen>,
    peers: Vec<Arc<Health>>,
    /// All who can be asked but this edge, also those that own nothing any more.
    others: Ring,
    /// The rings of before, by which previous owners are found; the latest is last.
    former: Vec<Former>,
    /// Until then, others owned what is this edge's: it had just started, or they
    /// had taken it for dead.
    came: Option<Instant>,
}

/// A ring that was in force until then.
#[derive(Debug, Clone)]
struct Former {
    ring: Arc<Ring>,
    until: Instant,
}

impl View {
    /// What holds from `now` on, of the cluster of `known`, to the edge that is `own`
    /// there. What was so before is remembered for the time of `memory`.
    pub(super) fn next(&self, mut known: Vec<Known>, own: &str, memory: Duration, now: Instant) -> Self {
        known.sort_by(|a, b| a.address.cmp(&b.address));
        known.dedup_by(|a, b| a.address == b.address);
        let members: Vec<_> = known.into_iter().map(|known| Seen::new(known, self, now)).collect();
        let mut ring = Ring::new(members.iter().filter(|seen| seen.state.owns()).map(|seen| &*seen.address));
        if ring.members().is_empty() {
            ring = Ring::new([own]);
        }
        let peers = members.iter().filter(|seen| *seen.address != *own);
        let others = Ring::new(peers.clone().filter(|seen| seen.may_answer()).map(|seen| &*seen.address));
        let peers = peers.map(|seen| seen.health(self)).collect();
        let (epoch, ring, former) = (self.epoch + 1, Arc::new(ring), self.former.clone());
        // An edge that was alone may only have thought so: others may own its keys.
        let came = if self.ring.members().len() < 2 { Some(now) } else { self.came };
        let mut view = Self { ring, epoch, members, peers, others, former, came };
        if *view.ring != *self.ring {
            view.remember(&self.ring, memory, now);
        }
        view
    }

    /// The same, of an edge for which others owned what is its own until `now`.
    pub(super) fn coming_back(&self, now: Instant) -> Self {
        Self { came: Some(now), ..self.clone() }
    }

    /// The standing of a member.
    pub fn peer(&self, name: &str) -> Option<&Arc<Health>> {
        self.peers.binary_search_by(|peer| (*peer.name).cmp(name)).ok().map(|at| &self.peers[at])
    }

    /// All members but this edge, by name; also those that are down.
    pub fn peers(&self) -> &[Arc<Health>] {
        &self.peers
    }

    /// All members, by address; also those that are down.
    pub fn members(&self) -> &[Seen] {
        &self.members
    }

    /// How a member is.
    pub fn member(&self, address: &str) -> Option<&Seen> {
        self.members.binary_search_by(|seen| (*seen.address).cmp(address)).ok().map(|at| &self.members[at])
    }

    /// The share of all keys that a member owns: each on the ring has the same.
    pub fn share(&self, address: &str) -> f64 {
        let members = self.ring.members();
        let owns = members.iter().any(|member| **member.name() == *address);
        #[allow(clippy::cast_precision_loss)] // there are not so many members
        if owns { 1.0 / members.len() as f64 } else { 0.0 }
    }

    /// Who can be asked: all but this edge.
    pub(super) fn reachable(&self) -> impl Iterator<Item = &Arc<str>> {
        self.others.members().iter().map(Member::name)
    }

    /// Whether the key with this hash was owned by another than `own` in the time of
    /// `memory` before `now`, or may have been.
    pub(super) fn has_moved(&self, key: u64, own: &str, memory: Duration, now: Instant) -> bool {
        let another = |ring: &Ring| ring.owner(key).is_some_and(|owner| **owner.name() != *own);
        let is_recent = |then: Instant| now.saturating_duration_since(then) < memory;
        let mut recent = self.former.iter().filter(|former| is_recent(former.until));
        let came = self.came.is_some_and(is_recent);
        came || another(&self.ring) || recent.any(|former| another(&former.ring))
    }

    /// All who answer, in order of rank for the key with this hash.
    pub(super) fn answering(&self, key: u64) -> Vec<Arc<str>> {
        let ranked = self.others.rank(key).into_iter().map(|member| Arc::clone(member.name()));
        ranked.filter(|name| self.peer(name).is_some_and(|peer| peer.is_up())).collect()
    }

    /// Whether `peer`, if it has been heard before, is as bad as `state`, or no member.
    pub(super) fn is_as_bad(&self, peer: &str, state: State) -> bool {
        let good = |seen: &Seen| seen.state < state || seen.state == State::Suspect && seen.edge.is_empty();
        !self.member(peer).is_some_and(good)
    }

    /// Whether nobody need wait for `peer`: it is down, or does not answer.
    pub(crate) fn has_lost(&self, peer: &str) -> bool {
        let down = self.member(peer).is_none_or(|seen| matches!(seen.state, State::Refused | State::Down));
        down || self.peer(peer).is_none_or(|peer| !peer.is_up())
    }

    /// Whether `peer` may be frozen or gone.
    pub(crate) fn is_in_doubt(&self, peer: &str) -> bool {
        let overdue = self.peer(peer).is_none_or(|peer| peer.is_overdue());
        overdue || self.has_lost(peer) || self.member(peer).is_none_or(|seen| !seen.may_answer())
    }

    /// The members that seem to be there, and did not answer.
    pub(crate) fn silent(&self) -> Vec<Arc<str>> {
        let there =
            |name: &str| self.member(name).is_some_and(|seen| !matches!(seen.state, State::Refused | State::Down));
        let silent = self.peers.iter().filter(|peer| (!peer.is_up() || peer.is_overdue()) && there(&peer.name));
        silent.map(|peer| Arc::clone(&peer.name)).collect()
    }

    /// Remembers `ring`, in force until `now`, for the time of `memory`.
    fn remember(&mut self, ring: &Arc<Ring>, memory: Duration, now: Instant) {
        self.former.retain(|former| now.saturating_duration_since(former.until) < memory);
        if self.former.len() == FORMER {
            self.former.remove(0);
        }
        self.former.push(Former { ring: Arc::clone(ring), until: now });
    }
}
