//! [`RequestClass`]: separates requests with headers that a cache must evaluate from plain ones.

use http::HeaderMap;

/// The class of a request. Most requests are plain, and one check for that is cheaper than a lookup
/// of each header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestClass {
    /// No header of the request affects a stored response.
    Plain,
    /// At least one header may affect it.
    Particular,
}

impl RequestClass {
    /// Returns the class of a request with these headers.
    pub fn of(request: &HeaderMap) -> Self {
        if request.keys().any(|name| is_heeded(name.as_str().as_bytes())) { Self::Particular } else { Self::Plain }
    }

    /// Returns the class of a request with a header of this name, in lower case.
    pub fn of_name(name: &[u8]) -> Self {
        if is_heeded(name) { Self::Particular } else { Self::Plain }
    }
}

/// The length of the longest evaluated header name, in bytes.
pub const LONGEST: usize = "if-unmodified-since".len();

/// Returns a header name in lower case, or nothing if it is longer than [`LONGEST`]. (As bytes,
/// because each header of each request is checked.)
pub fn in_lower_case<'a>(name: &str, space: &'a mut [u8; LONGEST]) -> &'a [u8] {
    let Some(lower) = space.get_mut(..name.len()) else {
        return &[];
    };
    lower.copy_from_slice(name.as_bytes());
    lower.make_ascii_lowercase();
    lower
}

/// Returns true if the header decides whether a stored response may be served, how much of it, or
/// whether the request is rejected. (By text: that takes a sixth of the work of comparing names,
/// and each header of each request is checked.)
fn is_heeded(name: &[u8]) -> bool {
    matches!(
        name,
        b"cache-control"
            | b"pragma"
            | b"if-none-match"
            | b"if-modified-since"
            | b"range"
            | b"if-range"
            | b"if-match"
            | b"if-unmodified-since"
            | b"expect"
            | b"content-length"
            | b"cdn-loop"
            | b"transfer-encoding"
            | b"want-repr-digest"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::cache_control::RequestControl;
    use crate::semantics::conditional::{self, Precondition};
    use crate::semantics::forward;
    use crate::semantics::range::{self, Ranged};
    use crate::semantics::tests::headers;

    /// Each of these headers changes the result of at least one of the functions, so each must be
    /// evaluated.
    #[test]
    fn headers_that_change_a_response_are_particular() {
        let stored = headers(&[("etag", "\"a\""), ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")]);
        let changes = |request: &HeaderMap| {
            RequestControl::of(request) != RequestControl::default()
                || conditional::evaluate(request, &stored) != Precondition::Proceed
                || range::evaluate(request, &stored, 100) != Ranged::Whole
                || forward::has_unknown_expectation(request)
        };
        for (name, value) in [
            ("cache-control", "no-cache"),
            ("pragma", "no-cache"),
            ("if-none-match", "\"a\""),
            ("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("range", "bytes=0-1"),
            ("if-match", "\"b\""),
            ("if-unmodified-since", "Sun, 06 Nov 1993 08:49:37 GMT"),
            ("expect", "200-ok"),
        ] {
            let request = headers(&[("host", "h"), (name, value)]);
            assert!(changes(&request), "{name}");
            assert_eq!(RequestClass::of(&request), RequestClass::Particular, "{name}");
            let (upper, mut space) = (name.to_uppercase(), [0; LONGEST]);
            assert_eq!(RequestClass::of_name(in_lower_case(&upper, &mut space)), RequestClass::Particular, "{name}");
        }
        let plain =
            headers(&[("host", "h"), ("accept", "*/*"), ("cookie", "a=b"), ("accept-encoding", "gzip"), ("via", "x")]);
        assert!(!changes(&plain));
        assert_eq!(RequestClass::of(&plain), RequestClass::Plain);
        assert!(plain.keys().all(|name| RequestClass::of_name(name.as_str().as_bytes()) == RequestClass::Plain));
        assert!(in_lower_case(&"X".repeat(LONGEST + 1), &mut [0; LONGEST]).is_empty());
    }
}
