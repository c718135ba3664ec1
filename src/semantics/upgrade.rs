//! Upgrade (RFC 9110 §7.8) to WebSocket (RFC 6455). Other protocols are ignored, which the RFC
//! permits.

use http::header::{CONNECTION, CONTENT_LENGTH, UPGRADE};
use http::{HeaderMap, HeaderValue};

use super::members;

/// Returns true if the headers of a request or response upgrade its connection to WebSocket, and
/// to no other protocol (RFC 9110 §7.8).
pub fn is_to_websocket(headers: &HeaderMap) -> bool {
    let mut protocols = headers.get_all(UPGRADE).iter();
    let (protocol, more) = (protocols.next(), protocols.next());
    let is_websocket = protocol.is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let is_listed = members(headers, &CONNECTION).any(|option| option.eq_ignore_ascii_case(b"upgrade"));
    is_websocket && more.is_none() && is_listed
}

/// Sets the headers of an upgrade to WebSocket on a message to the next hop, and removes
/// Content-Length. Connection and Upgrade are not forwarded as such (RFC 9110 §7.6.1, §7.8).
pub fn to_websocket(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    // The data after the upgrade is not content (RFC 9110 §8.6).
    headers.remove(CONTENT_LENGTH);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::tests::headers;

    #[test]
    fn only_an_upgrade_to_websocket_alone_is_recognized() {
        for (lines, expected) in [
            (&[("connection", "upgrade"), ("upgrade", "websocket")][..], true),
            (&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")], true),
            (&[("connection", "keep-alive"), ("connection", "upgrade"), ("upgrade", "websocket")], true),
            (&[("upgrade", "websocket")], false),
            (&[("connection", "keep-alive"), ("upgrade", "websocket")], false),
            (&[("connection", "upgrade")], false),
            (&[("connection", "upgrade"), ("upgrade", "h2c")], false),
            (&[("connection", "upgrade"), ("upgrade", "websocket, h2c")], false),
            (&[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")], false),
            (&[("connection", "upgrade"), ("upgrade", "websocket/13")], false),
        ] {
            assert_eq!(is_to_websocket(&headers(lines)), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_written_upgrade_is_recognized() {
        let mut fields = headers(&[("content-length", "0"), ("sec-websocket-key", "x")]);
        to_websocket(&mut fields);
        assert!(is_to_websocket(&fields) && !fields.contains_key(CONTENT_LENGTH));
    }
}
