//! Digest fields: RFC 9530.

use data_encoding::HEXLOWER;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use sfv::{BareItem, DictSerializer, Dictionary, ListEntry, Parser};

use super::combined;
use crate::semantics::digest::{Algorithm, Encoding, Expected};

/// RFC 9530 §3: of the representation, whatever part of it a message holds.
pub const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
/// RFC 9530 §2: of the content of this message.
pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
/// RFC 9530 §4
pub const WANT_REPR_DIGEST: HeaderName = HeaderName::from_static("want-repr-digest");

/// The functions of RFC 9530 §7.2 that are not deprecated, as it calls them.
const KNOWN: [(&str, Algorithm); 2] = [("sha-256", Algorithm::Sha256), ("sha-512", Algorithm::Sha512)];

/// What a response to GET says of its own content. A field that is not well
/// formed, or of another function, says nothing.
pub fn expected(status: StatusCode, headers: &HeaderMap) -> Vec<Expected> {
    let mut expected = Vec::new();
    for field in [REPR_DIGEST, CONTENT_DIGEST] {
        // A part has a digest of its own; a 304 has no content at all.
        let told = status == StatusCode::OK || status == StatusCode::PARTIAL_CONTENT && field == CONTENT_DIGEST;
        if !told {
            continue;
        }
        let Some(dictionary) = dictionary(headers, &field) else {
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

/// Repr-Digest for a digest of the representation; `None` for a function that
/// the field has no name for.
pub fn repr_digest(algorithm: Algorithm, digest: &[u8]) -> Option<HeaderValue> {
    let (name, _) = KNOWN.into_iter().find(|(_, known)| *known == algorithm)?;
    let mut field = DictSerializer::new();
    field.bare_item(sfv::KeyRef::from_str(name).ok()?, digest);
    HeaderValue::try_from(field.finish()?).ok()
}

/// Whether a request wants a Repr-Digest (§4): if it does not say, yes; or else
/// if it gives the function of `field` a weight. (It asks for nothing that is
/// not there.)
pub fn wants(request: &HeaderMap, field: &HeaderValue) -> bool {
    if !request.contains_key(WANT_REPR_DIGEST) {
        return true;
    }
    let Some(wanted) = dictionary(request, &WANT_REPR_DIGEST) else {
        return true;
    };
    let Ok(told) = Parser::new(field.as_bytes()).parse::<Dictionary>() else {
        return true;
    };
    KNOWN.into_iter().filter(|(name, _)| told.contains_key(*name)).any(|(name, _)| {
        let weight = match wanted.get(name) {
            Some(ListEntry::Item(item)) => item.bare_item.as_integer().map(i64::from),
            _ => None,
        };
        weight.is_some_and(|weight| weight > 0)
    })
}

fn dictionary(headers: &HeaderMap, field: &HeaderName) -> Option<Dictionary> {
    Parser::new(combined(headers.get_all(field))?.as_bytes()).parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::semantics::tests::headers;

    /// RFC 9530 appendix B.1: `{"hello": "world"}` and a line feed.
    const HELLO: &str = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:";
    const HELLO_HEX: &str = "44aff4ab2d7c3250525675a08f0cfa9591168cffe51791c5f5bbc417c15a6c38";

    #[test]
    fn what_a_response_says_of_its_content() {
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
    fn a_wish_for_a_digest() {
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
        fn what_is_written_is_read(digest in any::<[u8; 32]>()) {
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
        fn any_field_parses(text in "[ -~]{0,60}") {
            let headers = headers(&[("repr-digest", &text), ("want-repr-digest", &text)]);
            let _ = (expected(StatusCode::OK, &headers), wants(&headers, &HeaderValue::from_static(HELLO)));
        }
    }
}
