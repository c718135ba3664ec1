//! Range requests (RFC 9110 §14), evaluated against a selected response.

use std::time::Duration;

use http::HeaderMap;
use http::header::{DATE, ETAG, IF_RANGE, LAST_MODIFIED, RANGE};

use super::conditional::{Comparison, same_tag};
use super::date;

/// Maximum number of parts in a response. Beyond it, Range is ignored: RFC 9110 §14.2 allows
/// that, and §17.15 warns of the cost of many small parts.
pub const MAX_PARTS: usize = 16;

/// Ranges with at most this distance, in bytes, are merged: the boundary between two parts would
/// take as much (RFC 9110 §15.3.7.2).
const MERGE_DISTANCE: u64 = 80;

/// A range of bytes in a representation, from `first` up to but not including `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// Offset of the first byte.
    pub first: u64,
    /// Offset after the last byte; always above `first`.
    pub end: u64,
}

/// The part of a representation that a request selects (RFC 9110 §14.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ranged {
    /// Send the whole: no Range, an ignored Range, or If-Range does not match.
    Whole,
    /// Send one range.
    Part(ByteRange),
    /// Send these ranges, at least two, in this order, as multipart/byteranges (§14.6).
    Parts(Vec<ByteRange>),
    /// Answer with 416: none of the ranges contains a byte of the representation.
    Unsatisfiable,
}

/// Evaluates Range and If-Range of a GET against a response with `length` bytes of content (RFC
/// 9110 §14.2, §13.1.5). A malformed or repeated Range is ignored.
///
/// ```
/// use http::{HeaderMap, HeaderValue};
/// use peerage::semantics::range::{ByteRange, Ranged, evaluate};
///
/// let mut request = HeaderMap::new();
/// request.insert("range", HeaderValue::from_static("bytes=-3"));
/// let last_three = Ranged::Part(ByteRange { first: 7, end: 10 });
/// assert_eq!(evaluate(&request, &HeaderMap::new(), 10), last_three);
/// ```
pub fn evaluate(request: &HeaderMap, response: &HeaderMap, length: u64) -> Ranged {
    let mut lines = request.get_all(RANGE).iter();
    let (Some(range), None) = (lines.next(), lines.next()) else {
        return Ranged::Whole;
    };
    if !if_range_matches(request, response) {
        return Ranged::Whole;
    }
    match range.to_str().ok().and_then(|range| parse(range, length)) {
        None => Ranged::Whole,
        Some(ranges) => select(ranges, length),
    }
}

/// Parses Range and returns its satisfiable ranges; `None` if it is malformed or has another unit
/// than bytes.
fn parse(range: &str, length: u64) -> Option<Vec<ByteRange>> {
    let (unit, set) = range.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut ranges = Vec::new();
    let mut specs = 0;
    // A list may contain empty members (§5.6.1.2).
    for spec in set.split(',').map(str::trim).filter(|spec| !spec.is_empty()) {
        specs += 1;
        ranges.push(parse_spec(spec, length)?);
    }
    ranges.retain(|range| range.first < range.end);
    (specs > 0).then_some(ranges)
}

/// Parses `first-last`, `first-` or `-suffix` (RFC 9110 §14.1.2); `None` for other text. The
/// returned range is empty if the representation has none of its bytes.
fn parse_spec(spec: &str, length: u64) -> Option<ByteRange> {
    let (first, last) = spec.split_once('-')?;
    // A number that exceeds 64 bits is greater than any length.
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

/// Merges the requested ranges, and decides whether to send them or the whole.
fn select(ranges: Vec<ByteRange>, length: u64) -> Ranged {
    let requested: u64 = ranges.iter().map(|range| range.end - range.first).fold(0, u64::saturating_add);
    let ranges = merge(ranges);
    match ranges.as_slice() {
        [] => Ranged::Unsatisfiable,
        [only] => Ranged::Part(*only),
        many if many.len() > MAX_PARTS || requested > length => Ranged::Whole,
        _ => Ranged::Parts(ranges),
    }
}

/// Merges ranges that overlap or nearly touch. A merged range has the position of the first of
/// its ranges in the request. Stops after [`MAX_PARTS`] + 1 ranges.
fn merge(ranges: Vec<ByteRange>) -> Vec<ByteRange> {
    let mut merged: Vec<ByteRange> = Vec::with_capacity(ranges.len().min(MAX_PARTS + 1));
    for mut range in ranges {
        let near = |a: &ByteRange, b: &ByteRange| {
            a.first <= b.end.saturating_add(MERGE_DISTANCE) && b.first <= a.end.saturating_add(MERGE_DISTANCE)
        };
        let mut at = merged.len();
        // The range may connect several that were apart.
        while let Some(other) = merged.iter().position(|other| near(other, &range)) {
            let neighbor = merged.remove(other);
            range = ByteRange { first: range.first.min(neighbor.first), end: range.end.max(neighbor.end) };
            at = at.min(other);
        }
        merged.insert(at.min(merged.len()), range);
        if merged.len() > MAX_PARTS {
            break;
        }
    }
    merged
}

/// Returns true without an If-Range, or if it matches the response (RFC 9110 §13.1.5).
///
/// An entity tag matches by strong comparison. A date matches if it is identical to Last-Modified
/// and Last-Modified is a strong validator: Date is at least one second later (§8.8.2.2).
fn if_range_matches(request: &HeaderMap, response: &HeaderMap) -> bool {
    let Some(validator) = request.get(IF_RANGE).map(http::HeaderValue::as_bytes) else {
        return true;
    };
    if validator.starts_with(b"\"") || validator.starts_with(b"W/") {
        return response.get(ETAG).is_some_and(|tag| same_tag(tag.as_bytes(), validator, Comparison::Strong));
    }
    let is_strong =
        || Some(date::read(response, &DATE)? >= date::read(response, &LAST_MODIFIED)? + Duration::from_secs(1));
    response.get(LAST_MODIFIED).is_some_and(|modified| modified.as_bytes() == validator) && is_strong() == Some(true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::semantics::tests::headers;

    fn evaluated(range: &str, length: u64) -> Ranged {
        evaluate(&headers(&[("range", range)]), &HeaderMap::new(), length)
    }

    fn part(first: u64, end: u64) -> Ranged {
        Ranged::Part(ByteRange { first, end })
    }

    #[test]
    fn a_range_is_satisfied_ignored_or_unsatisfiable() {
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
            assert_eq!(evaluated(range, 10), expected, "{range}");
        }
        assert_eq!(evaluated("bytes=0-0", 0), Unsatisfiable);
        let twice = headers(&[("range", "bytes=0-1")]).into_iter().chain(headers(&[("range", "bytes=0-1")]));
        let mut both = HeaderMap::new();
        twice.for_each(|(name, value)| {
            both.append(name.unwrap(), value);
        });
        assert_eq!(evaluate(&both, &HeaderMap::new(), 10), Whole);
    }

    #[test]
    fn several_ranges_keep_the_requested_order_and_merge_if_near() {
        let parts = |ranges: &[(u64, u64)]| {
            Ranged::Parts(ranges.iter().map(|&(first, end)| ByteRange { first, end }).collect())
        };
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
            assert_eq!(evaluated(range, 1000), expected, "{range}");
        }
        let many: Vec<_> = (0..=MAX_PARTS).map(|i| format!("{0}-{0}", i * 1000)).collect();
        assert_eq!(evaluated(&format!("bytes={}", many.join(",")), 1_000_000), Ranged::Whole);
        assert!(
            matches!(evaluated(&format!("bytes={}", many[1..].join(",")), 1_000_000), Ranged::Parts(parts) if parts.len() == MAX_PARTS)
        );
    }

    #[test]
    fn if_range_matches_strong_validators_only() {
        let modified = "Sun, 06 Nov 1994 08:49:37 GMT";
        for (validator, date, holds) in [
            ("\"a\"", modified, true),
            ("W/\"a\"", modified, false),
            ("\"b\"", modified, false),
            (modified, "Sun, 06 Nov 1994 08:49:38 GMT", true),
            // The representation could have changed once more within that second.
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
        fn parts_are_within_the_length_and_apart(spec in "([0-9]{0,3}-[0-9]{0,3},?){1,8}", length in 0u64..1000) {
            let ranges = match evaluated(&format!("bytes={spec}"), length) {
                Ranged::Part(range) => vec![range],
                Ranged::Parts(ranges) => ranges,
                _ => Vec::new(),
            };
            for (i, range) in ranges.iter().enumerate() {
                prop_assert!(range.first < range.end && range.end <= length);
                prop_assert!(ranges[..i].iter().all(|other| other.end + MERGE_DISTANCE < range.first || range.end + MERGE_DISTANCE < other.first));
            }
        }

        #[test]
        fn every_requested_byte_is_sent(
            requested in proptest::collection::vec((0u64..1000, 0u64..200), 1..6),
        ) {
            let text: Vec<_> = requested.iter().map(|(first, more)| format!("{first}-{}", first + more)).collect();
            let ranges = match evaluated(&format!("bytes={}", text.join(",")), 1000) {
                Ranged::Part(range) => vec![range],
                Ranged::Parts(ranges) => ranges,
                Ranged::Whole => vec![ByteRange { first: 0, end: 1000 }],
                Ranged::Unsatisfiable => Vec::new(),
            };
            for (first, more) in requested {
                for byte in first..=(first + more).min(999) {
                    prop_assert!(ranges.iter().any(|range| range.first <= byte && byte < range.end));
                }
            }
        }
    }
}
