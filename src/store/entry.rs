//! [`Stored`]: a stored response (RFC 9111 §1.1); [`Head`]: the head that a flight publishes
//! before its body is complete.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use triomphe::ThinArc;

use crate::key::AssetKey;
use crate::store::budget::Charge;
use crate::store::chunks::{Chunks, to_usize};
use crate::store::headers::{PackedHead, PackedHeaders, Template, field_weight};
use crate::store::metadata::{Metadata, Times};
use crate::store::varint;

/// Bytes charged for a flight besides its body and its headers. The entry takes less; the
/// difference is released when it is stored.
const FLIGHT: u64 = 2200;
/// Bytes charged for an entry besides its key, headers and body: its struct, the slot of the
/// table, and the allocator's rounding and gaps, as `cargo bench --bench memory` measures them.
const ENTRY: u64 = 160;
/// Bytes charged for the list of chunks of a large body.
const LIST: u64 = 160;
/// The longest body in bytes that is copied into the allocation of its entry. The chunks of a
/// longer one are kept as the flight received them.
const SMALL: u64 = 4096;

/// The head of a response that may be reused.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) facts: Metadata,
    /// The length of the body in bytes, if it is known.
    pub(crate) length: Option<u64>,
    /// End-to-end headers. The values of Age and Cache-Status are placeholders, which each hit
    /// replaces.
    pub(crate) headers: HeaderMap,
    /// The Cache-Status members of the caches between the origin and this edge. They describe the
    /// request that filled the flight, not a later hit.
    pub(crate) upstream_status: Option<HeaderValue>,
}

impl Head {
    /// Returns the bytes charged for a flight with this head, without the body.
    pub(crate) fn weight(&self, key: &AssetKey) -> u64 {
        let headers: usize = self.headers.iter().map(field_weight).sum();
        FLIGHT + (key.packed_len() + headers) as u64
    }
}

/// Copies headers, with one allocation for all values. The originals are slices of a connection's
/// read buffer, which they would keep alive.
pub(crate) fn detached(headers: &HeaderMap) -> HeaderMap {
    let mut all = BytesMut::with_capacity(headers.values().map(HeaderValue::len).sum());
    let mut detached = HeaderMap::with_capacity(headers.len() + 4);
    for (name, value) in headers {
        all.extend_from_slice(value.as_bytes());
        let value = HeaderValue::from_maybe_shared(all.split().freeze());
        detached.append(name.clone(), value.expect("the bytes were a header value before"));
    }
    detached
}

/// A handle of an [`Entry`]: a complete response that may be reused.
///
/// A cache has many small assets, so an entry is one allocation. The bytes after the [`Entry`]
/// are the packed key, the packed header values and the body, unless the body is
/// [large](Content).
#[derive(Clone)]
pub(crate) struct Stored(ThinArc<Entry, u8>);

/// The fixed part of a stored response.
pub(crate) struct Entry {
    pub(crate) uses: Uses,
    template: triomphe::Arc<Template>,
    /// A large body.
    chunks: Option<Arc<Chunks>>,
    times: Times,
    /// Length of a small body in bytes, else zero.
    small: u16,
    /// Bytes charged to the budget.
    charged: u32,
}

/// The body of a response that is to be stored.
pub(crate) enum Content<'a> {
    /// Copied into the entry.
    Small(&'a [u8]),
    /// Shared, with its own charge.
    Large(Arc<Chunks>),
}

/// Returns true if a body of `len` bytes is copied into its entry.
pub(crate) fn is_small(len: u64) -> bool {
    len <= SMALL
}

/// Returns the bytes charged for a body of `len` bytes in a flight. A small body exists twice when
/// it is stored: the readers continue with the flight's chunks.
pub(crate) fn in_flight(len: u64) -> u64 {
    if is_small(len) { 2 * len } else { len }
}

impl Stored {
    /// `charge` is of the [weight](Self::weight_of), and of the template's budget.
    pub(crate) fn new(key: &AssetKey, head: PackedHead, content: Content<'_>, charge: Charge) -> Self {
        let PackedHead { template, times, values } = head;
        let charged = u32::try_from(template.budget().detach(charge)).expect("a head is shorter than 4 GiB");
        let (small, chunks) = match content {
            Content::Small(bytes) => (bytes, None),
            Content::Large(chunks) => (&[][..], Some(chunks)),
        };
        let key_len = key.packed_len();
        let mut all = Vec::with_capacity(varint::put_len(key_len) + values.len() + small.len());
        varint::put(key_len as u64, &mut all);
        key.pack(&mut all);
        all.extend_from_slice(&values);
        all.extend_from_slice(small);
        let small = u16::try_from(small.len()).expect("a small body is shorter than 64 KiB");
        let entry = Entry { uses: Uses::default(), template, chunks, times, small, charged };
        Self(ThinArc::from_header_and_slice(entry, &all))
    }

    /// Returns the bytes charged for an entry with a body of `len` bytes, without a large body,
    /// which has its own charge.
    pub(crate) fn weight_of(key: &AssetKey, head: &PackedHead, len: u64) -> u64 {
        let of_body = if is_small(len) { len } else { LIST };
        ENTRY + varint::put_len(key.packed_len()) as u64 + head.weight() + of_body
    }

    /// Returns an entry with the same body under a new head. A small body is copied.
    pub(crate) fn renewed(&self, key: &AssetKey, head: PackedHead, charge: Charge) -> Self {
        let renewed = Self::new(key, head, self.content(), charge);
        renewed.uses.set(&self.uses);
        renewed
    }

    /// Returns the weight in the tiers, which is the bytes charged to the budget. Constant.
    pub(crate) fn weight(&self) -> u64 {
        u64::from(self.charged) + self.chunks.as_ref().map_or(0, |chunks| chunks.charged())
    }

    fn content(&self) -> Content<'_> {
        match &self.chunks {
            Some(chunks) => Content::Large(Arc::clone(chunks)),
            None => Content::Small(self.small()),
        }
    }

    /// Returns true if the entry is stored under `key`.
    pub(crate) fn has_key(&self, key: &AssetKey) -> bool {
        key.is_packed_as(self.key())
    }

    /// Returns true if both are handles of the same entry.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.0.ptr() == other.0.ptr()
    }

    /// Returns the text of the key, with its scope, or `None` for a variant.
    pub(crate) fn name(&self) -> Option<&str> {
        AssetKey::unpacked_name(self.key())
    }

    /// Returns the text of the key, with its scope, also for a variant.
    pub(crate) fn asset_name(&self) -> &str {
        AssetKey::unpacked_asset(self.key())
    }

    pub(crate) fn facts(&self) -> Metadata {
        self.fields().facts()
    }

    /// Returns the headers and the metadata.
    pub(crate) fn fields(&self) -> PackedHeaders<'_> {
        let (mut values, _) = self.parts();
        varint::take_bytes(&mut values);
        PackedHeaders::new(&self.template, self.times, values, self.len())
    }

    /// Returns the packed key.
    fn key(&self) -> &[u8] {
        varint::take_bytes(&mut self.parts().0)
    }

    /// Returns a small body.
    fn small(&self) -> &[u8] {
        self.parts().1
    }

    /// Splits the bytes after the entry: the key and the header values, and a small body.
    fn parts(&self) -> (&[u8], &[u8]) {
        let all = &self.0.slice;
        all.split_at(all.len() - usize::from(self.small))
    }

    /// Returns the length of the body in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.chunks.as_ref().map_or(self.small.into(), |chunks| chunks.len())
    }

    /// Returns the bytes of the body from `at` to `end`, as far as they are contiguous.
    pub(crate) fn chunk(&self, at: u64, end: u64) -> &[u8] {
        match &self.chunks {
            Some(chunks) => chunks.chunk(at, end),
            None => &self.small()[to_usize(at)..to_usize(end)],
        }
    }

    /// Returns the bytes of [`chunk`](Self::chunk) without a borrow of the entry.
    pub(crate) fn shared_chunk(&self, at: u64, end: u64) -> Bytes {
        match &self.chunks {
            Some(chunks) => chunks.shared_chunk(at, end),
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
        self.template.budget().release(self.charged.into());
    }
}

/// The number of hits of an entry, up to 65,535. Simultaneous hits may count as one.
#[derive(Debug, Default)]
pub(crate) struct Uses(AtomicU16);

impl Uses {
    pub(crate) fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed).into()
    }

    pub(crate) fn increment(&self) {
        // Without an atomic addition, which could pass the limit and begin again at zero.
        self.0.store(self.0.load(Ordering::Relaxed).saturating_add(1), Ordering::Relaxed);
    }

    fn set(&self, other: &Self) {
        self.0.store(other.0.load(Ordering::Relaxed), Ordering::Relaxed);
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

    /// Returns a stored response with this body.
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

    fn head(budget: &Arc<Budget>, tag: &'static str, len: u64) -> PackedHead {
        let (lifetime, validated) = (Lifetime::UntilEvicted { stated: None }, Validated::Never);
        let facts = Metadata { status: StatusCode::OK, born: SystemTime::UNIX_EPOCH, lifetime, validated };
        let headers = [
            (ETAG, HeaderValue::from_static(tag)),
            (CONTENT_TYPE, HeaderValue::from_static("text/css")),
            (CONTENT_LENGTH, len.into()),
        ];
        Templates::new(Arc::clone(budget)).pack(facts, &HeaderMap::from_iter(headers), len)
    }

    #[test]
    fn an_object_of_1_kib_takes_a_quarter_of_a_kib_besides_its_body() {
        assert_eq!(size_of::<Entry>(), 40);
        let (lifetime, validated) = (Lifetime::UntilEvicted { stated: None }, Validated::Never);
        let facts = Metadata { status: StatusCode::OK, born: SystemTime::now(), lifetime, validated };
        // The headers of a static file server.
        let headers = [
            ("etag", "\"400-99a02d-18ea82a9cb782420\""),
            ("last-modified", "Sun, 22 Nov 2026 23:44:27 GMT"),
            ("content-length", "1024"),
            ("content-type", "application/octet-stream"),
            ("accept-ranges", "bytes"),
            ("cache-control", "public, max-age=31536000, immutable"),
            ("date", "Mon, 23 Nov 2026 00:06:43 GMT"),
        ];
        let headers = headers.map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        let head = Templates::new(Budget::new(0)).pack(facts, &HeaderMap::from_iter(headers), 1024);
        assert_eq!(Stored::weight_of(&key("/assets/logo-0123456789abcdef.png"), &head, 1024), 1024 + 232);
    }

    #[test]
    fn a_renewed_entry_keeps_its_body_key_and_uses() {
        for len in [0, 1, SMALL, SMALL + 1, 3 * CHUNK as u64] {
            let body = vec![7; to_usize(len)];
            let old = stored(&body);
            old.uses.increment();
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
            assert!(
                new.has_key(&key("/a")) && !new.has_key(&key("/ab")) && !new.is_same(&old) && new.is_same(&new.clone())
            );
            // A large body is not charged again.
            let body = old.chunks.as_ref().map_or(0, |chunks| chunks.charged());
            assert_eq!((new.weight(), budget.used()), (weight + body, weight));
            drop(new);
            assert_eq!(budget.used(), 0);
        }
    }
}
