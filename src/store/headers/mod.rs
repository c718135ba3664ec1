//! [`Fields`]: the fields of a stored response, packed.
//!
//! As a map, the fields of a small asset take more room than the asset. But most
//! assets of a site have the same fields, and half of them with the same values.
//! That is their [form](template), and there is one of it; what is a response's [own](values) is a
//! string of bytes. An answer's fields are made of both: as a map, or as the lines
//! of a head.

mod template;
mod values;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use triomphe::Arc;

use crate::semantics::cache_status::CacheStatus;
use crate::semantics::date;
use crate::store::metadata::{Metadata, Span, Times};
use template::{Gap, Lines};
pub(crate) use template::{Template, Templates};
use values::Values;

/// The fields of a stored response, and what else is known of it.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    form: &'a Template,
    times: Times,
    own: &'a [u8],
    body: u64,
}

/// The head of a response that is to be stored.
pub(crate) struct Packed {
    pub(crate) form: Arc<Template>,
    pub(crate) born: Span,
    /// For how long it is fresh, and the values that are this response's own, in their
    /// order.
    pub(crate) own: Vec<u8>,
}

/// What each answer from what is stored makes anew.
pub(crate) struct Anew<'a> {
    /// Age, in seconds.
    pub(crate) age: u64,
    /// Cache-Status, of a cache called `name`.
    pub(crate) status: CacheStatus,
    pub(crate) name: &'a str,
}

impl<'a> Fields<'a> {
    /// Those of a response of this form that was born then, with this of [its
    /// own](Packed::own), whose body has so many bytes.
    pub(crate) fn new(form: &'a Template, born: Span, mut own: &'a [u8], body: u64) -> Self {
        let times = Times { born, fresh: Span::unpack(&mut own) };
        Self { form, times, own, body }
    }

    /// What else is known.
    pub(crate) fn facts(self) -> Metadata {
        self.form.facts(self.times)
    }

    /// All of them, in their order.
    pub(crate) fn unpack(self) -> HeaderMap {
        let mut headers = self.form.headers().clone();
        // Up to three values are times, and hexadecimal digits are in half of their room.
        let mut text = Vec::with_capacity(2 * self.own.len() + 3 * date::LENGTH);
        let mut values = Values::new(self.own, self.body);
        let lengths = self.form.lines().own().map(|kind| {
            let before = text.len();
            values.next(kind, &mut text);
            text.len() - before
        });
        let lengths: Vec<_> = lengths.collect();
        let mut text = Bytes::from(text);
        for (place, length) in headers.values_mut().filter(|value| value.is_empty()).zip(lengths) {
            // The bytes were a valid value before.
            if let Ok(value) = HeaderValue::from_maybe_shared(text.split_to(length)) {
                *place = value;
            }
        }
        headers
    }

    /// Appends their lines to a head, in their order, with what `anew` has in the places
    /// that are kept for it.
    pub(crate) fn write(self, anew: &Anew<'_>, head: &mut Vec<u8>) {
        let Lines { text, gaps } = self.form.lines();
        let (mut values, mut text) = (Values::new(self.own, self.body), &**text);
        for &(length, gap) in gaps {
            let (before, behind) = text.split_at(length);
            head.extend_from_slice(before);
            text = behind;
            match gap {
                Gap::Own(kind) => values.next(kind, head),
                Gap::Age => head.extend_from_slice(itoa::Buffer::new().format(anew.age).as_bytes()),
                Gap::CacheStatus => anew.status.append(anew.name, head),
            }
        }
        head.extend_from_slice(text);
    }
}

impl Packed {
    /// How much memory is this response's alone, in bytes.
    pub(crate) fn weight(&self) -> u64 {
        (self.own.len() + self.form.weight()) as u64
    }
}

/// What a field takes in a map.
pub(crate) fn field_weight((name, value): (&HeaderName, &HeaderValue)) -> usize {
    // An entry's hash and links, beside its name and value; and its place in the
    // index.
    size_of::<HeaderName>() + size_of::<HeaderValue>() + 40 + name.as_str().len() + value.len()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use http::StatusCode;
    use http::header::{AGE, CONTENT_LENGTH};
    use proptest::prelude::*;

    use super::*;
    use crate::semantics::cache_status::{CACHE_STATUS, Handled};
    use crate::semantics::freshness::Lifetime;
    use crate::store::budget::Budget;
    use crate::store::metadata::Validated;

    /// Fields of a response, from lines of it.
    pub(super) fn headers(lines: &[(String, String)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let (name, value) = (name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
            // There is one of each that every answer makes anew, and of the length.
            if [AGE, CACHE_STATUS, CONTENT_LENGTH].contains(&name) {
                headers.insert(name, value);
            } else {
                headers.append(name, value);
            }
        }
        headers
    }

    pub(super) fn lines(headers: &HeaderMap) -> Vec<(&str, &[u8])> {
        headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect()
    }

    /// Metadata of no importance.
    pub(super) fn facts() -> Metadata {
        let (lifetime, validated) = (Lifetime::UntilEvicted { stated: None }, Validated::Never);
        Metadata { status: StatusCode::OK, born: SystemTime::UNIX_EPOCH, lifetime, validated }
    }

    pub(super) fn forms() -> Templates {
        Templates::new(Budget::new(0))
    }

    fn text(headers: &HeaderMap) -> String {
        lines(headers).iter().map(|(name, value)| format!("{name}: {}\r\n", String::from_utf8_lossy(value))).collect()
    }

    /// A line of a response: any value, or one of a kind of its own, right or not.
    fn line() -> impl Strategy<Value = (String, String)> {
        let whatever = ("(age|cache-status|etag|via|date|vary|content-length|set-cookie|x-[a-c])", "[ -~]{0,12}");
        let long = ("(etag|via)", "[a-z]{120,140}");
        let hex = ("(etag|x-a)", "\"?[0-9a-g]{0,40}(-[0-9a-fA]{0,9}){0,2}\"");
        let time = (
            "(date|expires|last-modified|x-a)",
            "(Thu|Sun), (0[1-9]|[123][0-9]) Nov (1969|20[0-9]{2}|2106|9999) 1[0-9]:4[0-9]:5[0-9] GMT",
        );
        let right = ("(date|expires|last-modified)", any::<u32>());
        let right = right.prop_map(|(name, seconds)| (name, written(seconds)));
        prop_oneof![whatever, long, hex, time, right, ("content-length", "0?[0-3]")]
    }

    fn written(seconds: u32) -> String {
        String::from_utf8(date::text(seconds.into()).to_vec()).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_out_in_its_order(
            responses in proptest::collection::vec((proptest::collection::vec(line(), 0..8), 0..4_u64), 1..6),
        ) {
            let forms = forms();
            let responses: Vec<_> = responses.iter().map(|(lines, body)| (headers(lines), *body)).collect();
            let packed: Vec<_> = responses.iter().map(|(headers, body)| forms.pack(facts(), headers, *body)).collect();
            for (packed, (response, body)) in packed.iter().zip(&responses) {
                let fields = Fields::new(&packed.form, packed.born, &packed.own, *body);
                let mut unpacked = fields.unpack();
                prop_assert_eq!(lines(&unpacked), lines(response));
                let mut written = Vec::new();
                let status = CacheStatus { handled: Handled::Hit, ..CacheStatus::default() };
                fields.write(&Anew { age: 7, status, name: "me" }, &mut written);
                for (name, value) in [("age", "7"), ("cache-status", "me;hit")] {
                    if let Some(place) = unpacked.get_mut(name).filter(|place| !place.is_empty()) {
                        *place = HeaderValue::from_static(value);
                    }
                }
                prop_assert_eq!(String::from_utf8_lossy(&written), text(&unpacked));
            }
        }
    }
}
