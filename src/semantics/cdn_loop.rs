//! CDN-Loop (RFC 8586).

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_lists_nodes_with_or_without_parameters() {
        let id = HeaderValue::from_static("edge-1");
        for (line, listed) in [
            ("edge-1", true),
            ("other; v=1 , edge-1;v=\"2\"", true),
            ("edge-10, an-edge-1", false),
            ("other;edge-1", false),
            ("", false),
        ] {
            assert_eq!(lists(&HeaderValue::from_static(line), &id), listed, "{line}");
        }
    }
}
