//! The header values of an entry, packed.
//!
//! The template knows the kind of each value, so a value takes only the bytes that its kind
//! leaves open: four for a date, none for the length of the body.

use http::header::{CONTENT_LENGTH, DATE, EXPIRES, LAST_MODIFIED};
use http::{HeaderName, HeaderValue};

use crate::semantics::date;
use crate::store::varint;

/// A header value of an entry, as it is packed.
pub(super) enum OwnValue<'a> {
    /// Any text: a varint of its length, then its bytes.
    Text(&'a [u8]),
    /// A date in the preferred format (RFC 9110 §5.6.7): seconds since the epoch, in four bytes.
    Date(u32),
    /// The length of the body: no bytes.
    Length,
}

/// The kind of an entry's header value.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Text,
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
            Self::Text(value)
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Text(_) => Kind::Text,
            Self::Date(_) => Kind::Date,
            Self::Length => Kind::Length,
        }
    }

    /// Appends the bytes that the kind leaves open.
    pub(super) fn pack(&self, packed: &mut Vec<u8>) {
        match self {
            Self::Text(text) => varint::put_bytes(text, packed),
            Self::Date(seconds) => packed.extend_from_slice(&seconds.to_le_bytes()),
            Self::Length => {}
        }
    }
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
            Kind::Date => {
                let seconds = u32::from_le_bytes(varint::take_chunk(&mut self.packed));
                to.extend_from_slice(&date::text(seconds.into()));
            }
            Kind::Length => to.extend_from_slice(itoa::Buffer::new().format(self.body).as_bytes()),
        }
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
            (ETAG, "\"6740d5a0-400\"", 15),
            (ETAG, "\"", 2),
            (ETAG, "", 1),
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
            for kind in [Kind::Text, Kind::Date, Kind::Length] {
                let (mut values, mut text) = (Values::new(&packed, 7), Vec::new());
                for _ in 0..50 {
                    values.next(kind, &mut text);
                }
                prop_assert!(text.len() <= 50 * 29);
            }
        }
    }
}
