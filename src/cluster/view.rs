//! [`View`]: an edge's knowledge of the cluster at one moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ring::{Member, Ring};
use crate::cluster::health::{Health, Heard};

/// The most former rings that are remembered.
const MAX_FORMER: usize = 64;

/// The state of a member, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum State {
    /// The member answers.
    Alive,
    /// The member is about to leave: it answers but owns nothing.
    Draining,
    /// The member did not answer lately. It keeps its keys until it is declared dead.
    Suspect,
    /// Another member has the same `edge.name`: this one owns nothing and is not asked.
    Refused,
    /// The member is gone and owns nothing.
    Down,
}

impl State {
    /// All states.
    pub const ALL: [Self; 5] = [Self::Alive, Self::Draining, Self::Suspect, Self::Refused, Self::Down];

    /// Returns the state's name in lower case.
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

/// The information about a member from the list and gossip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) address: Arc<str>,
    /// The member's `edge.name`; empty until gossip has heard from the member.
    pub(crate) edge: Arc<str>,
    pub(crate) state: State,
}

/// A member in a view.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The address at which peers reach the member: its name on the ring.
    pub address: Arc<str>,
    /// The member's `edge.name`; empty until gossip has heard from the member.
    pub edge: Arc<str>,
    /// The member's state.
    pub state: State,
    /// The time of the last change of the state. A monotonic clock, because it is compared with
    /// the times of writes.
    pub since: Instant,
}

impl Seen {
    /// Creates the entry of a member and logs a change of its state. An unchanged state keeps its
    /// time.
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

    /// Returns the member's health, which carries over from the view before. A member that is down
    /// counts as not answering; when it is back, it counts so until it has answered.
    fn health(&self, before: &View) -> Arc<Health> {
        let health = before.peer(&self.address).cloned().unwrap_or_else(|| Arc::new(Health::new(&self.address)));
        if matches!(self.state, State::Refused | State::Down) {
            health.note(Heard::Silence);
        }
        health
    }

    /// Returns true if the member may answer a request. That includes a suspect that gossip has
    /// not heard from yet.
    fn may_answer(&self) -> bool {
        match self.state {
            State::Alive | State::Draining => true,
            State::Suspect => self.edge.is_empty(),
            State::Refused | State::Down => false,
        }
    }
}

/// The ring and the states and health of the members, as requests read them. The default is a
/// cluster without members.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The ring that maps keys to owners.
    pub ring: Arc<Ring>,
    /// The number of the view; grows with each change.
    pub epoch: u64,
    members: Vec<Seen>,
    peers: Vec<Arc<Health>>,
    /// The members that may answer requests, without this edge but with draining members.
    others: Ring,
    /// The former rings, by which previous owners are found; the latest is last.
    former: Vec<Former>,
    /// The time until which other members owned this edge's keys: it had just started, or it had
    /// been declared dead.
    came: Option<Instant>,
}

/// A former ring and the end of its use.
#[derive(Debug, Clone)]
struct Former {
    ring: Arc<Ring>,
    until: Instant,
}

impl View {
    /// Creates the view from `now` on, for the members `known`, on the edge with the address
    /// `own`. A ring that changes is remembered for the time of `memory`.
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
        // An edge that was alone may not have known the other owners of its keys.
        let came = if self.ring.members().len() < 2 { Some(now) } else { self.came };
        let mut view = Self { ring, epoch, members, peers, others, former, came };
        if *view.ring != *self.ring {
            view.remember(&self.ring, memory, now);
        }
        view
    }

    /// Returns this view for an edge whose keys other members owned until `now`.
    pub(super) fn coming_back(&self, now: Instant) -> Self {
        Self { came: Some(now), ..self.clone() }
    }

    /// Returns the health of a member other than this edge.
    pub fn peer(&self, name: &str) -> Option<&Arc<Health>> {
        self.peers.binary_search_by(|peer| (*peer.name).cmp(name)).ok().map(|at| &self.peers[at])
    }

    /// Returns all members except this edge, sorted by name; includes members that are down.
    pub fn peers(&self) -> &[Arc<Health>] {
        &self.peers
    }

    /// Returns all members, sorted by address; includes members that are down.
    pub fn members(&self) -> &[Seen] {
        &self.members
    }

    /// Returns the entry of a member.
    pub fn member(&self, address: &str) -> Option<&Seen> {
        self.members.binary_search_by(|seen| (*seen.address).cmp(address)).ok().map(|at| &self.members[at])
    }

    /// Returns the share of all keys that a member owns: the same for each member on the ring.
    pub fn share(&self, address: &str) -> f64 {
        let members = self.ring.members();
        let owns = members.iter().any(|member| **member.name() == *address);
        #[allow(clippy::cast_precision_loss)] // member counts are small
        if owns { 1.0 / members.len() as f64 } else { 0.0 }
    }

    /// Returns the addresses of the members that may answer, without this edge.
    pub(super) fn reachable(&self) -> impl Iterator<Item = &Arc<str>> {
        self.others.members().iter().map(Member::name)
    }

    /// Returns true if another member than `own` owned the key with this hash, or may have owned
    /// it, within `memory` before `now`.
    pub(super) fn has_moved(&self, key: u64, own: &str, memory: Duration, now: Instant) -> bool {
        let another = |ring: &Ring| ring.owner(key).is_some_and(|owner| **owner.name() != *own);
        let is_recent = |then: Instant| now.saturating_duration_since(then) < memory;
        let mut recent = self.former.iter().filter(|former| is_recent(former.until));
        let came = self.came.is_some_and(is_recent);
        came || another(&self.ring) || recent.any(|former| another(&former.ring))
    }

    /// Returns the members that answer, in order of rank for the key with this hash.
    pub(super) fn answering(&self, key: u64) -> Vec<Arc<str>> {
        let ranked = self.others.rank(key).into_iter().map(|member| Arc::clone(member.name()));
        ranked.filter(|name| self.peer(name).is_some_and(|peer| peer.is_up())).collect()
    }

    /// Returns true if the state of `peer` is `state` or worse, or `peer` is no member. A suspect
    /// that gossip has not heard from yet does not count.
    pub(super) fn is_as_bad(&self, peer: &str, state: State) -> bool {
        let good = |seen: &Seen| seen.state < state || seen.state == State::Suspect && seen.edge.is_empty();
        !self.member(peer).is_some_and(good)
    }

    /// Returns true if requests to `peer` need not wait: it is down or does not answer.
    pub(crate) fn has_lost(&self, peer: &str) -> bool {
        let down = self.member(peer).is_none_or(|seen| matches!(seen.state, State::Refused | State::Down));
        down || self.peer(peer).is_none_or(|peer| !peer.is_up())
    }

    /// Returns true if `peer` may be frozen or gone.
    pub(crate) fn is_in_doubt(&self, peer: &str) -> bool {
        let overdue = self.peer(peer).is_none_or(|peer| peer.is_overdue());
        overdue || self.has_lost(peer) || self.member(peer).is_none_or(|seen| !seen.may_answer())
    }

    /// Returns the members that are not known to be down but did not answer.
    pub(crate) fn silent(&self) -> Vec<Arc<str>> {
        let is_present =
            |name: &str| self.member(name).is_some_and(|seen| !matches!(seen.state, State::Refused | State::Down));
        let silent = self.peers.iter().filter(|peer| (!peer.is_up() || peer.is_overdue()) && is_present(&peer.name));
        silent.map(|peer| Arc::clone(&peer.name)).collect()
    }

    /// Remembers `ring`, which was used until `now`, for the time of `memory`.
    fn remember(&mut self, ring: &Arc<Ring>, memory: Duration, now: Instant) {
        self.former.retain(|former| now.saturating_duration_since(former.until) < memory);
        if self.former.len() == MAX_FORMER {
            self.former.remove(0);
        }
        self.former.push(Former { ring: Arc::clone(ring), until: now });
    }
}
