//! Request coalescing: one fill of a key at a time, shared by all requests for the key.

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

/// The sources that a flight may ask. A request from a peer joins only flights that go straight
/// to the origin, so two edges cannot wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reach {
    Origin,
    Peers,
    /// One peer that has the entry, before any request needs it. No request joins.
    Handoff,
}

/// The source of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Provider {
    Origin,
    Peer(Arc<str>),
}

impl Provider {
    /// Returns the name used in logs.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Origin => "origin",
            Self::Peer(name) => name,
        }
    }
}

/// The result of a flight: its head, or the reason why there is none.
#[derive(Clone)]
pub(crate) enum Outcome {
    Streaming(Streaming),
    /// The response is in the store already.
    Landed,
    /// The entry that was to be revalidated is the answer.
    Reused(Reused),
    /// The response is for the leader's client alone; the followers start again.
    Pass(Refusal),
    /// This edge is next in rank: the flight continues as this one, to the origin.
    Joined(Arc<Flight>),
    /// The owner could not answer a peek from memory; the followers start again without it.
    PeekMiss,
    Failed(Error),
}

/// The head of a flight, with a body that is being received or complete.
#[derive(Clone)]
pub(crate) struct Streaming {
    pub(crate) head: Arc<Head>,
    pub(crate) provider: Provider,
    pub(crate) kept: Kept,
    /// The part of the body that is kept, as far as known at its start.
    pub(crate) extent: Extent,
    /// The variant, if the response varies: only requests that select it may use it.
    pub(crate) selected: Option<Selected>,
    /// The flight's share of the budget.
    pub(crate) room: Arc<Room>,
    pub(crate) proof: Verification,
    /// Time at which the head was received.
    pub(crate) came: SystemTime,
}

/// The part of a flight's body that is kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    Whole,
    Window,
}

/// The verification that a flight's body still needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verification {
    /// None, or it is done.
    None,
    /// The digests are verified at the end of the body.
    AtEnd,
}

/// A variant, and the request headers that select it.
#[derive(Clone)]
pub(crate) struct Selected {
    pub(crate) fields: Arc<[HeaderName]>,
    pub(crate) variant: Variant,
}

/// An entry that is the answer after an attempt to revalidate it.
#[derive(Clone)]
pub(crate) struct Reused {
    pub(crate) stored: Stored,
    pub(crate) reason: ReuseReason,
}

/// The reason why an entry may be used after the attempt.
#[derive(Clone)]
pub(crate) enum ReuseReason {
    /// The provider confirmed that the entry is current.
    Validated(Provider),
    /// The provider failed with this status (stale-if-error, RFC 5861 §4).
    FailedWith(StatusCode),
    /// The provider did not answer (stale-if-error).
    Failed(Error),
}

/// The use of a flight's response: stored here, or only shared by the requests that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    Stored,
    Shared(Refusal),
}

/// One fill of one key in progress.
pub(crate) struct Flight {
    id: Id,
    outcome: SetOnce<Outcome>,
    pub(crate) body: Arc<Growing>,
    /// True after a write invalidated the key: the requests that wait get the response, later
    /// ones do not, and it is not stored.
    invalidated: AtomicBool,
}

impl Flight {
    /// Returns the outcome, if there is one yet.
    pub(crate) fn look(&self) -> Option<&Outcome> {
        self.outcome.get()
    }

    /// Waits for the outcome.
    pub(crate) async fn outcome(&self) -> &Outcome {
        self.outcome.wait().await
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Id {
    key: AssetKey,
    reach: Reach,
    /// The credentials of the fill. A request with other credentials does not join.
    credentials: Credentials,
}

impl Id {
    fn to_origin(&self) -> Self {
        Self { reach: Reach::Origin, ..self.clone() }
    }
}

type Table = HashMap<Id, Arc<Flight>, BuildHasherDefault<IdHasher>>;

/// The flights of an edge.
pub(crate) struct Flights {
    shards: Box<[Mutex<Table>]>,
    /// The number of flights; one that is listed under two ids counts once.
    under_way: AtomicU64,
    arena: Arc<Arena>,
}

/// The role of a request in a flight.
pub(crate) enum Joining {
    Lead(Lead),
    Follow(Arc<Flight>),
}

impl Flights {
    /// The chunks of the bodies are allocated in `arena`.
    pub(crate) fn new(arena: Arc<Arena>) -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Arc::new(Self { shards, under_way: AtomicU64::new(0), arena })
    }

    fn shard(&self, key: &AssetKey) -> MutexGuard<'_, Table> {
        #[allow(clippy::cast_possible_truncation)] // any bits will do
        let index = key.hash() as usize % SHARDS;
        lock(&self.shards[index])
    }

    /// Follows the flight of `key` with this reach and these credentials, or leads a new one.
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
            invalidated: AtomicBool::new(false),
        });
        table.insert(id, Arc::clone(&flight));
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Joining::Lead(Lead { flights: Arc::clone(self), flight, reach, listed: true, quota: None })
    }

    /// Removes the flights of all variants of an asset from the table. No request joins them
    /// any more, and their responses are not stored.
    pub(crate) fn invalidate(&self, key: &AssetKey) {
        self.shard(key).retain(|id, flight| {
            let invalidated = id.key.is_same_asset(key);
            if invalidated {
                flight.invalidated.store(true, Ordering::SeqCst);
                self.discount(id, flight);
            }
            !invalidated
        });
    }

    /// Invalidates the flights of all assets.
    pub(crate) fn invalidate_all(&self) {
        for shard in &self.shards {
            for (id, flight) in lock(shard).drain() {
                flight.invalidated.store(true, Ordering::SeqCst);
                self.discount(&id, &flight);
            }
        }
    }

    /// Invalidates one flight: a newer one replaces it.
    pub(crate) fn retire(&self, flight: &Arc<Flight>) {
        flight.invalidated.store(true, Ordering::SeqCst);
        self.unlist(flight);
    }

    /// Counts one flight less, unless `id` is its second id.
    fn discount(&self, id: &Id, flight: &Flight) {
        if *id == flight.id {
            self.under_way.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Removes a flight from the table.
    fn unlist(&self, flight: &Arc<Flight>) {
        let mut table = self.shard(&flight.id.key);
        for id in [flight.id.clone(), flight.id.to_origin()] {
            if table.get(&id).is_some_and(|listed| Arc::ptr_eq(listed, flight)) {
                table.remove(&id);
                self.discount(&id, flight);
            }
        }
    }

    /// Returns the flight of `key` that goes straight to the origin, if there is one.
    pub(crate) fn to_origin(&self, key: &AssetKey, credentials: Credentials) -> Option<Arc<Flight>> {
        let table = self.shard(key);
        if table.is_empty() {
            return None;
        }
        table.get(&Id { key: key.clone(), reach: Reach::Origin, credentials }).cloned()
    }

    /// Returns the number of flights.
    pub(crate) fn under_way(&self) -> u64 {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Returns the number of readers of all flights, those that wait for a head included.
    pub(crate) fn readers(&self) -> u64 {
        let mut readers = 0;
        for shard in &self.shards {
            // A flight with two ids counts once. The lock of a body is taken after the table's is
            // released.
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
    // No critical section can panic half-way.
    shard.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The handle of a flight's leader. Dropped without an outcome, as by a panic, it fails the
/// flight: the followers get the error, and the next request leads a new flight.
pub(crate) struct Lead {
    flights: Arc<Flights>,
    flight: Arc<Flight>,
    /// The reach now, which [`go_to_origin`](Self::go_to_origin) may have changed.
    reach: Reach,
    listed: bool,
    /// The request counts for the leader's client until the outcome is known.
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

    /// Publishes the head. The body follows with [`Lead::append`].
    pub(crate) fn stream(&mut self, streaming: Streaming) {
        self.publish(Outcome::Streaming(streaming));
    }

    /// Turns the flight into one that goes straight to the origin, which requests from peers may
    /// join too. Changes nothing and returns the other flight if there is one already.
    pub(crate) fn go_to_origin(&mut self) -> Option<Arc<Flight>> {
        let id = self.flight.id.to_origin();
        if id == self.flight.id || !self.listed {
            return None;
        }
        let mut table = self.flights.shard(&id.key);
        // Checked under the table's lock, which an invalidation holds as well.
        if self.is_invalidated() {
            return None;
        }
        if let Some(other) = table.get(&id).filter(|other| !Arc::ptr_eq(other, &self.flight)) {
            return Some(Arc::clone(other));
        }
        table.insert(id, Arc::clone(&self.flight));
        self.reach = Reach::Origin;
        None
    }

    /// Returns true if a write invalidated the key after the flight began.
    pub(crate) fn is_invalidated(&self) -> bool {
        self.flight.invalidated.load(Ordering::SeqCst)
    }

    pub(crate) fn append(&self, data: Bytes) {
        self.flight.body.append(data);
    }

    /// Ends a flight without a body.
    pub(crate) fn settle(mut self, outcome: Outcome) {
        // A follower that starts again must not find this flight.
        self.unlist();
        self.publish(outcome);
    }

    /// Publishes the outcome, unless there is one.
    fn publish(&mut self, outcome: Outcome) {
        // Released before the client can send another request.
        self.quota = None;
        let _ = self.flight.outcome.set(outcome);
    }

    /// Fails the flight. Followers that wait for the head get `error`; readers of the body get
    /// it after the bytes received so far.
    pub(crate) fn fail(mut self, error: Error) {
        // As in `settle`.
        self.unlist();
        self.end_with(error);
    }

    /// Fails the body and the outcome, as far as they have not ended.
    fn end_with(&mut self, error: Error) {
        self.flight.body.fail(error.clone());
        self.publish(Outcome::Failed(error));
    }

    /// Removes the flight from the table. No request joins any more; the followers continue.
    pub(crate) fn unlist(&mut self) {
        if self.listed {
            self.listed = false;
            // An invalidated flight is not in the table; another may have its id, and stays.
            self.flights.unlist(&self.flight);
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.unlist();
        self.end_with(Error::Panicked);
    }
}

/// Hasher of an [`Id`]: mixes the hash that the key carries with the other parts.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
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
            Joining::Follow(_) => panic!("there is a leader already"),
        }
    }

    fn follow(flights: &Arc<Flights>, reach: Reach) -> Arc<Flight> {
        match flights.join(&key(), reach, Credentials::None) {
            Joining::Follow(flight) => flight,
            Joining::Lead(_) => panic!("there is no leader"),
        }
    }

    #[tokio::test]
    async fn a_dropped_lead_fails_its_followers() {
        let flights = Flights::new(Arena::none());
        let leading = lead(&flights, Reach::Origin);
        let following = follow(&flights, Reach::Origin);
        assert_eq!(flights.under_way(), 1);
        drop(leading);
        assert!(matches!(following.outcome().await, Outcome::Failed(Error::Panicked)));
        assert_eq!(flights.under_way(), 0);
        drop(lead(&flights, Reach::Origin));
    }

    /// A waker that leads a new flight.
    struct LeadOnWake {
        flights: Arc<Flights>,
        leads: AtomicBool,
    }

    impl Wake for LeadOnWake {
        fn wake(self: Arc<Self>) {
            drop(lead(&self.flights, Reach::Origin));
            self.leads.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_follower_that_starts_again_does_not_find_the_ended_flight() {
        let end: [fn(Lead); 2] = [|lead| lead.settle(Outcome::PeekMiss), |lead| lead.fail(Error::Abandoned)];
        for end in end {
            let flights = Flights::new(Arena::none());
            let leading = lead(&flights, Reach::Origin);
            let following = follow(&flights, Reach::Origin);
            let again = Arc::new(LeadOnWake { flights, leads: AtomicBool::new(false) });
            let waker = Arc::clone(&again).into();
            let mut waiting = pin!(following.outcome());
            assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            end(leading);
            assert!(again.leads.load(Ordering::Relaxed));
        }
    }

    #[tokio::test]
    async fn flights_of_different_reaches_are_separate() {
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
    async fn a_request_after_an_invalidation_leads_a_new_flight() {
        let flights = Flights::new(Arena::none());
        let invalidated = lead(&flights, Reach::Origin);
        flights.invalidate(&key());
        assert!(invalidated.is_invalidated());
        let next = lead(&flights, Reach::Origin);
        drop(invalidated);
        assert!(!next.is_invalidated());
        assert_eq!(flights.under_way(), 1);
        follow(&flights, Reach::Origin);
        drop(next);
        assert_eq!(flights.under_way(), 0);
    }

    #[tokio::test]
    async fn followers_get_the_error_of_the_failed_flight() {
        let flights = Flights::new(Arena::none());
        let leading = lead(&flights, Reach::Origin);
        let following = follow(&flights, Reach::Origin);
        leading.fail(Error::OriginTimeout(String::new()));
        assert!(matches!(following.outcome().await, Outcome::Failed(Error::OriginTimeout(_))));
    }
}
