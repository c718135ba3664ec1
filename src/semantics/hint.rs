//! Hints: freshness for names that look like the hashed files of a build tool.
//!
//! Such a hash cannot be verified, so a hint applies only if the origin states nothing about
//! freshness, and only to the file types of build tools.

use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_TYPE, EXPIRES, HeaderName, ORIGIN, PRAGMA, SET_COOKIE};
use http::{HeaderMap, StatusCode};

use super::cache_control::CDN_CACHE_CONTROL;
use super::vary::{self, Varies};

/// A type of static files, by the extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileType {
    extension: &'static str,
    /// The media types with which servers send such files.
    media: &'static [&'static str],
}

const JAVASCRIPT: &[&str] = &["text/javascript", "application/javascript", "application/x-javascript"];
const BYTES: &str = "application/octet-stream";

/// The types of files that build tools name by a hash.
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
    /// Returns the type of the file at `path` (canonical, without a query); `None` for other
    /// extensions.
    pub fn of_path(path: &str) -> Option<Self> {
        let (_, extension) = path.rsplit('/').next()?.rsplit_once('.')?;
        FILE_TYPES.iter().find(|file_type| file_type.extension.eq_ignore_ascii_case(extension)).copied()
    }

    /// Returns true if Content-Type is a media type of such files. An error page that is served
    /// in place of a missing script has another one.
    fn has_media_type(self, headers: &HeaderMap) -> bool {
        let stated = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = stated.split(';').next().unwrap_or_default().trim();
        self.media.iter().any(|media| media.eq_ignore_ascii_case(essence))
    }
}

/// The headers by which an origin states freshness.
static FRESHNESS_HEADERS: [HeaderName; 4] = [CACHE_CONTROL, CDN_CACHE_CONTROL, PRAGMA, EXPIRES];
/// The request headers by which a hinted response may vary.
static MAY_VARY_BY: [HeaderName; 2] = [ACCEPT_ENCODING, ORIGIN];

/// Returns true if a hint applies to a response under a name that looks hashed, so that it counts
/// as fresh for `cache.hint_ttl`.
///
/// The caller makes sure that no header of the fill identified a client.
pub fn holds(file_type: FileType, status: StatusCode, headers: &HeaderMap) -> bool {
    let varies_by_known = match vary::varies(headers) {
        Varies::Not => true,
        Varies::By(names) => names.iter().all(|name| MAY_VARY_BY.contains(name)),
        Varies::Uncacheable => false,
    };
    status == StatusCode::OK
        && !FRESHNESS_HEADERS.iter().any(|name| headers.contains_key(name))
        && !headers.contains_key(SET_COOKIE)
        && varies_by_known
        && file_type.has_media_type(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::tests::headers;

    #[test]
    fn a_hint_applies_only_if_the_origin_states_no_freshness() {
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
            let file_type = FileType::of_path(path).unwrap();
            assert_eq!(holds(file_type, StatusCode::OK, &headers(lines)), expected, "{path} {lines:?}");
            for status in [203, 204, 206, 301, 404, 500] {
                assert!(!holds(file_type, StatusCode::from_u16(status).unwrap(), &headers(lines)));
            }
        }
        for path in ["/a.html", "/a.json", "/a.pdf", "/a.txt", "/a.xml", "/a.csv", "/a.zip", "/a.ts", "/a", "/a.js/b"] {
            assert_eq!(FileType::of_path(path), None, "{path}");
        }
    }
}
