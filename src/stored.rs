//! [`Stored`]: a stored response, as RFC 9111 §1.1 means it; and the head that a
//! flight publishes before the body is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::body::Held;
use crate::fields::{Fields, field_weight};
use crate::key::AssetKey;
use crate::semantics::freshness::{self, Lifetime};

/// What a flight takes besides its body and its fields, in bytes: more than what is
/// stored in the end does, which gives back what is too much.
const FLIGHT: u64 = 2200;
/// What an entry takes besides what its weight counts: the key, the response's
/// own structs, the table's slot, the allocator's rounding and what it leaves
/// between entries. In bytes, as `cargo bench --bench memory` shows it.
const ENTRY: u64 = 512;

/// The head of a response that comes in, and may be reused.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) facts: Facts,
    /// The length of the body in bytes, if it is known.
    pub(crate) length: Option<u64>,
    /// End-to-end fields. Age and Cache-Status only keep the places of those
    /// that each answer makes anew.
    pub(crate) headers: HeaderMap,
    /// The Cache-Status members of those who handled it before this edge; they
    /// speak of the request that filled the flight, not of a later hit.
    pub(crate) upstream_status: Option<HeaderValue>,
}

/// What is known of a response that may be reused, besides its fields.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    pub(crate) status: StatusCode,
    /// When its age was zero.
    pub(crate) born: SystemTime,
    pub(crate) lifetime: Lifetime,
    pub(crate) standing: Standing,
}

/// Whether a stored response was ever found to be the same still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    New,
    Confirmed,
}

impl Facts {
    /// RFC 9111 §4.2.3, `current_age`.
    pub(crate) fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.born).unwrap_or_default()
    }

    /// RFC 9111 §4.2.
    pub(crate) fn is_fresh(&self, now: SystemTime) -> bool {
        match self.lifetime {
            Lifetime::UntilEvicted { .. } => true,
            Lifetime::For(terms) => self.age(now) < terms.fresh,
        }
    }

    /// See [`freshness::must_be_validated`].
    pub(crate) fn must_be_validated(&self, now: SystemTime) -> bool {
        freshness::must_be_validated(self.lifetime, self.age(now))
    }

    /// The seconds of freshness left, where the response states any; below zero
    /// for what is stale (RFC 9211 §2.4).
    pub(crate) fn ttl(&self, now: SystemTime) -> Option<i64> {
        let fresh = match self.lifetime {
            Lifetime::UntilEvicted { said } => said?,
            Lifetime::For(terms) => terms.fresh,
        };
        let age = self.age(now);
        let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        Some(match fresh.checked_sub(age) {
            Some(left) => seconds(left),
            None => -seconds(age.saturating_sub(fresh)),
        })
    }
}

impl Head {
    /// What a flight with this head takes, but for its body.
    pub(crate) fn weight(&self, key: &AssetKey) -> u64 {
        let fields: usize = self.headers.iter().map(field_weight).sum();
        FLIGHT + (key.packed_len() + fields) as u64
    }
}

/// The same fields in memory of their own: one allocation for all values. As
/// they come they are slices of a connection's read buffer, and a stored
/// response would keep all of it.
pub(crate) fn detached(headers: &HeaderMap) -> HeaderMap {
    let mut all = BytesMut::with_capacity(headers.values().map(HeaderValue::len).sum());
    let mut detached = HeaderMap::with_capacity(headers.len() + 4);
    for (name, value) in headers {
        all.extend_from_slice(value.as_bytes());
        // The bytes were a valid value before.
        if let Ok(value) = HeaderValue::from_maybe_shared(all.split().freeze()) {
            detached.append(name.clone(), value);
        }
    }
    detached
}

/// A complete response that may be reused.
#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) facts: Facts,
    pub(crate) fields: Fields,
    pub(crate) body: Arc<Held>,
    pub(crate) uses: Uses,
}

/// How often a stored response was used.
#[derive(Debug, Default)]
pub(crate) struct Uses(AtomicU32);

impl Uses {
    pub(crate) fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn one_more(&self) {
        if self.count() < u32::MAX {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Clone for Uses {
    fn clone(&self) -> Self {
        Self(AtomicU32::new(self.count()))
    }
}

impl Stored {
    /// What an entry with these fields takes, but for its body.
    pub(crate) fn weight_of(key: &AssetKey, fields: &Fields) -> u64 {
        ENTRY + key.packed_len() as u64 + fields.weight()
    }

    /// What the tiers count: constant, and what the budget was charged.
    pub(crate) fn weight(&self) -> u64 {
        self.body.charged()
    }
}
