//! Who is in the cluster, how each of them is, and how each has been answering.
//!
//! Who might be a member is a list: the configuration's, one that discovery
//! finds, or that of a program that embeds this library. Who is alive is found
//! out by gossip; where there is none, everybody on the list is.
//! What holds is published as one [`View`], which the request path reads
//! without a lock. It also remembers what held a while ago: who has come to own a
//! key looks for it first at those who may have it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, watch};

use super::view::{Known, State, View};
use crate::cluster::health::{Health, Heard};

/// Who may be a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Who is listed.
    Listed,
    /// Whoever is heard: it knows the secret.
    Heard,
}

/// The members of the cluster, as this edge knows them.
#[derive(Debug)]
pub struct Membership {
    own: Arc<str>,
    view: ArcSwap<View>,
    /// Tells of each new view.
    epochs: watch::Sender<u64>,
    /// How long a former ring counts.
    memory: Duration,
    began: Instant,
    /// When gossip was last at work, in milliseconds since it began.
    awake: AtomicU64,
    listed: watch::Sender<List>,
    /// Chunks while the view is made anew.
    changing: Mutex<()>,
    gossip: OnceLock<Gossiped>,
    /// How far this edge has come in meeting the others.
    joining: watch::Sender<Joining>,
    /// Somebody does not answer.
    silence: Notify,
}

/// Who might be a member.
pub(crate) type List = Arc<[Arc<str>]>;

/// How far an edge has come in meeting the others.
#[derive(Debug)]
struct Joining {
    /// There is a list of them, or nobody is going to wait for one.
    listed: bool,
    /// Those on it have been met, or need not be.
    met: bool,
}

impl Joining {
    fn is_over(&self) -> bool {
        self.listed && self.met
    }
}

/// What gossip, where there is any, wants to hear from here.
#[derive(Debug)]
struct Gossiped {
    admission: Admission,
    /// Who is silent for longer may be taken for dead.
    patience: Duration,
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
        let membership = Self {
            own: own.into(),
            view: ArcSwap::default(),
            epochs: watch::Sender::new(0),
            memory: Duration::ZERO,
            began: Instant::now(),
            awake: AtomicU64::new(0),
            listed: watch::Sender::new(Arc::default()),
            changing: Mutex::default(),
            gossip: OnceLock::new(),
            joining: watch::Sender::new(Joining { listed: true, met: true }),
            silence: Notify::new(),
        };
        membership.replace(peers);
        membership
    }

    /// Remembers who owned what for the time of `memory`; zero is not at all.
    pub fn remembering(self, memory: Duration) -> Self {
        Self { memory, ..self }
    }

    /// For how long who owned what is remembered.
    pub(crate) fn memory(&self) -> Duration {
        self.memory
    }

    /// The cluster of `own` and of others who are going to be found: until then
    /// `own` is alone.
    pub(crate) fn seeking(own: &str) -> Self {
        let membership = Self::new(own, [own]);
        membership.joining.send_modify(|joining| joining.listed = false);
        membership
    }

    /// No list could be found; if there has been none, this edge does without
    /// until there is.
    pub(crate) fn make_do(&self) {
        self.joining.send_modify(|joining| joining.listed = true);
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
        self.joining.borrow().is_over()
    }

    /// Resolves when it has.
    pub(crate) async fn joined(&self) {
        // Its other end is in `self`, so it does not fail.
        let _ = self.joining.subscribe().wait_for(Joining::is_over).await;
    }

    /// Who can be asked.
    pub(crate) fn reachable(&self) -> Vec<Arc<str>> {
        self.view.load().reachable().cloned().collect()
    }

    /// From now on gossip says who is alive; what it should hear comes out.
    /// Who is silent for longer than `patience` may be taken for dead.
    pub(crate) fn follow(&self, admission: Admission, patience: Duration) -> Following {
        let (doubts, received) = mpsc::channel(64);
        let listed = self.listed.subscribe();
        let alone = self.is_alone(&listed.borrow());
        if self.gossip.set(Gossiped { admission, patience, doubts }).is_ok() {
            self.joining.send_modify(|joining| joining.met = alone);
        }
        Following { listed, doubts: received }
    }

    fn is_alone(&self, list: &List) -> bool {
        list.iter().all(|name| *name == self.own)
    }

    /// Takes another list of who might be a member, each as `host:port`; an empty
    /// one is an edge alone, unless others join it. Of those that are new on it,
    /// gossip finds out; until then they count as there. Who stays keeps its
    /// standing.
    ///
    /// A program that embeds an edge, and knows by itself who its members are,
    /// says so here, as often as that changes.
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
        let stay = before.members().iter().map(|seen| &seen.address).filter(|_| open);
        let own = Some(&self.own).filter(|_| open || list.is_empty());
        let known = list.iter().chain(stay).chain(own).map(known).collect();
        self.listed.send_replace(Arc::clone(&list));
        self.publish(known, Instant::now());
        if !self.joining.borrow().listed {
            let met = gossip.is_none() || self.is_alone(&list);
            self.joining.send_replace(Joining { listed: true, met });
        }
    }

    /// Publishes what gossip has found out from `list`, unless another list has
    /// taken its place meanwhile: then it will find out more.
    pub(crate) fn learn(&self, list: &List, known: Vec<Known>, now: Instant) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&self.listed.borrow(), list) {
            self.publish(known, now);
        }
    }

    /// Gossip has met everybody of `list` who is there to be met.
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
        // Who is back has still to show that it answers.
        self.silence.notify_one();
    }

    /// Others owned what is this edge's: it has just started, or they took it for
    /// dead.
    pub(crate) fn came_back(&self, now: Instant) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.view.store(Arc::new(self.view.load().coming_back(now)));
    }

    /// Gossip is at work. It notices here if it was not for so long that others may
    /// have taken this edge for dead.
    pub(crate) fn note_awake(&self, now: Instant) {
        if self.was_away() {
            self.came_back(now);
        }
        self.awake.store(self.millis(), Ordering::Relaxed);
    }

    fn was_away(&self) -> bool {
        let silent = self.millis().saturating_sub(self.awake.load(Ordering::Relaxed));
        self.gossip.get().is_some_and(|gossip| Duration::from_millis(silent) > gossip.patience)
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Who may hold the key with this hash, though it is this edge that is to get
    /// it: in order of rank, all who answer. Nobody, if it has been this edge's for
    /// long.
    pub(crate) fn may_hold(&self, key: u64, now: Instant) -> Vec<Arc<str>> {
        let view = self.view.load();
        if self.memory.is_zero() || !view.has_moved(key, &self.own, self.memory, now) && !self.was_away() {
            return Vec::new();
        }
        view.answering(key)
    }

    /// Resolves when `peer`, which has been heard before, is as bad as `state`, or
    /// no member.
    pub(crate) async fn comes_to(&self, peer: &str, state: State) {
        let mut epochs = self.epochs.subscribe();
        while !self.view.load().is_as_bad(peer, state) {
            if epochs.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// `peer` owes the answer to a ping.
    pub(crate) fn note_overdue(&self, peer: &Health) {
        peer.owe();
        self.silence.notify_one();
    }

    fn doubt(&self, peer: &Health) {
        if let Some(gossip) = self.gossip.get() {
            // If the queue is full, this doubt is in it already, or will soon be back.
            let _ = gossip.doubts.try_send(Arc::clone(&peer.name));
        }
    }

    /// Resolves when somebody may have stopped answering, or come back.
    pub(crate) async fn someone_is_silent(&self) {
        self.silence.notified().await;
    }

    /// Notes how a request to `name` went; says whether that is news. Where there is
    /// gossip, it is told of a peer that did not answer: one refused connection takes
    /// nobody out of the ring, on this edge or another, but gossip then finds out
    /// sooner whether the peer is down.
    pub fn note(&self, name: &str, heard: Heard) -> bool {
        let view = self.view.load();
        let Some(peer) = view.peer(name) else {
            return false;
        };
        let news = peer.note(heard);
        match heard {
            // The answer may have broken off behind the peer, at the origin.
            Heard::Answer(_) | Heard::LateAnswer | Heard::Part => {}
            // That it still does not answer is no news.
            Heard::Silence if !news => {}
            Heard::Nothing | Heard::Silence => self.doubt(peer),
        }
        if news && !peer.is_up() {
            self.silence.notify_one();
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::ring::Ring;

    #[test]
    fn who_stays_keeps_its_standing() {
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
    fn keys_that_have_moved_are_looked_for_elsewhere_for_a_while() {
        let memory = Duration::from_mins(5);
        let members = Membership::new("b:1", ["a:1", "b:1", "c:1"]).remembering(memory);
        let view = members.view();
        let owned_by = |name: &str| (0..10_000).find(|key| **view.ring.owner(*key).unwrap().name() == *name).unwrap();
        let (own, of_a) = (owned_by("b:1"), owned_by("a:1"));
        let now = Instant::now();
        // It has just started: all that it owns was somebody's before.
        let ranked: Vec<_> = view.ring.rank(own)[1..].iter().map(|member| Arc::clone(member.name())).collect();
        assert_eq!(members.may_hold(own, now), ranked);
        assert!(members.may_hold(own, now + memory + memory).is_empty());
        // What is another's may be there at any time.
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
        assert!(Membership::new("a:1", ["a:1", "b:1"]).may_hold(own, now).is_empty(), "it remembers nothing");
    }

    #[test]
    fn who_waits_for_a_list_has_not_joined() {
        let members = Membership::seeking("a:1");
        assert!(!members.has_joined());
        assert_eq!(members.view().ring.members().len(), 1);
        members.make_do();
        assert!(members.has_joined());

        let members = Membership::seeking("a:1");
        let following = members.follow(Admission::Listed, Duration::from_secs(1));
        let before = Arc::clone(&following.listed.borrow());
        members.replace(["a:1", "b:1"]);
        // What gossip says of the list that it had, it says of that only.
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
