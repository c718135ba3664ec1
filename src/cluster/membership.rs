//! Who is in the cluster, how each of them is, and how each has been answering.
//!
//! Who might be a member is the configuration's list. Who is alive is found out
//! by gossip; where there is none, everybody on the list is.
//! What holds is published as one [`View`], which the request path reads
//! without a lock.

use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use http::uri::Authority;
use tokio::sync::{mpsc, watch};

use super::ring::Ring;

/// Whether `text` is `host:port`, as a peer can be reached by.
pub(crate) fn is_address(text: &str) -> bool {
    let address = Authority::from_str(text).ok().filter(|address| address.port_u16().is_some_and(|port| port > 0));
    address.is_some_and(|address| !address.host().is_empty() && !text.contains('@') && text.len() <= 255)
}

/// How a member is, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum State {
    /// It answers.
    Alive,
    /// It is going to leave: it answers, and owns nothing.
    Draining,
    /// It did not, lately; it owns what it owns until it is certain.
    Suspect,
    /// It is gone, and owns nothing.
    Down,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Alive, Self::Draining, Self::Suspect, Self::Down];

    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Draining => "draining",
            Self::Down => "down",
        }
    }

    fn owns(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}

/// Who may be a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Who is listed.
    Listed,
    /// Whoever is heard: it knows the secret.
    Heard,
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
    /// How it is,
    pub state: State,
    /// and since when.
    pub since: SystemTime,
}

impl Seen {
    /// What is known now; what was so before has been so since then.
    fn new(known: Known, before: &View, now: SystemTime) -> Self {
        let Known { address, edge, state } = known;
        let old = before.member(&address);
        let since = old.filter(|old| old.state == state).map_or(now, |old| old.since);
        match (old.map(|old| old.state), state) {
            (Some(old), new) if old == new => {}
            (_, State::Down) => tracing::warn!(peer = %address, %edge, "the peer is down, and owns nothing"),
            (Some(State::Down | State::Draining), State::Alive) => {
                tracing::info!(peer = %address, %edge, "the peer is back");
            }
            (_, state) => tracing::debug!(peer = %address, %edge, state = state.name(), "a peer has changed"),
        }
        Self { address, edge, state, since }
    }
}

/// How a peer has been answering.
#[derive(Debug)]
pub struct Standing {
    /// Its address, which is its name.
    pub name: Arc<str>,
    up: AtomicBool,
    errors: AtomicU64,
}

impl Standing {
    /// Who stays keeps its standing, but for what its coming and going tells.
    fn of(seen: &Seen, before: &View) -> Arc<Self> {
        let new = || Self { name: Arc::clone(&seen.address), up: AtomicBool::new(true), errors: AtomicU64::new(0) };
        let standing = before.peer(&seen.address).cloned().unwrap_or_else(|| Arc::new(new()));
        let was_down = before.member(&seen.address).is_some_and(|old| old.state == State::Down);
        if was_down != (seen.state == State::Down) {
            standing.up.store(was_down, Ordering::Relaxed);
        }
        standing
    }

    /// Whether the last request to it was answered, and it is not down.
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
    /// Grows with each change.
    pub epoch: u64,
    members: Vec<Seen>,
    peers: Vec<Arc<Standing>>,
}

impl View {
    /// The standing of a member.
    pub fn peer(&self, name: &str) -> Option<&Arc<Standing>> {
        self.peers.binary_search_by(|peer| (*peer.name).cmp(name)).ok().map(|at| &self.peers[at])
    }

    /// All members but this edge, by name; also those that are down.
    pub fn peers(&self) -> &[Arc<Standing>] {
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
}

/// The members of the cluster, as this edge knows them.
#[derive(Debug)]
pub struct Membership {
    own: Arc<str>,
    view: ArcSwap<View>,
    /// Tells of each new view.
    epochs: watch::Sender<u64>,
    listed: watch::Sender<List>,
    /// Held while the view is made anew.
    changing: Mutex<()>,
    gossip: OnceLock<Gossiped>,
    joined: AtomicBool,
}

/// The configuration's list of peers.
pub(crate) type List = Arc<[Arc<str>]>;

/// What gossip, where there is any, wants to hear from here.
#[derive(Debug)]
struct Gossiped {
    admission: Admission,
    doubts: mpsc::Sender<Arc<str>>,
}

/// What gossip hears from [`Membership`].
pub(crate) struct Following {
    /// Who might be a member.
    pub(crate) listed: watch::Receiver<List>,
    /// Who could not be reached by a request.
    pub(crate) doubts: mpsc::Receiver<Arc<str>>,
}

impl Membership {
    /// The cluster of `own` and `peers`. An edge that is not among its own
    /// peers owns nothing: it asks the others, and answers them.
    pub fn new<'a>(own: &str, peers: impl IntoIterator<Item = &'a str>) -> Self {
        let empty = View { ring: Ring::default(), epoch: 0, members: Vec::new(), peers: Vec::new() };
        let membership = Self {
            own: own.into(),
            view: ArcSwap::from_pointee(empty),
            epochs: watch::Sender::new(0),
            listed: watch::Sender::new(Arc::default()),
            changing: Mutex::default(),
            gossip: OnceLock::new(),
            joined: AtomicBool::new(true),
        };
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

    /// Whether this edge has met the others, or need not: a view that is made
    /// before may be wrong about who is alive.
    pub fn has_joined(&self) -> bool {
        self.joined.load(Ordering::Relaxed)
    }

    /// From now on gossip says who is alive; what it should hear comes out.
    pub(crate) fn follow(&self, admission: Admission) -> Following {
        let (doubts, received) = mpsc::channel(64);
        let listed = self.listed.subscribe();
        let alone = listed.borrow().iter().all(|name| *name == self.own);
        if self.gossip.set(Gossiped { admission, doubts }).is_ok() {
            self.joined.store(alone, Ordering::Relaxed);
        }
        Following { listed, doubts: received }
    }

    /// Takes another list of who might be a member; an empty one is an edge
    /// alone, unless others join it. Of those that are new on it, gossip finds
    /// out; until then they count as there. Who stays keeps its standing.
    pub fn replace<'a>(&self, peers: impl IntoIterator<Item = &'a str>) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let list: List = peers.into_iter().map(Arc::from).collect();
        let before = self.view.load();
        let gossip = self.gossip.get();
        let open = gossip.is_some_and(|gossip| gossip.admission == Admission::Heard);
        let unheard = if gossip.is_some() { State::Suspect } else { State::Alive };
        let known = |name: &Arc<str>| {
            let (edge, state) = match before.member(name) {
                Some(seen) => (Arc::clone(&seen.edge), seen.state),
                None if *name == self.own => (Arc::default(), State::Alive),
                None => (Arc::default(), unheard),
            };
            Known { address: Arc::clone(name), edge, state }
        };
        let stay = before.members.iter().map(|seen| &seen.address).filter(|_| open);
        let own = Some(&self.own).filter(|_| open || list.is_empty());
        let known = list.iter().chain(stay).chain(own).map(known).collect();
        self.listed.send_replace(Arc::clone(&list));
        self.publish(known, SystemTime::now());
    }

    /// Publishes what gossip has found out from `list`, unless another list has
    /// taken its place meanwhile: then it will find out more.
    pub(crate) fn learn(&self, list: &List, known: Vec<Known>, now: SystemTime) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&self.listed.borrow(), list) {
            self.publish(known, now);
        }
    }

    /// Gossip has met everybody who is there to be met.
    pub(crate) fn set_joined(&self) {
        self.joined.store(true, Ordering::Relaxed);
    }

    fn publish(&self, mut known: Vec<Known>, now: SystemTime) {
        known.sort_by(|a, b| a.address.cmp(&b.address));
        known.dedup_by(|a, b| a.address == b.address);
        let before = self.view.load();
        let members: Vec<_> = known.into_iter().map(|known| Seen::new(known, &before, now)).collect();
        let mut ring = Ring::new(members.iter().filter(|seen| seen.state.owns()).map(|seen| &*seen.address));
        if ring.members().is_empty() {
            ring = Ring::new([&*self.own]);
        }
        let others = members.iter().filter(|seen| seen.address != self.own);
        let peers = others.map(|seen| Standing::of(seen, &before)).collect();
        let epoch = before.epoch + 1;
        self.view.store(Arc::new(View { ring, epoch, members, peers }));
        self.epochs.send_replace(epoch);
    }

    /// Resolves when `peer`, which has been heard before, is as bad as `state`, or
    /// no member.
    pub(crate) async fn comes_to(&self, peer: &str, state: State) {
        let mut epochs = self.epochs.subscribe();
        let good = |seen: &Seen| seen.state < state || seen.state == State::Suspect && seen.edge.is_empty();
        while self.view.load().member(peer).is_some_and(good) {
            if epochs.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Notes how a request to `name` went; says whether that is news. Where
    /// there is gossip, it looks after a peer that did not answer: one refused
    /// connection takes nobody out of the ring, on this edge or another, but it
    /// makes the time short in which everybody agrees on that.
    pub fn note(&self, name: &str, heard: Heard) -> bool {
        let view = self.view.load();
        let Some(peer) = view.peer(name) else {
            return false;
        };
        if heard == Heard::Nothing {
            peer.errors.fetch_add(1, Ordering::Relaxed);
            if let Some(gossip) = self.gossip.get() {
                // Where so many doubts are waiting, this one is among them.
                let _ = gossip.doubts.try_send(Arc::clone(&peer.name));
            }
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
