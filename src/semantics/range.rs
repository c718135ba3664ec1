//! Range requests on a response that is at hand: RFC 9110 §14.

use http::HeaderMap;
use http::header::{ETAG, IF_RANGE, LAST_MODIFIED, RANGE};

use super::conditional::{Comparison, same_tag};

/// What a Range field asks of a representation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ranged {
    /// Send all of it: no Range, one that may be ignored, or If-Range failed.
    Whole,
    /// Send the bytes from `first` up to, not including, `end`.
    Part {
        /// Offset of the first byte.
        first: u64,
        /// Offset behind the last byte; always above `first`.
        end: u64,
    },
    /// 416: no byte of it is there.
    Unsatisfiable,
}

/// What `request` (a GET) asks of a response with these fields and `length`
/// bytes. Several ranges at once are answered with the whole, which §14.2
/// allows to any server.
pub fn evaluate(request: &HeaderMap, response: &HeaderMap, length: u64) -> Ranged {
    let Some(range) = request.get(RANGE) else {
        return Ranged::Whole;
    };
    if !if_range_holds(request, response) {
        return Ranged::Whole;
    }
    let Some((unit, set)) = range.to_str().ok().and_then(|range| range.split_once('=')) else {
        return Ranged::Whole;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
        return Ranged::Whole;
    }
    one(set.trim(), length)
}

/// RFC 9110 §14.1.2: `first-last`, `first-`, `-suffix`.
fn one(spec: &str, length: u64) -> Ranged {
    let Some((first, last)) = spec.split_once('-') else {
        return Ranged::Whole;
    };
    // A number that does not fit is beyond any representation.
    let number = |digits: &str| {
        let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        valid.then(|| digits.parse().unwrap_or(u64::MAX))
    };
    let (first, end) = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => (first, last.saturating_add(1).min(length)),
        (Some(first), None) if last.is_empty() => (first, length),
        (None, Some(suffix)) if first.is_empty() && suffix > 0 => (length.saturating_sub(suffix), length),
        (None, Some(_)) if first.is_empty() => return Ranged::Unsatisfiable,
        _ => return Ranged::Whole,
    };
    if first < end { Ranged::Part { first, end } } else { Ranged::Unsatisfiable }
}

/// RFC 9110 §13.1.5: a tag by strong comparison; a date only if it is the very
/// same as Last-Modified, and old enough to be a strong validator (§8.8.2.2)
/// is left to whoever set it, since nothing here can tell.
fn if_range_holds(request: &HeaderMap, response: &HeaderMap) -> bool {
    let Some(validator) = request.get(IF_RANGE).map(http::HeaderValue::as_bytes) else {
        return true;
    };
    if validator.starts_with(b"\"") || validator.starts_with(b"W/") {
        return response.get(ETAG).is_some_and(|tag| same_tag(tag.as_bytes(), validator, Comparison::Strong));
    }
    response.get(LAST_MODIFIED).is_some_and(|modified| modified.as_bytes() == validator)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn ranges_of_ten_bytes() {
        use Ranged::{Part, Unsatisfiable, Whole};
        let part = |first, end| Part { first, end };
        for (range, expected) in [
            ("bytes=0-3", part(0, 4)),
            ("Bytes = 0-3", part(0, 4)),
            ("bytes=4-", part(4, 10)),
            ("bytes=-3", part(7, 10)),
            ("bytes=-30", part(0, 10)),
            ("bytes=8-99999999999999999999999", part(8, 10)),
            ("bytes=10-", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=3-1", Whole),
            ("bytes=0-1,3-4", Whole),
            ("bytes=a-b", Whole),
            ("bytes=--1", Whole),
            ("bytes=-", Whole),
            ("lines=0-1", Whole),
        ] {
            assert_eq!(evaluate(&headers(&[("range", range)]), &HeaderMap::new(), 10), expected, "{range}");
        }
        assert_eq!(evaluate(&headers(&[("range", "bytes=0-0")]), &HeaderMap::new(), 0), Unsatisfiable);
    }

    #[test]
    fn if_range_takes_strong_validators_only() {
        let response = headers(&[("etag", "\"a\""), ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")]);
        for (validator, holds) in [
            ("\"a\"", true),
            ("W/\"a\"", false),
            ("\"b\"", false),
            ("Sun, 06 Nov 1994 08:49:37 GMT", true),
            ("Mon, 07 Nov 1994 08:49:37 GMT", false),
        ] {
            let request = headers(&[("range", "bytes=0-0"), ("if-range", validator)]);
            assert_eq!(evaluate(&request, &response, 10) != Ranged::Whole, holds, "{validator}");
        }
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_whole(spec in "[0-9a-z=, -]{0,20}", length in 0u64..100) {
            let value = format!("bytes={spec}");
            if let Ranged::Part { first, end } = evaluate(&headers(&[("range", &value)]), &HeaderMap::new(), length) {
                prop_assert!(first < end && end <= length);
            }
        }
    }
}
