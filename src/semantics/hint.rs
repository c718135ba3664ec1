//! Hints: freshness for a name that looks like one of a build's hashed files.
//!
//! No digest proves such a name, so a hint counts only where the origin says nothing,
//! and only for the kinds of files that build tools name so.

use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_TYPE, EXPIRES, HeaderName, ORIGIN, PRAGMA, SET_COOKIE};
use http::{HeaderMap, StatusCode};

use super::cache_control::CDN_CACHE_CONTROL;
use super::vary::{self, Varies};

/// A kind of static file, by its extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileType {
    extension: &'static str,
    /// The media types that servers give such a file.
    media: &'static [&'static str],
}

const JAVASCRIPT: &[&str] = &["text/javascript", "application/javascript", "application/x-javascript"];
const BYTES: &str = "application/octet-stream";

/// The kinds of files that build tools name by a hash.
static FILE_TYPES: [FileType; 17] = {
    const fn of(extension: &'static str, media: &'static [&'static str]) -> FileType {
        FileType { extension, media }
    }
    [
        of("js", JAVASCRIPT),
        of("mjs", JAVASCRIPT),
        of("css", &["text/css"]),
        of("map", &["application/json", BYTES]),
        of("woff", &["font/woff", "application/font-woff", "application/x-font-woff", BYTES]),
        of("woff2", &["font/woff2", "application/font-woff2", "application/x-font-woff2", BYTES]),
        of("ttf", &["font/ttf", "font/sfnt", "application/font-sfnt", "application/x-font-ttf", BYTES]),
        of("otf", &["font/otf", "font/sfnt", "application/font-sfnt", "application/x-font-opentype", BYTES]),
        of("png", &["image/png"]),
        of("jpg", &["image/jpeg"]),
        of("jpeg", &["image/jpeg"]),
        of("gif", &["image/gif"]),
        of("webp", &["image/webp"]),
        of("avif", &["image/avif"]),
        of("svg", &["image/svg+xml"]),
        of("ico", &["image/x-icon", "image/vnd.microsoft.icon"]),
        of("wasm", &["application/wasm", BYTES]),
    ]
};

impl FileType {
    /// Returns the kind of the file at `path` (canonical, without a query).
    pub fn of_path(path: &str) -> Option<Self> {
        let (_, extension) = path.rsplit('/').next()?.rsplit_once('.')?;
        FILE_TYPES.iter().find(|kind| kind.extension.eq_ignore_ascii_case(extension)).copied()
    }

    /// Returns true if a Content-Type is one that servers give such a file: a page that is
    /// served in place of a missing script has another.
    fn agrees(self, headers: &HeaderMap) -> bool {
        let stated = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = stated.split(';').next().unwrap_or_default().trim();
        self.media.iter().any(|media| media.eq_ignore_ascii_case(essence))
    }
}

/// The headers by which an origin speaks of freshness.
static SPEAKS: [HeaderName; 4] = [CACHE_CONTROL, CDN_CACHE_CONTROL, PRAGMA, EXPIRES];
/// The request headers that a hinted response may vary by.
static MAY_VARY_BY: [HeaderName; 2] = [ACCEPT_ENCODING, ORIGIN];

/// Returns true if a response under a name that looks hashed may be taken for fresh.
/// The fill had neither Cookie nor Authorization.
pub fn holds(kind: FileType, status: StatusCode, headers: &HeaderMap) -> bool {
    let varies_by_known = match vary::varies(headers) {
        Varies::Not => true,
        Varies::By(fields) => fields.iter().all(|field| MAY_VARY_BY.contains(field)),
        Varies::Uncacheable => false,
    };
    status == StatusCode::OK
        && !SPEAKS.iter().any(|name| headers.contains_key(name))
        && !headers.contains_key(SET_COOKIE)
        && varies_by_known
        && kind.agrees(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::tests::headers;

    #[test]
    fn a_hint_counts_only_where_the_origin_says_nothing() {
        let script = ("content-type", "text/javascript; charset=utf-8");
        for (path, lines, expected) in [
            ("/a-BxYz12Ab.js", &[script][..], true),
            ("/a.JS", &[script], true),
            ("/a.js", &[("content-type", "Application/JavaScript")], true),
            ("/a.js", &[script, ("vary", "Accept-Encoding"), ("content-encoding", "gzip")], true),
            ("/a.js", &[script, ("vary", "origin, accept-encoding")], true),
            ("/a.png", &[("content-type", "image/png")], true),
            ("/a.js", &[script, ("vary", "Cookie")], false),
            ("/a.js", &[script, ("vary", "*")], false),
            ("/a.js", &[script, ("cache-control", "public")], false),
            ("/a.js", &[script, ("cache-control", "")], false),
            ("/a.js", &[script, ("cdn-cache-control", "max-age=1")], false),
            ("/a.js", &[script, ("pragma", "no-cache")], false),
            ("/a.js", &[script, ("expires", "0")], false),
            ("/a.js", &[script, ("set-cookie", "a=b")], false),
            ("/a.js", &[("content-type", "text/html")], false),
            ("/a.js", &[], false),
            ("/a.png", &[script], false),
        ] {
            let kind = FileType::of_path(path).unwrap();
            assert_eq!(holds(kind, StatusCode::OK, &headers(lines)), expected, "{path} {lines:?}");
            for status in [203, 204, 206, 301, 404, 500] {
                assert!(!holds(kind, StatusCode::from_u16(status).unwrap(), &headers(lines)));
            }
        }
        for path in ["/a.html", "/a.json", "/a.pdf", "/a.txt", "/a.xml", "/a.csv", "/a.zip", "/a.ts", "/a", "/a.js/b"] {
            assert_eq!(FileType::of_path(path), None, "{path}");
        }
    }
}
