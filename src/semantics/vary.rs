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
    Uncacheable,
}

/// What the response with these fields was selected by. A content coding that
/// no Vary explains was selected by Accept-Encoding all the same.
pub fn varies(response: &HeaderMap) -> Varies {
    let mut fields = Vec::new();
    for member in members(response, &VARY) {
        match HeaderName::from_bytes(member) {
            _ if member == b"*" => return Varies::Uncacheable,
            Ok(name) if is_of_one_client(&name) => return Varies::Uncacheable,
            Ok(name) => fields.push(name),
            Err(_) => return Varies::Uncacheable,
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
        let lines = request.get_all(ACCEPT_ENCODING).iter();
        lines.fold(NamedCodings::default(), |named, line| named.and(line.as_bytes())).accepted()
    }

    /// Returns the value of Accept-Encoding that tells an origin of these codings.
    pub fn text(self) -> &'static str {
        TOLD[usize::from(self.0)]
    }
}

/// The content codings that the lines of Accept-Encoding name, read line by line: a bit for
/// each of `CODINGS`. Where members contradict each other, the lowest weight counts.
#[derive(Debug, Clone, Copy, Default)]
pub struct NamedCodings {
    named: u8,
    refused: u8,
}

impl NamedCodings {
    /// Returns these codings and those of another line of Accept-Encoding.
    #[must_use]
    pub fn and(self, line: &[u8]) -> Self {
        let members = str::from_utf8(line).unwrap_or_default().split(',');
        members.fold(self, |Self { named, refused }, member| {
            let mut parts = member.split(';');
            let coding = parts.next().unwrap_or_default().trim();
            let place = CODINGS.iter().position(|known| known.eq_ignore_ascii_case(coding));
            let bit = place.map_or(0, |place| 1 << place);
            Self { named: named | bit, refused: if parts.any(refuses) { refused | bit } else { refused } }
        })
    }

    /// Returns those that are acceptable.
    pub fn accepted(self) -> Accepted {
        Accepted(self.named & !self.refused)
    }
}

/// Returns true if a parameter is a weight of zero, or one that is malformed (RFC 9110
/// §12.4.2): the client may have meant zero.
fn refuses(parameter: &str) -> bool {
    let (name, weight) = parameter.split_once('=').unwrap_or((parameter, ""));
    if !name.trim().eq_ignore_ascii_case("q") {
        return false;
    }
    let (whole, fraction) = weight.trim().split_once('.').unwrap_or((weight.trim(), ""));
    let is_digit = |byte: u8| byte.is_ascii_digit() && (whole == "0" || byte == b'0');
    let is_weight = matches!(whole, "0" | "1") && fraction.len() <= 3 && fraction.bytes().all(is_digit);
    !is_weight || whole == "0" && fraction.bytes().all(|digit| digit == b'0')
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
            (&[("vary", "cookie, *")], Varies::Uncacheable),
            (&[("vary", "not a name")], Varies::Uncacheable),
            (&[("vary", "accept, X-Forwarded-For")], Varies::Uncacheable),
            (&[("vary", "x-forwarded-host")], Varies::Uncacheable),
            (&[("vary", "Forwarded")], Varies::Uncacheable),
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
            (&[("accept-encoding", "gzip, gzip;q=0")], &[]),
            (&[("accept-encoding", "gzip;q=0"), ("accept-encoding", "br, gzip")], &[("accept-encoding", "br")]),
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

    #[test]
    fn a_weight_of_zero_or_a_malformed_one_makes_no_coding_acceptable() {
        let accepts = |member: &str| NamedCodings::default().and(member.as_bytes()).accepted().text() == "gzip";
        for member in [
            "gzip",
            " GZIP ",
            "gzip;q=1",
            "gzip;q=1.",
            "gzip;q=1.000",
            "gzip ; Q=0.001",
            "gzip;q=0.5",
            "gzip; q=0.123",
            "gzip;level=0",
            "gzip;",
            "gzip;q=0.5, gzip;q=1",
            "gzip, br;q=x",
        ] {
            assert!(accepts(member), "{member}");
        }
        for member in [
            "gzip;q=0",
            "gzip;q=0.",
            "gzip;q=0.000",
            "gzip;q=x",
            "gzip;q=",
            "gzip;q",
            "gzip;q=\"0\"",
            "gzip;q=\"1\"",
            "gzip;q=-1",
            "gzip;q=+1",
            "gzip;q=2",
            "gzip;q=1.001",
            "gzip;q=.5",
            "gzip;q=0.1234",
            "gzip;q=1e0",
            "gzip;q=NaN",
            "gzip;q=inf",
            "gzip;q=0,5",
            "gzip;q=1;q=0",
            "gzip;q=0;q=1",
            "gzip, gzip;q=0",
            "gzip;q=0, gzip",
            "gzip;q=1, gzip;q=x",
            "gzip;q =0",
        ] {
            assert!(!accepts(member), "{member}");
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
