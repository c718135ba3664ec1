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
        if *fields == [ACCEPT_ENCODING] {
            return Self::of_codings(Accepted::of(request));
        }
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

    /// The variant that a request selects which accepts these codings, where responses
    /// vary by Accept-Encoding alone: the commonest case, which takes no hashing.
    pub fn of_codings(accepted: Accepted) -> Self {
        // Spread over all bits, for a table takes some of them: the golden ratio's digits.
        const SPREAD: u128 = 0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835;
        Self((u128::from(accepted.0) + 1).wrapping_mul(SPREAD).to_be_bytes())
    }

    /// All of it.
    pub fn bits(self) -> u128 {
        u128::from_be_bytes(self.0)
    }
}

fn normal(name: &HeaderName, request: &HeaderMap) -> String {
    if *name == ACCEPT_ENCODING {
        return Accepted::of(request).text().to_owned();
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

/// The content codings that a request accepts, of those that are worth a variant
/// (RFC 9110 §12.5.3): a bit for each of `CODINGS`. Weights other than zero are left
/// out: few clients state one, and each would be a variant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Accepted(u8);

/// The content codings that are worth a variant, in the order in which they are
/// told to the origin.
const CODINGS: [&str; 3] = ["br", "gzip", "zstd"];

/// What an origin is told, by the bits of [`Accepted`].
const TOLD: [&str; 1 << CODINGS.len()] =
    ["identity", "br", "gzip", "br, gzip", "zstd", "br, zstd", "gzip, zstd", "br, gzip, zstd"];

impl Accepted {
    /// Returns the codings that the request with these headers accepts.
    pub fn of(request: &HeaderMap) -> Self {
        request.get_all(ACCEPT_ENCODING).iter().fold(Self::default(), |accepted, line| accepted.and(line.as_bytes()))
    }

    /// Returns these codings and those of another line of Accept-Encoding.
    pub fn and(self, line: &[u8]) -> Self {
        let members = str::from_utf8(line).unwrap_or_default().split(',');
        members.fold(self, |Self(bits), member| {
            let coding = member.split(';').next().unwrap_or_default().trim();
            let place = CODINGS.iter().position(|known| known.eq_ignore_ascii_case(coding));
            Self(place.filter(|_| !is_refused(member)).map_or(bits, |place| bits | 1 << place))
        })
    }

    /// Returns the value of Accept-Encoding that tells an origin of these codings.
    pub fn text(self) -> &'static str {
        TOLD[usize::from(self.0)]
    }
}

/// `;q=0`, in any of its spellings.
fn is_refused(member: &str) -> bool {
    let weight =
        member.split(';').skip(1).find_map(|parameter| parameter.trim().strip_prefix(['q', 'Q'])?.strip_prefix('='));
    weight.is_some_and(|weight| weight.trim().parse().is_ok_and(|weight: f32| weight <= 0.0))
}

/// The Accept-Encoding that tells an origin what a [`Variant`] tells apart.
pub fn accept_encoding(request: &HeaderMap) -> HeaderValue {
    HeaderValue::from_static(Accepted::of(request).text())
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
