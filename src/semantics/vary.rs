//! Variants of a resource: RFC 9111 §4.1, RFC 9110 §12.5.5.

use http::header::{ACCEPT_ENCODING, ACCEPT_LANGUAGE, CONTENT_ENCODING, COOKIE, VARY};
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};

use super::forwarded::is_of_one_client;
use super::members;

/// What a response was selected by, besides its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Varies {
    /// By nothing.
    Not,
    /// By these request fields, in order.
    By(Vec<HeaderName>),
    /// By more than a key holds: `*`, or a field that speaks for one client.
    Unknowably,
}

/// What the response with these fields was selected by. A content coding that
/// no Vary explains was selected by Accept-Encoding all the same.
pub fn varies(response: &HeaderMap) -> Varies {
    let mut fields = Vec::new();
    for member in members(response, &VARY) {
        match HeaderName::from_bytes(member) {
            _ if member == b"*" => return Varies::Unknowably,
            Ok(name) if is_of_one_client(&name) => return Varies::Unknowably,
            Ok(name) => fields.push(name),
            Err(_) => return Varies::Unknowably,
        }
    }
    if response.contains_key(CONTENT_ENCODING) {
        fields.push(ACCEPT_ENCODING);
    }
    fields.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    fields.dedup();
    if fields.is_empty() { Varies::Not } else { Varies::By(fields) }
}

/// Whether a response is in a content coding (RFC 9110 §8.4).
pub fn is_coded(response: &HeaderMap) -> bool {
    members(response, &CONTENT_ENCODING).any(|coding| !coding.eq_ignore_ascii_case(b"identity"))
}

/// What tells a variant from the others under its name: a digest of what the requests
/// that select it say, which may be long, and which clients are free to choose. The
/// first half of a SHA-256, so that nobody finds a request that selects what another's
/// does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant([u8; 16]);

impl Variant {
    /// The variant that `request` selects, where responses vary by `fields`: the same
    /// for requests that mean the same.
    pub fn of(fields: &[HeaderName], request: &HeaderMap) -> Self {
        let mut hashing = Sha256::new();
        for name in fields {
            hashing.update(name);
            hashing.update(":");
            hashing.update(normal(name, request));
            hashing.update("\n");
        }
        let mut half = [0; 16];
        half.copy_from_slice(&hashing.finalize()[..16]);
        Self(half)
    }

    /// All of it.
    pub fn bits(self) -> u128 {
        u128::from_be_bytes(self.0)
    }
}

fn normal(name: &HeaderName, request: &HeaderMap) -> String {
    if *name == ACCEPT_ENCODING {
        return codings(request);
    }
    let lines: Vec<_> =
        request.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes().trim_ascii())).collect();
    if *name == COOKIE {
        return lines.join("; ");
    }
    let text = lines.join(",");
    if *name == ACCEPT_LANGUAGE {
        return text
            .split(',')
            .map(|member| member.replace(' ', "").to_ascii_lowercase())
            .collect::<Vec<_>>()
            .join(",");
    }
    text
}

/// The content codings that are worth a variant, in the order in which they are
/// told to the origin.
const CODINGS: [&str; 3] = ["br", "gzip", "zstd"];

/// What of [`CODINGS`] a request accepts (RFC 9110 §12.5.3); `identity` for
/// none. How much it likes each is left out: few clients say, and each way of
/// saying it would be a variant.
fn codings(request: &HeaderMap) -> String {
    let mut accepted = Vec::new();
    for line in request.get_all(ACCEPT_ENCODING) {
        let members = line.to_str().unwrap_or_default().split(',').filter(|member| !is_refused(member));
        accepted.extend(members.map(|member| member.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()));
    }
    let known: Vec<_> = CODINGS.into_iter().filter(|coding| accepted.iter().any(|member| member == coding)).collect();
    if known.is_empty() { "identity".to_owned() } else { known.join(", ") }
}

/// `;q=0`, in any of its spellings.
fn is_refused(member: &str) -> bool {
    let weight =
        member.split(';').skip(1).find_map(|parameter| parameter.trim().strip_prefix(['q', 'Q'])?.strip_prefix('='));
    weight.is_some_and(|weight| weight.trim().parse().is_ok_and(|weight: f32| weight <= 0.0))
}

/// The Accept-Encoding that tells an origin what a [`Variant`] tells apart.
pub fn accept_encoding(request: &HeaderMap) -> HeaderValue {
    HeaderValue::try_from(codings(request)).unwrap_or_else(|_| HeaderValue::from_static("identity"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::semantics::tests::headers;

    #[test]
    fn what_a_response_varies_by() {
        let by = |names: &[&str]| Varies::By(names.iter().map(|name| name.parse().unwrap()).collect());
        for (lines, expected) in [
            (&[][..], Varies::Not),
            (&[("vary", "")], Varies::Not),
            (&[("vary", "Cookie, ACCEPT-language"), ("vary", "cookie")], by(&["accept-language", "cookie"])),
            (&[("vary", "cookie, *")], Varies::Unknowably),
            (&[("vary", "not a name")], Varies::Unknowably),
            (&[("vary", "accept, X-Forwarded-For")], Varies::Unknowably),
            (&[("vary", "x-forwarded-host")], Varies::Unknowably),
            (&[("vary", "Forwarded")], Varies::Unknowably),
            (&[("vary", "x-forwarded-proto")], by(&["x-forwarded-proto"])),
            (&[("content-encoding", "gzip")], by(&["accept-encoding"])),
            (&[("content-encoding", "gzip"), ("vary", "Accept-Encoding")], by(&["accept-encoding"])),
        ] {
            assert_eq!(varies(&headers(lines)), expected, "{lines:?}");
        }
    }

    #[test]
    fn requests_that_mean_the_same_select_the_same() {
        let fields: Vec<HeaderName> = vec![ACCEPT_ENCODING, ACCEPT_LANGUAGE, "x-a".parse().unwrap()];
        let variant = |lines: &[(&str, &str)]| Variant::of(&fields, &headers(lines));
        for (a, b) in [
            (&[("accept-encoding", "gzip, deflate, br")][..], &[("accept-encoding", "BR;q=0.5,gzip")][..]),
            (&[("accept-encoding", "gzip;q=0, deflate")], &[]),
            (&[("accept-encoding", "gzip; Q=0")], &[]),
            (&[("accept-encoding", "identity")], &[("accept-encoding", "")]),
            (&[("accept-language", "en, DE;q=0.5")], &[("accept-language", "en,de; q=0.5")]),
            (&[("x-a", "1"), ("x-a", "2")], &[("x-a", "1,2")]),
        ] {
            assert_eq!(variant(a), variant(b), "{a:?} {b:?}");
        }
        for (a, b) in [
            (&[("accept-encoding", "gzip")][..], &[("accept-encoding", "br")][..]),
            (&[("accept-language", "en")], &[("accept-language", "de")]),
            (&[("x-a", "a")], &[("x-a", "A")]),
            (&[("x-a", "a")], &[]),
        ] {
            assert_ne!(variant(a), variant(b), "{a:?} {b:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_told_to_the_origin_selects_the_same(line in "[a-z0-9;=., *]{0,30}") {
            let request = headers(&[("accept-encoding", &line)]);
            let mut told = HeaderMap::new();
            told.insert(ACCEPT_ENCODING, accept_encoding(&request));
            prop_assert_eq!(Variant::of(&[ACCEPT_ENCODING], &request), Variant::of(&[ACCEPT_ENCODING], &told));
        }
    }
}
