//! Changing a connection's protocol: RFC 9110 §7.8. To WebSocket (RFC 6455),
//! and to nothing else: whatever else a sender offers is ignored, as it may be.

use http::header::{CONNECTION, CONTENT_LENGTH, UPGRADE};
use http::{HeaderMap, HeaderValue};

use super::members;

/// Whether a message is about WebSocket alone, on the connection that it came on.
pub fn is_to_websocket(fields: &HeaderMap) -> bool {
    let mut protocols = fields.get_all(UPGRADE).iter();
    let (only, more) = (protocols.next(), protocols.next());
    let websocket = only.is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let here = members(fields, &CONNECTION).any(|option| option.eq_ignore_ascii_case(b"upgrade"));
    websocket && more.is_none() && here
}

/// Says on the next connection what [`is_to_websocket`] read on the one before.
pub fn to_websocket(fields: &mut HeaderMap) {
    fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
    // What follows is no content (RFC 9110 §8.6).
    fields.remove(CONTENT_LENGTH);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::tests::headers;

    #[test]
    fn websocket_alone_and_on_this_connection() {
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
    fn what_is_said_is_what_is_read() {
        let mut fields = headers(&[("content-length", "0"), ("sec-websocket-key", "x")]);
        to_websocket(&mut fields);
        assert!(is_to_websocket(&fields) && !fields.contains_key(CONTENT_LENGTH));
    }
}
