//! Conditional requests (RFC 9110 §13), evaluated against a selected response.

use http::HeaderMap;
use http::header::{DATE, ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, LAST_MODIFIED};

use super::date;

/// The result of the preconditions of a GET or HEAD (RFC 9110 §13.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// Answer as without preconditions.
    Proceed,
    /// Answer with 304.
    NotModified,
    /// Answer with 412.
    Failed,
}

/// Evaluates the preconditions of `request` against the selected response, in the order of
/// RFC 9110 §13.2.2.
///
/// A header with an invalid date counts as absent. If the response has no Last-Modified,
/// If-Modified-Since is compared with its Date (RFC 9111 §4.3.2).
pub fn evaluate(request: &HeaderMap, response: &HeaderMap) -> Precondition {
    let names = [IF_MATCH, IF_UNMODIFIED_SINCE, IF_NONE_MATCH, IF_MODIFIED_SINCE];
    if !names.iter().any(|name| request.contains_key(name)) {
        return Precondition::Proceed;
    }
    let tag = response.get(ETAG).map(http::HeaderValue::as_bytes);
    let modified = date::read(response, &LAST_MODIFIED);
    if request.contains_key(IF_MATCH) {
        if !lists_tag(request, IF_MATCH, tag, Comparison::Strong) {
            return Precondition::Failed;
        }
    } else if let (Some(since), Some(modified)) = (date::read(request, &IF_UNMODIFIED_SINCE), modified)
        && modified > since
    {
        return Precondition::Failed;
    }
    if request.contains_key(IF_NONE_MATCH) {
        if lists_tag(request, IF_NONE_MATCH, tag, Comparison::Weak) {
            return Precondition::NotModified;
        }
    } else if let (Some(since), Some(modified)) =
        (date::read(request, &IF_MODIFIED_SINCE), modified.or(date::read(response, &DATE)))
        && modified <= since
    {
        return Precondition::NotModified;
    }
    Precondition::Proceed
}

/// The comparison of entity tags (RFC 9110 §8.8.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Both tags are strong and equal.
    Strong,
    /// The opaque tags are equal, weak or not.
    Weak,
}

/// Returns true if two entity tags match by the given comparison (RFC 9110 §8.8.3.2).
pub fn same_tag(a: &[u8], b: &[u8], comparison: Comparison) -> bool {
    match comparison {
        Comparison::Strong => a == b && is_strong(a),
        Comparison::Weak => opaque(a) == opaque(b),
    }
}

/// Returns true if an entity tag is a strong validator (RFC 9110 §8.8.3).
pub fn is_strong(tag: &[u8]) -> bool {
    tag.starts_with(b"\"")
}

fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// Returns true if a header of the request lists `tag`, or is `*`.
fn lists_tag(request: &HeaderMap, name: http::HeaderName, tag: Option<&[u8]>, comparison: Comparison) -> bool {
    request.get_all(name).iter().any(|line| {
        let line = line.as_bytes().trim_ascii();
        line == b"*" || tag.is_some_and(|tag| tags(line).any(|listed| same_tag(listed, tag, comparison)))
    })
}

/// Splits a list into its entity tags. A tag may contain a comma, so quotes delimit tags.
fn tags(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = line;
    std::iter::from_fn(move || {
        let start = rest.iter().position(|&byte| byte != b',' && byte != b' ' && byte != b'\t')?;
        rest = &rest[start..];
        let open = if rest.starts_with(b"W/\"") { 3 } else { 1 };
        let close = rest.get(open..)?.iter().position(|&byte| byte == b'"')?;
        let (tag, after) = rest.split_at(open + close + 1);
        rest = after;
        Some(tag)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::tests::headers;

    #[test]
    fn preconditions_are_evaluated_in_the_order_of_the_rfc() {
        use Precondition::{Failed, NotModified, Proceed};
        let early = "Sun, 06 Nov 1994 08:49:37 GMT";
        let late = "Mon, 07 Nov 1994 08:49:37 GMT";
        let response = headers(&[("etag", "\"a,b\""), ("last-modified", early)]);
        for (request, expected) in [
            (&[][..], Proceed),
            (&[("if-none-match", "\"a,b\"")], NotModified),
            (&[("if-none-match", "\"x\", W/\"a,b\"")], NotModified),
            (&[("if-none-match", "*")], NotModified),
            (&[("if-none-match", "\"a\", \"b\"")], Proceed),
            (&[("if-none-match", "\"x\""), ("if-modified-since", late)], Proceed),
            (&[("if-none-match", "garbage")], Proceed),
            (&[("if-modified-since", early)], NotModified),
            (&[("if-modified-since", "yesterday")], Proceed),
            (&[("if-match", "\"x\"")], Failed),
            (&[("if-match", "W/\"a,b\"")], Failed),
            (&[("if-match", "*"), ("if-none-match", "\"a,b\"")], NotModified),
            (&[("if-unmodified-since", "Sat, 05 Nov 1994 08:49:37 GMT")], Failed),
            (&[("if-unmodified-since", early)], Proceed),
        ] {
            assert_eq!(evaluate(&headers(request), &response), expected, "{request:?}");
        }
        assert_eq!(evaluate(&headers(&[("if-none-match", "*")]), &HeaderMap::new()), NotModified);
        let dated = headers(&[("date", early)]);
        assert_eq!(evaluate(&headers(&[("if-modified-since", late)]), &dated), NotModified);
        assert_eq!(evaluate(&headers(&[("if-unmodified-since", "Sat, 05 Nov 1994 08:49:37 GMT")]), &dated), Proceed);
    }
}
