//! The values of fields that are a response's own, as bytes.
//!
//! A form says of which kind each is, so that only what the kind leaves open is written:
//! of a time four bytes, and of what most servers have for an `ETag`, half of its length.

use data_encoding::HEXLOWER;
use http::header::{CONTENT_LENGTH, DATE, EXPIRES, LAST_MODIFIED};
use http::{HeaderName, HeaderValue};

use crate::semantics::date;
use crate::store::varint;

/// A value that is a response's own.
pub(super) enum Own<'a> {
    /// After its length.
    Text(&'a [u8]),
    /// Hexadecimal digits in quotation marks: how many, and two to a byte.
    Hex(&'a [u8]),
    /// As above, with a hyphen between the first and the rest.
    HexPair(&'a [u8], &'a [u8]),
    /// A time as it is written today, in seconds since the epoch: in four bytes.
    Date(u32),
    /// The length of the response's body: in none.
    Length,
}

/// What a form tells of a value that is a response's own.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Text,
    Hex,
    HexPair,
    Date,
    Length,
}

impl<'a> Own<'a> {
    /// A value of this field, of a response whose body has so many bytes.
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

    /// Hexadecimal digits, as they are written again.
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

    /// Appends what a form with its kind leaves open.
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

/// Appends how many they are, and two to a byte: the first is the upper half.
fn pack_digits(digits: &[u8], packed: &mut Vec<u8>) {
    let value = |digit: u8| if digit < b'a' { digit - b'0' } else { digit - b'a' + 10 };
    varint::put(digits.len() as u64, packed);
    packed.extend(digits.chunks(2).map(|two| value(two[0]) << 4 | two.get(1).copied().map_or(0, value)));
}

/// The values that are a response's own, one after another.
pub(super) struct Values<'a> {
    packed: &'a [u8],
    body: u64,
}

impl<'a> Values<'a> {
    /// Those that are packed so, of a response whose body has so many bytes.
    pub(super) fn new(packed: &'a [u8], body: u64) -> Self {
        Self { packed, body }
    }

    /// Appends the next one, which is of this kind.
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

    /// Appends the next digits.
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
    fn a_value_takes_what_its_kind_leaves_open() {
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
            let own = Own::of(&name, &parsed, 1024);
            own.pack(&mut packed);
            assert_eq!(packed.len(), bytes, "{name}: {value}");
            let mut again = Vec::new();
            Values::new(&packed, 1024).next(own.kind(), &mut again);
            assert_eq!(again, value.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_are_they_are_read_to_the_end(packed in proptest::collection::vec(any::<u8>(), 0..40)) {
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
