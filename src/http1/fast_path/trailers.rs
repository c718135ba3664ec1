//! [`TrailerCheck`]: rejects bare LFs in trailer sections, which hyper does not check.
//!
//! hyper looks only for an empty line with CRLF there, and takes everything before that line
//! for the trailer section. After a trailer line that ends in a bare LF, hyper swallows the
//! next request on the connection: a proxy in front that accepts bare LFs sees two requests
//! where hyper sees one.

use crate::semantics::content_length;

/// Parses the requests of a connection as far as is needed to find trailer sections. hyper
/// rejects all other malformed input, and closes the connection.
#[derive(Debug, Default)]
pub(super) struct TrailerCheck {
    state: State,
    /// The bytes of the current line, which has not ended yet.
    line: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head {
        started: bool,
        framing: RequestFraming,
    },
    /// Content: the number of bytes left, and the state after them.
    Content(u64, AfterContent),
    ChunkSize,
    Trailer,
    /// A trailer line has ended in a bare LF.
    Malformed,
    /// HTTP/2: nothing is checked.
    Http2,
}

/// The framing of a request's content (RFC 9112 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestFraming {
    Length(u64),
    Chunked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AfterContent {
    Request,
    Chunk,
}

impl Default for State {
    fn default() -> Self {
        Self::Head { started: false, framing: RequestFraming::Length(0) }
    }
}

impl TrailerCheck {
    /// Takes the next bytes of a connection. Returns the number of bytes that may be passed to
    /// hyper: all, or those before a bare LF in a trailer section.
    pub(super) fn accept(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = match &mut self.state {
                State::Http2 => rest.len(),
                State::Malformed => break,
                State::Content(left, next) => {
                    let taken = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= taken as u64;
                    if *left == 0 {
                        self.state = match next {
                            AfterContent::Request => State::default(),
                            AfterContent::Chunk => State::ChunkSize,
                        };
                    }
                    taken
                }
                State::Head { .. } | State::ChunkSize | State::Trailer => self.accept_line(rest),
            };
            rest = &rest[taken..];
        }
        bytes.len() - rest.len()
    }

    /// Takes a line or a part of one. Returns the number of bytes that may be passed to hyper.
    fn accept_line(&mut self, rest: &[u8]) -> usize {
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
            self.line.extend_from_slice(rest);
            return rest.len();
        };
        if self.line.is_empty() {
            self.state = self.state.after(&rest[..end]);
        } else {
            self.line.extend_from_slice(&rest[..end]);
            self.state = self.state.after(&std::mem::take(&mut self.line));
        }
        end + usize::from(self.state != State::Malformed)
    }

    /// Returns true if a trailer line has ended in a bare LF.
    pub(super) fn is_malformed(&self) -> bool {
        self.state == State::Malformed
    }
}

impl State {
    /// Returns the state after a line, which is passed without its LF.
    fn after(self, line: &[u8]) -> Self {
        let text = line.strip_suffix(b"\r").unwrap_or(line);
        match self {
            Self::Head { started: false, .. } if text.starts_with(b"PRI * HTTP/2") => Self::Http2,
            Self::Head { started: false, framing } => Self::Head { started: !text.is_empty(), framing },
            Self::Head { framing, .. } if text.is_empty() => match framing {
                RequestFraming::Length(0) => Self::default(),
                RequestFraming::Length(length) => Self::Content(length, AfterContent::Request),
                RequestFraming::Chunked => Self::ChunkSize,
            },
            Self::Head { framing, .. } => Self::Head { started: true, framing: framing.after(text) },
            Self::ChunkSize => match chunk_size(text) {
                0 => Self::Trailer,
                // The chunk and the CRLF after it.
                size => Self::Content(size.saturating_add(2), AfterContent::Chunk),
            },
            Self::Trailer if text.len() == line.len() => Self::Malformed,
            Self::Trailer if text.is_empty() => Self::default(),
            state => state,
        }
    }
}

impl RequestFraming {
    /// Returns the framing after one more line of a head. Transfer-Encoding overrides
    /// Content-Length (RFC 9112 §6.3).
    fn after(self, line: &[u8]) -> Self {
        let mut parts = line.splitn(2, |&byte| byte == b':');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Self::Chunked;
        }
        let is_length = self != Self::Chunked && name.eq_ignore_ascii_case(b"content-length");
        match content_length::digits(value.trim_ascii()).filter(|_| is_length) {
            Some(length) => Self::Length(length),
            None => self,
        }
    }
}

/// Returns the chunk size at the start of a chunk line; the maximum if it is malformed.
fn chunk_size(line: &[u8]) -> u64 {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let size = str::from_utf8(&line[..digits]).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
    size.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    const GET: &str = "GET /b HTTP/1.1\r\nHost: h\r\n\r\n";

    #[test]
    fn a_trailer_line_that_ends_in_a_bare_lf_is_malformed_in_reads_of_any_size() {
        let whole = |before: &str, after: &str, good: bool| (before.to_owned(), after.to_owned(), good);
        for (before, after, good) in [
            whole(&format!("{HEAD}3\r\nabc\r\n0\r\nX: y"), &format!("\n\n{GET}"), false),
            whole(&format!("{HEAD}0\r\nX: y\r\nZ: z"), &format!("\n\r\n{GET}"), false),
            whole(&format!("{HEAD}0;ext=1\r\n"), &format!("\n{GET}"), false),
            // Bare LFs outside of trailer sections are not checked.
            whole(&format!("{GET}\r\n{HEAD}4;a=\"b\"\r\n\n\n\n\n\r\n000\r\nX: y\r\n\r\n{GET}"), "", true),
            whole(&format!("POST / HTTP/1.1\r\ncontent-LENGTH:\t 0009 \r\n\r\n0\r\nX: y\n\n{HEAD}0\r\nX"), "\n", false),
            whole(&format!("POST / HTTP/1.1\ncontent-length: 9\n\n0\r\nX: y\n\n{GET}"), "", true),
            whole(
                concat!(
                    "POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n",
                    "content-length: 1\r\n\r\n0\r\nX"
                ),
                "\n\n",
                false,
            ),
            whole(&format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{HEAD}0\r\nX: y\n\n"), "", true),
        ] {
            let text = format!("{before}{after}");
            for size in [1, 2, 3, 7, 50, text.len()] {
                let mut check = TrailerCheck::default();
                let accepted: usize = text.as_bytes().chunks(size).map(|bytes| check.accept(bytes)).sum();
                assert_eq!((accepted, check.is_malformed()), (before.len(), !good), "{text:?} by {size}");
            }
        }
    }
}
