//! CDN-Loop: RFC 8586.

use http::{HeaderName, HeaderValue};

/// RFC 8586.
pub const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// Whether a line of CDN-Loop lists `id` (RFC 8586 §2).
pub fn lists(line: &HeaderValue, id: &HeaderValue) -> bool {
    line.as_bytes().split(|&byte| byte == b',').any(|member| {
        let name = member.split(|&byte| byte == b';').next().unwrap_or_default();
        name.trim_ascii() == id.as_bytes()
    })
}
