//! What can go wrong with a request, and whose fault it is.

use std::io;

use http::StatusCode;

/// Who is to blame for an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request cannot be served as it stands.
    Client,
    /// Another edge failed; the next in rank is asked.
    Peer,
    /// The origin failed, or could not be reached.
    Origin,
    /// This edge is full, going down, or wrong.
    Own,
}

/// A request's failure. Cheap to clone: everyone who waits for a flight gets it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The target is refused rather than guessed at.
    #[error("{0}")]
    BadRequest(&'static str),
    /// The target is longer than `limits.uri`.
    #[error("the request target is too long")]
    UriTooLong,
    /// The fields of the request are larger than `limits.header`.
    #[error("the request's fields are too large")]
    HeaderTooLarge,
    /// The content of the request is larger than `limits.body`.
    #[error("the request's content is too large")]
    ContentTooLarge,
    /// The content of the request came more slowly than `limits.body_timeout` and
    /// `limits.body_rate` allow.
    #[error("the request's content came too slowly")]
    ContentTooSlow,
    /// The request expects something other than `100-continue` (RFC 9110 §10.1.1).
    #[error("the request's expectation is unknown")]
    Expectation,
    /// The request's content is in a transfer coding other than `chunked` (RFC 9112 §6.1).
    #[error("the request is in a transfer coding other than chunked")]
    TransferCoding,
    /// A method that a cache in front of a site has no business with.
    #[error("the method is not allowed here")]
    MethodNotAllowed,
    /// A method that the edge does not know.
    #[error("the method is not known here")]
    MethodNotImplemented,
    /// HTTP/1.1 needs one Host field (RFC 9112 §3.2), and what it says is a host.
    #[error("a request needs exactly one Host field, which says a host and maybe a port")]
    BadHost,
    /// The request's Content-Length is not one number in plain digits (RFC 9112 §6.3).
    #[error("Content-Length must be one number in decimal digits without leading zeros")]
    BadLength,
    /// The request says only-if-cached, and nothing that answers it is stored
    /// (RFC 9111 §5.2.1.7).
    #[error("only-if-cached, and nothing is")]
    NotCached,
    /// The request has passed this edge before (RFC 8586): the origin, or what
    /// stands before it, sends it back.
    #[error("the request has been here before: is origin.url an edge's own address?")]
    Loop,
    /// The client has `limits.requests_per_client` requests at the origin.
    #[error("the client has too many requests at the origin")]
    ClientLimit,
    /// The client went away, or its request body broke off.
    #[error("the request body broke off: {0}")]
    ClientBroke(String),
    /// The client went away before there was an answer: only the log tells.
    #[error("the client left before its answer began")]
    ClientLeft,

    /// No connection to the peer could be had.
    #[error("cannot reach the peer: {0}")]
    PeerUnreachable(String),
    /// The peer took longer than `cluster.first_byte_timeout` to begin.
    #[error("the peer did not answer in time")]
    PeerTimeout,
    /// The peer may be frozen or gone, and is not waited for any longer.
    #[error("the peer is in doubt, and not waited for any longer")]
    PeerInDoubt,
    /// What the peer sent is not what the name, or the peer itself, promises.
    #[error("the peer's content is wrong: {0}")]
    PeerWrong(String),
    /// The peer's response broke off.
    #[error("the peer's response broke off: {0}")]
    PeerBroke(String),

    /// No connection to the origin could be had.
    #[error("cannot reach the origin: {0}")]
    OriginUnreachable(String),
    /// The origin took longer than `origin.first_byte_timeout` to begin.
    #[error("the origin did not answer in time: {0}")]
    OriginTimeout(String),
    /// What the origin sent is no response.
    #[error("the origin's answer is not HTTP: {0}")]
    OriginGarbage(String),
    /// The origin's response broke off, stalled, or had another length than it said.
    #[error("the origin's response broke off: {0}")]
    OriginBroke(String),
    /// What the origin sent is not what the name, or the origin itself, promises.
    #[error("the origin's content is wrong: {0}")]
    OriginWrong(String),
    /// An embedded origin (a closure) returned an error.
    #[error("the origin failed: {0}")]
    OriginFailed(String),

    /// `origin.requests` are under way already, and none ended in time.
    #[error("too many requests to the origin are under way")]
    Overloaded,
    /// A fill or a write panicked; its clients are told, and the edge goes on.
    #[error("what was done for this request panicked")]
    Panicked,
    /// Nobody waited for the fill any more, and it was given up.
    #[error("the fill was given up")]
    Abandoned,
    /// The flight outgrew what may be held; who reads it goes on alone.
    #[error("the response outgrew the memory for flights")]
    Outgrown,
}

impl Error {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::BadRequest(_)
            | Self::BadHost
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

    /// Whether whole contents came, and the wrong ones.
    pub(crate) fn is_of_contents(&self) -> bool {
        matches!(self, Self::OriginWrong(_) | Self::PeerWrong(_))
    }

    /// The status that tells a client of it (RFC 9110 §15).
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::BadHost | Self::BadLength | Self::ClientBroke(_) | Self::ClientLeft => {
                StatusCode::BAD_REQUEST
            }
            Self::Loop => StatusCode::LOOP_DETECTED,
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

    /// A short name for logs and for Cache-Status' `detail` (RFC 9211 §2.8).
    pub fn name(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "bad-request",
            Self::BadHost => "bad-host",
            Self::BadLength => "bad-length",
            Self::Loop => "loop",
            Self::NotCached => "not-cached",
            Self::ClientLimit => "client-limit",
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

    /// What the client reads: what happened, without names or addresses of
    /// what stands behind this edge.
    pub fn public(&self) -> &'static str {
        match self {
            Self::BadRequest(why) => why,
            Self::BadHost => "a request needs exactly one Host field, which says a host and maybe a port",
            Self::BadLength => "Content-Length must be one number in decimal digits without leading zeros",
            Self::Loop => "the request has been here before",
            Self::NotCached => "nothing that answers this request is stored here",
            Self::ClientLimit => "too many requests of this client are under way; try again",
            Self::UriTooLong => "the request target is too long",
            Self::HeaderTooLarge => "the request's fields are too large",
            Self::ContentTooLarge => "the request's content is too large",
            Self::ContentTooSlow => "the request's content came too slowly",
            Self::Expectation => "only 100-continue can be expected",
            Self::TransferCoding => "the only transfer coding here is chunked",
            Self::MethodNotAllowed | Self::MethodNotImplemented => "this method is not served here",
            Self::ClientBroke(_) => "the request body broke off",
            Self::ClientLeft => "the client left",
            Self::PeerTimeout | Self::PeerInDoubt | Self::OriginTimeout(_) => "the origin did not answer in time",
            Self::PeerUnreachable(_) | Self::OriginUnreachable(_) => "the origin cannot be reached",
            Self::PeerWrong(_) | Self::OriginWrong(_) => "the origin's content is not what its name promises",
            Self::OriginGarbage(_) => "the origin's answer cannot be understood",
            Self::PeerBroke(_) | Self::OriginBroke(_) | Self::OriginFailed(_) => "the origin's answer broke off",
            Self::Overloaded | Self::Abandoned | Self::Outgrown => "too busy; try again",
            Self::Panicked => "a fault of this edge; it is logged",
        }
    }
}

/// Why an edge did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is not usable; the text names the key.
    #[error("{0}")]
    Config(String),
    /// An address cannot be listened on.
    #[error("{key}: cannot listen on {addr}: {source}")]
    Listen {
        /// The configuration key that names the address.
        key: &'static str,
        /// The address.
        addr: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Why an edge ended that nobody had told to: a task that must last as long as it had
/// ended, by a fault of the edge's own. Only a new process makes that good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the task of {task} ended by itself")]
pub struct RunError {
    /// What it did: the configuration key of a listener, or a room of the edge.
    pub task: &'static str,
}
