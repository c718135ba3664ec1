//! [`Protocol`]: the HTTP version of a connection, detected by the HTTP/2 preface.

/// The first bytes of every HTTP/2 connection (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The HTTP version of a connection, as far as the received bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// All received bytes belong to the preface; there are this many.
    Unknown(usize),
    Http1,
    Http2,
}

impl Protocol {
    /// Takes the next received bytes. Returns those of them that are HTTP/2 frames: of an
    /// HTTP/2 connection, all bytes after the preface.
    pub(super) fn accept<'a>(&mut self, received: &'a [u8]) -> &'a [u8] {
        let seen = match *self {
            Self::Unknown(seen) => seen,
            Self::Http1 => return &[],
            Self::Http2 => return received,
        };
        let expected = &PREFACE[seen..];
        let (start, rest) = received.split_at(expected.len().min(received.len()));
        *self = if *start != expected[..start.len()] {
            Self::Http1
        } else if start.len() == expected.len() {
            Self::Http2
        } else {
            Self::Unknown(seen + start.len())
        };
        if *self == Self::Http2 { rest } else { &[] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_detected_by_the_preface() {
        for (chunks, detected) in [
            (&["GET"][..], Protocol::Http1),
            (&["PRI", " * HTTP/1"], Protocol::Http1),
            (&["P", "RI *"], Protocol::Unknown(5)),
        ] {
            let mut protocol = Protocol::Unknown(0);
            for chunk in chunks {
                assert!(protocol.accept(chunk.as_bytes()).is_empty());
            }
            assert_eq!(protocol, detected, "{chunks:?}");
        }
        for cut in 1..PREFACE.len() {
            let mut protocol = Protocol::Unknown(0);
            assert!(protocol.accept(&PREFACE[..cut]).is_empty());
            assert_eq!(protocol.accept(&[&PREFACE[cut..], b"more"].concat()), b"more");
            assert_eq!(protocol, Protocol::Http2);
            assert_eq!(protocol.accept(b"and more"), b"and more");
        }
    }
}
