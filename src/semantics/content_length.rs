//! Content-Length (RFC 9110 §8.6, RFC 9112 §6.3).
//!
//! Servers read unusual spellings differently (`0100` as octal, `+5`, `5, 5`). If two servers
//! delimit a message differently, one of them takes its rest for another message (request
//! smuggling). So unusual spellings are rejected in requests and parsed strictly in responses.
//! They never reach the next hop: its Content-Length is written from the parsed number.

use http::HeaderMap;
use http::header::CONTENT_LENGTH;

/// The error for a Content-Length that does not state exactly one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invalid;

/// Returns the length that a request states, in bytes; `None` without a Content-Length.
///
/// # Errors
/// [`Invalid`] unless it is one line of digits without leading zeros.
pub fn of_request(headers: &HeaderMap) -> Result<Option<u64>, Invalid> {
    let mut lines = headers.get_all(CONTENT_LENGTH).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(line), None) => plain(line.as_bytes()).map(Some).ok_or(Invalid),
        (Some(_), Some(_)) => Err(Invalid),
    }
}

/// Returns the length that a response states, in bytes; `None` without a Content-Length.
///
/// Leading zeros and repetition are allowed, because only the number is forwarded.
///
/// # Errors
/// [`Invalid`] unless all lines and all members of their lists are digits of the same number.
pub fn of_response(headers: &HeaderMap) -> Result<Option<u64>, Invalid> {
    let mut length = None;
    let lines = headers.get_all(CONTENT_LENGTH).iter();
    for member in lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b',')) {
        let stated = digits(member.trim_ascii()).ok_or(Invalid)?;
        if length.replace(stated).is_some_and(|before| before != stated) {
            return Err(Invalid);
        }
    }
    Ok(length)
}

/// Parses digits without leading zeros; `None` for other input, and above `u64::MAX`.
pub fn plain(value: &[u8]) -> Option<u64> {
    let has_leading_zero = value.len() > 1 && value[0] == b'0';
    if has_leading_zero { None } else { digits(value) }
}

/// Parses digits; `None` for other input, and above `u64::MAX`. (`parse` alone accepts a plus
/// sign.)
pub fn digits(value: &[u8]) -> Option<u64> {
    if !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn lines(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (CONTENT_LENGTH, HeaderValue::from_str(line).unwrap())).collect()
    }

    /// Spellings that no server reads as digits.
    const MALFORMED: &[&str] =
        &["", "+5", "-5", "5.", "5e1", "0x5", "5h", "5 5", "5;5", "5_0", "\"5\"", "५", "18446744073709551616"];

    #[test]
    fn a_request_length_is_one_line_of_digits_without_leading_zeros() {
        for (stated, length) in [
            (&[][..], Ok(None)),
            (&["0"], Ok(Some(0))),
            (&["100"], Ok(Some(100))),
            (&["18446744073709551615"], Ok(Some(u64::MAX))),
            (&["00"], Err(Invalid)),
            (&["0100"], Err(Invalid)),
            (&["5, 5"], Err(Invalid)),
            (&["5,"], Err(Invalid)),
            (&["5", "5"], Err(Invalid)),
            (&["5", "6"], Err(Invalid)),
            (&["5\t"], Err(Invalid)),
        ] {
            assert_eq!(of_request(&lines(stated)), length, "{stated:?}");
        }
        for stated in MALFORMED {
            assert_eq!(of_request(&lines(&[stated])), Err(Invalid), "{stated:?}");
        }
    }

    #[test]
    fn a_response_length_may_be_repeated_but_not_contradicted() {
        for (stated, length) in [
            (&[][..], Ok(None)),
            (&["5, 5"], Ok(Some(5))),
            (&["5", "5 ,05"], Ok(Some(5))),
            (&["0100"], Ok(Some(100))),
            (&["5, 6"], Err(Invalid)),
            (&["5", "6"], Err(Invalid)),
            (&["5,"], Err(Invalid)),
            (&["5,,5"], Err(Invalid)),
        ] {
            assert_eq!(of_response(&lines(stated)), length, "{stated:?}");
        }
        for stated in MALFORMED {
            assert_eq!(of_response(&lines(&[stated])), Err(Invalid), "{stated:?}");
            assert_eq!(of_response(&lines(&["5", stated])), Err(Invalid), "{stated:?}");
        }
    }

    proptest! {
        #[test]
        fn a_request_length_is_accepted_only_in_its_canonical_spelling(value in "[ -~]{0,4}|[0-9]{0,21}") {
            let read = of_request(&lines(&[&value]));
            prop_assert_eq!(read.is_ok(), read.is_ok_and(|read| read.is_some_and(|read| read.to_string() == value)));
        }
    }
}
