//! Variants of an asset, selected by request headers (RFC 9111 §4.1, RFC 9110 §12.5.5).

use http::header::{ACCEPT_ENCODING, ACCEPT_LANGUAGE, CONTENT_ENCODING, COOKIE, VARY};
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};

use super::forwarded::{FORWARDED_PROTO, is_of_one_client};
use super::members;

/// The request headers by which a response was selected, besides its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Varies {
    /// No headers.
    Not,
    /// These headers, sorted by name.
    By(Vec<HeaderName>),
    /// More than a key contains: `*`, or a header that describes one client.
    Uncacheable,
}

/// Returns the request headers by which a response was selected, according to its Vary (RFC 9110
/// §12.5.5). A response in a content coding counts as selected by Accept-Encoding, even if Vary
/// does not name it.
pub fn varies(response: &HeaderMap) -> Varies {
    let mut names = Vec::new();
    for member in members(response, &VARY) {
        match HeaderName::from_bytes(member) {
            _ if member == b"*" => return Varies::Uncacheable,
            Ok(name) if is_of_one_client(&name) => return Varies::Uncacheable,
            // The cache key contains the scheme.
            Ok(name) if name == FORWARDED_PROTO => {}
            Ok(name) => names.push(name),
            Err(_) => return Varies::Uncacheable,
        }
    }
    if response.contains_key(CONTENT_ENCODING) {
        names.push(ACCEPT_ENCODING);
    }
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    if names.is_empty() { Varies::Not } else { Varies::By(names) }
}

/// Returns true if a response has a content coding other than `identity` (RFC 9110 §8.4).
pub fn is_coded(response: &HeaderMap) -> bool {
    members(response, &CONTENT_ENCODING).any(|coding| !coding.eq_ignore_ascii_case(b"identity"))
}

/// The identifier of a variant among those of an asset: a digest of the headers that select it.
///
/// Clients choose the values of these headers, which may be long. The digest is the first half of
/// a SHA-256, so that a client cannot find a request with the same identifier as another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant([u8; 16]);

impl Variant {
    /// Returns the variant that `request` selects if responses vary by these headers. Equivalent
    /// values select the same variant (RFC 9111 §4.1).
    pub fn of(names: &[HeaderName], request: &HeaderMap) -> Self {
        if *names == [ACCEPT_ENCODING] {
            return Self::of_codings(Accepted::of(request));
        }
        let mut hashing = Sha256::new();
        for name in names {
            hashing.update(name);
            hashing.update(":");
            hashing.update(normalized(name, request));
            hashing.update("\n");
        }
        let mut half = [0; 16];
        half.copy_from_slice(&hashing.finalize()[..16]);
        Self(half)
    }

    /// Returns the variant for a request that accepts these codings, if responses vary by
    /// Accept-Encoding alone. This is the most common case, and is not hashed.
    pub fn of_codings(accepted: Accepted) -> Self {
        // The digits of the golden ratio spread the value over all bits, because a hash table
        // uses some of them.
        const SPREAD: u128 = 0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835;
        Self((u128::from(accepted.0) + 1).wrapping_mul(SPREAD).to_be_bytes())
    }

    /// Returns the whole identifier.
    pub fn bits(self) -> u128 {
        u128::from_be_bytes(self.0)
    }
}

/// Returns the value of a header, normalized so that equivalent values are equal (RFC 9111 §4.1).
fn normalized(name: &HeaderName, request: &HeaderMap) -> String {
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

/// The content codings that a request accepts, as a bit for each of `br`, `gzip` and `zstd` (RFC
/// 9110 §12.5.3).
///
/// Other codings do not select a variant. Neither do weights other than zero: few clients send
/// them, and each would be another variant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Accepted(u8);

/// The content codings that select variants, in the order of their bits and of the
/// Accept-Encoding sent to the origin.
const CODINGS: [&str; 3] = ["br", "gzip", "zstd"];

/// The Accept-Encoding sent to the origin, by the bits of [`Accepted`].
const ACCEPT_ENCODING_VALUES: [&str; 1 << CODINGS.len()] =
    ["identity", "br", "gzip", "br, gzip", "zstd", "br, zstd", "gzip, zstd", "br, gzip, zstd"];

impl Accepted {
    /// Returns the codings that a request accepts.
    pub fn of(request: &HeaderMap) -> Self {
        let lines = request.get_all(ACCEPT_ENCODING).iter();
        lines.fold(NamedCodings::default(), |named, line| named.and(line.as_bytes())).accepted()
    }

    /// Returns the value of Accept-Encoding with these codings, or `identity` without any.
    pub fn text(self) -> &'static str {
        ACCEPT_ENCODING_VALUES[usize::from(self.0)]
    }
}

/// The content codings that lines of Accept-Encoding name, as a bit for each of `br`, `gzip` and
/// `zstd`. The lines are added one by one. If members contradict each other, the lowest weight
/// counts.
#[derive(Debug, Clone, Copy, Default)]
pub struct NamedCodings {
    named: u8,
    refused: u8,
}

impl NamedCodings {
    /// Adds the codings of another line of Accept-Encoding.
    #[must_use]
    pub fn and(self, line: &[u8]) -> Self {
        let members = str::from_utf8(line).unwrap_or_default().split(',');
        members.fold(self, |Self { named, refused }, member| {
            let mut parts = member.split(';');
            let coding = parts.next().unwrap_or_default().trim();
            let index = CODINGS.iter().position(|known| known.eq_ignore_ascii_case(coding));
            let bit = index.map_or(0, |index| 1 << index);
            Self { named: named | bit, refused: if parts.any(is_zero_weight) { refused | bit } else { refused } }
        })
    }

    /// Returns the named codings that are acceptable.
    pub fn accepted(self) -> Accepted {
        Accepted(self.named & !self.refused)
    }
}

/// Returns true if a parameter is a weight of zero, or a malformed weight, which may have been
/// meant as zero (RFC 9110 §12.4.2).
fn is_zero_weight(parameter: &str) -> bool {
    let (name, weight) = parameter.split_once('=').unwrap_or((parameter, ""));
    if !name.trim().eq_ignore_ascii_case("q") {
        return false;
    }
    let (whole, fraction) = weight.trim().split_once('.').unwrap_or((weight.trim(), ""));
    let is_digit = |byte: u8| byte.is_ascii_digit() && (whole == "0" || byte == b'0');
    let is_weight = matches!(whole, "0" | "1") && fraction.len() <= 3 && fraction.bytes().all(is_digit);
    !is_weight || whole == "0" && fraction.bytes().all(|digit| digit == b'0')
}

/// Returns the normalized Accept-Encoding of a request for the origin. It distinguishes the same
/// codings as [`Variant`].
pub fn accept_encoding(request: &HeaderMap) -> HeaderValue {
    HeaderValue::from_static(Accepted::of(request).text())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::semantics::tests::headers;

    #[test]
    fn vary_and_content_coding_determine_the_selecting_headers() {
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
            (&[("vary", "x-forwarded-proto")], Varies::Not),
            (&[("vary", "Origin, x-forwarded-proto")], by(&["origin"])),
            (&[("content-encoding", "gzip")], by(&["accept-encoding"])),
            (&[("content-encoding", "gzip"), ("vary", "Accept-Encoding")], by(&["accept-encoding"])),
        ] {
            assert_eq!(varies(&headers(lines)), expected, "{lines:?}");
        }
    }

    #[test]
    fn equivalent_requests_select_the_same_variant() {
        let names: Vec<HeaderName> = vec![ACCEPT_ENCODING, ACCEPT_LANGUAGE, "x-a".parse().unwrap()];
        let variant = |lines: &[(&str, &str)]| Variant::of(&names, &headers(lines));
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
        fn the_normalized_accept_encoding_selects_the_same_variant(line in "[a-z0-9;=., *]{0,30}") {
            let request = headers(&[("accept-encoding", &line)]);
            let mut normalized = HeaderMap::new();
            normalized.insert(ACCEPT_ENCODING, accept_encoding(&request));
            prop_assert_eq!(Variant::of(&[ACCEPT_ENCODING], &request), Variant::of(&[ACCEPT_ENCODING], &normalized));
        }
    }
}
