//! [`Trailers`]: the line ends of trailer sections, which hyper does not check.
//!
//! hyper looks for CRLF alone there, and takes everything before it for the trailer
//! section: after a line that ends in a bare LF, the next request on the connection is
//! swallowed. A sender that ends lines so sees two requests where hyper sees one.

use crate::semantics::content_length;

/// Follows the requests of a connection as far as finding trailer sections needs it. All
/// that is malformed otherwise is rejected by hyper, which ends the connection.
#[derive(Debug, Default)]
pub(super) struct Trailers {
    state: State,
    /// The bytes of the line that has not ended yet.
    line: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head {
        started: bool,
        body: Content,
    },
    /// So many bytes of content, and what follows them.
    Content(u64, Next),
    ChunkSize,
    Trailer,
    /// A trailer line has ended in a bare LF.
    Malformed,
    /// Not HTTP/1.
    Other,
}

/// How a head says that the content is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Length(u64),
    Chunked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Request,
    Chunk,
}

impl Default for State {
    fn default() -> Self {
        Self::Head { started: false, body: Content::Length(0) }
    }
}

impl Trailers {
    /// Takes the next bytes of a connection. Returns how many of them hyper may have: all,
    /// or those before a bare LF in a trailer section.
    pub(super) fn accept(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = match &mut self.state {
                State::Other => rest.len(),
                State::Malformed => break,
                State::Content(left, next) => {
                    let taken = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= taken as u64;
                    if *left == 0 {
                        self.state = match next {
                            Next::Request => State::default(),
                            Next::Chunk => State::ChunkSize,
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

    /// Takes a line, or what has come of it. Returns how many bytes hyper may have.
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
    /// The state after a line, which is given without its LF.
    fn after(self, line: &[u8]) -> Self {
        let text = line.strip_suffix(b"\r").unwrap_or(line);
        match self {
            Self::Head { started: false, .. } if text.starts_with(b"PRI * HTTP/2") => Self::Other,
            Self::Head { started: false, body } => Self::Head { started: !text.is_empty(), body },
            Self::Head { body, .. } if text.is_empty() => match body {
                Content::Length(0) => Self::default(),
                Content::Length(length) => Self::Content(length, Next::Request),
                Content::Chunked => Self::ChunkSize,
            },
            Self::Head { body, .. } => Self::Head { started: true, body: body.after(text) },
            Self::ChunkSize => match chunk_size(text) {
                0 => Self::Trailer,
                // With the CRLF behind it.
                size => Self::Content(size.saturating_add(2), Next::Chunk),
            },
            Self::Trailer if text.len() == line.len() => Self::Malformed,
            Self::Trailer if text.is_empty() => Self::default(),
            state => state,
        }
    }
}

impl Content {
    /// As known after one more line of a head. Chunks override a length (RFC 9112 §6.3).
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

/// The number at the beginning of a chunk's line.
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
    fn a_trailer_line_that_ends_in_a_bare_lf_is_malformed_in_pieces_of_any_size() {
        let whole = |before: &str, after: &str, good: bool| (before.to_owned(), after.to_owned(), good);
        for (before, after, good) in [
            whole(&format!("{HEAD}3\r\nabc\r\n0\r\nX: y"), &format!("\n\n{GET}"), false),
            whole(&format!("{HEAD}0\r\nX: y\r\nZ: z"), &format!("\n\r\n{GET}"), false),
            whole(&format!("{HEAD}0;ext=1\r\n"), &format!("\n{GET}"), false),
            // Content, sizes and other requests do not count.
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
                let mut trailers = Trailers::default();
                let accepted: usize = text.as_bytes().chunks(size).map(|piece| trailers.accept(piece)).sum();
                assert_eq!((accepted, trailers.is_malformed()), (before.len(), !good), "{text:?} by {size}");
            }
        }
    }
}
