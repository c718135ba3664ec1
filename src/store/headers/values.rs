//! The header values of an entry, packed.
//!
//! The template knows the kind of each value, so a value takes only the bytes that its kind
//! leaves open: four for a date, and half of its length for the `ETag` of most servers.

use data_encoding::HEXLOWER;
use http::header::{CONTENT_LENGTH, DATE, EXPIRES, LAST_MODIFIED};
use http::{HeaderName, HeaderValue};

use crate::semantics::date;
use crate::store::varint;

/// A header value of an entry, as it is packed.
pub(super) enum OwnValue<'a> {
    /// Any text: a varint of its length, then its bytes.
    Text(&'a [u8]),
    /// Hexadecimal digits in quotation marks: a varint of their number, then two to a byte.
    Hex(&'a [u8]),
    /// The same with a hyphen between two numbers.
    HexPair(&'a [u8], &'a [u8]),
    /// A date in the preferred format (RFC 9110 §5.6.7): seconds since the epoch, in four bytes.
    Date(u32),
    /// The length of the body: no bytes.
    Length,
}

/// The kind of an entry's header value.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Text,
    Hex,
    HexPair,
    Date,
    Length,
}

impl<'a> OwnValue<'a> {
    /// Returns the packed form of a value, of a response with a body of `body` bytes.
    pub(super) fn of(name: &HeaderName, value: &'a HeaderValue, body: u64) -> Self {
        let value = value.as_bytes();
        let date = || date::seconds(value).filter(|_| [DATE, EXPIRES, LAST_MODIFIED].contains(name));
        if *name == CONTENT_LENGTH && value == itoa::Buffer::new().format(body).as_bytes() {
            Self::Length
        } else if let Some(seconds) = date() {
            Self::Date(seconds)
        } else {
            Self::hex(value).unwrap_or(Self::Text(value))
        }
    }

    /// Returns the packed form of a value in lower-case hexadecimal digits.
    fn hex(value: &'a [u8]) -> Option<Self> {
        let quoted = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        let is_hex = |digits: &[u8]| digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        match quoted.iter().position(|&byte| byte == b'-') {
            None => is_hex(quoted).then_some(Self::Hex(quoted)),
            Some(at) => {
                let (first, rest) = (&quoted[..at], &quoted[at + 1..]);
                (is_hex(first) && is_hex(rest)).then_some(Self::HexPair(first, rest))
            }
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Text(_) => Kind::Text,
            Self::Hex(_) => Kind::Hex,
            Self::HexPair(..) => Kind::HexPair,
            Self::Date(_) => Kind::Date,
            Self::Length => Kind::Length,
        }
    }

    /// Appends the bytes that the kind leaves open.
    pub(super) fn pack(&self, packed: &mut Vec<u8>) {
        match self {
            Self::Text(text) => varint::put_bytes(text, packed),
            Self::Hex(digits) => pack_digits(digits, packed),
            Self::HexPair(first, rest) => {
                pack_digits(first, packed);
                pack_digits(rest, packed);
            }
            Self::Date(seconds) => packed.extend_from_slice(&seconds.to_le_bytes()),
            Self::Length => {}
        }
    }
}

/// Appends the number of digits, then two digits to a byte, the first in the upper half.
fn pack_digits(digits: &[u8], packed: &mut Vec<u8>) {
    let value = |digit: u8| if digit < b'a' { digit - b'0' } else { digit - b'a' + 10 };
    varint::put(digits.len() as u64, packed);
    packed.extend(digits.chunks(2).map(|two| value(two[0]) << 4 | two.get(1).copied().map_or(0, value)));
}

/// Reads the packed values of an entry, one after the other.
pub(super) struct Values<'a> {
    packed: &'a [u8],
    body: u64,
}

impl<'a> Values<'a> {
    /// `body` is the length of the body in bytes.
    pub(super) fn new(packed: &'a [u8], body: u64) -> Self {
        Self { packed, body }
    }

    /// Appends the text of the next value, which is of this kind.
    pub(super) fn next(&mut self, kind: Kind, to: &mut Vec<u8>) {
        match kind {
            Kind::Text => to.extend_from_slice(varint::take_bytes(&mut self.packed)),
            Kind::Hex => {
                to.push(b'"');
                self.digits(to);
                to.push(b'"');
            }
            Kind::HexPair => {
                to.push(b'"');
                self.digits(to);
                to.push(b'-');
                self.digits(to);
                to.push(b'"');
            }
            Kind::Date => {
                let seconds = u32::from_le_bytes(varint::take_chunk(&mut self.packed));
                to.extend_from_slice(&date::text(seconds.into()));
            }
            Kind::Length => to.extend_from_slice(itoa::Buffer::new().format(self.body).as_bytes()),
        }
    }

    /// Appends hexadecimal digits.
    fn digits(&mut self, to: &mut Vec<u8>) {
        let count = usize::try_from(varint::take(&mut self.packed)).unwrap_or(usize::MAX);
        let (packed, others) = self.packed.split_at_checked(count.div_ceil(2)).unwrap_or_default();
        self.packed = others;
        let end = to.len() + count.min(2 * packed.len());
        for part in packed.chunks(32) {
            let mut digits = [0; 64];
            let digits = &mut digits[..2 * part.len()];
            HEXLOWER.encode_mut(part, digits);
            to.extend_from_slice(digits);
        }
        to.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use http::header::ETAG;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_takes_the_bytes_that_its_kind_leaves_open() {
        let (time, other) = ("Sun, 22 Nov 2026 12:00:00 GMT", "Sun, 22 Nov 2026 12:00:00 CET");
        for (name, value, bytes) in [
            (DATE, time, 4),
            (LAST_MODIFIED, time, 4),
            (EXPIRES, time, 4),
            (EXPIRES, "0", 2),
            (DATE, other, 30),
            (HeaderName::from_static("x-time"), time, 30),
            (ETAG, "\"6740d5a0-400\"", 8),
            (ETAG, "\"9a0364b9e99bb480dd25e1f0284c8555\"", 17),
            (ETAG, "\"abc\"", 3),
            (ETAG, "\"-\"", 2),
            (ETAG, "\"\"", 1),
            (ETAG, "\"ABC\"", 6),
            (ETAG, "\"a-b-c\"", 8),
            (ETAG, "\"abc", 5),
            (ETAG, "\"", 2),
            (ETAG, "W/\"abc\"", 8),
            (CONTENT_LENGTH, "1024", 0),
            (CONTENT_LENGTH, "01024", 6),
            (CONTENT_LENGTH, "1025", 5),
        ] {
            let (parsed, mut packed) = (HeaderValue::from_static(value), Vec::new());
            let own = OwnValue::of(&name, &parsed, 1024);
            own.pack(&mut packed);
            assert_eq!(packed.len(), bytes, "{name}: {value}");
            let mut unpacked = Vec::new();
            Values::new(&packed, 1024).next(own.kind(), &mut unpacked);
            assert_eq!(unpacked, value.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_read_to_the_end_without_a_panic(packed in proptest::collection::vec(any::<u8>(), 0..40)) {
            for kind in [Kind::Text, Kind::Hex, Kind::HexPair, Kind::Date, Kind::Length] {
                let (mut values, mut text) = (Values::new(&packed, 7), Vec::new());
                for _ in 0..50 {
                    values.next(kind, &mut text);
                }
                prop_assert!(text.len() <= 50 * 29);
            }
        }
    }
}
