//! What an unsafe request makes invalid: RFC 9111 §4.4.

use http::header::{CONTENT_LOCATION, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};

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

/// `reference`, resolved (RFC 3986 §5.2) as far as needed here: a reference
/// with dot segments names nothing that is ever stored.
fn same_origin(host: Option<&HeaderValue>, path: &str, reference: &str) -> Option<Uri> {
    if reference.starts_with('/') && !reference.starts_with("//") {
        return reference.parse().ok();
    }
    if !reference.contains("://") && !reference.starts_with("//") {
        let folder = &path[..=path.rfind('/')?];
        return format!("{folder}{reference}").parse().ok();
    }
    let absolute = reference.strip_prefix("//").map_or_else(|| reference.to_owned(), |rest| format!("http://{rest}"));
    let uri: Uri = absolute.parse().ok()?;
    let same = host?.as_bytes().eq_ignore_ascii_case(uri.authority()?.as_str().as_bytes());
    same.then_some(uri)
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
        ] {
            let mut answer = HeaderMap::new();
            answer.insert(LOCATION, HeaderValue::from_static(location));
            let named: Vec<_> = named(Some(&host), "/x/y", &answer).collect();
            let paths: Vec<_> = named.iter().map(|uri| uri.path_and_query().unwrap().as_str()).collect();
            assert_eq!(paths, expected.into_iter().collect::<Vec<_>>(), "{location}");
        }
    }
}
