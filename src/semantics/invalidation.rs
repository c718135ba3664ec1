//! What an unsafe request makes invalid: RFC 9111 §4.4.

use http::header::{CONTENT_LOCATION, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};

use super::authority::without_default_port;

/// Whether an answer to `method` with this status has changed something: an
/// unsafe method, and no error.
pub fn invalidates(method: &Method, status: StatusCode) -> bool {
    !method.is_safe() && (status.is_success() || status.is_redirection())
}

/// The targets besides its own that an answer names, if they are of the same
/// origin: `host` is that of the request, `path` its path.
pub fn named<'a>(
    host: Option<&'a HeaderValue>,
    path: &'a str,
    answer: &'a HeaderMap,
) -> impl Iterator<Item = Uri> + 'a {
    let lines = [LOCATION, CONTENT_LOCATION].into_iter().filter_map(|name| answer.get(name));
    lines.filter_map(move |line| same_origin(host, path, line.to_str().ok()?))
}

/// As [`named`], by a server whose own authority is `host`, and that was asked for `path`
/// behind `prefix`: what it names there is ours without that.
pub fn named_upstream(host: &HeaderValue, prefix: &str, path: &str, answer: &HeaderMap) -> Vec<Uri> {
    let path = format!("{prefix}{path}");
    let ours = |target: Uri| target.path_and_query()?.as_str().strip_prefix(prefix)?.parse().ok();
    named(Some(host), &path, answer).filter_map(ours).filter(|target: &Uri| target.path().starts_with('/')).collect()
}

/// `reference`, resolved against `path` (RFC 3986 §5.2.2), if it is of the same origin.
/// One that says no more than a fragment names the request's own target: no other.
fn same_origin(host: Option<&HeaderValue>, path: &str, reference: &str) -> Option<Uri> {
    let reference = reference.split('#').next()?;
    let (before, query) = reference.split_once('?').map_or((reference, None), |(before, query)| (before, Some(query)));
    let (scheme, rest) = split_scheme(before);
    let named = match rest.strip_prefix("//") {
        Some(rest) => {
            let (authority, named) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            if !is_host(host?, authority, default_port(scheme.unwrap_or("http"))?) {
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

/// The scheme of a reference (RFC 3986 §3.1), and what is behind its colon.
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

/// The port that a URL of this scheme need not say (RFC 9110 §4.2).
fn default_port(scheme: &str) -> Option<&'static str> {
    match scheme {
        http if http.eq_ignore_ascii_case("http") => Some("80"),
        https if https.eq_ignore_ascii_case("https") => Some("443"),
        _ => None,
    }
}

/// Whether `authority` is that of `host`, where `port` may be said or not.
fn is_host(host: &HeaderValue, authority: &str, port: &str) -> bool {
    let bare = |name| without_default_port(name, port);
    bare(host.as_bytes()).eq_ignore_ascii_case(bare(authority.as_bytes()))
}

/// RFC 3986 §5.2.4, for a `path` that begins with a slash.
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
    fn only_unsafe_methods_that_succeed() {
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
    fn only_the_same_origin() {
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
    fn a_reference_is_resolved() {
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
    fn what_the_origin_calls_its_own_is_ours() {
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
            let mut answer = HeaderMap::new();
            answer.insert(LOCATION, HeaderValue::from_static(location));
            let named = named_upstream(&host, prefix, "/x/y", &answer);
            let named: Vec<_> = named.iter().map(|target| target.path_and_query().unwrap().as_str()).collect();
            assert_eq!(named, expected.as_slice(), "{location} behind {prefix}");
        }
    }

    /// What an answer to a request for `/x/y` names besides.
    fn other_target(host: &HeaderValue, location: &'static str) -> Option<String> {
        let mut answer = HeaderMap::new();
        answer.insert(LOCATION, HeaderValue::from_static(location));
        let target = named(Some(host), "/x/y", &answer).next()?;
        Some(target.path_and_query()?.as_str().to_owned())
    }
}
