//! [`StoredHead`]: the versioned encoding of an entry's head, for storage outside of memory.
//!
//! The encoding is a sequence of fields. Integers are little-endian; a string is its length as a
//! u32, then its bytes.
//!
//! | field | encoding |
//! |---|---|
//! | version | u8, [`VERSION`] |
//! | key | string: the [packed](crate::key::AssetKey::pack) key, with the variant if there is one |
//! | status | u16 |
//! | time of birth | duration since the Unix epoch: u64 seconds, u32 nanoseconds |
//! | revalidated | u8: 0 never, 1 once |
//! | lifetime | u8 [tag](lifetime_tag), then its durations; terms end with u8 [flags](terms_flag) |
//! | headers | u32 count, then a string for each name and each value |
//! | length of the body | u64 |
//! | checksum | u64, XXH3-64 of all bytes before |
//!
//! The validators (`ETag`, Last-Modified) and Vary are among the headers.
//!
//! Compiled for its tests and for fuzzing only, until a tier on disk reads and writes it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use xxhash_rust::xxh3::xxh3_64;

use crate::semantics::freshness::{Changes, Lifetime, Stale, Terms};
use crate::store::metadata::{Metadata, Validated};

/// The version of the encoding. It grows with every change of the layout.
const VERSION: u8 = 1;

/// Length of the checksum in bytes.
const CHECKSUM: usize = size_of::<u64>();

/// The tags of the lifetimes.
mod lifetime_tag {
    /// Until evicted, without a stated lifetime.
    pub(super) const UNTIL_EVICTED: u8 = 0;
    /// Until evicted, then the stated lifetime.
    pub(super) const UNTIL_EVICTED_STATED: u8 = 1;
    /// Terms: fresh, stale-while-revalidate, stale-if-error, flags.
    pub(super) const TERMS: u8 = 2;
}

/// The flags of terms.
mod terms_flag {
    /// The response must not be served stale.
    pub(super) const MUST_REVALIDATE: u8 = 1;
    /// The response is immutable.
    pub(super) const IMMUTABLE: u8 = 2;
}

/// The head of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredHead {
    /// The packed key.
    pub(crate) key: Vec<u8>,
    /// A time of birth before the Unix epoch is encoded as the epoch.
    pub(crate) facts: Metadata,
    pub(crate) headers: HeaderMap,
    /// Length of the body in bytes.
    pub(crate) body: u64,
}

/// The reason why bytes are not the encoding of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("unknown version {0} of a stored head (this program reads version {VERSION})")]
    Version(u8),
    #[error("wrong checksum of a stored head: it is truncated or damaged")]
    Checksum,
    #[error("malformed stored head: invalid {0}")]
    Malformed(&'static str),
}

impl StoredHead {
    /// Returns the encoding of the head.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer(vec![VERSION]);
        out.string(&self.key);
        out.bytes(&self.facts.status.as_u16().to_le_bytes());
        out.duration(self.facts.born.duration_since(UNIX_EPOCH).unwrap_or_default());
        out.u8(match self.facts.validated {
            Validated::Never => 0,
            Validated::Once => 1,
        });
        out.lifetime(self.facts.lifetime);
        out.length(self.headers.len());
        for (name, value) in &self.headers {
            out.string(name.as_str().as_bytes());
            out.string(value.as_bytes());
        }
        out.bytes(&self.body.to_le_bytes());
        let checksum = xxh3_64(&out.0);
        out.bytes(&checksum.to_le_bytes());
        out.0
    }

    /// Decodes a head.
    ///
    /// # Errors
    /// [`DecodeError`] for all bytes that [`encode`](Self::encode) of this version does not write.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        // The version comes first: another version may have no checksum at the end.
        match bytes.first() {
            None => return Err(DecodeError::Checksum),
            Some(&VERSION) => {}
            Some(&version) => return Err(DecodeError::Version(version)),
        }
        let (content, checksum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(DecodeError::Checksum)?;
        if xxh3_64(content) != u64::from_le_bytes(*checksum) {
            return Err(DecodeError::Checksum);
        }
        let mut input = Reader(content.get(1..).ok_or(DecodeError::Checksum)?);
        let key = input.string("key")?.to_vec();
        let status = StatusCode::from_u16(u16::from_le_bytes(input.array("status")?));
        let status = status.map_err(|_| DecodeError::Malformed("status"))?;
        let born = input.time("time of birth")?;
        let validated = match input.u8("mark of a revalidation")? {
            0 => Validated::Never,
            1 => Validated::Once,
            _ => return Err(DecodeError::Malformed("mark of a revalidation")),
        };
        let lifetime = input.lifetime()?;
        let headers = input.headers()?;
        let body = u64::from_le_bytes(input.array("length of the body")?);
        if !input.0.is_empty() {
            return Err(DecodeError::Malformed("end: bytes follow"));
        }
        Ok(Self { key, facts: Metadata { status, born, lifetime, validated }, headers, body })
    }
}

/// Appends the fields of an encoding.
struct Writer(Vec<u8>);

impl Writer {
    fn u8(&mut self, byte: u8) {
        self.0.push(byte);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn length(&mut self, length: usize) {
        self.bytes(&u32::try_from(length).expect("a head is shorter than 4 GiB").to_le_bytes());
    }

    fn string(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.bytes(bytes);
    }

    fn duration(&mut self, duration: Duration) {
        self.bytes(&duration.as_secs().to_le_bytes());
        self.bytes(&duration.subsec_nanos().to_le_bytes());
    }

    fn lifetime(&mut self, lifetime: Lifetime) {
        match lifetime {
            Lifetime::UntilEvicted { stated: None } => self.u8(lifetime_tag::UNTIL_EVICTED),
            Lifetime::UntilEvicted { stated: Some(stated) } => {
                self.u8(lifetime_tag::UNTIL_EVICTED_STATED);
                self.duration(stated);
            }
            Lifetime::For(terms) => {
                self.u8(lifetime_tag::TERMS);
                self.duration(terms.fresh);
                self.duration(terms.while_revalidate);
                self.duration(terms.if_error);
                let stale = if terms.stale == Stale::Forbidden { terms_flag::MUST_REVALIDATE } else { 0 };
                let changes = if terms.changes == Changes::Never { terms_flag::IMMUTABLE } else { 0 };
                self.u8(stale | changes);
            }
        }
    }
}

/// Reads the fields of an encoding, by name for the errors.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(DecodeError::Malformed(field))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(DecodeError::Malformed(field))?;
        self.0 = rest;
        Ok(*array)
    }

    fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array(field).map(|[byte]| byte)
    }

    fn length(&mut self, field: &'static str) -> Result<usize, DecodeError> {
        let length = u32::from_le_bytes(self.array(field)?);
        usize::try_from(length).map_err(|_| DecodeError::Malformed(field))
    }

    fn string(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let length = self.length(field)?;
        self.bytes(length, field)
    }

    fn duration(&mut self, field: &'static str) -> Result<Duration, DecodeError> {
        let (seconds, nanos) = (u64::from_le_bytes(self.array(field)?), u32::from_le_bytes(self.array(field)?));
        if nanos < 1_000_000_000 { Ok(Duration::new(seconds, nanos)) } else { Err(DecodeError::Malformed(field)) }
    }

    fn time(&mut self, field: &'static str) -> Result<SystemTime, DecodeError> {
        let since_epoch = self.duration(field)?;
        UNIX_EPOCH.checked_add(since_epoch).ok_or(DecodeError::Malformed(field))
    }

    fn lifetime(&mut self) -> Result<Lifetime, DecodeError> {
        const FIELD: &str = "lifetime";
        Ok(match self.u8(FIELD)? {
            lifetime_tag::UNTIL_EVICTED => Lifetime::UntilEvicted { stated: None },
            lifetime_tag::UNTIL_EVICTED_STATED => Lifetime::UntilEvicted { stated: Some(self.duration(FIELD)?) },
            lifetime_tag::TERMS => {
                let (fresh, while_revalidate) = (self.duration(FIELD)?, self.duration(FIELD)?);
                let (if_error, flags) = (self.duration(FIELD)?, self.u8(FIELD)?);
                if flags & !(terms_flag::MUST_REVALIDATE | terms_flag::IMMUTABLE) != 0 {
                    return Err(DecodeError::Malformed(FIELD));
                }
                let stale = if flags & terms_flag::MUST_REVALIDATE == 0 { Stale::Allowed } else { Stale::Forbidden };
                let changes = if flags & terms_flag::IMMUTABLE == 0 { Changes::Possibly } else { Changes::Never };
                Lifetime::For(Terms { fresh, while_revalidate, if_error, stale, changes })
            }
            _ => return Err(DecodeError::Malformed(FIELD)),
        })
    }

    fn headers(&mut self) -> Result<HeaderMap, DecodeError> {
        const FIELD: &str = "headers";
        let mut headers = HeaderMap::new();
        for _ in 0..self.length(FIELD)? {
            let (name, value) = (self.string(FIELD)?, self.string(FIELD)?);
            let malformed = DecodeError::Malformed(FIELD);
            let name = HeaderName::from_lowercase(name).map_err(|_| malformed)?;
            let value = HeaderValue::from_bytes(value).map_err(|_| malformed)?;
            headers.try_append(name, value).map_err(|_| malformed)?;
        }
        Ok(headers)
    }
}

#[cfg(test)]
mod tests {
    use http::header::{ETAG, SET_COOKIE, VARY};
    use proptest::prelude::*;

    use super::*;

    /// A head with a field of each kind.
    fn head() -> StoredHead {
        let terms = Terms {
            fresh: Duration::from_mins(1),
            while_revalidate: Duration::from_millis(1500),
            if_error: Duration::ZERO,
            stale: Stale::Allowed,
            changes: Changes::Never,
        };
        let born = UNIX_EPOCH + Duration::new(1_795_000_000, 7);
        let facts =
            Metadata { status: StatusCode::OK, born, lifetime: Lifetime::For(terms), validated: Validated::Once };
        let headers = [(ETAG, "\"a\""), (VARY, "accept-encoding")];
        let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
        StoredHead { key: b"/a".to_vec(), facts, headers: HeaderMap::from_iter(headers), body: 1024 }
    }

    /// Appends the right checksum.
    fn with_checksum(mut content: Vec<u8>) -> Vec<u8> {
        let checksum = xxh3_64(&content);
        content.extend_from_slice(&checksum.to_le_bytes());
        content
    }

    #[test]
    fn the_encoding_of_version_1_is_stable() {
        let expected = [
            &[1][..],
            b"\x02\0\0\0/a",
            &[200, 0],
            &[0xc0, 0x86, 0xfd, 0x6a, 0, 0, 0, 0, 7, 0, 0, 0],
            &[1],
            &[2],
            &[60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0x65, 0xcd, 0x1d],
            &[0; 12],
            &[2],
            b"\x02\0\0\0",
            b"\x04\0\0\0etag\x03\0\0\0\"a\"",
            b"\x04\0\0\0vary\x0f\0\0\0accept-encoding",
            &[0, 4, 0, 0, 0, 0, 0, 0],
            &[159, 229, 184, 112, 30, 99, 55, 121],
        ]
        .concat();
        assert_eq!(head().encode(), expected);
        assert_eq!(StoredHead::decode(&expected), Ok(head()));
    }

    #[test]
    fn every_truncated_input_is_an_error() {
        let bytes = head().encode();
        for length in 0..bytes.len() {
            assert_eq!(StoredHead::decode(&bytes[..length]), Err(DecodeError::Checksum), "{length}");
            // Cut before the checksum was computed.
            let cut = with_checksum(bytes[..length.min(bytes.len() - CHECKSUM - 1)].to_vec());
            assert!(StoredHead::decode(&cut).is_err(), "{length}");
        }
        let longer = with_checksum([&bytes[..bytes.len() - CHECKSUM], &[0]].concat());
        assert_eq!(StoredHead::decode(&longer), Err(DecodeError::Malformed("end: bytes follow")));
    }

    #[test]
    fn every_flipped_bit_is_an_error() {
        let bytes = head().encode();
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit < 8 { DecodeError::Version(flipped[0]) } else { DecodeError::Checksum };
            assert_eq!(StoredHead::decode(&flipped), Err(expected), "{bit}");
        }
    }

    #[test]
    fn fields_out_of_range_are_errors() {
        let bytes = head().encode();
        let content = &bytes[..bytes.len() - CHECKSUM];
        for (at, byte, field) in [
            (1, 200, "key"),
            (8, 100, "status"),
            (16, 0x80, "time of birth"),
            (20, 0xff, "time of birth"),
            (21, 2, "mark of a revalidation"),
            (22, 3, "lifetime"),
            (34, 0xff, "lifetime"),
            (59, 4, "lifetime"),
            (60, 3, "headers"),
            (68, b'E', "headers"),
            (76, b'\n', "headers"),
        ] {
            let mut changed = content.to_vec();
            changed[at] = byte;
            assert_eq!(StoredHead::decode(&with_checksum(changed)), Err(DecodeError::Malformed(field)), "{at}");
        }
    }

    #[test]
    fn more_headers_than_a_map_holds_are_an_error() {
        let mut out = Writer(Vec::new());
        out.length(40_000);
        for i in 0..40_000 {
            out.string(format!("x-{i}").as_bytes());
            out.string(b"");
        }
        assert_eq!(Reader(&out.0).headers(), Err(DecodeError::Malformed("headers")));
    }

    fn duration() -> impl Strategy<Value = Duration> {
        (any::<u64>(), 0..1_000_000_000_u32).prop_map(|(seconds, nanos)| Duration::new(seconds, nanos))
    }

    fn lifetime() -> impl Strategy<Value = Lifetime> {
        let terms = (duration(), duration(), duration(), any::<(bool, bool)>());
        let terms = terms.prop_map(|(fresh, while_revalidate, if_error, (stale, changes))| Terms {
            fresh,
            while_revalidate,
            if_error,
            stale: if stale { Stale::Allowed } else { Stale::Forbidden },
            changes: if changes { Changes::Possibly } else { Changes::Never },
        });
        let until_evicted = proptest::option::of(duration()).prop_map(|stated| Lifetime::UntilEvicted { stated });
        prop_oneof![until_evicted, terms.prop_map(Lifetime::For)]
    }

    fn heads() -> impl Strategy<Value = StoredHead> {
        let name = prop_oneof![Just(ETAG), Just(SET_COOKIE), "x-[a-z]{1,9}".prop_map(|name| name.parse().unwrap())];
        let value = "[ -~\u{e9}]{0,20}".prop_map(|value| HeaderValue::from_bytes(value.as_bytes()).unwrap());
        let headers = proptest::collection::vec((name, value), 0..9);
        let born = (0..1_u64 << 40, 0..1_000_000_000_u32);
        let key = proptest::collection::vec(any::<u8>(), 0..40);
        (key, 100..1000_u16, born, any::<bool>(), lifetime(), headers, any::<u64>()).prop_map(
            |(key, status, (seconds, nanos), validated, lifetime, lines, body)| {
                let mut headers = HeaderMap::new();
                for (name, value) in lines {
                    headers.append(name, value);
                }
                let facts = Metadata {
                    status: StatusCode::from_u16(status).unwrap(),
                    born: UNIX_EPOCH + Duration::new(seconds, nanos),
                    lifetime,
                    validated: if validated { Validated::Once } else { Validated::Never },
                };
                StoredHead { key, facts, headers, body }
            },
        )
    }

    proptest! {
        #[test]
        fn a_head_is_decoded_as_it_was_encoded(head in heads()) {
            let bytes = head.encode();
            let decoded = StoredHead::decode(&bytes);
            prop_assert_eq!(decoded.as_ref(), Ok(&head));
            prop_assert_eq!(decoded.unwrap().encode(), bytes);
        }

        #[test]
        fn arbitrary_bytes_with_a_right_checksum_do_not_panic(
            head in heads(),
            changes in proptest::collection::vec(any::<(u16, u8)>(), 0..4),
            length in any::<u16>(),
        ) {
            let mut content = head.encode();
            content.truncate(content.len() - CHECKSUM);
            for (at, byte) in changes {
                let at = usize::from(at) % content.len();
                content[at] = byte;
            }
            let _ = StoredHead::decode(&with_checksum(content.clone()));
            content.truncate(usize::from(length) % (content.len() + 1));
            let _ = StoredHead::decode(&with_checksum(content));
        }

        #[test]
        fn random_bytes_are_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            prop_assert!(StoredHead::decode(&bytes).is_err());
            let bytes = with_checksum([&[VERSION][..], &bytes].concat());
            let _ = StoredHead::decode(&bytes);
        }

        #[test]
        fn an_unknown_version_is_an_error(version in any::<u8>(), head in heads()) {
            prop_assume!(version != VERSION);
            let mut content = head.encode();
            content.truncate(content.len() - CHECKSUM);
            content[0] = version;
            prop_assert_eq!(StoredHead::decode(&with_checksum(content)), Err(DecodeError::Version(version)));
        }
    }
}
