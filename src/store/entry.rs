//! [`Stored`]: a stored response, as RFC 9111 §1.1 means it; and the head that a
//! flight publishes before the body is there.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use triomphe::{ArcUnion, ArcUnionBorrow, ThinArc};

use crate::key::AssetKey;
use crate::store::budget::Charge;
use crate::store::chunks::{Chunks, to_usize};
use crate::store::headers::{Fields, Packed, Template, field_weight};
use crate::store::metadata::{Metadata, Span};
use crate::store::varint;

/// What a flight takes besides its body and its fields, in bytes: more than what is
/// stored in the end does, which gives back what is too much.
const FLIGHT: u64 = 2200;
/// What an entry takes besides what its weight counts: its own struct, the table's slot,
/// the allocator's rounding and what it leaves between entries. In bytes, as `cargo bench
/// --bench memory` shows it.
const ENTRY: u64 = 144;
/// What one with a large body takes besides: the list of its pieces.
const LIST: u64 = 160;
/// The longest body, in bytes, that is stored in one allocation with the rest. It is
/// copied for that; of a longer one, the pieces are kept as they came.
const SMALL: u64 = 4096;

/// The head of a response that comes in, and may be reused.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) facts: Metadata,
    /// The length of the body in bytes, if it is known.
    pub(crate) length: Option<u64>,
    /// End-to-end fields. Age and Cache-Status only keep the places of those
    /// that each answer makes anew.
    pub(crate) headers: HeaderMap,
    /// The Cache-Status members of those who handled it before this edge; they
    /// speak of the request that filled the flight, not of a later hit.
    pub(crate) upstream_status: Option<HeaderValue>,
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

/// A complete response that may be reused: one of the handles of an [`Entry`].
///
/// A cache has many small assets. So what is an asset's own is in one allocation, behind
/// its entry: the text of its key, its own values of fields, and its body, unless that is
/// [large](Content).
#[derive(Clone)]
pub(crate) struct Stored(ThinArc<Entry, u8>);

/// What every stored response has.
pub(crate) struct Entry {
    pub(crate) uses: Uses,
    common: Common,
    /// A [`Span`] since the epoch.
    born: [u8; 6],
    /// How long a small body is, in bytes.
    small: u16,
    /// What it takes of its form's budget.
    charged: u32,
}

/// What it has in common with others, in one word: a form, which comes with the body where
/// that is large.
struct Common(ArcUnion<Template, Large>);

struct Large {
    form: triomphe::Arc<Template>,
    held: Arc<Chunks>,
}

/// The body of a response that is to be stored.
pub(crate) enum Content<'a> {
    /// It is copied.
    Small(&'a [u8]),
    /// It is shared, with a charge of its own.
    Large(Arc<Chunks>),
}

impl Common {
    fn form(&self) -> &Template {
        match self.0.borrow() {
            ArcUnionBorrow::First(form) => form.get(),
            ArcUnionBorrow::Second(large) => &large.get().form,
        }
    }

    fn held(&self) -> Option<&Arc<Chunks>> {
        self.0.as_second().map(|large| &large.get().held)
    }
}

/// Whether a body of so many bytes is copied when it is stored.
pub(crate) fn is_small(len: u64) -> bool {
    len <= SMALL
}

/// What a body of so many bytes takes in its flight. A small one is there twice when it
/// is stored: its readers go on with what came.
pub(crate) fn in_flight(len: u64) -> u64 {
    if is_small(len) { 2 * len } else { len }
}

impl Stored {
    /// `charge` is of its [weight](Self::weight_of), and of the budget of its form.
    pub(crate) fn new(key: &AssetKey, head: Packed, content: Content<'_>, charge: Charge) -> Self {
        let Packed { form, born, own } = head;
        let charged = u32::try_from(form.budget().take_over(charge)).expect("a head is shorter than 4 GiB");
        let (small, common) = match content {
            Content::Small(bytes) => (bytes, ArcUnion::from_first(form)),
            Content::Large(held) => (&[][..], ArcUnion::from_second(triomphe::Arc::new(Large { form, held }))),
        };
        let key_len = key.packed_len();
        let mut all = Vec::with_capacity(varint::put_len(key_len) + own.len() + small.len());
        varint::put(key_len as u64, &mut all);
        key.pack(&mut all);
        all.extend_from_slice(&own);
        all.extend_from_slice(small);
        let small = u16::try_from(small.len()).expect("a small body is shorter than 64 KiB");
        let entry = Entry { uses: Uses::default(), common: Common(common), born: born.to_bytes(), small, charged };
        Self(ThinArc::from_header_and_slice(entry, &all))
    }

    /// What an entry with a body of `len` bytes takes, but for the bytes of a large one.
    pub(crate) fn weight_of(key: &AssetKey, head: &Packed, len: u64) -> u64 {
        let of_body = if is_small(len) { len } else { LIST };
        ENTRY + varint::put_len(key.packed_len()) as u64 + head.weight() + of_body
    }

    /// The same body under a new head: of a small one, a copy.
    pub(crate) fn renewed(&self, key: &AssetKey, head: Packed, charge: Charge) -> Self {
        let renewed = Self::new(key, head, self.content(), charge);
        renewed.uses.set(self.uses.count());
        renewed
    }

    /// What the tiers count: constant, and what the budget was charged.
    pub(crate) fn weight(&self) -> u64 {
        u64::from(self.charged) + self.common.held().map_or(0, |held| held.charged())
    }

    fn content(&self) -> Content<'_> {
        match self.common.held() {
            Some(held) => Content::Large(Arc::clone(held)),
            None => Content::Small(self.small()),
        }
    }

    /// Whether it is stored under `key`.
    pub(crate) fn is_of(&self, key: &AssetKey) -> bool {
        key.is_packed_as(self.key())
    }

    /// Whether both are handles of the same entry.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.0.ptr() == other.0.ptr()
    }

    /// The canonical name of the asset; of a variant, `None`.
    pub(crate) fn name(&self) -> Option<&str> {
        AssetKey::unpacked_name(self.key())
    }

    /// The canonical name of the asset, whatever the variant.
    pub(crate) fn asset_name(&self) -> &str {
        AssetKey::unpacked_asset(self.key())
    }

    pub(crate) fn facts(&self) -> Metadata {
        self.fields().facts()
    }

    /// Its fields, and what else is known of it.
    pub(crate) fn fields(&self) -> Fields<'_> {
        let (mut own, _) = self.parts();
        varint::take_bytes(&mut own);
        Fields::new(self.common.form(), Span::from_bytes(self.born), own, self.len())
    }

    /// Its key, packed.
    fn key(&self) -> &[u8] {
        varint::take_bytes(&mut self.parts().0)
    }

    /// A small body.
    fn small(&self) -> &[u8] {
        self.parts().1
    }

    /// What is behind the entry: the key and its own values of fields; and a small body.
    fn parts(&self) -> (&[u8], &[u8]) {
        let all = &self.0.slice;
        all.split_at(all.len() - usize::from(self.small))
    }

    /// How long its body is, in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.common.held().map_or(self.small.into(), |held| held.len())
    }

    /// The bytes of its body from `at` to `end`, as far as they lie together.
    pub(crate) fn chunk(&self, at: u64, end: u64) -> &[u8] {
        match self.common.held() {
            Some(held) => held.chunk(at, end),
            None => &self.small()[to_usize(at)..to_usize(end)],
        }
    }

    /// As [`Stored::piece`], for who keeps them.
    pub(crate) fn shared_chunk(&self, at: u64, end: u64) -> Bytes {
        match self.common.held() {
            Some(held) => held.shared_chunk(at, end),
            None => Bytes::copy_from_slice(self.chunk(at, end)),
        }
    }
}

impl Deref for Stored {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.0.header.header
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.common.form().budget().give_back(self.charged.into());
    }
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

    fn set(&self, count: u32) {
        self.0.store(count, Ordering::Relaxed);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::SystemTime;

    use http::StatusCode;
    use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG};

    use super::*;
    use crate::semantics::freshness::Lifetime;
    use crate::store::budget::Budget;
    use crate::store::chunks::CHUNK;
    use crate::store::headers::Templates;
    use crate::store::metadata::Validated;

    /// A stored response with this body.
    pub(crate) fn stored(body: &[u8]) -> Stored {
        let budget = Budget::new(u64::MAX);
        let charge = || budget.charge(1).unwrap();
        let chunks = || body.chunks(CHUNK).map(Bytes::copy_from_slice).collect();
        let content = if is_small(body.len() as u64) {
            Content::Small(body)
        } else {
            Content::Large(Arc::new(Chunks::new(chunks(), charge())))
        };
        Stored::new(&key("/a"), head(&budget, "one", body.len() as u64), content, charge())
    }

    fn key(name: &str) -> AssetKey {
        AssetKey::parse(name, 100).unwrap()
    }

    fn head(budget: &Arc<Budget>, tag: &'static str, len: u64) -> Packed {
        let (lifetime, validated) = (Lifetime::UntilEvicted { stated: None }, Validated::Never);
        let facts = Metadata { status: StatusCode::OK, born: SystemTime::UNIX_EPOCH, lifetime, validated };
        let fields = [
            (ETAG, HeaderValue::from_static(tag)),
            (CONTENT_TYPE, HeaderValue::from_static("text/css")),
            (CONTENT_LENGTH, len.into()),
        ];
        Templates::new(Arc::clone(budget)).pack(facts, &HeaderMap::from_iter(fields), len)
    }

    #[test]
    fn what_is_renewed_has_the_same_body_key_and_uses() {
        for len in [0, 1, SMALL, SMALL + 1, 3 * CHUNK as u64] {
            let body = vec![7; to_usize(len)];
            let old = stored(&body);
            old.uses.one_more();
            let budget = Budget::new(9000);
            let (two, weight) =
                (head(&budget, "two", len), Stored::weight_of(&key("/a"), &head(&budget, "two", len), len));
            let new = old.renewed(&key("/a"), two, budget.charge(weight).unwrap());
            assert_eq!((new.len(), new.uses.count(), new.name()), (len, 1, Some("/a")));
            let mut whole = Vec::new();
            while whole.len() < body.len() {
                whole.extend_from_slice(new.chunk(whole.len() as u64, len));
            }
            assert!(whole == body);
            assert_eq!(
                (&old.fields().unpack()[ETAG], &new.fields().unpack()[ETAG]),
                (&"one".parse().unwrap(), &"two".parse().unwrap())
            );
            assert_eq!(new.fields().unpack()[CONTENT_LENGTH], HeaderValue::from(len));
            assert!(new.is_of(&key("/a")) && !new.is_of(&key("/ab")) && !new.is(&old) && new.is(&new.clone()));
            // Of a large body nothing is charged again.
            let body = old.common.held().map_or(0, |held| held.charged());
            assert_eq!((new.weight(), budget.used()), (weight + body, weight));
            drop(new);
            assert_eq!(budget.used(), 0);
        }
    }
}
