//! Range requests on a response that is at hand: RFC 9110 §14.

use std::time::Duration;

use http::HeaderMap;
use http::header::{DATE, ETAG, IF_RANGE, LAST_MODIFIED, RANGE};

use super::conditional::{Comparison, same_tag};
use super::date;

/// More parts than this are not sent one by one (§14.2 allows any server to
/// ignore Range; §17.15 warns of what many small parts cost).
pub const MAX_PARTS: usize = 16;

/// Parts that lie nearer together than this many bytes are sent as one: their
/// boundary would take as much (§15.3.7.2).
const GAP: u64 = 80;

/// Some bytes of a representation: from `first` up to, not including, `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// Offset of the first byte.
    pub first: u64,
    /// Offset behind the last byte; always above `first`.
    pub end: u64,
}

/// What a Range field asks of a representation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ranged {
    /// Send all of it: no Range, one that may be ignored, or If-Range failed.
    Whole,
    /// Send these bytes.
    Part(ByteRange),
    /// Send these, in this order, as multipart/byteranges: two at the least.
    Parts(Vec<ByteRange>),
    /// 416: no byte of it is there.
    Unsatisfiable,
}

/// What `request` (a GET) asks of a response with these fields and `length`
/// bytes. A Range that the grammar does not allow counts as none (§14.2).
pub fn evaluate(request: &HeaderMap, response: &HeaderMap, length: u64) -> Ranged {
    let mut lines = request.get_all(RANGE).iter();
    let (Some(range), None) = (lines.next(), lines.next()) else {
        return Ranged::Whole;
    };
    if !if_range_holds(request, response) {
        return Ranged::Whole;
    }
    match range.to_str().ok().and_then(|range| spans(range, length)) {
        None => Ranged::Whole,
        Some(spans) => choose(spans, length),
    }
}

/// The satisfiable spans of a Range field; `None` if it is not one of bytes.
fn spans(range: &str, length: u64) -> Option<Vec<ByteRange>> {
    let (unit, set) = range.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut spans = Vec::new();
    let mut specs = 0;
    // The list rule (§5.6.1.2) lets empty members stand.
    for spec in set.split(',').map(str::trim).filter(|spec| !spec.is_empty()) {
        specs += 1;
        spans.push(one(spec, length)?);
    }
    spans.retain(|span| span.first < span.end);
    (specs > 0).then_some(spans)
}

/// §14.1.2: `first-last`, `first-`, `-suffix`; `None` for what is none of these.
/// The span is empty if no byte of it is there.
fn one(spec: &str, length: u64) -> Option<ByteRange> {
    let (first, last) = spec.split_once('-')?;
    // A number that does not fit is beyond any representation.
    let number = |digits: &str| {
        let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        valid.then(|| digits.parse().unwrap_or(u64::MAX))
    };
    let (first, end) = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => (first, last.saturating_add(1).min(length)),
        (Some(first), None) if last.is_empty() => (first, length),
        (None, Some(suffix)) if first.is_empty() => (length.saturating_sub(suffix), length),
        _ => return None,
    };
    Some(ByteRange { first, end })
}

/// What is worth sending of the spans that were asked for.
fn choose(spans: Vec<ByteRange>, length: u64) -> Ranged {
    let asked: u64 = spans.iter().map(|span| span.end - span.first).fold(0, u64::saturating_add);
    let spans = coalesce(spans);
    match spans.as_slice() {
        [] => Ranged::Unsatisfiable,
        [only] => Ranged::Part(*only),
        many if many.len() > MAX_PARTS || asked > length => Ranged::Whole,
        _ => Ranged::Parts(spans),
    }
}

/// Makes one of spans that overlap or nearly touch; the order is that in which
/// they were asked for, by the first of each that became one.
fn coalesce(spans: Vec<ByteRange>) -> Vec<ByteRange> {
    let mut merged: Vec<ByteRange> = Vec::with_capacity(spans.len().min(MAX_PARTS + 1));
    for mut span in spans {
        let near =
            |a: &ByteRange, b: &ByteRange| a.first <= b.end.saturating_add(GAP) && b.first <= a.end.saturating_add(GAP);
        let mut at = merged.len();
        // It may bring together some that were apart.
        while let Some(other) = merged.iter().position(|other| near(other, &span)) {
            let other_span = merged.remove(other);
            span = ByteRange { first: span.first.min(other_span.first), end: span.end.max(other_span.end) };
            at = at.min(other);
        }
        merged.insert(at.min(merged.len()), span);
        if merged.len() > MAX_PARTS {
            break;
        }
    }
    merged
}

/// RFC 9110 §13.1.5: a tag by strong comparison; a date only if it is the very
/// same as Last-Modified, and that is a strong validator: the response was sent a
/// second later, or more (§8.8.2.2).
fn if_range_holds(request: &HeaderMap, response: &HeaderMap) -> bool {
    let Some(validator) = request.get(IF_RANGE).map(http::HeaderValue::as_bytes) else {
        return true;
    };
    if validator.starts_with(b"\"") || validator.starts_with(b"W/") {
        return response.get(ETAG).is_some_and(|tag| same_tag(tag.as_bytes(), validator, Comparison::Strong));
    }
    let settled =
        || Some(date::read(response, &DATE)? >= date::read(response, &LAST_MODIFIED)? + Duration::from_secs(1));
    response.get(LAST_MODIFIED).is_some_and(|modified| modified.as_bytes() == validator) && settled() == Some(true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::semantics::tests::headers;

    fn of(range: &str, length: u64) -> Ranged {
        evaluate(&headers(&[("range", range)]), &HeaderMap::new(), length)
    }

    fn part(first: u64, end: u64) -> Ranged {
        Ranged::Part(ByteRange { first, end })
    }

    #[test]
    fn ranges_of_ten_bytes() {
        use Ranged::{Unsatisfiable, Whole};
        for (range, expected) in [
            ("bytes=0-3", part(0, 4)),
            ("Bytes = 0-3", part(0, 4)),
            ("bytes=4-", part(4, 10)),
            ("bytes=-3", part(7, 10)),
            ("bytes=-30", part(0, 10)),
            ("bytes=8-99999999999999999999999", part(8, 10)),
            ("bytes=,0-3,", part(0, 4)),
            ("bytes=0-3,20-", part(0, 4)),
            ("bytes=10-", Unsatisfiable),
            ("bytes=10-, 20-30", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=3-1", Whole),
            ("bytes=0-1,3-1", Whole),
            ("bytes=a-b", Whole),
            ("bytes=--1", Whole),
            ("bytes=-", Whole),
            ("bytes=", Whole),
            ("bytes=,", Whole),
            ("lines=0-1", Whole),
        ] {
            assert_eq!(of(range, 10), expected, "{range}");
        }
        assert_eq!(of("bytes=0-0", 0), Unsatisfiable);
        let twice = headers(&[("range", "bytes=0-1")]).into_iter().chain(headers(&[("range", "bytes=0-1")]));
        let mut both = HeaderMap::new();
        twice.for_each(|(name, value)| {
            both.append(name.unwrap(), value);
        });
        assert_eq!(evaluate(&both, &HeaderMap::new(), 10), Whole);
    }

    #[test]
    fn several_ranges_come_in_the_order_asked_for_and_merge_where_they_touch() {
        let parts =
            |spans: &[(u64, u64)]| Ranged::Parts(spans.iter().map(|&(first, end)| ByteRange { first, end }).collect());
        for (range, expected) in [
            ("bytes=0-9,500-509", parts(&[(0, 10), (500, 510)])),
            ("bytes=500-509,0-9", parts(&[(500, 510), (0, 10)])),
            ("bytes=0-9,5-14", part(0, 15)),
            ("bytes=0-9,50-59", part(0, 60)),
            ("bytes=0-9,300-309,91-219", parts(&[(0, 10), (91, 310)])),
            ("bytes=0-9,200-209,-1", parts(&[(0, 10), (200, 210), (999, 1000)])),
            ("bytes=0-,0-", Ranged::Part(ByteRange { first: 0, end: 1000 })),
            ("bytes=0-900,990-999,0-800", Ranged::Whole),
        ] {
            assert_eq!(of(range, 1000), expected, "{range}");
        }
        let many: Vec<_> = (0..=MAX_PARTS).map(|i| format!("{0}-{0}", i * 1000)).collect();
        assert_eq!(of(&format!("bytes={}", many.join(",")), 1_000_000), Ranged::Whole);
        assert!(
            matches!(of(&format!("bytes={}", many[1..].join(",")), 1_000_000), Ranged::Parts(parts) if parts.len() == MAX_PARTS)
        );
    }

    #[test]
    fn if_range_takes_strong_validators_only() {
        let modified = "Sun, 06 Nov 1994 08:49:37 GMT";
        for (validator, date, holds) in [
            ("\"a\"", modified, true),
            ("W/\"a\"", modified, false),
            ("\"b\"", modified, false),
            (modified, "Sun, 06 Nov 1994 08:49:38 GMT", true),
            // Within that second it could have changed once more.
            (modified, modified, false),
            (modified, "", false),
            ("Mon, 07 Nov 1994 08:49:37 GMT", "Mon, 07 Nov 1994 08:49:38 GMT", false),
        ] {
            let response = headers(&[("etag", "\"a\""), ("last-modified", modified), ("date", date)]);
            let request = headers(&[("range", "bytes=0-0"), ("if-range", validator)]);
            assert_eq!(evaluate(&request, &response, 10) != Ranged::Whole, holds, "{validator}");
        }
    }

    proptest! {
        #[test]
        fn parts_lie_within_the_whole_and_apart(spec in "([0-9]{0,3}-[0-9]{0,3},?){1,8}", length in 0u64..1000) {
            let spans = match of(&format!("bytes={spec}"), length) {
                Ranged::Part(span) => vec![span],
                Ranged::Parts(spans) => spans,
                _ => Vec::new(),
            };
            for (i, span) in spans.iter().enumerate() {
                prop_assert!(span.first < span.end && span.end <= length);
                prop_assert!(spans[..i].iter().all(|other| other.end + GAP < span.first || span.end + GAP < other.first));
            }
        }

        #[test]
        fn every_byte_that_was_asked_for_is_sent(
            asked in proptest::collection::vec((0u64..1000, 0u64..200), 1..6),
        ) {
            let text: Vec<_> = asked.iter().map(|(first, more)| format!("{first}-{}", first + more)).collect();
            let spans = match of(&format!("bytes={}", text.join(",")), 1000) {
                Ranged::Part(span) => vec![span],
                Ranged::Parts(spans) => spans,
                Ranged::Whole => vec![ByteRange { first: 0, end: 1000 }],
                Ranged::Unsatisfiable => Vec::new(),
            };
            for (first, more) in asked {
                for byte in first..=(first + more).min(999) {
                    prop_assert!(spans.iter().any(|span| span.first <= byte && byte < span.end));
                }
            }
        }
    }
}
