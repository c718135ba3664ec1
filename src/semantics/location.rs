//! Location and Content-Location (RFC 9110 §10.2.2, §8.7) of an origin, rewritten for clients
//! that know the site by another authority.

use std::borrow::Cow;

use http::header::{CONTENT_LOCATION, Entry, LOCATION};
use http::{HeaderMap, HeaderValue};

use super::authority::without_default_port;
use super::scheme::Scheme;

/// Rewrites references to the origin itself, by its own authority or below its folder for the
/// site, to paths of the site.
///
/// A path is valid for every client, regardless of its scheme and host, so that the response can
/// be stored. `scheme` and `authority` are those of the origin's URL, and `prefix` is the path of
/// that URL without a trailing slash. Other references stay unchanged.
pub fn rewrite(scheme: Scheme, authority: &HeaderValue, prefix: &str, headers: &mut HeaderMap) {
    for name in [LOCATION, CONTENT_LOCATION] {
        let Entry::Occupied(mut lines) = headers.entry(name) else {
            continue;
        };
        for line in lines.iter_mut() {
            let path = path(scheme, authority.as_bytes(), prefix.as_bytes(), line.as_bytes());
            if let Some(Ok(path)) = path.map(HeaderValue::try_from) {
                *line = path;
            }
        }
    }
}

/// Returns the path, query and fragment on the site for a `reference` of the origin; `None` if
/// the reference stays unchanged.
fn path(scheme: Scheme, authority: &[u8], prefix: &[u8], reference: &[u8]) -> Option<Vec<u8>> {
    let rest = without_scheme(scheme, reference).unwrap_or(reference);
    let at_origin = match rest.strip_prefix(b"//") {
        Some(rest) => {
            let end = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
            let (named, path) = rest.split_at(end);
            let bare = |authority| without_default_port(authority, scheme.default_port());
            if !bare(named).eq_ignore_ascii_case(bare(authority)) {
                return None;
            }
            // An empty path is equivalent to `/` (RFC 3986 §6.2.3).
            if path.starts_with(b"/") { path.into() } else { [b"/", path].concat().into() }
        }
        // A path is the same for the site and the origin, unless the site is a folder of the
        // origin.
        None if rest.len() == reference.len() && !prefix.is_empty() => Cow::from(reference),
        None => return None,
    };
    let path = at_origin.strip_prefix(prefix)?;
    // Clients take the text after two leading slashes for a host. Browsers read `\` as `/`.
    let is_path = path.first() == Some(&b'/') && !matches!(path.get(1), Some(b'/' | b'\\'));
    (is_path && path.iter().all(u8::is_ascii_graphic)).then(|| path.to_vec())
}

/// Returns the rest of a reference that begins with `scheme` and a colon.
fn without_scheme(scheme: Scheme, reference: &[u8]) -> Option<&[u8]> {
    let (name, rest) = reference.split_at_checked(scheme.name().len())?;
    rest.strip_prefix(b":").filter(|_| name.eq_ignore_ascii_case(scheme.name().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::tests::headers;

    #[test]
    fn references_to_the_origin_become_paths() {
        for (authority, prefix, reference, expected) in [
            ("10.0.0.9:9000", "", "http://10.0.0.9:9000/a/?b=%2f#c", Some("/a/?b=%2f#c")),
            ("10.0.0.9:9000", "", "HTTP://10.0.0.9:9000/", Some("/")),
            ("10.0.0.9:9000", "", "//10.0.0.9:9000/a", Some("/a")),
            ("10.0.0.9:9000", "", "http://10.0.0.9:9000", Some("/")),
            ("10.0.0.9:9000", "", "http://10.0.0.9:9000?a", Some("/?a")),
            ("10.0.0.9:9000", "", "//10.0.0.9:9000#a/b", Some("/#a/b")),
            ("10.0.0.9:9000", "", "http://10.0.0.9:9000:80/a", None),
            ("10.0.0.9:9000", "", "http://10.0.0.9:9000:80", None),
            ("10.0.0.9:9000", "", "http://", None),
            ("10.0.0.9:9000", "", "https://10.0.0.9:9000/a", None),
            ("10.0.0.9:9000", "", "http://10.0.0.9/a", None),
            ("10.0.0.9:9000", "", "http://10.0.0.9:9000@evil/a", None),
            ("10.0.0.9:9000", "", "http://10.0.0.9:9000.evil/a", None),
            ("10.0.0.9:9000", "", "http://10.0.0.9:9000//evil/a", None),
            ("10.0.0.9:9000", "", "http://10.0.0.9:9000/\\evil/a", None),
            ("10.0.0.9:9000", "", "http://10.0.0.9:9000/\t/evil/a", None),
            ("10.0.0.9:9000", "", "/a", None),
            ("10.0.0.9:9000", "", "a", None),
            ("10.0.0.9:9000", "", "http:/a", None),
            ("10.0.0.9:9000", "", "http:a", None),
            ("10.0.0.9:9000", "", "", None),
            ("site", "", "http://SITE:80/a", Some("/a")),
            ("site:80", "", "http://site/a", Some("/a")),
            ("site", "", "http://site:/a", Some("/a")),
            ("site", "", "http://site:80:80/a", None),
            ("site", "/x/y", "http://site", None),
            ("site", "/x/y", "http://site?a", None),
            ("site", "", "http://site:443/a", None),
            ("[::1]:9000", "", "http://[::1]:9000/a", Some("/a")),
            ("site", "/x/y", "http://site/x/y/a", Some("/a")),
            ("site", "/x/y", "/x/y/a?b", Some("/a?b")),
            ("site", "/x/y", "http:/x/y/a", None),
            ("site", "/x/y", "/x/y//evil/", None),
            ("site", "/x/y", "/x/y", None),
            ("site", "/x/y", "/x/yz/a", None),
            ("site", "/x/y", "/a", None),
            ("site", "/x/y", "http://site/a", None),
            ("site", "/x/y", "a", None),
        ] {
            let path = path(Scheme::Http, authority.as_bytes(), prefix.as_bytes(), reference.as_bytes());
            assert_eq!(path.as_deref(), expected.map(str::as_bytes), "{reference} at {authority}{prefix}");
        }
    }

    #[test]
    fn references_to_an_origin_by_https_have_its_scheme_and_port() {
        for (authority, reference, expected) in [
            ("site", "https://site/a", Some("/a")),
            ("site", "HTTPS://SITE:443/a", Some("/a")),
            ("site:443", "//site/a", Some("/a")),
            ("site:8443", "https://site:8443/a", Some("/a")),
            ("site", "https://site:80/a", None),
            ("site", "http://site/a", None),
            ("site", "httpsx://site/a", None),
            ("site", "https", None),
        ] {
            let path = path(Scheme::Https, authority.as_bytes(), b"", reference.as_bytes());
            assert_eq!(path.as_deref(), expected.map(str::as_bytes), "{reference} at {authority}");
        }
    }

    #[test]
    fn every_line_of_both_headers_is_rewritten() {
        let lines = |location: &'static str| {
            headers(&[("location", location), ("location", "http://b/"), ("content-location", location)])
        };
        let mut rewritten = lines("http://a/x");
        rewrite(Scheme::Http, &HeaderValue::from_static("a"), "", &mut rewritten);
        assert_eq!(rewritten, lines("/x"));
    }
}
