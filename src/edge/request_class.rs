//! [`RequestClass`]: whether a request has fields that a cache has to look into.

use http::HeaderMap;

/// How a request asks. Most ask plainly, and to see that once is cheaper than to
/// look for each field where it would matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestClass {
    /// By its name alone, as far as a cache that has it is concerned.
    Plain,
    /// With at least one field that has a say.
    Particular,
}

impl RequestClass {
    /// That of the request with these fields.
    pub fn of(request: &HeaderMap) -> Self {
        if request.keys().any(|name| is_heeded(name.as_str().as_bytes())) { Self::Particular } else { Self::Plain }
    }

    /// That of a request with a field of this name, in lower case.
    pub fn of_name(name: &[u8]) -> Self {
        if is_heeded(name) { Self::Particular } else { Self::Plain }
    }
}

/// The longest name of a field that is heeded, in bytes.
pub const LONGEST: usize = "if-unmodified-since".len();

/// Returns a header's name in lower case; nothing for one that is longer than any that is
/// heeded. (As bytes: each header of each request is looked at.)
pub fn in_lower_case<'a>(name: &str, space: &'a mut [u8; LONGEST]) -> &'a [u8] {
    let Some(lower) = space.get_mut(..name.len()) else {
        return &[];
    };
    lower.copy_from_slice(name.as_bytes());
    lower.make_ascii_lowercase();
    lower
}

/// Whether the field decides if what is stored may be the answer, how much of it, or
/// whether a request is refused. (By its text: that is a sixth of the work of comparing
/// names, and each field of each request is looked at.)
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

    /// Each of these makes one of the functions say something else than it says
    /// of no fields at all; so each has to be heeded.
    #[test]
    fn whatever_changes_an_answer_is_particular() {
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
