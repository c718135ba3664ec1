//! [`Manner`]: whether a request has fields that a cache has to look into.

use http::HeaderMap;

/// How a request asks. Most ask plainly, and to see that once is cheaper than to
/// look for each field where it would matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// By its name alone, as far as a cache that has it is concerned.
    Plain,
    /// With at least one field that has a say.
    Particular,
}

impl Manner {
    /// That of the request with these fields.
    pub fn of(request: &HeaderMap) -> Self {
        if request.keys().any(|name| is_heeded(name.as_str())) { Self::Particular } else { Self::Plain }
    }

    /// That of a request with a field of this name, in lower case.
    pub fn of_name(name: &str) -> Self {
        if is_heeded(name) { Self::Particular } else { Self::Plain }
    }
}

/// The longest name of a field that is heeded, in bytes.
pub const LONGEST: usize = "if-unmodified-since".len();

/// The name of a field that stands on its line in whatever case; nothing for one that is
/// longer than any that is heeded.
pub fn in_lower_case<'a>(name: &str, space: &'a mut [u8; LONGEST]) -> &'a str {
    let Some(lower) = space.get_mut(..name.len()) else {
        return "";
    };
    lower.copy_from_slice(name.as_bytes());
    lower.make_ascii_lowercase();
    str::from_utf8(lower).unwrap_or_default()
}

/// Whether the field decides if what is stored may be the answer, how much of it, or
/// whether a request is refused. (By its text: that is a sixth of the work of comparing
/// names, and each field of each request is looked at.)
fn is_heeded(name: &str) -> bool {
    matches!(
        name,
        "cache-control"
            | "pragma"
            | "if-none-match"
            | "if-modified-since"
            | "range"
            | "if-range"
            | "if-match"
            | "if-unmodified-since"
            | "expect"
            | "content-length"
            | "cdn-loop"
            | "transfer-encoding"
            | "want-repr-digest"
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
                || forward::expects_the_unknown(request)
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
            assert_eq!(Manner::of(&request), Manner::Particular, "{name}");
            let (upper, mut space) = (name.to_uppercase(), [0; LONGEST]);
            assert_eq!(Manner::of_name(in_lower_case(&upper, &mut space)), Manner::Particular, "{name}");
        }
        let plain =
            headers(&[("host", "h"), ("accept", "*/*"), ("cookie", "a=b"), ("accept-encoding", "gzip"), ("via", "x")]);
        assert!(!changes(&plain));
        assert_eq!(Manner::of(&plain), Manner::Plain);
        assert!(plain.keys().all(|name| Manner::of_name(name.as_str()) == Manner::Plain));
        assert_eq!(in_lower_case(&"X".repeat(LONGEST + 1), &mut [0; LONGEST]), "");
    }
}
