//! [`Metadata`]: status, age and freshness of a response that may be reused.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::StatusCode;

use crate::semantics::freshness::{self, Lifetime};
use crate::store::varint;

/// The status, age and freshness of a response that may be reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Metadata {
    pub(crate) status: StatusCode,
    /// Time at which the age was zero.
    pub(crate) born: SystemTime,
    pub(crate) lifetime: Lifetime,
    pub(crate) validated: Validated,
}

/// Number of successful revalidations of an entry, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Validated {
    Never,
    Once,
}

/// The metadata that differ between responses of one template.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Times {
    /// Since the Unix epoch; an earlier time counts as the epoch.
    pub(crate) born: Span,
    /// Zero if no lifetime is stated.
    pub(crate) fresh: Span,
}

/// A duration of up to 136 years, in 65,536ths of a second.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Span(u64);

/// Parts of a second, of about 15 µs each.
const PARTS: u64 = 1 << 16;
const NANOS: u64 = 1_000_000_000;
/// Stands for the number of seconds where a duration in parts follows.
const IN_PARTS: u32 = u32::MAX;

impl From<Duration> for Span {
    /// Rounds down, and limits to the longest span.
    fn from(time: Duration) -> Self {
        Self(match u32::try_from(time.as_secs()) {
            Ok(seconds) => u64::from(seconds) * PARTS + u64::from(time.subsec_nanos()) * PARTS / NANOS,
            Err(_) => u64::from(u32::MAX) * PARTS,
        })
    }
}

impl From<Span> for Duration {
    #[allow(clippy::cast_possible_truncation)] // below a second
    fn from(Span(parts): Span) -> Self {
        // Rounds up, so that the conversion back yields the same span.
        Self::new(parts / PARTS, (parts % PARTS * NANOS).div_ceil(PARTS) as u32)
    }
}

impl Span {
    /// Returns the six bytes of a span.
    pub(crate) fn to_bytes(self) -> [u8; 6] {
        let [b0, b1, b2, b3, b4, b5, ..] = self.0.to_le_bytes();
        [b0, b1, b2, b3, b4, b5]
    }

    pub(crate) fn from_bytes([b0, b1, b2, b3, b4, b5]: [u8; 6]) -> Self {
        Self(u64::from_le_bytes([b0, b1, b2, b3, b4, b5, 0, 0]))
    }

    /// Appends the span: four bytes for whole seconds, as most are, else ten.
    pub(crate) fn pack(self, packed: &mut Vec<u8>) {
        match u32::try_from(self.0 / PARTS) {
            Ok(seconds) if seconds != IN_PARTS && self.0.is_multiple_of(PARTS) => packed.extend(seconds.to_le_bytes()),
            _ => {
                packed.extend(IN_PARTS.to_le_bytes());
                packed.extend(self.to_bytes());
            }
        }
    }

    /// Reads a span from the front.
    pub(crate) fn unpack(packed: &mut &[u8]) -> Self {
        match u32::from_le_bytes(varint::take_chunk(packed)) {
            IN_PARTS => Self::from_bytes(varint::take_chunk(packed)),
            seconds => Self(u64::from(seconds) * PARTS),
        }
    }
}

impl Metadata {
    /// Returns the `current_age` (RFC 9111 §4.2.3).
    pub(crate) fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.born).unwrap_or_default()
    }

    /// Returns true if the response is fresh (RFC 9111 §4.2).
    pub(crate) fn is_fresh(&self, now: SystemTime) -> bool {
        match self.lifetime {
            Lifetime::UntilEvicted { .. } => true,
            Lifetime::For(terms) => self.age(now) < terms.fresh,
        }
    }

    /// Returns true if the response must be validated before it is used, see
    /// [`freshness::must_be_validated`].
    pub(crate) fn must_be_validated(&self, now: SystemTime) -> bool {
        freshness::must_be_validated(self.lifetime, self.age(now))
    }

    /// Returns the seconds of freshness left at `age`, negative for a stale response (RFC 9211
    /// §2.4), or `None` if no lifetime is stated.
    pub(crate) fn ttl(&self, age: Duration) -> Option<i64> {
        let fresh = self.lifetime.stated()?;
        let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        Some(match fresh.checked_sub(age) {
            Some(left) => seconds(left),
            None => -seconds(age.saturating_sub(fresh)),
        })
    }

    /// Returns the times, which [`at`](Self::at) sets.
    pub(crate) fn times(&self) -> Times {
        Times {
            born: self.born.duration_since(UNIX_EPOCH).unwrap_or_default().into(),
            fresh: self.lifetime.stated().unwrap_or_default().into(),
        }
    }

    /// Returns the metadata with other times.
    pub(crate) fn at(self, Times { born, fresh }: Times) -> Self {
        Self { born: UNIX_EPOCH + Duration::from(born), lifetime: self.lifetime.lasting(fresh.into()), ..self }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::semantics::freshness::{Changes, Stale, Terms};

    fn lifetime() -> impl Strategy<Value = Lifetime> {
        let span =
            || (any::<u32>(), 0..1_000_000_000_u32).prop_map(|(seconds, nanos)| Duration::new(seconds.into(), nanos));
        let terms = (span(), 0..9_u64, any::<bool>()).prop_map(|(fresh, late, settled)| Terms {
            while_revalidate: Duration::from_secs(late),
            stale: if settled { Stale::Forbidden } else { Stale::Allowed },
            changes: if settled { Changes::Never } else { Changes::Possibly },
            ..Terms::only(fresh)
        });
        prop_oneof![
            proptest::option::of(span()).prop_map(|said| Lifetime::UntilEvicted { said }),
            terms.prop_map(Lifetime::For),
        ]
    }

    proptest! {
        #[test]
        fn metadata_are_restored_from_their_times(born in any::<u32>(), nanos in 0..1_000_000_000_u32, lifetime in lifetime()) {
            let born = UNIX_EPOCH + Duration::new(born.into(), nanos);
            let facts = Metadata { status: StatusCode::NOT_FOUND, born, lifetime, validated: Validated::Once };
            let common = facts.at(Times::default());
            let again = common.at(facts.times());
            let is_less_by_under_a_part = |before: Duration, after: Duration| {
                before.checked_sub(after).is_some_and(|lost| lost < Duration::from_nanos(NANOS.div_ceil(PARTS)))
            };
            let since_epoch = |facts: &Metadata| facts.born.duration_since(UNIX_EPOCH).unwrap();
            prop_assert!(is_less_by_under_a_part(since_epoch(&facts), since_epoch(&again)));
            let fresh = |facts: &Metadata| facts.lifetime.stated().unwrap_or_default();
            prop_assert!(is_less_by_under_a_part(fresh(&facts), fresh(&again)));
            prop_assert_eq!(Metadata { born, lifetime: lifetime.lasting(fresh(&facts)), ..again }, facts);
            // Restored metadata are restored exactly, and whole seconds too.
            prop_assert_eq!(common.at(again.times()), again);
            let whole = common.at(Times { born: Duration::from_secs(7).into(), fresh: Duration::from_secs(9).into() });
            prop_assert_eq!(common.at(whole.times()), whole);
            // The packed form.
            let (times, mut packed) = (again.times(), Vec::new());
            times.fresh.pack(&mut packed);
            let packed_times = Times { born: Span::from_bytes(times.born.to_bytes()), fresh: Span::unpack(&mut &*packed) };
            prop_assert_eq!(common.at(packed_times), again);
            prop_assert!(packed.len() == 4 || lifetime.stated().unwrap().subsec_nanos() > 0);
            // The shared metadata do not depend on the times.
            let other = Metadata { born: born + Duration::from_secs(1), lifetime: lifetime.lasting(Duration::from_secs(7)), ..facts };
            prop_assert_eq!(other.at(Times::default()), common);
        }
    }

    #[test]
    fn times_out_of_range_are_limited() {
        let lifetime = Lifetime::UntilEvicted { said: Some(Duration::MAX) };
        let born = UNIX_EPOCH - Duration::from_secs(1);
        let facts = Metadata { status: StatusCode::OK, born, lifetime, validated: Validated::Never };
        let again = facts.at(facts.times());
        assert_eq!(again.born, UNIX_EPOCH);
        assert_eq!(again.lifetime.stated(), Some(Duration::from_secs(u32::MAX.into())));
        let mut packed = Vec::new();
        again.times().fresh.pack(&mut packed);
        assert_eq!(Duration::from(Span::unpack(&mut &*packed)), Duration::from_secs(u32::MAX.into()));
    }
}
