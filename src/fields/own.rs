//! The values of fields that are a response's own, as bytes.
//!
//! A form says of which kind each is, so that only what the kind leaves open is written:
//! of a time, four bytes.

use http::header::{CONTENT_LENGTH, DATE, EXPIRES, LAST_MODIFIED};
use http::{HeaderName, HeaderValue};

use crate::semantics::date;

/// A value that is a response's own.
pub(super) enum Own<'a> {
    /// After its length.
    Text(&'a [u8]),
    /// A time as it is written today, in seconds since the epoch: in four bytes.
    Date(u32),
    /// The length of the response's body: in none.
    Length,
}

/// What a form tells of a value that is a response's own.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Text,
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

    /// Appends what a form with its kind leaves open.
    pub(super) fn pack(&self, packed: &mut Vec<u8>) {
        match self {
            Self::Text(text) => {
                pack_length(text.len(), packed);
                packed.extend_from_slice(text);
            }
            Self::Date(seconds) => packed.extend_from_slice(&seconds.to_le_bytes()),
            Self::Length => {}
        }
    }
}

/// Seven bits to a byte, the lowest first; all but the last have the eighth set.
fn pack_length(mut length: usize, packed: &mut Vec<u8>) {
    while length >= 0x80 {
        packed.push(length.to_le_bytes()[0] | 0x80);
        length >>= 7;
    }
    packed.push(length.to_le_bytes()[0]);
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
            Kind::Text => {
                let length = self.length();
                let (text, others) = self.packed.split_at_checked(length).unwrap_or_default();
                self.packed = others;
                to.extend_from_slice(text);
            }
            Kind::Date => {
                let (&seconds, others) = self.packed.split_first_chunk().unwrap_or((&[0; 4], &[]));
                self.packed = others;
                to.extend_from_slice(&date::text(u32::from_le_bytes(seconds).into()));
            }
            Kind::Length => to.extend_from_slice(itoa::Buffer::new().format(self.body).as_bytes()),
        }
    }

    fn length(&mut self) -> usize {
        let mut length = 0;
        for shift in (0..usize::BITS).step_by(7) {
            let (&byte, others) = self.packed.split_first().unwrap_or((&0, &[]));
            self.packed = others;
            length |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        length
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_length_takes_as_many_bytes_as_it_needs() {
        for (length, bytes) in [(0, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (usize::MAX, 10)] {
            let mut packed = Vec::new();
            pack_length(length, &mut packed);
            assert_eq!((packed.len(), Values::new(&packed, 0).length()), (bytes, length));
        }
    }

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
