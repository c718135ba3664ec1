//! [`Membership`]: the members of the cluster, their states and their health.
//!
//! The candidates are a list: from the configuration, from discovery, or from a program that
//! embeds this library. Gossip finds out which of them are alive; without gossip, all of them
//! count as alive. The result is published as one [`View`], which requests read without a lock.
//! Former rings are remembered for a while, so that the new owner of a key can ask the previous
//! owners for it first.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, watch};

use super::view::{Known, State, View};
use crate::cluster::health::{Health, Heard};

/// The rule by which gossip admits members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Only listed addresses.
    Listed,
    /// Every sender of a valid datagram: it knows the cluster's secret.
    Authenticated,
}

/// The members of the cluster as this edge knows them.
#[derive(Debug)]
pub struct Membership {
    own: Arc<str>,
    view: ArcSwap<View>,
    /// Sends the epoch of each new view.
    epochs: watch::Sender<u64>,
    /// The time for which former rings are remembered (`cluster.warm_window`).
    memory: Duration,
    began: Instant,
    /// The time at which gossip last ran, in milliseconds since `began`.
    last_awake: AtomicU64,
    listed: watch::Sender<List>,
    /// Serializes changes of the view.
    changing: Mutex<()>,
    gossip: OnceLock<GossipLink>,
    joining: watch::Sender<Joining>,
    /// Notified when a peer may have stopped or resumed answering.
    silence: Notify,
}

/// The addresses of the candidates for membership, each as `host:port`.
pub(crate) type List = Arc<[Arc<str>]>;

/// The progress of this edge in joining the cluster.
#[derive(Debug)]
struct Joining {
    /// There is a list of candidates, or the edge does not wait for one.
    listed: bool,
    /// Gossip has contacted the listed candidates, or there is no need.
    met: bool,
}

impl Joining {
    fn is_done(&self) -> bool {
        self.listed && self.met
    }
}

/// The connection to gossip, if it runs.
#[derive(Debug)]
struct GossipLink {
    admission: Admission,
    /// The time of silence after which a member may be declared dead.
    suspicion: Duration,
    doubts: mpsc::Sender<Arc<str>>,
}

/// The inputs of gossip from [`Membership`].
pub(crate) struct GossipInputs {
    /// The candidates for membership.
    pub(crate) listed: watch::Receiver<List>,
    /// Peers that a request could not reach.
    pub(crate) doubts: mpsc::Receiver<Arc<str>>,
}

impl Membership {
    /// Creates the membership of the edge `own` in the cluster of `peers`. An edge that is not in
    /// its own list owns nothing, but it asks the members and answers them.
    pub fn new<'a>(own: &str, peers: impl IntoIterator<Item = &'a str>) -> Self {
        let membership = Self {
            own: own.into(),
            view: ArcSwap::default(),
            epochs: watch::Sender::new(0),
            memory: Duration::ZERO,
            began: Instant::now(),
            last_awake: AtomicU64::new(0),
            listed: watch::Sender::new(Arc::default()),
            changing: Mutex::default(),
            gossip: OnceLock::new(),
            joining: watch::Sender::new(Joining { listed: true, met: true }),
            silence: Notify::new(),
        };
        membership.replace(peers);
        membership
    }

    /// Remembers former rings for the time of `memory`; zero disables that.
    pub fn remembering(self, memory: Duration) -> Self {
        Self { memory, ..self }
    }

    /// Returns the time for which former rings are remembered.
    pub(crate) fn memory(&self) -> Duration {
        self.memory
    }

    /// Creates the membership of the edge `own` before discovery has found its cluster. Until then
    /// the edge is alone.
    pub(crate) fn seeking(own: &str) -> Self {
        let membership = Self::new(own, [own]);
        membership.joining.send_modify(|joining| joining.listed = false);
        membership
    }

    /// Stops waiting for the first list: discovery has failed, and the edge continues alone until
    /// there is a list.
    pub(crate) fn make_do(&self) {
        self.joining.send_modify(|joining| joining.listed = true);
    }

    /// Creates the membership of an edge outside the cluster of `peers`: it asks the members, but
    /// owns nothing, and no member asks it.
    pub fn guest<'a>(peers: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new("", peers)
    }

    /// Creates the membership of an edge without a cluster.
    pub fn alone() -> Self {
        Self::new("", [])
    }

    /// Returns the address at which peers reach this edge: its name on the ring.
    pub fn own(&self) -> &Arc<str> {
        &self.own
    }

    /// Returns the current view.
    pub fn view(&self) -> arc_swap::Guard<Arc<View>> {
        self.view.load()
    }

    /// Returns true if this edge has contacted the listed candidates or needs not. An earlier view
    /// may be wrong about which members are alive.
    pub fn has_joined(&self) -> bool {
        self.joining.borrow().is_done()
    }

    /// Resolves when [`has_joined`](Self::has_joined) is true.
    pub(crate) async fn joined(&self) {
        // Fails only if the sender is dropped, but `self` holds the sender.
        let _ = self.joining.subscribe().wait_for(Joining::is_done).await;
    }

    /// Returns the addresses of the peers that may answer requests.
    pub(crate) fn reachable(&self) -> Vec<Arc<str>> {
        self.view.load().reachable().cloned().collect()
    }

    /// Connects gossip, which decides from now on which members are alive. A member that is
    /// silent for longer than `suspicion` may be declared dead.
    pub(crate) fn follow(&self, admission: Admission, suspicion: Duration) -> GossipInputs {
        let (doubts, received) = mpsc::channel(64);
        let listed = self.listed.subscribe();
        let alone = self.is_alone(&listed.borrow());
        if self.gossip.set(GossipLink { admission, suspicion, doubts }).is_ok() {
            self.joining.send_modify(|joining| joining.met = alone);
        }
        GossipInputs { listed, doubts: received }
    }

    fn is_alone(&self, list: &List) -> bool {
        list.iter().all(|name| *name == self.own)
    }

    /// Replaces the list of candidates, each as `host:port`. With an empty list the edge is alone,
    /// unless others join it. A candidate that is new counts as a member until gossip knows its
    /// state. A candidate that was on the list before keeps its state and health.
    ///
    /// A program that embeds an edge and finds the members itself calls this on each change.
    pub fn replace<'a>(&self, peers: impl IntoIterator<Item = &'a str>) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let list: List = peers.into_iter().map(Arc::from).collect();
        let before = self.view.load();
        let gossip = self.gossip.get();
        let open = gossip.is_some_and(|gossip| gossip.admission == Admission::Authenticated);
        let initial = if gossip.is_some() { State::Suspect } else { State::Alive };
        let known = |name: &Arc<str>| {
            let (edge, state) = match before.member(name) {
                Some(seen) => (Arc::clone(&seen.edge), seen.state),
                None if *name == self.own => (Arc::default(), State::Alive),
                None => (Arc::default(), initial),
            };
            Known { address: Arc::clone(name), edge, state }
        };
        let remaining = before.members().iter().map(|seen| &seen.address).filter(|_| open);
        let own = Some(&self.own).filter(|_| open || list.is_empty());
        let known = list.iter().chain(remaining).chain(own).map(known).collect();
        self.listed.send_replace(Arc::clone(&list));
        self.publish(known, Instant::now());
        if !self.joining.borrow().listed {
            let met = gossip.is_none() || self.is_alone(&list);
            self.joining.send_replace(Joining { listed: true, met });
        }
    }

    /// Publishes the states that gossip found for the members of `list`. Ignored if the list was
    /// replaced meanwhile: gossip will report on the new one.
    pub(crate) fn learn(&self, list: &List, known: Vec<Known>, now: Instant) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&self.listed.borrow(), list) {
            self.publish(known, now);
        }
    }

    /// Records that gossip has contacted the candidates of `list`.
    pub(crate) fn set_joined(&self, list: &List) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&self.listed.borrow(), list) {
            self.joining.send_modify(|joining| joining.met = true);
        }
    }

    fn publish(&self, known: Vec<Known>, now: Instant) {
        let view = self.view.load().next(known, &self.own, self.memory, now);
        let epoch = view.epoch;
        self.view.store(Arc::new(view));
        self.epochs.send_replace(epoch);
        // A member that is back must answer a probe before it is asked again.
        self.silence.notify_one();
    }

    /// Records that other members owned this edge's keys until now: it has just started, or it was
    /// declared dead.
    pub(crate) fn came_back(&self, now: Instant) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.view.store(Arc::new(self.view.load().coming_back(now)));
    }

    /// Records that gossip runs. If it did not run for so long that other members may have declared
    /// this edge dead, calls [`came_back`](Self::came_back).
    pub(crate) fn note_awake(&self, now: Instant) {
        if self.was_away() {
            self.came_back(now);
        }
        self.last_awake.store(self.millis(), Ordering::Relaxed);
    }

    fn was_away(&self) -> bool {
        let silent = self.millis().saturating_sub(self.last_awake.load(Ordering::Relaxed));
        self.gossip.get().is_some_and(|gossip| Duration::from_millis(silent) > gossip.suspicion)
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns the peers that may hold the key with this hash although this edge fetches it now:
    /// all that answer, in order of rank. Empty if this edge has owned the key for longer than
    /// [`memory`](Self::memory).
    pub(crate) fn may_hold(&self, key: u64, now: Instant) -> Vec<Arc<str>> {
        let view = self.view.load();
        if self.memory.is_zero() || !view.has_moved(key, &self.own, self.memory, now) && !self.was_away() {
            return Vec::new();
        }
        view.answering(key)
    }

    /// Resolves when the state of `peer` is `state` or worse, or `peer` is no member. A suspect
    /// that gossip has not reached yet does not count.
    pub(crate) async fn comes_to(&self, peer: &str, state: State) {
        let mut epochs = self.epochs.subscribe();
        while !self.view.load().is_as_bad(peer, state) {
            if epochs.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Records that `peer` has not answered a ping in time.
    pub(crate) fn note_overdue(&self, peer: &Health) {
        peer.set_overdue();
        self.silence.notify_one();
    }

    fn doubt(&self, peer: &Health) {
        if let Some(gossip) = self.gossip.get() {
            // If the queue is full, the peer is in it already or its next failure reports it.
            let _ = gossip.doubts.try_send(Arc::clone(&peer.name));
        }
    }

    /// Resolves when a peer may have stopped or resumed answering.
    pub(crate) async fn someone_is_silent(&self) {
        self.silence.notified().await;
    }

    /// Records the outcome of a request to `name`. Returns true if that changed whether the peer
    /// is up. If gossip runs, a peer that did not answer is reported to it: one refused connection
    /// removes no member from any ring, but gossip then finds out sooner whether the peer is down.
    pub fn note(&self, name: &str, heard: Heard) -> bool {
        let view = self.view.load();
        let Some(peer) = view.peer(name) else {
            return false;
        };
        let changed = peer.note(heard);
        match heard {
            // A response may have been cut off behind the peer, at the origin.
            Heard::Answer(_) | Heard::LateAnswer | Heard::Part => {}
            // The peer was known not to answer.
            Heard::Silence if !changed => {}
            Heard::Nothing | Heard::Silence => self.doubt(peer),
        }
        if changed && !peer.is_up() {
            self.silence.notify_one();
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::ring::Ring;

    #[test]
    fn a_member_that_stays_on_the_list_keeps_its_health() {
        let members = Membership::new("a:1", ["a:1", "b:1", "c:1"]);
        assert!(members.note("b:1", Heard::Nothing));
        assert!(!members.note("b:1", Heard::Nothing));
        members.replace(["a:1", "b:1", "d:1"]);
        let view = members.view();
        let peers: Vec<_> = view.peers().iter().map(|peer| (&*peer.name, peer.is_up(), peer.errors())).collect();
        assert_eq!(peers, [("b:1", false, 2), ("d:1", true, 0)]);
        assert!(members.note("b:1", Heard::Answer(Duration::from_millis(8))));
        assert!(!members.note("gone:1", Heard::Answer(Duration::ZERO)));
    }

    #[test]
    fn moved_keys_are_sought_at_previous_owners_within_the_warm_window() {
        let memory = Duration::from_mins(5);
        let members = Membership::new("b:1", ["a:1", "b:1", "c:1"]).remembering(memory);
        let view = members.view();
        let owned_by = |name: &str| (0..10_000).find(|key| **view.ring.owner(*key).unwrap().name() == *name).unwrap();
        let (own, of_a) = (owned_by("b:1"), owned_by("a:1"));
        let now = Instant::now();
        // The edge has just started: other members owned its keys before.
        let ranked: Vec<_> = view.ring.rank(own)[1..].iter().map(|member| Arc::clone(member.name())).collect();
        assert_eq!(members.may_hold(own, now), ranked);
        assert!(members.may_hold(own, now + memory + memory).is_empty());
        // The owner of another key may hold it at any time.
        assert!(members.may_hold(of_a, now + memory + memory).contains(&"a:1".into()));
        members.replace(["b:1", "c:1"]);
        let later = Instant::now() + memory / 2;
        let inherited = (0..10_000).find(|key| {
            let first = |ring: &Ring| Arc::clone(ring.owner(*key).unwrap().name());
            *first(&view.ring) == *"a:1" && *first(&members.view().ring) == *"b:1"
        });
        assert_eq!(members.may_hold(inherited.unwrap(), later), ["c:1".into()]);
        members.note("c:1", Heard::Nothing);
        assert!(members.may_hold(inherited.unwrap(), later).is_empty());
        assert!(Membership::new("a:1", ["a:1", "b:1"]).may_hold(own, now).is_empty(), "without a warm window");
    }

    #[test]
    fn an_edge_that_waits_for_its_first_list_has_not_joined() {
        let members = Membership::seeking("a:1");
        assert!(!members.has_joined());
        assert_eq!(members.view().ring.members().len(), 1);
        members.make_do();
        assert!(members.has_joined());

        let members = Membership::seeking("a:1");
        let following = members.follow(Admission::Listed, Duration::from_secs(1));
        let before = Arc::clone(&following.listed.borrow());
        members.replace(["a:1", "b:1"]);
        // A report on the previous list does not count for the new one.
        members.set_joined(&before);
        assert!(!members.has_joined());
        members.set_joined(&following.listed.borrow());
        assert!(members.has_joined());
    }

    #[test]
    fn an_edge_alone_owns_everything() {
        let alone = Membership::alone();
        assert_eq!(alone.view().ring.owner(7).unwrap().name(), alone.own());
        assert!(alone.view().peers().is_empty());
    }
}
