//! Invalidation by unsafe requests (RFC 9111 §4.4).

use http::header::{CONTENT_LOCATION, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};

use super::authority::normalized;

/// Returns true if a response with this status to `method` invalidates stored responses: the
/// method is unsafe, and the status is not an error (RFC 9111 §4.4).
pub fn invalidates(method: &Method, status: StatusCode) -> bool {
    !method.is_safe() && (status.is_success() || status.is_redirection())
}

/// Returns the URIs in Location and Content-Location of a response that have the same origin as
/// its request, for `path` at `host` (RFC 9111 §4.4).
///
/// References are resolved, and returned as path and query. The target of the request itself is
/// not among them, unless a header names it by its path or query.
pub fn named<'a>(
    host: Option<&'a HeaderValue>,
    path: &'a str,
    response: &'a HeaderMap,
) -> impl Iterator<Item = Uri> + 'a {
    let lines = [LOCATION, CONTENT_LOCATION].into_iter().filter_map(|name| response.get(name));
    lines.filter_map(move |line| same_origin(host, path, line.to_str().ok()?))
}

/// Returns the URIs that the response of the origin at `host` names by the origin's own
/// authority, as [`named`] does.
///
/// The request to the origin was for `path` below the folder `prefix`. The returned paths are
/// those of the site, without `prefix`; URIs outside that folder are omitted.
pub fn named_upstream(host: &HeaderValue, prefix: &str, path: &str, response: &HeaderMap) -> Vec<Uri> {
    let path = format!("{prefix}{path}");
    let to_site = |target: Uri| target.path_and_query()?.as_str().strip_prefix(prefix)?.parse().ok();
    named(Some(host), &path, response)
        .filter_map(to_site)
        .filter(|target: &Uri| target.path().starts_with('/'))
        .collect()
}

/// Resolves `reference` against `path` (RFC 3986 §5.2.2); `None` if it has another origin than
/// `host`, or is empty except for a fragment and so names the target of the request itself.
fn same_origin(host: Option<&HeaderValue>, path: &str, reference: &str) -> Option<Uri> {
    let reference = reference.split('#').next()?;
    let (before, query) = reference.split_once('?').map_or((reference, None), |(before, query)| (before, Some(query)));
    let (scheme, rest) = split_scheme(before);
    let named = match rest.strip_prefix("//") {
        Some(rest) => {
            let (authority, named) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            if !is_same_host(host?, authority, default_port(scheme.unwrap_or("http"))?) {
                return None;
            }
            if named.is_empty() { "/".to_owned() } else { named.to_owned() }
        }
        None if scheme.is_some() => return None,
        None if rest.starts_with('/') => rest.to_owned(),
        None if rest.is_empty() && query.is_none() => return None,
        None if rest.is_empty() => path.to_owned(),
        None => format!("{}{rest}", &path[..=path.rfind('/')?]),
    };
    let named = without_dot_segments(&named);
    query.map_or_else(|| named.clone(), |query| format!("{named}?{query}")).parse().ok()
}

/// Splits a reference into its scheme (RFC 3986 §3.1) and the rest after the colon.
fn split_scheme(reference: &str) -> (Option<&str>, &str) {
    let is_scheme = |text: &str| {
        let all = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
        all && text.starts_with(|first: char| first.is_ascii_alphabetic())
    };
    match reference.split_once(':') {
        Some((scheme, rest)) if is_scheme(scheme) => (Some(scheme), rest),
        _ => (None, reference),
    }
}

/// Returns the default port of an HTTP scheme (RFC 9110 §4.2); `None` for other schemes.
fn default_port(scheme: &str) -> Option<&'static str> {
    match scheme {
        http if http.eq_ignore_ascii_case("http") => Some("80"),
        https if https.eq_ignore_ascii_case("https") => Some("443"),
        _ => None,
    }
}

/// Returns true if `authority` equals `host`, with or without the default port `port`.
fn is_same_host(host: &HeaderValue, authority: &str, port: &str) -> bool {
    host.to_str().is_ok_and(|host| normalized(host.as_bytes(), port) == normalized(authority.as_bytes(), port))
}

/// Removes the dot segments of a path that begins with a slash (RFC 3986 §5.2.4).
fn without_dot_segments(path: &str) -> String {
    let mut kept = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            segment => {
                kept.push(segment);
                continue;
            }
        }
        if segments.peek().is_none() {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_successful_unsafe_methods_invalidate() {
        for (method, status, changes) in [
            (Method::POST, 200, true),
            (Method::PUT, 204, true),
            (Method::DELETE, 303, true),
            (Method::POST, 404, false),
            (Method::POST, 500, false),
            (Method::OPTIONS, 200, false),
            (Method::GET, 200, false),
        ] {
            assert_eq!(invalidates(&method, StatusCode::from_u16(status).unwrap()), changes, "{method} {status}");
        }
        assert!(invalidates(&Method::from_bytes(b"FROBNICATE").unwrap(), StatusCode::OK));
    }

    #[test]
    fn only_references_to_the_same_origin_are_named() {
        let host = HeaderValue::from_static("site.example");
        for (location, expected) in [
            ("/a?b", Some("/a?b")),
            ("b", Some("/x/b")),
            ("http://site.example/a", Some("/a")),
            ("https://SITE.example/a", Some("/a")),
            ("//site.example/a", Some("/a")),
            ("http://other.example/a", None),
            ("//other.example/a", None),
            ("http://site.example:81/a", None),
            ("http://site.example:80/a", Some("/a")),
            ("https://site.example:443/a", Some("/a")),
            ("https://site.example:80/a", None),
            ("http://site.example:/a", Some("/a")),
            ("http://site.example:80:80/a", None),
            ("http://site.example", Some("/")),
            ("HTTP://site.example?p=2", Some("/?p=2")),
            ("http:/a", None),
            ("mailto:a@site.example", None),
            ("urn:x", None),
        ] {
            assert_eq!(other_target(&host, location).as_deref(), expected, "{location}");
        }
        let port = HeaderValue::from_static("site.example:8001");
        assert_eq!(other_target(&port, "http://site.example:8001:80/a"), None);
        for (host, location) in [("site.example:80", "http://site.example/a"), ("[::1]:8001", "//[::1]:8001/a")] {
            assert_eq!(other_target(&HeaderValue::from_static(host), location).as_deref(), Some("/a"), "{location}");
        }
    }

    #[test]
    fn references_are_resolved_against_the_request_path() {
        let host = HeaderValue::from_static("site.example");
        for (location, expected) in [
            ("?p=2", Some("/x/y?p=2")),
            ("?u=http://other.example/", Some("/x/y?u=http://other.example/")),
            ("", None),
            ("#part", None),
            ("b#part", Some("/x/b")),
            (".", Some("/x/")),
            ("./b", Some("/x/b")),
            ("..", Some("/")),
            ("../b?c/../d", Some("/b?c/../d")),
            ("../../../b/", Some("/b/")),
            ("/a/./b/../c", Some("/a/c")),
            ("//site.example/a/..", Some("/")),
            ("b//c", Some("/x/b//c")),
            ("./b:c", Some("/x/b:c")),
        ] {
            assert_eq!(other_target(&host, location).as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn references_to_the_origin_itself_become_paths_of_the_site() {
        let host = HeaderValue::from_static("10.0.0.9:9000");
        for (prefix, location, expected) in [
            ("", "http://10.0.0.9:9000/a?b", Some("/a?b")),
            ("", "http://10.0.0.9/a", None),
            ("", "http://site.example/a", None),
            ("", "b", Some("/x/b")),
            ("/site", "http://10.0.0.9:9000/site/a", Some("/a")),
            ("/site", "/site/a", Some("/a")),
            ("/site", "b", Some("/x/b")),
            ("/site", "../../a", None),
            ("/site", "http://10.0.0.9:9000/a", None),
            ("/site", "http://10.0.0.9:9000/sites/a", None),
            ("/site", "http://10.0.0.9:9000/site", None),
        ] {
            let mut response = HeaderMap::new();
            response.insert(LOCATION, HeaderValue::from_static(location));
            let named = named_upstream(&host, prefix, "/x/y", &response);
            let named: Vec<_> = named.iter().map(|target| target.path_and_query().unwrap().as_str()).collect();
            assert_eq!(named, expected.as_slice(), "{location} behind {prefix}");
        }
    }

    /// Returns the URI that Location names in a response to a request for `/x/y`.
    fn other_target(host: &HeaderValue, location: &'static str) -> Option<String> {
        let mut response = HeaderMap::new();
        response.insert(LOCATION, HeaderValue::from_static(location));
        let target = named(Some(host), "/x/y", &response).next()?;
        Some(target.path_and_query()?.as_str().to_owned())
    }
}
