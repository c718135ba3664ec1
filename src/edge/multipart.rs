//! Several ranges in one body.

use http::HeaderValue;

use crate::body::Body;
use crate::random::random;
use crate::semantics::range::ByteRange;

/// The parts of a multipart/byteranges body (RFC 9110 §14.6).
pub(super) struct Multipart {
    spans: Vec<ByteRange>,
    boundary: String,
    /// The text before each part; `tail` follows the last one.
    heads: Vec<String>,
    tail: String,
}

impl Multipart {
    pub(super) fn new(spans: Vec<ByteRange>, length: u64, media_type: Option<&HeaderValue>) -> Self {
        // 64 random bits: content holds the same ones only by chance.
        let boundary = format!("peerage-{:016x}", random());
        let media_type = media_type.and_then(|media_type| media_type.to_str().ok());
        let media_type = media_type.map(|media_type| format!("Content-Type: {media_type}\r\n")).unwrap_or_default();
        let head = |span: &ByteRange| {
            format!("\r\n--{boundary}\r\n{media_type}Content-Range: {}\r\n\r\n", content_range(*span, length))
        };
        let heads = spans.iter().map(head).collect();
        let tail = format!("\r\n--{boundary}--\r\n");
        Self { spans, boundary, heads, tail }
    }

    pub(super) fn len(&self) -> u64 {
        let heads: usize = self.heads.iter().map(String::len).sum();
        let parts: u64 = self.spans.iter().map(|span| span.end - span.first).sum();
        (heads + self.tail.len()) as u64 + parts
    }

    pub(super) fn media_type(&self) -> HeaderValue {
        text(format!("multipart/byteranges; boundary={}", self.boundary))
    }

    /// Returns the body; `part` returns the content of each span.
    pub(super) fn body(self, part: impl Fn(ByteRange) -> Body) -> Body {
        let parts = self.heads.into_iter().zip(self.spans).flat_map(|(head, span)| [head.into(), part(span)]);
        Body::chain(parts.chain([self.tail.into()]))
    }
}

pub(super) fn content_range(ByteRange { first, end }: ByteRange, length: u64) -> String {
    format!("bytes {first}-{}/{length}", end - 1)
}

pub(super) fn text(value: String) -> HeaderValue {
    HeaderValue::try_from(value).expect("digits and ASCII text are a header value")
}
