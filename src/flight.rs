//! Single flight: one fill of one key at a time, which everybody shares.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderName, StatusCode};
use tokio::sync::SetOnce;

use crate::body::Room;
use crate::body::growing::Growing;
use crate::body::zero_copy::Arena;
use crate::clients::Counted;
use crate::error::Error;
use crate::key::AssetKey;
use crate::semantics::storing::{Credentials, Refusal};
use crate::semantics::vary::Variant;
use crate::store::entry::{Head, Stored};

const SHARDS: usize = 64;

/// Where a flight may go. A request from a peer joins only those that go
/// straight to the origin, so no two edges can wait for one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reach {
    Origin,
    Peers,
    /// To one peer that holds it: nobody waits for that.
    Holder,
}

/// Who gave a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Provider {
    Origin,
    Peer(Arc<str>),
}

impl Provider {
    /// As logs call it.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Origin => "origin",
            Self::Peer(name) => name,
        }
    }
}

/// What has become of a flight, once its head is known.
#[derive(Clone)]
pub(crate) enum Outcome {
    Streaming(Streaming),
    /// It was in memory after all.
    Landed,
    /// What was stored, and stale, is the answer.
    Reused(Reused),
    /// It belongs to the leader's client alone: everybody else asks anew.
    Pass(Refusal),
    /// This edge is next in rank: another flight, to the origin, goes on.
    Joined(Arc<Flight>),
    /// The owner does not have it at hand: who waits asks for it the long way.
    NotAtHand,
    Failed(Error),
}

/// The head of a flight whose body is growing, or is there.
#[derive(Clone)]
pub(crate) struct Streaming {
    pub(crate) head: Arc<Head>,
    pub(crate) provider: Provider,
    pub(crate) kept: Kept,
    /// How much of it is held, as far as is known when it begins.
    pub(crate) extent: Extent,
    /// What its variant was selected by, and how: it is for those alone whose
    /// requests select the same.
    pub(crate) selected: Option<Selected>,
    /// The flight's share of the budget.
    pub(crate) room: Arc<Room>,
    pub(crate) proof: Verification,
    /// When the head came.
    pub(crate) came: SystemTime,
}

/// How much of what came is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    Whole,
    Window,
}

/// What a flight's body has to prove before it is given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verification {
    /// Nothing, or nothing any more.
    None,
    /// That it is what its name says: its end tells.
    AtEnd,
}

/// A variant, and the request fields that select it.
#[derive(Clone)]
pub(crate) struct Selected {
    pub(crate) fields: Arc<[HeaderName]>,
    pub(crate) variant: Variant,
}

/// A stored response that was to be validated.
#[derive(Clone)]
pub(crate) struct Reused {
    pub(crate) stored: Stored,
    pub(crate) why: Why,
}

/// Why it is the answer.
#[derive(Clone)]
pub(crate) enum Why {
    /// The provider says that it is still the same.
    Validated(Provider),
    /// The provider fails with this status, and it may be used then (RFC 5861 §4).
    FailedWith(StatusCode),
    /// There was no answer, and it may be used then.
    Failed(Error),
}

/// Whether a flight's response will be stored here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    Stored,
    Shared(Refusal),
}

pub(crate) struct Flight {
    id: Id,
    outcome: SetOnce<Outcome>,
    pub(crate) body: Arc<Growing>,
    /// What it brings was overtaken by a write: it is for those who wait, and
    /// for nobody after them.
    overtaken: AtomicBool,
}

impl Flight {
    /// What it has come to, if it has by now.
    pub(crate) fn look(&self) -> Option<&Outcome> {
        self.outcome.get()
    }

    /// Waits for the head, or for whatever comes instead.
    pub(crate) async fn outcome(&self) -> &Outcome {
        self.outcome.wait().await
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Id {
    key: AssetKey,
    reach: Reach,
    /// The credentials of the fill: requests with others do not join it.
    credentials: Credentials,
}

impl Id {
    fn to_origin(&self) -> Self {
        Self { reach: Reach::Origin, ..self.clone() }
    }
}

type Table = HashMap<Id, Arc<Flight>, BuildHasherDefault<Mixed>>;

/// The flights of an edge.
pub(crate) struct Flights {
    shards: Box<[Mutex<Table>]>,
    under_way: AtomicU64,
    arena: Arc<Arena>,
}

pub(crate) enum Joining {
    Lead(Lead),
    Follow(Arc<Flight>),
}

impl Flights {
    /// What they bring is held in `pages`.
    pub(crate) fn new(arena: Arc<Arena>) -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Arc::new(Self { shards, under_way: AtomicU64::new(0), arena })
    }

    fn shard(&self, key: &AssetKey) -> MutexGuard<'_, Table> {
        #[allow(clippy::cast_possible_truncation)] // any bits will do
        let index = key.hash() as usize % SHARDS;
        lock(&self.shards[index])
    }

    /// Leads a new flight, or follows the one that is under way.
    pub(crate) fn join(self: &Arc<Self>, key: &AssetKey, reach: Reach, credentials: Credentials) -> Joining {
        let id = Id { key: key.clone(), reach, credentials };
        let mut table = self.shard(key);
        if let Some(flight) = table.get(&id) {
            return Joining::Follow(Arc::clone(flight));
        }
        let flight = Arc::new(Flight {
            id: id.clone(),
            outcome: SetOnce::new(),
            body: Growing::new(Arc::clone(&self.arena)),
            overtaken: AtomicBool::new(false),
        });
        table.insert(id, Arc::clone(&flight));
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Joining::Lead(Lead { flights: Arc::clone(self), flight, reach, listed: true, quota: None })
    }

    /// Lets nobody join the flights of an asset any more, whatever the variant,
    /// and has nothing of what they bring kept.
    pub(crate) fn overtake(&self, key: &AssetKey) {
        self.shard(key).retain(|id, flight| {
            let overtaken = id.key.is_of(key);
            if overtaken {
                flight.overtaken.store(true, Ordering::SeqCst);
                self.count_out(id, flight);
            }
            !overtaken
        });
    }

    /// As [`overtake`](Self::overtake), of all assets.
    pub(crate) fn overtake_all(&self) {
        for shard in &self.shards {
            for (id, flight) in lock(shard).drain() {
                flight.overtaken.store(true, Ordering::SeqCst);
                self.count_out(&id, &flight);
            }
        }
    }

    /// Lets nobody join `flight` any more, and has what it brings not kept: what
    /// comes in its place is younger.
    pub(crate) fn retire(&self, flight: &Arc<Flight>) {
        flight.overtaken.store(true, Ordering::SeqCst);
        self.unlist(flight);
    }

    /// A flight that is listed twice counts once.
    fn count_out(&self, id: &Id, flight: &Flight) {
        if *id == flight.id {
            self.under_way.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn unlist(&self, flight: &Arc<Flight>) {
        let mut table = self.shard(&flight.id.key);
        for id in [flight.id.clone(), flight.id.to_origin()] {
            if table.get(&id).is_some_and(|listed| Arc::ptr_eq(listed, flight)) {
                table.remove(&id);
                self.count_out(&id, flight);
            }
        }
    }

    /// The flight of `key` that goes straight to the origin, if there is one.
    pub(crate) fn to_origin(&self, key: &AssetKey, credentials: Credentials) -> Option<Arc<Flight>> {
        let table = self.shard(key);
        if table.is_empty() {
            return None;
        }
        table.get(&Id { key: key.clone(), reach: Reach::Origin, credentials }).cloned()
    }

    pub(crate) fn under_way(&self) -> u64 {
        self.under_way.load(Ordering::Relaxed)
    }

    /// How many wait for what they bring, or read it.
    pub(crate) fn readers(&self) -> u64 {
        let mut readers = 0;
        for shard in &self.shards {
            // A flight that is listed twice counts once; and a body has a lock of its own.
            let table = lock(shard);
            let flights = table.iter().filter(|(id, flight)| **id == flight.id);
            let flights: Vec<_> = flights.map(|(_, flight)| Arc::clone(flight)).collect();
            drop(table);
            readers += flights.iter().map(|flight| flight.body.readers() as u64).sum::<u64>();
        }
        readers
    }
}

fn lock(shard: &Mutex<Table>) -> MutexGuard<'_, Table> {
    // Nothing in a critical section can leave it half changed.
    shard.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The duty to bring a flight to its end. Dropped before that, as by a panic,
/// it tells everybody who waits, and the next request tries afresh.
pub(crate) struct Lead {
    flights: Arc<Flights>,
    flight: Arc<Flight>,
    /// Where it goes now.
    reach: Reach,
    listed: bool,
    /// It counts for the client that leads it, until the outcome is known.
    pub(crate) quota: Option<Counted>,
}

impl Lead {
    pub(crate) fn key(&self) -> &AssetKey {
        &self.flight.id.key
    }

    pub(crate) fn reach(&self) -> Reach {
        self.reach
    }

    pub(crate) fn credentials(&self) -> Credentials {
        self.flight.id.credentials
    }

    pub(crate) fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    /// Publishes the head; the body follows by [`Lead::append`].
    pub(crate) fn stream(&mut self, streaming: Streaming) {
        self.come_to(Outcome::Streaming(streaming));
    }

    /// From now on it is filled by the origin, and peers may join it as well; unless
    /// there is a flight to the origin already, which is returned.
    pub(crate) fn go_to_origin(&mut self) -> Option<Arc<Flight>> {
        let id = self.flight.id.to_origin();
        if id == self.flight.id || !self.listed {
            return None;
        }
        let mut table = self.flights.shard(&id.key);
        // Whoever overtakes it holds the table, too.
        if self.is_overtaken() {
            return None;
        }
        if let Some(other) = table.get(&id).filter(|other| !Arc::ptr_eq(other, &self.flight)) {
            return Some(Arc::clone(other));
        }
        table.insert(id, Arc::clone(&self.flight));
        self.reach = Reach::Origin;
        None
    }

    /// Whether a write has overtaken what it brings.
    pub(crate) fn is_overtaken(&self) -> bool {
        self.flight.overtaken.load(Ordering::SeqCst)
    }

    pub(crate) fn append(&self, data: Bytes) {
        self.flight.body.append(data);
    }

    /// Ends a flight that has no body of its own.
    pub(crate) fn settle(mut self, outcome: Outcome) {
        // Who is told to ask again must not find this one.
        self.unlist();
        self.come_to(outcome);
    }

    /// What a flight has come to first is what it has come to.
    fn come_to(&mut self, outcome: Outcome) {
        // Before the client can send another request.
        self.quota = None;
        let _ = self.flight.outcome.set(outcome);
    }

    /// Fails the flight: those who wait for the head get `error`, those who
    /// read the body get it behind what has come.
    pub(crate) fn fail(mut self, error: Error) {
        // As above.
        self.unlist();
        self.break_off(error);
    }

    /// Does nothing to a flight that has come to its end.
    fn break_off(&mut self, error: Error) {
        self.flight.body.fail(error.clone());
        self.come_to(Outcome::Failed(error));
    }

    /// Lets nobody join any more; those who did go on.
    pub(crate) fn unlist(&mut self) {
        if self.listed {
            self.listed = false;
            // Overtaken, it is not listed, but another may be under its name.
            self.flights.unlist(&self.flight);
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.unlist();
        self.break_off(Error::Panicked);
    }
}

/// A key's hash, mixed with what else an [`Id`] holds.
#[derive(Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn write_u64(&mut self, hash: u64) {
        self.0 = self.0.rotate_left(5) ^ hash;
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }
    fn write_isize(&mut self, discriminant: isize) {
        self.write(&discriminant.to_le_bytes()[..1]);
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Wake};

    use super::*;

    fn key() -> AssetKey {
        AssetKey::parse("/a", 100).unwrap()
    }

    fn lead(flights: &Arc<Flights>, reach: Reach) -> Lead {
        match flights.join(&key(), reach, Credentials::None) {
            Joining::Lead(lead) => lead,
            Joining::Follow(_) => panic!("someone leads already"),
        }
    }

    fn follow(flights: &Arc<Flights>, reach: Reach) -> Arc<Flight> {
        match flights.join(&key(), reach, Credentials::None) {
            Joining::Follow(flight) => flight,
            Joining::Lead(_) => panic!("nobody leads"),
        }
    }

    #[tokio::test]
    async fn a_dropped_lead_strands_nobody() {
        let flights = Flights::new(Arena::none());
        let leading = lead(&flights, Reach::Origin);
        let following = follow(&flights, Reach::Origin);
        assert_eq!(flights.under_way(), 1);
        drop(leading);
        assert!(matches!(following.outcome().await, Outcome::Failed(Error::Panicked)));
        assert_eq!(flights.under_way(), 0);
        drop(lead(&flights, Reach::Origin));
    }

    /// Looks for a flight as soon as it is woken.
    struct Again {
        flights: Arc<Flights>,
        leads: AtomicBool,
    }

    impl Wake for Again {
        fn wake(self: Arc<Self>) {
            drop(lead(&self.flights, Reach::Origin));
            self.leads.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_is_told_to_ask_again_finds_it_no_more() {
        let end: [fn(Lead); 2] = [|lead| lead.settle(Outcome::NotAtHand), |lead| lead.fail(Error::Abandoned)];
        for end in end {
            let flights = Flights::new(Arena::none());
            let leading = lead(&flights, Reach::Origin);
            let following = follow(&flights, Reach::Origin);
            let again = Arc::new(Again { flights, leads: AtomicBool::new(false) });
            let waker = Arc::clone(&again).into();
            let mut waiting = pin!(following.outcome());
            assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            end(leading);
            assert!(again.leads.load(Ordering::Relaxed));
        }
    }

    #[tokio::test]
    async fn reaches_are_apart() {
        let flights = Flights::new(Arena::none());
        let to_peers = lead(&flights, Reach::Peers);
        assert!(flights.to_origin(&key(), Credentials::None).is_none());
        let to_origin = lead(&flights, Reach::Origin);
        assert!(
            flights.to_origin(&key(), Credentials::None).is_some()
                && flights.to_origin(&key(), Credentials::Sent(1)).is_none()
        );
        to_peers.settle(Outcome::Joined(Arc::clone(to_origin.flight())));
        to_origin.fail(Error::OriginTimeout(String::new()));
        assert_eq!(flights.under_way(), 0);
    }

    #[tokio::test]
    async fn an_overtaken_flight_is_followed_by_another() {
        let flights = Flights::new(Arena::none());
        let overtaken = lead(&flights, Reach::Origin);
        flights.overtake(&key());
        assert!(overtaken.is_overtaken());
        let next = lead(&flights, Reach::Origin);
        drop(overtaken);
        assert!(!next.is_overtaken());
        assert_eq!(flights.under_way(), 1);
        follow(&flights, Reach::Origin);
        drop(next);
        assert_eq!(flights.under_way(), 0);
    }

    #[tokio::test]
    async fn a_failure_is_the_one_that_was_told() {
        let flights = Flights::new(Arena::none());
        let leading = lead(&flights, Reach::Origin);
        let following = follow(&flights, Reach::Origin);
        leading.fail(Error::OriginTimeout(String::new()));
        assert!(matches!(following.outcome().await, Outcome::Failed(Error::OriginTimeout(_))));
    }
}
