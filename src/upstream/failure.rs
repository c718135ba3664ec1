//! [`Cause`]: the cause of a failed request, as far as it decides about a second attempt.

use std::error::Error as StdError;
use std::io::ErrorKind;

/// The cause of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The server did not process the request (RFC 9113 §8.7).
    Unprocessed,
    /// The server requires HTTP/1.1 for this request (RFC 9113 §7).
    NeedsHttp1,
    /// The connection ended before a response.
    Dead,
    /// The response is not valid HTTP.
    Malformed,
    Other,
}

impl Cause {
    /// Returns the cause of `error`.
    pub(super) fn of(error: &hyper::Error) -> Self {
        if let Some(cause) = http2::cause(error) {
            return cause;
        }
        // hyper reports a request that the connection never took up as an error of its sender.
        let closed = error.is_incomplete_message() || error.is_canceled() || error.is_closed() || error.is_user();
        if error.is_parse() {
            Self::Malformed
        } else if closed || error.is_timeout() || is_reset(error) {
            // A timeout is a PING without an answer.
            Self::Dead
        } else {
            Self::Other
        }
    }
}

fn is_reset(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
    // The end of a TLS connection without close_notify is an UnexpectedEof.
    cause.is_some_and(|io| {
        matches!(io.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof)
    })
}

#[cfg(feature = "tls")]
mod http2 {
    use std::error::Error as StdError;

    use h2::Reason;

    use super::Cause;

    /// Returns the cause of an error of HTTP/2.
    pub(super) fn cause(error: &hyper::Error) -> Option<Cause> {
        let error = error.source()?.downcast_ref::<h2::Error>()?;
        Some(match error.reason() {
            // A stream fails by GOAWAY only if it is above the last one that the server processed.
            _ if error.is_remote() && error.is_go_away() => Cause::Unprocessed,
            Some(Reason::REFUSED_STREAM) if error.is_remote() => Cause::Unprocessed,
            Some(Reason::HTTP_1_1_REQUIRED) if error.is_remote() => Cause::NeedsHttp1,
            // The failure of another stream may be the cause.
            _ if error.is_library() && error.is_go_away() => Cause::Dead,
            _ if error.is_library() => Cause::Malformed,
            _ => Cause::Other,
        })
    }
}

/// Without TLS there is no HTTP/2 upstream.
#[cfg(not(feature = "tls"))]
mod http2 {
    pub(super) fn cause(_: &hyper::Error) -> Option<super::Cause> {
        None
    }
}
