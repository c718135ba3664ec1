//! Content-Length: RFC 9110 §8.6, RFC 9112 §6.3.
//!
//! Servers read odd spellings differently (`0100` as octal, `+5`, `5, 5`). Where two of
//! them delimit a message differently, the rest of it passes for another message. So odd
//! spellings in requests are rejected, those in responses are parsed strictly, and the
//! next hop gets neither: its Content-Length is written from the number.

use http::HeaderMap;
use http::header::CONTENT_LENGTH;

/// A Content-Length that does not state one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invalid;

/// Returns the length that a request states: one line of digits without leading zeros.
pub fn of_request(headers: &HeaderMap) -> Result<Option<u64>, Invalid> {
    let mut lines = headers.get_all(CONTENT_LENGTH).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(line), None) => plain(line.as_bytes()).map(Some).ok_or(Invalid),
        (Some(_), Some(_)) => Err(Invalid),
    }
}

/// Returns the length that a response states. Members of a list, and lines, state the same
/// number; leading zeros are allowed, since the number is all that goes on.
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

/// Returns the number that digits without leading zeros state.
pub fn plain(value: &[u8]) -> Option<u64> {
    let has_leading_zero = value.len() > 1 && value[0] == b'0';
    if has_leading_zero { None } else { digits(value) }
}

/// Returns the number that digits state. (`parse` alone takes a plus sign.)
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

    /// Spellings that are not digits in any reading.
    const MALFORMED: &[&str] =
        &["", "+5", "-5", "5.", "5e1", "0x5", "5h", "5 5", "5;5", "5_0", "\"5\"", "५", "18446744073709551616"];

    #[test]
    fn a_request_states_one_length_in_plain_digits() {
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
    fn a_response_states_one_number_however_often() {
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
        fn a_request_is_read_as_its_length_is_written(value in "[ -~]{0,4}|[0-9]{0,21}") {
            let read = of_request(&lines(&[&value]));
            prop_assert_eq!(read.is_ok(), read.is_ok_and(|read| read.is_some_and(|read| read.to_string() == value)));
        }
    }
}
