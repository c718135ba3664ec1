//! [`TicketSecrets`]: the random secrets from which the keys of session tickets are derived.
//!
//! A secret belongs to one epoch. The secrets of the current epoch, of the two before it and of the
//! next one exist at a time, so a ticket is accepted for two whole epochs.
//!
//! Edges that share their secrets hold a small set for each epoch. Tickets are encrypted with one
//! secret of the current epoch and decrypted with any. Two edges exchange their sets and keep the
//! union, so edges that made secrets apart from each other, in the halves of a partition, accept
//! each other's tickets afterwards. All edges with equal sets encrypt with the least secret.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand;

use super::settings::{MalformedSecrets, TicketScope};

/// The length of an epoch, in seconds.
pub(super) const EPOCH: u64 = 6 * 60 * 60;
/// The epochs whose secrets exist at a time: two earlier ones, the current one, and the next.
const EPOCHS: usize = 4;
/// The position of the current epoch.
const CURRENT: usize = 2;
/// The position of the next epoch.
const NEXT: usize = 3;
/// The most secrets of one epoch. Of more, all edges keep the same: the least.
const MAX_SECRETS: usize = 16;
/// The first byte of a message: the version of its format.
const FORMAT: u8 = 1;

/// The input of a key derivation.
pub(super) type Secret = [u8; 32];

/// Returns the epoch at the time `now`.
pub(super) fn epoch_of(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / EPOCH
}

/// Returns random bytes.
pub(super) fn random<const LEN: usize>() -> [u8; LEN] {
    let mut bytes = [0; LEN];
    rand::fill(&mut bytes).expect("the system provides random numbers");
    bytes
}

/// The secrets of all epochs, for all policies of client authentication.
pub(crate) struct TicketSecrets {
    epochs: Mutex<Epochs>,
    /// Grows with each change of `epochs`.
    version: AtomicU64,
    scope: TicketScope,
}

/// The sets of secrets, and the secret for new tickets.
#[derive(Clone)]
pub(super) struct Epochs {
    pub(super) current: u64,
    /// In order of the epochs. Each set is sorted.
    sets: [Vec<Secret>; EPOCHS],
    sealing: Option<Secret>,
    /// False until [`TicketSecrets::adopt`]: no tickets are made.
    is_adopted: bool,
}

impl Epochs {
    /// Returns the secret for new tickets. `None` while the edge has not exchanged secrets.
    pub(super) fn sealing(&self) -> Option<&Secret> {
        self.sealing.as_ref()
    }

    /// Returns the secrets of all tickets that are accepted.
    pub(super) fn all(&self) -> impl Iterator<Item = &Secret> {
        self.sets.iter().flatten()
    }

    /// Drops the epochs that have ended. A clock that was set back keeps the current epoch.
    fn rotate(&mut self, epoch: u64) -> Change {
        if epoch <= self.current {
            return Change::None;
        }
        while self.current < epoch {
            // Beyond the number of epochs, all sets are new.
            self.current = (self.current + 1).max(epoch.saturating_sub(EPOCHS as u64));
            self.sets.rotate_left(1);
            self.sets[NEXT].clear();
        }
        self.choose();
        Change::Some
    }

    /// Chooses the secret for new tickets.
    fn choose(&mut self) {
        self.sealing = self.sets[CURRENT].first().copied().filter(|_| self.is_adopted);
    }

    /// Makes a secret for the epoch at `position` if it has none.
    fn fill(&mut self, position: usize) -> Change {
        if !self.sets[position].is_empty() {
            return Change::None;
        }
        self.sets[position].push(random());
        Change::Some
    }

    fn insert(&mut self, epoch: u64, secret: Secret) -> Change {
        // The clocks of the sender and of this edge may differ.
        let position = (epoch + CURRENT as u64).checked_sub(self.current).and_then(|at| usize::try_from(at).ok());
        let Some(set) = position.and_then(|at| self.sets.get_mut(at)) else { return Change::None };
        match set.binary_search(&secret) {
            Err(at) if at < MAX_SECRETS => {
                set.insert(at, secret);
                set.truncate(MAX_SECRETS);
                Change::Some
            }
            _ => Change::None,
        }
    }
}

/// Tells if an operation has changed the secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    Some,
}

impl Change {
    fn or(self, other: Self) -> Self {
        if self == Self::None { other } else { self }
    }
}

impl TicketSecrets {
    /// Creates the secrets of an edge. If they are shared, there are no tickets before
    /// [`fill`](Self::fill) and [`adopt`](Self::adopt).
    pub(super) fn new(scope: TicketScope, now: SystemTime) -> Self {
        let epochs = Epochs { current: epoch_of(now), sets: Default::default(), sealing: None, is_adopted: false };
        let secrets = Self { epochs: Mutex::new(epochs), version: AtomicU64::new(0), scope };
        if scope == TicketScope::Local {
            secrets.adopt(now);
        }
        secrets
    }

    /// Returns the number of the last change.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Returns the secrets at the time `now`, and their version.
    pub(super) fn at(&self, now: SystemTime) -> (Epochs, u64) {
        let epochs = self.current(now);
        (epochs.clone(), self.version())
    }

    /// Makes the secret of the current epoch if there is none. Makes that of the next epoch if
    /// there is none once the current epoch is `delay` old: if the edges of a cluster wait for
    /// different times, one of them makes it.
    pub(crate) fn fill(&self, now: SystemTime, delay: Duration) -> Change {
        let mut epochs = self.current(now);
        let begun = Duration::from_secs(epochs.current * EPOCH);
        let age = now.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(begun);
        let mut change = epochs.fill(CURRENT);
        if age >= delay {
            change = change.or(epochs.fill(NEXT));
        }
        self.note(change);
        change
    }

    /// Encrypts new tickets with the least secret from now on. Called when the other edges know
    /// this edge's secrets, as far as they can be reached.
    pub(crate) fn adopt(&self, now: SystemTime) {
        let mut epochs = self.current(now);
        let before = epochs.sealing;
        epochs.is_adopted = true;
        if self.scope == TicketScope::Local {
            epochs.fill(CURRENT);
            epochs.fill(NEXT);
        }
        epochs.choose();
        if epochs.sealing != before {
            self.note(Change::Some);
        }
    }

    /// Returns the message that tells another edge these secrets.
    pub(crate) fn encode(&self, now: SystemTime) -> Vec<u8> {
        let epochs = self.current(now);
        let mut message = vec![FORMAT];
        for (set, position) in epochs.sets.iter().zip(0..).filter(|(set, _)| !set.is_empty()) {
            let epoch = (epochs.current + position).saturating_sub(CURRENT as u64);
            message.extend_from_slice(&epoch.to_be_bytes());
            message.push(u8::try_from(set.len()).expect("a set has at most MAX_SECRETS"));
            message.extend(set.iter().flatten());
        }
        message
    }

    /// Adds the secrets of another edge's message. Those of epochs that do not exist here are
    /// ignored.
    ///
    /// # Errors
    /// The message has another format; then nothing is added.
    pub(crate) fn merge(&self, message: &[u8], now: SystemTime) -> Result<Change, MalformedSecrets> {
        let received = decode(message).ok_or(MalformedSecrets)?;
        let mut epochs = self.current(now);
        let mut change = Change::None;
        for (epoch, secret) in received {
            change = epochs.insert(epoch, secret).or(change);
        }
        // The secret for new tickets stays until `adopt`, unless the union has no place for it.
        if epochs.sealing.is_some_and(|sealing| !epochs.sets[CURRENT].contains(&sealing)) {
            epochs.choose();
        }
        self.note(change);
        Ok(change)
    }

    /// Returns the secrets, after a rotation if `now` is in a later epoch.
    fn current(&self, now: SystemTime) -> MutexGuard<'_, Epochs> {
        // No critical section can panic halfway through a change.
        let mut epochs = self.epochs.lock().unwrap_or_else(PoisonError::into_inner);
        let change = epochs.rotate(epoch_of(now));
        if change == Change::Some && self.scope == TicketScope::Local {
            epochs.fill(CURRENT);
            epochs.fill(NEXT);
            epochs.choose();
        }
        self.note(change);
        epochs
    }

    fn note(&self, change: Change) {
        if change == Change::Some {
            self.version.fetch_add(1, Ordering::Release);
        }
    }
}

/// Returns the secrets of a message with their epochs; `None` if it is malformed.
fn decode(message: &[u8]) -> Option<Vec<(u64, Secret)>> {
    let (format, mut rest) = message.split_first()?;
    if *format != FORMAT {
        return None;
    }
    let mut secrets = Vec::new();
    for _ in 0..EPOCHS {
        let Some((epoch, after)) = rest.split_first_chunk::<8>() else { break };
        let (count, after) = after.split_first()?;
        let count = Some(usize::from(*count)).filter(|count| *count <= MAX_SECRETS)?;
        let (set, after) = after.split_at_checked(count * size_of::<Secret>())?;
        let epoch = u64::from_be_bytes(*epoch);
        secrets.extend(set.as_chunks().0.iter().map(|secret| (epoch, *secret)));
        rest = after;
    }
    rest.is_empty().then_some(secrets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(epoch * EPOCH + 1)
    }

    fn exchange(one: &TicketSecrets, other: &TicketSecrets, now: SystemTime) {
        other.merge(&one.encode(now), now).unwrap();
        one.merge(&other.encode(now), now).unwrap();
    }

    fn sealing(secrets: &TicketSecrets, now: SystemTime) -> Option<Secret> {
        secrets.at(now).0.sealing().copied()
    }

    fn accepts(secrets: &TicketSecrets, secret: Secret, now: SystemTime) -> bool {
        secrets.at(now).0.all().any(|known| *known == secret)
    }

    /// An edge with secrets of its own.
    fn filled(now: SystemTime) -> TicketSecrets {
        let secrets = TicketSecrets::new(TicketScope::Shared, now);
        assert_eq!(secrets.fill(now, Duration::ZERO), Change::Some);
        secrets
    }

    #[test]
    fn shared_secrets_make_no_ticket_before_they_are_adopted() {
        let secrets = TicketSecrets::new(TicketScope::Shared, at(100));
        secrets.adopt(at(100));
        assert_eq!(sealing(&secrets, at(100)), None, "there is no secret");
        let secrets = filled(at(100));
        assert_eq!(sealing(&secrets, at(100)), None, "it is not adopted");
        secrets.adopt(at(100));
        assert!(sealing(&secrets, at(100)).is_some());
    }

    #[test]
    fn edge_that_joins_makes_no_secret_and_seals_as_the_others_do() {
        let (first, second) = (filled(at(100)), TicketSecrets::new(TicketScope::Shared, at(100)));
        first.adopt(at(100));
        exchange(&second, &first, at(100));
        assert_eq!(second.fill(at(100), Duration::ZERO), Change::None);
        second.adopt(at(100));
        assert_eq!(sealing(&second, at(100)), sealing(&first, at(100)));
    }

    #[test]
    fn halves_of_a_partition_accept_each_others_tickets_after_the_merge() {
        let now = at(100);
        let edges = [filled(now), filled(now), filled(now), filled(now)];
        let [a, b, c, d] = &edges;
        for (one, other) in [(a, b), (c, d)] {
            exchange(one, other, now);
            one.adopt(now);
            other.adopt(now);
        }
        let (left, right) = (sealing(a, now).unwrap(), sealing(c, now).unwrap());
        assert!(sealing(b, now) == Some(left) && sealing(d, now) == Some(right) && left != right);
        for (one, other) in [(a, c), (b, d)] {
            exchange(one, other, now);
        }
        for edge in &edges {
            assert!(accepts(edge, left, now) && accepts(edge, right, now));
        }
        assert_eq!(sealing(a, now), Some(left), "another edge may not know the new secrets yet");
        for edge in &edges {
            edge.adopt(now);
        }
        assert!(edges.iter().all(|edge| sealing(edge, now) == Some(left.min(right))));
        // The sets are equal, so nothing is left to exchange.
        let version = a.version();
        exchange(a, c, now);
        assert_eq!(a.version(), version);
    }

    #[test]
    fn secret_of_the_next_epoch_is_made_after_the_delay_and_used_after_the_rotation() {
        let edge = filled(at(100));
        edge.adopt(at(100));
        assert_eq!(edge.fill(at(101), Duration::from_mins(1)), Change::None, "the next secret has become the current");
        let before = sealing(&edge, at(101));
        assert_eq!(edge.fill(at(101) + Duration::from_mins(1), Duration::from_mins(1)), Change::Some);
        assert_eq!(sealing(&edge, at(101)), before);
        assert!(sealing(&edge, at(102)).is_some_and(|next| Some(next) != before));
        // Nothing was made for an epoch that this edge slept through.
        assert_eq!(sealing(&edge, at(110)), None);
        edge.fill(at(110), Duration::ZERO);
        edge.adopt(at(110));
        assert!(sealing(&edge, at(110)).is_some());
    }

    #[test]
    fn sets_are_bounded_and_equal_in_any_order_of_merges() {
        let now = at(100);
        let edges: Vec<_> = (0..2 * MAX_SECRETS).map(|_| filled(now)).collect();
        let (one, other) = (TicketSecrets::new(TicketScope::Shared, now), filled(now));
        other.adopt(now);
        for (edge, last) in edges.iter().zip(edges.iter().rev()) {
            exchange(&one, edge, now);
            exchange(&other, last, now);
        }
        exchange(&one, &other, now);
        assert_eq!(one.encode(now), other.encode(now));
        assert_eq!(one.at(now).0.all().count(), 2 * MAX_SECRETS, "of two epochs");
        assert!(accepts(&other, sealing(&other, now).unwrap(), now));
    }

    #[test]
    fn epochs_beyond_the_own_clock_are_ignored_and_malformed_messages_rejected() {
        let (ahead, behind) = (filled(at(102)), filled(at(100)));
        let before = behind.encode(at(100));
        assert_eq!(behind.merge(&ahead.encode(at(102)), at(100)), Ok(Change::None));
        assert_eq!(behind.encode(at(100)), before);
        assert_eq!(behind.merge(&ahead.encode(at(102)), at(101)), Ok(Change::Some));
        let message = ahead.encode(at(102));
        for end in 2..message.len() {
            let is_whole_set = end == 1 + 8 + 1 + 32;
            assert_eq!(behind.merge(&message[..end], at(101)).is_ok(), is_whole_set, "cut at {end}");
        }
        for malformed in
            [&b""[..], &[2], &[message.as_slice(), &[0]].concat(), &[&[1][..], &[0; 8], &[17], &[0; 544]].concat()]
        {
            assert_eq!(behind.merge(malformed, at(101)), Err(MalformedSecrets));
        }
    }
}
