//! [`PackedHeaders`]: the headers of a stored response, as a map or as the lines of a head.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use super::template::{Gap, Lines, Template};
use super::values::Values;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::date;
use crate::store::metadata::{Metadata, Times};

/// The headers and the metadata of a stored response.
#[derive(Clone, Copy)]
pub(crate) struct PackedHeaders<'a> {
    template: &'a Template,
    times: Times,
    values: &'a [u8],
    /// Length of the body in bytes.
    body: u64,
}

/// The header values that differ between the hits of one entry.
pub(crate) struct PerResponse<'a> {
    /// Age, in seconds.
    pub(crate) age: u64,
    /// Cache-Status, of a cache called `name`.
    pub(crate) status: CacheStatus,
    pub(crate) name: &'a str,
}

impl<'a> PackedHeaders<'a> {
    /// The headers of a response of `template`, with these
    /// [values](super::PackedHead::values) and a body of `body` bytes.
    pub(crate) fn new(template: &'a Template, times: Times, values: &'a [u8], body: u64) -> Self {
        Self { template, times, values, body }
    }

    pub(crate) fn facts(self) -> Metadata {
        self.template.facts(self.times)
    }

    /// Returns the headers as a map, in their order.
    pub(crate) fn unpack(self) -> HeaderMap {
        let mut headers = self.template.headers().clone();
        // Up to three values are dates.
        let mut text = Vec::with_capacity(self.values.len() + 3 * date::LENGTH);
        let mut values = Values::new(self.values, self.body);
        let lengths = self.template.lines().kinds().map(|kind| {
            let before = text.len();
            values.next(kind, &mut text);
            text.len() - before
        });
        let lengths: Vec<_> = lengths.collect();
        let mut text = Bytes::from(text);
        for (gap, length) in headers.values_mut().filter(|value| value.is_empty()).zip(lengths) {
            let value = HeaderValue::from_maybe_shared(text.split_to(length));
            *gap = value.expect("the bytes were a header value before");
        }
        headers
    }

    /// Appends the header lines to a head, in their order. The values of Age and Cache-Status
    /// are those of `hit`.
    pub(crate) fn write(self, hit: &PerResponse<'_>, head: &mut Vec<u8>) {
        let Lines { text, gaps } = self.template.lines();
        let (mut values, mut text) = (Values::new(self.values, self.body), &**text);
        for &(length, gap) in gaps {
            let (before, after) = text.split_at(length);
            head.extend_from_slice(before);
            text = after;
            match gap {
                Gap::Value(kind) => values.next(kind, head),
                Gap::Age => head.extend_from_slice(itoa::Buffer::new().format(hit.age).as_bytes()),
                Gap::CacheStatus => hit.status.append(hit.name, head),
            }
        }
        head.extend_from_slice(text);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::SystemTime;

    use http::header::{AGE, CONTENT_LENGTH};
    use http::{HeaderName, StatusCode};
    use proptest::prelude::*;

    use super::*;
    use crate::semantics::cache_status::{CACHE_STATUS, Handled};
    use crate::semantics::freshness::Lifetime;
    use crate::store::budget::Budget;
    use crate::store::headers::Templates;
    use crate::store::metadata::Validated;

    /// Returns a header map of these lines.
    pub(in crate::store) fn headers(lines: &[(String, String)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let (name, value) = (name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
            // These occur at most once in a stored response.
            if [AGE, CACHE_STATUS, CONTENT_LENGTH].contains(&name) {
                headers.insert(name, value);
            } else {
                headers.append(name, value);
            }
        }
        headers
    }

    pub(in crate::store) fn lines(headers: &HeaderMap) -> Vec<(&str, &[u8])> {
        headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect()
    }

    /// Returns metadata for tests that do not depend on them.
    pub(in crate::store) fn facts() -> Metadata {
        let (lifetime, validated) = (Lifetime::UntilEvicted { stated: None }, Validated::Never);
        Metadata { status: StatusCode::OK, born: SystemTime::UNIX_EPOCH, lifetime, validated }
    }

    pub(in crate::store) fn templates() -> Templates {
        Templates::new(Budget::new(0))
    }

    fn text(headers: &HeaderMap) -> String {
        lines(headers).iter().map(|(name, value)| format!("{name}: {}\r\n", String::from_utf8_lossy(value))).collect()
    }

    /// Generates a header line: any value, or one that resembles a packed kind, valid or not.
    fn line() -> impl Strategy<Value = (String, String)> {
        let any_value = ("(age|cache-status|etag|via|date|vary|content-length|set-cookie|x-[a-c])", "[ -~]{0,12}");
        let long = ("(etag|via)", "[a-z]{120,140}");
        let hex = ("(etag|x-a)", "\"?[0-9a-g]{0,40}(-[0-9a-fA]{0,9}){0,2}\"");
        let time = (
            "(date|expires|last-modified|x-a)",
            "(Thu|Sun), (0[1-9]|[123][0-9]) Nov (1969|20[0-9]{2}|2106|9999) 1[0-9]:4[0-9]:5[0-9] GMT",
        );
        let date = ("(date|expires|last-modified)", any::<u32>());
        let date = date.prop_map(|(name, seconds)| (name, written(seconds)));
        prop_oneof![any_value, long, hex, time, date, ("content-length", "0?[0-3]")]
    }

    fn written(seconds: u32) -> String {
        String::from_utf8(date::text(seconds.into()).to_vec()).unwrap()
    }

    proptest! {
        #[test]
        fn packed_headers_are_unpacked_and_written_in_their_order(
            responses in proptest::collection::vec((proptest::collection::vec(line(), 0..8), 0..4_u64), 1..6),
        ) {
            let templates = templates();
            let responses: Vec<_> = responses.iter().map(|(lines, body)| (headers(lines), *body)).collect();
            let packed: Vec<_> = responses.iter().map(|(headers, body)| templates.pack(facts(), headers, *body)).collect();
            for (packed, (response, body)) in packed.iter().zip(&responses) {
                let headers = PackedHeaders::new(&packed.template, packed.times, &packed.values, *body);
                let mut unpacked = headers.unpack();
                prop_assert_eq!(lines(&unpacked), lines(response));
                let mut written = Vec::new();
                let status = CacheStatus { handled: Handled::Hit, ..CacheStatus::default() };
                headers.write(&PerResponse { age: 7, status, name: "me" }, &mut written);
                for (name, value) in [("age", "7"), ("cache-status", "me;hit")] {
                    if let Some(gap) = unpacked.get_mut(name).filter(|gap| !gap.is_empty()) {
                        *gap = HeaderValue::from_static(value);
                    }
                }
                prop_assert_eq!(String::from_utf8_lossy(&written), text(&unpacked));
            }
        }
    }
}
