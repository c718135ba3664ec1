//! [`ReplayGuard`]: accepts each datagram once.

use std::collections::HashMap;
use std::time::Duration;

use super::error::SealError;

/// The number of datagrams of one sender by which a datagram may be late. A sender numbers all its
/// datagrams in one row, for all receivers.
const WINDOW: u64 = 64 * WORDS as u64;
const WORDS: usize = 16;
/// The maximum number of senders that are remembered, some 170 bytes each.
const MAX_SENDERS: usize = 4096;

/// The identification of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Stamp {
    /// The random number of the sender's process.
    pub(super) instance: u64,
    /// The number of the datagram, which grows by one.
    pub(super) sequence: u64,
    /// The time at which the datagram was sent, in milliseconds of the sender's clock.
    pub(super) time: u64,
}

/// Remembers which datagrams have arrived. The callers authenticate a datagram first, so only
/// members use this memory.
///
/// A known sender is judged by the numbers of its datagrams alone, so a clock that is set while
/// edges run changes nothing. The first datagram of a sender must be near this edge's time, and
/// later than the floor. All datagrams of senders that are not remembered any more, or were never
/// remembered because this edge started later, are below the floor.
pub(super) struct ReplayGuard {
    /// The most that the clock of an unknown sender may differ, in milliseconds.
    max_difference: u64,
    floor: u64,
    senders: HashMap<u64, Sender>,
}

/// The datagrams of one sender.
struct Sender {
    /// The greatest number that arrived.
    newest: u64,
    /// A bit for each of the last [`WINDOW`] numbers, at the number modulo [`WINDOW`].
    arrived: [u64; WORDS],
    /// The greatest time that arrived.
    latest: u64,
}

impl ReplayGuard {
    /// Creates a guard that starts at the time `now`.
    pub(super) fn new(max_difference: u64, now: u64) -> Self {
        Self { max_difference, floor: now, senders: HashMap::new() }
    }

    /// Accepts a datagram that arrives at the time `now`, or rejects it.
    pub(super) fn admit(&mut self, stamp: Stamp, now: u64) -> Result<(), SealError> {
        if let Some(sender) = self.senders.get_mut(&stamp.instance) {
            return if sender.admit(stamp) { Ok(()) } else { Err(SealError::Replayed) };
        }
        let difference = stamp.time.abs_diff(now);
        if difference > self.max_difference {
            return Err(SealError::Clock(Duration::from_millis(difference)));
        }
        if stamp.time <= self.floor {
            return Err(SealError::Early);
        }
        if self.senders.len() >= MAX_SENDERS {
            self.forget_one();
        }
        self.senders.insert(stamp.instance, Sender::new(stamp));
        Ok(())
    }

    /// Forgets the sender whose last datagram is the oldest, and raises the floor above that.
    fn forget_one(&mut self) {
        let oldest = self.senders.iter().map(|(instance, sender)| (sender.latest, *instance)).min();
        if let Some((latest, instance)) = oldest {
            self.floor = self.floor.max(latest);
            self.senders.remove(&instance);
        }
    }
}

impl Sender {
    /// Datagrams before the first one count as arrived: they may have, before this edge started.
    fn new(first: Stamp) -> Self {
        Self { newest: first.sequence, arrived: [u64::MAX; WORDS], latest: first.time }
    }

    /// Returns true if the datagram is new, and notes it.
    fn admit(&mut self, Stamp { sequence, time, .. }: Stamp) -> bool {
        if sequence > self.newest {
            if sequence - self.newest >= WINDOW {
                self.arrived.fill(0);
            } else {
                for skipped in self.newest + 1..=sequence {
                    self.arrived[word(skipped)] &= !bit(skipped);
                }
            }
            self.newest = sequence;
        } else if self.newest - sequence >= WINDOW || self.arrived[word(sequence)] & bit(sequence) != 0 {
            return false;
        }
        self.mark(sequence);
        self.latest = self.latest.max(time);
        true
    }

    fn mark(&mut self, sequence: u64) {
        self.arrived[word(sequence)] |= bit(sequence);
    }
}

fn word(sequence: u64) -> usize {
    (sequence % WINDOW / 64) as usize
}

fn bit(sequence: u64) -> u64 {
    1 << (sequence % 64)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// Remembers everything, with the same rules.
    #[derive(Default)]
    struct Model {
        started: u64,
        arrived: HashSet<Stamp>,
        /// The first and the greatest number of each sender.
        bounds: HashMap<u64, (u64, u64)>,
    }

    impl Model {
        fn admits(&mut self, stamp: Stamp, now: u64, max_difference: u64) -> bool {
            let bounds = self.bounds.get(&stamp.instance).copied();
            let is_new = match bounds {
                Some((first, newest)) => stamp.sequence > first && newest.saturating_sub(stamp.sequence) < WINDOW,
                None => stamp.time.abs_diff(now) <= max_difference && stamp.time > self.started,
            };
            let seen =
                self.arrived.iter().any(|other| (other.instance, other.sequence) == (stamp.instance, stamp.sequence));
            let admits = is_new && !seen;
            if admits {
                self.arrived.insert(stamp);
                let (first, newest) = bounds.unwrap_or((stamp.sequence, 0));
                self.bounds.insert(stamp.instance, (first, newest.max(stamp.sequence)));
            }
            admits
        }
    }

    fn steps() -> impl Strategy<Value = Vec<(u64, u64, u64, u64)>> {
        let sequence = prop_oneof![0..40_u64, 0..3 * WINDOW, Just(u64::MAX), Just(u64::MAX - WINDOW)];
        prop::collection::vec((0..3_u64, sequence, 900..1300_u64, 0..100_u64), 1..200)
    }

    proptest! {
        #[test]
        fn guard_admits_the_datagrams_that_a_model_with_a_full_memory_admits(steps in steps()) {
            let (mut guard, mut model) = (ReplayGuard::new(100, 1000), Model { started: 1000, ..Model::default() });
            for (instance, sequence, time, step) in steps {
                let (stamp, now) = (Stamp { instance, sequence, time }, 1000 + step);
                prop_assert_eq!(guard.admit(stamp, now).is_ok(), model.admits(stamp, now, 100), "{:?} at {}", stamp, now);
            }
        }

        /// Datagrams of many more senders than are remembered, each sent again later.
        #[test]
        fn no_datagram_is_admitted_twice_when_senders_are_forgotten(
            arrivals in prop::collection::vec((0..64_u64, 0..50_u64), 1..40),
        ) {
            let mut guard = ReplayGuard::new(10_000, 0);
            let mut admitted = Vec::new();
            let mut now = 1;
            for (group, delay) in arrivals {
                for member in 0..512 {
                    let stamp = Stamp { instance: group * 512 + member, sequence: now, time: now.saturating_sub(delay) };
                    if guard.admit(stamp, now).is_ok() {
                        admitted.push(stamp);
                    }
                }
                now += 1;
                prop_assert!(guard.senders.len() <= MAX_SENDERS);
            }
            for stamp in admitted {
                prop_assert!(guard.admit(stamp, now).is_err(), "{:?}", stamp);
            }
        }
    }

    #[test]
    fn late_datagrams_are_admitted_within_the_window_alone() {
        let stamp = |sequence| Stamp { instance: 1, sequence, time: 1001 };
        let mut guard = ReplayGuard::new(100, 1000);
        assert_eq!(guard.admit(stamp(0), 1001), Ok(()));
        assert_eq!(guard.admit(stamp(WINDOW), 1001), Ok(()));
        assert_eq!(guard.admit(stamp(1), 1001), Ok(()));
        assert_eq!(guard.admit(stamp(0), 1001), Err(SealError::Replayed));
        assert_eq!(guard.admit(stamp(1), 1001), Err(SealError::Replayed));
        assert_eq!(guard.admit(stamp(5 * WINDOW + 3), 1001), Ok(()));
        assert_eq!(guard.admit(stamp(WINDOW), 1001), Err(SealError::Replayed));
        assert_eq!(guard.admit(stamp(5 * WINDOW + 2), 1001), Ok(()));
    }

    #[test]
    fn clock_of_a_known_sender_may_be_set_and_that_of_an_unknown_one_must_be_near() {
        let stamp = |instance, sequence, time| Stamp { instance, sequence, time };
        let mut guard = ReplayGuard::new(100, 1000);
        let clock = |difference| Err(SealError::Clock(Duration::from_millis(difference)));
        assert_eq!(guard.admit(stamp(1, 0, 899), 1000), clock(101));
        assert_eq!(guard.admit(stamp(1, 0, 1101), 1000), clock(101));
        assert_eq!(guard.admit(stamp(1, 0, 1000), 1010), Err(SealError::Early));
        assert_eq!(guard.admit(stamp(1, 0, 1001), 1010), Ok(()));
        // The sender's clock is set back, then this edge's.
        assert_eq!(guard.admit(stamp(1, 1, 0), 1020), Ok(()));
        assert_eq!(guard.admit(stamp(1, 2, 1021), 0), Ok(()));
        assert_eq!(guard.admit(stamp(1, 1, 0), 0), Err(SealError::Replayed));
    }

    #[test]
    fn memory_for_senders_is_bounded_and_active_ones_stay() {
        let mut guard = ReplayGuard::new(u64::MAX, 0);
        for instance in 1..=3 * MAX_SENDERS as u64 {
            assert_eq!(guard.admit(Stamp { instance, sequence: 0, time: instance }, instance), Ok(()));
            assert_eq!(guard.admit(Stamp { instance: 0, sequence: instance, time: instance }, instance), Ok(()));
            assert!(guard.senders.len() <= MAX_SENDERS);
        }
    }
}
