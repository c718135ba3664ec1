//! Validation of a stored response: RFC 9111 §3.2, §4.3.

use http::header::{
    AGE, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    LAST_MODIFIED, TRANSFER_ENCODING, VARY, VIA,
};
use http::{HeaderMap, HeaderName};

use super::cache_status::CACHE_STATUS;
use super::conditional::{Comparison, is_strong, same_tag};
use super::digest_fields::{CONTENT_DIGEST, REPR_DIGEST};

/// What a 304 cannot change of a stored response (§3.2): how its content is coded and
/// framed, what belongs to a connection, and what this cache makes anew.
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

/// Asks whether what is stored is still the same (§4.3.1): by its entity tag,
/// or else by its date. Without either, the request asks for all of it.
pub fn add_condition(request: &mut HeaderMap, stored: &HeaderMap) {
    if let Some(tag) = stored.get(ETAG) {
        request.insert(IF_NONE_MATCH, tag.clone());
    } else if let Some(date) = stored.get(LAST_MODIFIED) {
        request.insert(IF_MODIFIED_SINCE, date.clone());
    }
}

/// Whether there is something to ask by.
pub fn has_validator(stored: &HeaderMap) -> bool {
    stored.contains_key(ETAG) || stored.contains_key(LAST_MODIFIED)
}

/// Returns true if a 304 with the fields of `answer` confirms what is stored (§4.3.4): there
/// was something to ask by, and the 304 names no other representation.
///
/// The request carried one tag, the stored one. Where that is weak, a 304 with the same
/// opaque tag confirms it even if the 304's tag is strong: nginx sends `W/"x"` with a coded
/// response and `"x"` with its 304. §4.3.4 would have a strong tag select by strong
/// comparison alone.
pub fn selects(stored: &HeaderMap, answer: &HeaderMap) -> bool {
    let named = |name: HeaderName| Some((stored.get(&name)?, answer.get(&name)));
    if let Some((tag, answered)) = named(ETAG) {
        // Two strong tags of one opaque tag are the same tag.
        return answered.is_none_or(|answered| same_tag(tag.as_bytes(), answered.as_bytes(), Comparison::Weak));
    }
    named(LAST_MODIFIED).is_some_and(|(date, answered)| answered.is_none_or(|answered| answered == date))
}

/// Whether a 200 to a HEAD speaks of what is stored (§4.3.5): it has one of its
/// validators, and contradicts nothing that tells its content.
pub fn agrees(stored: &HeaderMap, answer: &HeaderMap) -> bool {
    let both = |name: &HeaderName| stored.get(name).zip(answer.get(name));
    let known = [ETAG, LAST_MODIFIED].iter().any(|name| both(name).is_some());
    let told = [ETAG, LAST_MODIFIED, CONTENT_LENGTH, CONTENT_ENCODING, REPR_DIGEST];
    known && told.iter().filter_map(both).all(|(stored, answer)| stored == answer)
}

/// Returns the stored fields, with those of a 304 in the place of their like (§3.2). A 304
/// whose tag is strong does not describe what is stored under a weak one: `ETag` and Vary stay.
pub fn updated(stored: &HeaderMap, answer: &HeaderMap) -> HeaderMap {
    let mut fields = stored.clone();
    let strong = |fields: &HeaderMap| fields.get(ETAG).map(|tag| is_strong(tag.as_bytes()));
    let is_of_uncoded = (strong(stored), strong(answer)) == (Some(false), Some(true));
    let stays = |name: &HeaderName| UNCHANGED.contains(name) || is_of_uncoded && [ETAG, VARY].contains(name);
    let changes = || answer.iter().filter(|(name, _)| !stays(name));
    for (name, _) in changes() {
        fields.remove(name);
    }
    for (name, value) in changes() {
        fields.append(name.clone(), value.clone());
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::tests::headers;

    #[test]
    fn the_condition_is_the_best_validator() {
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
    fn a_304_speaks_of_what_it_names() {
        let (tag, date) = (("etag", "\"a\""), ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"));
        for (stored, answer, speaks) in [
            (&[tag][..], &[][..], true),
            (&[tag], &[tag], true),
            (&[tag], &[("etag", "W/\"a\"")], true),
            (&[tag], &[("etag", "\"b\"")], false),
            (&[("etag", "W/\"a\"")], &[("etag", "W/\"a\"")], true),
            // As nginx answers for what it compresses.
            (&[("etag", "W/\"a\"")], &[tag], true),
            (&[("etag", "W/\"a\"")], &[("etag", "\"b\"")], false),
            (&[("etag", "W/\"a\"")], &[("etag", "W/\"b\"")], false),
            (&[("etag", "W/\"a\"")], &[], true),
            (&[tag], &[("etag", "W/\"b\"")], false),
            (&[date], &[], true),
            (&[date], &[("last-modified", "Mon, 07 Nov 1994 08:49:37 GMT")], false),
            (&[], &[], false),
        ] {
            assert_eq!(selects(&headers(stored), &headers(answer)), speaks, "{stored:?} {answer:?}");
        }
    }

    #[test]
    fn a_head_speaks_of_what_it_does_not_contradict() {
        let stored = headers(&[("etag", "\"a\""), ("content-length", "5")]);
        for (answer, speaks) in [
            (&[][..], false),
            (&[("etag", "\"a\""), ("content-length", "5"), ("x-new", "1")], true),
            (&[("etag", "\"a\"")], true),
            (&[("etag", "\"b\"")], false),
            (&[("etag", "\"a\""), ("content-length", "6")], false),
            (&[("content-length", "5")], false),
            (&[("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")], false),
        ] {
            assert_eq!(agrees(&stored, &headers(answer)), speaks, "{answer:?}");
        }
    }

    #[test]
    fn a_304_with_a_strong_tag_leaves_a_weak_one_and_what_it_is_the_tag_of() {
        let stored = [("etag", "W/\"a\""), ("content-encoding", "gzip"), ("vary", "accept-encoding"), ("x-a", "1")];
        let answer = headers(&[("etag", "\"a\""), ("vary", "origin"), ("content-encoding", "br"), ("x-a", "2")]);
        let mut expected = headers(&stored);
        expected.insert("x-a", "2".parse().unwrap());
        assert_eq!(updated(&headers(&stored), &answer), expected);
        // A weak tag is taken over as it is.
        let weak = headers(&[("etag", "W/\"a\"")]);
        assert_eq!(updated(&headers(&[("etag", "\"a\"")]), &weak), weak);
    }

    #[test]
    fn a_304_changes_fields_but_not_the_content() {
        let stored =
            headers(&[("cache-control", "max-age=1"), ("content-length", "5"), ("link", "<a>"), ("x-kept", "1")]);
        let answer = headers(&[
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
        assert_eq!(updated(&stored, &answer), expected);
    }
}
