//! [`Metadata`]: status, age and freshness of a response that may be reused.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::StatusCode;

use crate::semantics::freshness::{self, Lifetime};

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

/// The metadata that differ between responses of one template, in half the size of the types of
/// `std::time`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Times {
    /// Nanoseconds since the epoch.
    born: u64,
    /// Nanoseconds; zero if no lifetime is stated.
    fresh: u64,
}

/// Returns a time span in nanoseconds; the longest that fits is 584 years.
fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
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
        let born = self.born.duration_since(UNIX_EPOCH).unwrap_or_default();
        Times { born: nanos(born), fresh: nanos(self.lifetime.stated().unwrap_or_default()) }
    }

    /// Returns the metadata with other times.
    pub(crate) fn at(self, Times { born, fresh }: Times) -> Self {
        let lifetime = self.lifetime.lasting(Duration::from_nanos(fresh));
        Self { born: UNIX_EPOCH + Duration::from_nanos(born), lifetime, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::freshness::Terms;

    #[test]
    fn metadata_are_restored_from_their_times() {
        let second = Duration::from_secs(1);
        let (born, fresh) = (UNIX_EPOCH + 7 * second, 9 * second);
        let lifetimes = [
            Lifetime::UntilEvicted { stated: None },
            Lifetime::UntilEvicted { stated: Some(fresh) },
            Lifetime::For(Terms { while_revalidate: second, ..Terms::only(fresh) }),
        ];
        for lifetime in lifetimes {
            let facts = Metadata { status: StatusCode::NOT_FOUND, born, lifetime, validated: Validated::Once };
            let shared = facts.at(Times::default());
            assert_eq!(shared.at(facts.times()), facts);
            // The shared metadata do not depend on the times.
            let other = Metadata { born: born + second, lifetime: lifetime.lasting(second), ..facts };
            assert_eq!(other.at(Times::default()), shared);
        }
    }
}
