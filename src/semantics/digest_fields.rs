//! Digest fields (RFC 9530).

use data_encoding::HEXLOWER;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use sfv::{BareItem, DictSerializer, Dictionary, ListEntry, Parser};

use super::combined;
use super::digest::{Algorithm, Encoding, Expected};

/// The Repr-Digest header (RFC 9530 §3): digests of the whole representation, even if the
/// message contains a part.
pub const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
/// The Content-Digest header (RFC 9530 §2): digests of the content of the message.
pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
/// The Want-Repr-Digest header (RFC 9530 §4): the algorithms that the client prefers.
pub const WANT_REPR_DIGEST: HeaderName = HeaderName::from_static("want-repr-digest");

/// The active algorithms of RFC 9530 §7.2, by their registered keys.
const KNOWN: [(&str, Algorithm); 2] = [("sha-256", Algorithm::Sha256), ("sha-512", Algorithm::Sha512)];

/// Returns the digests that a response to GET states for its content (RFC 9530 §2, §3).
///
/// Malformed headers and other algorithms than SHA-256 and SHA-512 are ignored.
pub fn expected(status: StatusCode, headers: &HeaderMap) -> Vec<Expected> {
    let mut expected = Vec::new();
    for header in [REPR_DIGEST, CONTENT_DIGEST] {
        // Only Content-Digest covers the content of a 206. A 304 has no content.
        let applies = status == StatusCode::OK || status == StatusCode::PARTIAL_CONTENT && header == CONTENT_DIGEST;
        if !applies {
            continue;
        }
        let Some(dictionary) = dictionary(headers, &header) else {
            continue;
        };
        for (name, algorithm) in KNOWN {
            if let Some(ListEntry::Item(item)) = dictionary.get(name)
                && let BareItem::ByteSequence(digest) = &item.bare_item
                && digest.len() == algorithm.bytes()
            {
                expected.push(Expected { algorithm, encoding: Encoding::Hex, text: HEXLOWER.encode(digest).into() });
            }
        }
    }
    expected.dedup();
    expected
}

/// Returns a Repr-Digest for the digest of a representation (RFC 9530 §3); `None` for an
/// algorithm other than SHA-256 and SHA-512.
pub fn repr_digest(algorithm: Algorithm, digest: &[u8]) -> Option<HeaderValue> {
    let (name, _) = KNOWN.into_iter().find(|(_, known)| *known == algorithm)?;
    let mut field = DictSerializer::new();
    field.bare_item(sfv::KeyRef::from_str(name).ok()?, digest);
    HeaderValue::try_from(field.finish()?).ok()
}

/// Returns true if the Repr-Digest `available` is sent in the response to a request (RFC 9530
/// §4).
///
/// Without a well-formed Want-Repr-Digest it is sent. Otherwise it is sent if the request gives
/// one of its algorithms a weight above zero.
pub fn wants(request: &HeaderMap, available: &HeaderValue) -> bool {
    if !request.contains_key(WANT_REPR_DIGEST) {
        return true;
    }
    let Some(wanted) = dictionary(request, &WANT_REPR_DIGEST) else {
        return true;
    };
    let Ok(available) = Parser::new(available.as_bytes()).parse::<Dictionary>() else {
        return true;
    };
    KNOWN.into_iter().filter(|(name, _)| available.contains_key(*name)).any(|(name, _)| {
        let weight = match wanted.get(name) {
            Some(ListEntry::Item(item)) => item.bare_item.as_integer().map(i64::from),
            _ => None,
        };
        weight.is_some_and(|weight| weight > 0)
    })
}

/// Parses a header as a dictionary (RFC 9651 §3.2); `None` if it is absent or malformed.
fn dictionary(headers: &HeaderMap, name: &HeaderName) -> Option<Dictionary> {
    Parser::new(combined(headers.get_all(name))?.as_bytes()).parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::semantics::tests::headers;

    /// The digest of `{"hello": "world"}` and a line feed (RFC 9530 appendix B.1).
    const HELLO: &str = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:";
    const HELLO_HEX: &str = "44aff4ab2d7c3250525675a08f0cfa9591168cffe51791c5f5bbc417c15a6c38";

    #[test]
    fn well_formed_digests_of_a_response_are_expected() {
        let read = |status: u16, lines: &[(&str, &str)]| {
            let expected = expected(StatusCode::from_u16(status).unwrap(), &headers(lines));
            expected.into_iter().map(|expected| expected.text.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(read(200, &[("repr-digest", HELLO)]), [HELLO_HEX]);
        assert_eq!(read(200, &[("content-digest", HELLO)]), [HELLO_HEX]);
        assert_eq!(read(200, &[("repr-digest", HELLO), ("content-digest", HELLO)]), [HELLO_HEX]);
        assert_eq!(read(206, &[("repr-digest", HELLO)]).len(), 0);
        assert_eq!(read(206, &[("content-digest", HELLO)]), [HELLO_HEX]);
        assert_eq!(read(304, &[("content-digest", HELLO)]).len(), 0);
        let both = format!("md5=:AAAA:, {HELLO};x=1");
        assert_eq!(read(200, &[("repr-digest", &both)]), [HELLO_HEX]);
        for nothing in
            ["", "sha-256", "sha-256=1", "sha-256=:AAAA:", "SHA-256=:AAAA:", "sha-256=\"x\"", "&&&", "md5=:AAAA:"]
        {
            assert_eq!(read(200, &[("repr-digest", nothing)]).len(), 0, "{nothing}");
        }
    }

    #[test]
    fn want_repr_digest_selects_algorithms_by_weight() {
        let field = HeaderValue::from_static(HELLO);
        for (wish, wanted) in [
            ("sha-256=1", true),
            ("sha-512=3, sha-256=10, unixsum=0", true),
            ("sha-256=0", false),
            ("sha-512=3", false),
            ("&&&", true),
        ] {
            assert_eq!(wants(&headers(&[("want-repr-digest", wish)]), &field), wanted, "{wish}");
        }
        assert!(wants(&HeaderMap::new(), &field));
        let both = HeaderValue::try_from(format!("sha-512=:AAAA:, {HELLO}")).unwrap();
        assert!(wants(&headers(&[("want-repr-digest", "sha-256=1")]), &both));
    }

    proptest! {
        #[test]
        fn a_written_repr_digest_is_parsed_again(digest in any::<[u8; 32]>()) {
            let field = repr_digest(Algorithm::Sha256, &digest).unwrap();
            let mut headers = HeaderMap::new();
            headers.insert(REPR_DIGEST, field);
            let read = expected(StatusCode::OK, &headers);
            prop_assert!(read.len() == 1 && read[0].is_met_by(&digest));
            for algorithm in Algorithm::ALL.iter().filter(|algorithm| !KNOWN.iter().any(|(_, known)| known == *algorithm)) {
                prop_assert!(repr_digest(*algorithm, &digest[..algorithm.bytes()]).is_none());
            }
        }

        #[test]
        fn any_header_value_is_parsed_without_a_panic(text in "[ -~]{0,60}") {
            let headers = headers(&[("repr-digest", &text), ("want-repr-digest", &text)]);
            let _ = (expected(StatusCode::OK, &headers), wants(&headers, &HeaderValue::from_static(HELLO)));
        }
    }
}
