//! CDN-Loop: RFC 8586.

use http::{HeaderName, HeaderValue};

/// The CDN-Loop header (RFC 8586 §2): the CDN nodes that a request has passed.
pub const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// Returns true if one line of CDN-Loop contains `id`, the name of a node without parameters
/// (RFC 8586 §2).
pub fn lists(line: &HeaderValue, id: &HeaderValue) -> bool {
    line.as_bytes().split(|&byte| byte == b',').any(|member| {
        let name = member.split(|&byte| byte == b';').next().unwrap_or_default();
        name.trim_ascii() == id.as_bytes()
    })
}
