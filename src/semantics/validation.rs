//! Validation of stored responses (RFC 9111 §3.2, §4.3).

use http::header::{
    AGE, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    LAST_MODIFIED, TRANSFER_ENCODING, VARY, VIA,
};
use http::{HeaderMap, HeaderName};

use super::cache_status::CACHE_STATUS;
use super::conditional::{Comparison, is_strong, same_tag};
use super::digest_fields::{CONTENT_DIGEST, REPR_DIGEST};

/// The headers of a stored response that a 304 cannot change (RFC 9111 §3.2): those of the
/// content coding and the framing, those of the connection, and those that this cache generates.
static UNCHANGED: [HeaderName; 10] = [
    AGE,
    CACHE_STATUS,
    CONNECTION,
    CONTENT_DIGEST,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    REPR_DIGEST,
    TRANSFER_ENCODING,
    VIA,
];

/// Makes `request` conditional on the validator of the stored response: its entity tag, or else
/// its Last-Modified (RFC 9111 §4.3.1). Without a validator the request stays unconditional.
pub fn add_condition(request: &mut HeaderMap, stored: &HeaderMap) {
    if let Some(tag) = stored.get(ETAG) {
        request.insert(IF_NONE_MATCH, tag.clone());
    } else if let Some(date) = stored.get(LAST_MODIFIED) {
        request.insert(IF_MODIFIED_SINCE, date.clone());
    }
}

/// Returns true if the stored response has a validator: an `ETag` or a Last-Modified (RFC 9110
/// §8.8).
pub fn has_validator(stored: &HeaderMap) -> bool {
    stored.contains_key(ETAG) || stored.contains_key(LAST_MODIFIED)
}

/// Returns true if a 304 with these headers confirms the stored response (RFC 9111 §4.3.4): the
/// stored response has a validator, and that of the 304 does not contradict it.
///
/// The request had one tag, the stored one. If that is weak, a 304 with the same opaque tag
/// confirms it, even if the tag of the 304 is strong: nginx sends `W/"x"` with a coded response,
/// and `"x"` with its 304. This is more lenient than §4.3.4, where a strong tag selects by strong
/// comparison only.
pub fn selects(stored: &HeaderMap, not_modified: &HeaderMap) -> bool {
    let validators = |name: HeaderName| Some((stored.get(&name)?, not_modified.get(&name)));
    if let Some((tag, received)) = validators(ETAG) {
        // Two strong tags with the same opaque tag are the same tag.
        return received.is_none_or(|received| same_tag(tag.as_bytes(), received.as_bytes(), Comparison::Weak));
    }
    validators(LAST_MODIFIED).is_some_and(|(date, received)| received.is_none_or(|received| received == date))
}

/// Returns true if a 200 to a HEAD describes the stored response (RFC 9111 §4.3.5): both have a
/// validator in common, and their headers about the content do not differ.
pub fn agrees(stored: &HeaderMap, head: &HeaderMap) -> bool {
    let both = |name: &HeaderName| stored.get(name).zip(head.get(name));
    let has_validator = [ETAG, LAST_MODIFIED].iter().any(|name| both(name).is_some());
    let compared = [ETAG, LAST_MODIFIED, CONTENT_LENGTH, CONTENT_ENCODING, REPR_DIGEST];
    has_validator && compared.iter().filter_map(both).all(|(stored, head)| stored == head)
}

/// Returns the headers of a stored response, updated with those of a 304 (RFC 9111 §3.2).
///
/// A 304 with a strong tag does not describe a response that is stored with a weak one (see
/// [`selects`]): the stored `ETag` and Vary stay then.
pub fn updated(stored: &HeaderMap, not_modified: &HeaderMap) -> HeaderMap {
    let mut headers = stored.clone();
    let strong = |headers: &HeaderMap| headers.get(ETAG).map(|tag| is_strong(tag.as_bytes()));
    let is_of_uncoded = (strong(stored), strong(not_modified)) == (Some(false), Some(true));
    let stays = |name: &HeaderName| UNCHANGED.contains(name) || is_of_uncoded && [ETAG, VARY].contains(name);
    let changes = || not_modified.iter().filter(|(name, _)| !stays(name));
    for (name, _) in changes() {
        headers.remove(name);
    }
    for (name, value) in changes() {
        headers.append(name.clone(), value.clone());
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::tests::headers;

    #[test]
    fn a_validation_uses_the_strongest_validator() {
        let condition = |stored: &[(&str, &str)]| {
            let mut request = HeaderMap::new();
            add_condition(&mut request, &headers(stored));
            request
        };
        let (tag, date) = (("etag", "W/\"a\""), ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"));
        assert_eq!(condition(&[tag, date]), headers(&[("if-none-match", "W/\"a\"")]));
        assert_eq!(condition(&[date]), headers(&[("if-modified-since", date.1)]));
        assert_eq!(condition(&[]), HeaderMap::new());
    }

    #[test]
    fn a_304_confirms_a_stored_response_unless_its_validator_differs() {
        let (tag, date) = (("etag", "\"a\""), ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"));
        for (stored, not_modified, confirms) in [
            (&[tag][..], &[][..], true),
            (&[tag], &[tag], true),
            (&[tag], &[("etag", "W/\"a\"")], true),
            (&[tag], &[("etag", "\"b\"")], false),
            (&[("etag", "W/\"a\"")], &[("etag", "W/\"a\"")], true),
            // The 304 of nginx for a response that it compressed.
            (&[("etag", "W/\"a\"")], &[tag], true),
            (&[("etag", "W/\"a\"")], &[("etag", "\"b\"")], false),
            (&[("etag", "W/\"a\"")], &[("etag", "W/\"b\"")], false),
            (&[("etag", "W/\"a\"")], &[], true),
            (&[tag], &[("etag", "W/\"b\"")], false),
            (&[date], &[], true),
            (&[date], &[("last-modified", "Mon, 07 Nov 1994 08:49:37 GMT")], false),
            (&[], &[], false),
        ] {
            assert_eq!(selects(&headers(stored), &headers(not_modified)), confirms, "{stored:?} {not_modified:?}");
        }
    }

    #[test]
    fn a_head_describes_a_stored_response_unless_their_headers_differ() {
        let stored = headers(&[("etag", "\"a\""), ("content-length", "5")]);
        for (head, describes) in [
            (&[][..], false),
            (&[("etag", "\"a\""), ("content-length", "5"), ("x-new", "1")], true),
            (&[("etag", "\"a\"")], true),
            (&[("etag", "\"b\"")], false),
            (&[("etag", "\"a\""), ("content-length", "6")], false),
            (&[("content-length", "5")], false),
            (&[("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")], false),
        ] {
            assert_eq!(agrees(&stored, &headers(head)), describes, "{head:?}");
        }
    }

    #[test]
    fn a_304_with_a_strong_tag_does_not_replace_a_weak_tag_and_vary() {
        let stored = [("etag", "W/\"a\""), ("content-encoding", "gzip"), ("vary", "accept-encoding"), ("x-a", "1")];
        let not_modified = headers(&[("etag", "\"a\""), ("vary", "origin"), ("content-encoding", "br"), ("x-a", "2")]);
        let mut expected = headers(&stored);
        expected.insert("x-a", "2".parse().unwrap());
        assert_eq!(updated(&headers(&stored), &not_modified), expected);
        // A weak tag replaces the stored one.
        let weak = headers(&[("etag", "W/\"a\"")]);
        assert_eq!(updated(&headers(&[("etag", "\"a\"")]), &weak), weak);
    }

    #[test]
    fn a_304_updates_headers_but_not_those_of_the_content() {
        let stored =
            headers(&[("cache-control", "max-age=1"), ("content-length", "5"), ("link", "<a>"), ("x-kept", "1")]);
        let not_modified = headers(&[
            ("cache-control", "max-age=60"),
            ("content-length", "0"),
            ("content-type", "x/y"),
            ("age", "3"),
            ("link", "<b>"),
            ("link", "<c>"),
        ]);
        let expected = headers(&[
            ("content-length", "5"),
            ("x-kept", "1"),
            ("cache-control", "max-age=60"),
            ("content-type", "x/y"),
            ("link", "<b>"),
            ("link", "<c>"),
        ]);
        assert_eq!(updated(&stored, &not_modified), expected);
    }
}
