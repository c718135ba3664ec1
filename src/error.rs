//! Errors of requests, of starting and of running an edge. Each request error has one
//! [`Fault`]: the client, a peer, the origin, or this edge.

use std::io;

use http::StatusCode;

/// The party at fault for an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The client: its request is invalid, too large or too slow, or it left.
    Client,
    /// A peer: the fill asks the next in rank.
    Peer,
    /// The origin: it failed, or is unreachable.
    Origin,
    /// This edge: it is overloaded, or has a bug.
    Own,
}

/// The failure of a request. Every request that waits for a flight gets a clone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request target, or its framing, is malformed; the text says in which way.
    #[error("{0}")]
    BadRequest(&'static str),
    /// The target is longer than `limits.uri`.
    #[error("the request target is longer than limits.uri")]
    UriTooLong,
    /// The headers of the request are larger than `limits.header`.
    #[error("the request headers are larger than limits.header")]
    HeaderTooLarge,
    /// The request body is larger than `limits.body`.
    #[error("the request body is larger than limits.body")]
    ContentTooLarge,
    /// The request body came more slowly than `limits.body_timeout` and `limits.body_rate`
    /// allow.
    #[error("the request body came too slowly (limits.body_timeout, limits.body_rate)")]
    ContentTooSlow,
    /// The request expects something other than `100-continue` (RFC 9110 §10.1.1).
    #[error("the request expects something other than 100-continue")]
    Expectation,
    /// The request body is in a transfer coding other than `chunked` (RFC 9112 §6.1).
    #[error("the request body is in a transfer coding other than chunked")]
    TransferCoding,
    /// The method is not in `limits.methods`, or is one that a cache does not serve (CONNECT,
    /// TRACE).
    #[error("the method is not allowed (limits.methods)")]
    MethodNotAllowed,
    /// The edge does not know the method.
    #[error("the method is unknown")]
    MethodNotImplemented,
    /// The request does not have exactly one valid Host header (RFC 9112 §3.2).
    #[error("a request needs exactly one Host header with a valid host")]
    BadHost,
    /// The edge has no site for the request; for a peer's request, no site with the identifier that
    /// the peer sent (RFC 9110 §15.5.20).
    #[error("the edge has no such site")]
    UnknownSite,
    /// The request's Content-Length is not one number in plain digits (RFC 9112 §6.3).
    #[error("Content-Length must be one number in decimal digits without leading zeros")]
    BadLength,
    /// The request says only-if-cached, and no stored response satisfies it
    /// (RFC 9111 §5.2.1.7).
    #[error("no stored response satisfies a request with only-if-cached")]
    NotCached,
    /// The request has passed this edge before (RFC 8586): the origin, or a proxy in front of
    /// it, sends requests back to the edge.
    #[error("request loop: the request has passed this edge before; check that origin.url does not lead to an edge")]
    Loop,
    /// The client has `limits.requests_per_client` requests at the origin.
    #[error("the client has reached limits.requests_per_client")]
    ClientLimit,
    /// The host of the request has another certificate than the connection.
    #[error("the host of the request has another certificate than the connection")]
    Misdirected,
    /// The client disconnected before the end of its request body.
    #[error("the client broke off its request body: {0}")]
    ClientBroke(String),
    /// The client disconnected before its response began; only the log shows it.
    #[error("the client disconnected before its response began")]
    ClientLeft,

    /// No connection to the peer could be opened.
    #[error("cannot connect to the peer: {0}")]
    PeerUnreachable(String),
    /// The peer's response did not begin within `cluster.first_byte_timeout`.
    #[error("timeout: the peer's response did not begin within cluster.first_byte_timeout")]
    PeerTimeout,
    /// The peer may be frozen or gone, so the request stopped waiting for it.
    #[error("the peer is suspected to be down; the request no longer waits for it")]
    PeerInDoubt,
    /// The peer's content does not match the digest in its name, or in the response.
    #[error("the peer sent wrong content: {0}")]
    PeerWrong(String),
    /// The peer's response broke off.
    #[error("the peer broke off its response: {0}")]
    PeerBroke(String),

    /// No connection to the origin could be opened.
    #[error("cannot connect to the origin: {0}")]
    OriginUnreachable(String),
    /// The origin's response did not begin within `origin.first_byte_timeout`.
    #[error("timeout: the origin's response did not begin in time: {0}")]
    OriginTimeout(String),
    /// The origin's response is not valid HTTP.
    #[error("the origin's response is not valid HTTP: {0}")]
    OriginGarbage(String),
    /// The origin's response broke off, stalled, or did not match its Content-Length.
    #[error("the origin broke off its response: {0}")]
    OriginBroke(String),
    /// The origin's content does not match the digest in its name, or in the response.
    #[error("the origin sent wrong content: {0}")]
    OriginWrong(String),
    /// An embedded origin (a closure) returned an error.
    #[error("origin error: {0}")]
    OriginFailed(String),

    /// `origin.requests` requests wait for the origin, and none ended in time.
    #[error("the edge has reached origin.requests, and no request ended in time")]
    Overloaded,
    /// A fill, a write or an embedded origin panicked; other requests go on.
    #[error("bug: the task of this request panicked")]
    Panicked,
    /// The fill was cancelled, for no request waited for it any more.
    #[error("the fill was cancelled")]
    Abandoned,
    /// The response exceeds the memory for flights; each reader sends its own request.
    #[error("the response exceeds the memory for flights (cache.flight_share)")]
    Outgrown,
}

impl Error {
    /// Returns the party at fault.
    pub fn fault(&self) -> Fault {
        match self {
            Self::BadRequest(_)
            | Self::BadHost
            | Self::UnknownSite
            | Self::BadLength
            | Self::UriTooLong
            | Self::HeaderTooLarge
            | Self::ContentTooLarge
            | Self::ContentTooSlow
            | Self::Expectation
            | Self::TransferCoding
            | Self::MethodNotAllowed
            | Self::MethodNotImplemented
            | Self::Loop
            | Self::NotCached
            | Self::ClientLimit
            | Self::Misdirected
            | Self::ClientBroke(_)
            | Self::ClientLeft => Fault::Client,
            Self::PeerUnreachable(_)
            | Self::PeerTimeout
            | Self::PeerInDoubt
            | Self::PeerWrong(_)
            | Self::PeerBroke(_) => Fault::Peer,
            Self::OriginWrong(_)
            | Self::OriginUnreachable(_)
            | Self::OriginTimeout(_)
            | Self::OriginGarbage(_)
            | Self::OriginBroke(_)
            | Self::OriginFailed(_) => Fault::Origin,
            Self::Overloaded | Self::Panicked | Self::Abandoned | Self::Outgrown => Fault::Own,
        }
    }

    /// Returns true if a complete body arrived and is the wrong one.
    pub(crate) fn is_of_contents(&self) -> bool {
        matches!(self, Self::OriginWrong(_) | Self::PeerWrong(_))
    }

    /// Returns the status of the error response (RFC 9110 §15).
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::BadHost | Self::BadLength | Self::ClientBroke(_) | Self::ClientLeft => {
                StatusCode::BAD_REQUEST
            }
            Self::UnknownSite | Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::Loop => StatusCode::LOOP_DETECTED,
            // RFC 9110 §15.5.20
            // RFC 6585 §4
            Self::ClientLimit => StatusCode::TOO_MANY_REQUESTS,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::HeaderTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::ContentTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ContentTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::TransferCoding | Self::MethodNotImplemented => StatusCode::NOT_IMPLEMENTED,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotCached | Self::PeerTimeout | Self::PeerInDoubt | Self::OriginTimeout(_) => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::PeerUnreachable(_)
            | Self::PeerWrong(_)
            | Self::PeerBroke(_)
            | Self::OriginWrong(_)
            | Self::OriginUnreachable(_)
            | Self::OriginGarbage(_)
            | Self::OriginBroke(_)
            | Self::OriginFailed(_) => StatusCode::BAD_GATEWAY,
            Self::Overloaded | Self::Abandoned | Self::Outgrown => StatusCode::SERVICE_UNAVAILABLE,
            Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Returns a short name for logs and for `detail` of Cache-Status (RFC 9211 §2.8).
    pub fn name(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "bad-request",
            Self::BadHost => "bad-host",
            Self::UnknownSite => "unknown-site",
            Self::BadLength => "bad-length",
            Self::Loop => "loop",
            Self::NotCached => "not-cached",
            Self::ClientLimit => "client-limit",
            Self::Misdirected => "misdirected",
            Self::UriTooLong => "uri-too-long",
            Self::HeaderTooLarge => "header-too-large",
            Self::ContentTooLarge => "content-too-large",
            Self::ContentTooSlow => "content-too-slow",
            Self::Expectation => "expectation",
            Self::TransferCoding => "transfer-coding",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::MethodNotImplemented => "method-not-implemented",
            Self::ClientBroke(_) => "client-broke-off",
            Self::ClientLeft => "client-left",
            Self::PeerUnreachable(_) => "peer-unreachable",
            Self::PeerTimeout => "peer-timeout",
            Self::PeerInDoubt => "peer-in-doubt",
            Self::PeerWrong(_) => "peer-wrong-content",
            Self::PeerBroke(_) => "peer-broke-off",
            Self::OriginUnreachable(_) => "origin-unreachable",
            Self::OriginTimeout(_) => "origin-timeout",
            Self::OriginGarbage(_) => "origin-garbage",
            Self::OriginBroke(_) => "origin-broke-off",
            Self::OriginFailed(_) => "origin-failed",
            Self::OriginWrong(_) => "origin-wrong-content",
            Self::Overloaded => "overloaded",
            Self::Panicked => "panicked",
            Self::Abandoned => "abandoned",
            Self::Outgrown => "outgrown",
        }
    }

    /// Returns the text of the error response. It names no host or address behind the edge.
    pub fn public(&self) -> &'static str {
        match self {
            Self::BadRequest(why) => why,
            Self::BadHost => "a request needs exactly one Host header with a valid host",
            Self::UnknownSite => "this edge has no such site",
            Self::BadLength => "Content-Length must be one number in decimal digits without leading zeros",
            Self::Loop => "request loop: the request has passed this edge before",
            Self::NotCached => "no stored response satisfies this request (only-if-cached)",
            Self::Misdirected => "this host has another certificate; request it on another connection",
            Self::ClientLimit => "this client has too many concurrent requests; try again later",
            Self::UriTooLong => "the request target is too long",
            Self::HeaderTooLarge => "the request headers are too large",
            Self::ContentTooLarge => "the request body is too large",
            Self::ContentTooSlow => "the request body came too slowly",
            Self::Expectation => "the only supported expectation is 100-continue",
            Self::TransferCoding => "the only supported transfer coding of requests is chunked",
            Self::MethodNotAllowed => "the method is not allowed",
            Self::MethodNotImplemented => "the method is not supported",
            Self::ClientBroke(_) => "the request body broke off",
            Self::ClientLeft => "the client disconnected",
            Self::PeerTimeout | Self::PeerInDoubt | Self::OriginTimeout(_) => "the origin did not respond in time",
            Self::PeerUnreachable(_) | Self::OriginUnreachable(_) => "the origin is unreachable",
            Self::PeerWrong(_) | Self::OriginWrong(_) => "the origin's content does not match its digest",
            Self::OriginGarbage(_) => "the origin's response is not valid HTTP",
            Self::PeerBroke(_) | Self::OriginBroke(_) | Self::OriginFailed(_) => "the origin's response broke off",
            Self::Overloaded | Self::Abandoned | Self::Outgrown => "the edge is overloaded; try again later",
            Self::Panicked => "internal error of the edge; its log has the details",
        }
    }
}

/// The reason for which an edge did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is invalid; the text names the key.
    #[error("{0}")]
    Config(String),
    /// A listener cannot be bound.
    #[error("cannot listen on {addr} ({key}): {source}")]
    Listen {
        /// The configuration key of the address.
        key: &'static str,
        /// The address.
        addr: String,
        /// The error of the system.
        source: io::Error,
    },
}

/// The reason for which an edge ended without a shutdown: a task that must live as long as
/// the edge has ended, by a bug of the edge. Restart the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bug: the task of {task} ended; restart the edge")]
#[non_exhaustive]
pub struct RunError {
    /// The task: the configuration key of a listener, or a name such as `gossip`.
    pub task: &'static str,
}
