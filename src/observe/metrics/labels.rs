//! The label values of the metrics.

/// The sender of a request. It is known from the connection, never from a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `edge.listen` and `tls.listen`, for clients.
    Client,
    /// `cluster.listen`, for peers.
    Peer,
    /// The program that embeds the edge; no listener.
    Program,
}

impl Source {
    pub(super) const ALL: [Self; 3] = [Self::Client, Self::Peer, Self::Program];
    pub(super) const LISTENERS: [Self; 2] = [Self::Client, Self::Peer];

    /// Returns the label value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Peer => "peer",
            Self::Program => "program",
        }
    }
}

/// The cache result of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Served {
    Hit,
    HotHit,
    Miss,
    Collapsed,
    Stale,
    Pass,
    Error,
}

impl Served {
    pub(super) const ALL: [Self; 7] =
        [Self::Hit, Self::HotHit, Self::Miss, Self::Collapsed, Self::Stale, Self::Pass, Self::Error];

    /// Returns the label value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::HotHit => "hot_hit",
            Self::Miss => "miss",
            Self::Collapsed => "collapsed",
            Self::Stale => "stale",
            Self::Pass => "pass",
            Self::Error => "error",
        }
    }
}

/// The upstream of a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Asked {
    Peer,
    Origin,
}

impl Asked {
    pub(super) const ALL: [Self; 2] = [Self::Peer, Self::Origin];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Origin => "origin",
        }
    }
}

/// The outcome of a fetch. `Ok` is any response that arrived completely, whatever its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Fetched {
    Ok,
    Error,
}

impl Fetched {
    pub(super) const ALL: [Self; 2] = [Self::Ok, Self::Error];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
        }
    }
}

/// The outcome of a lookup at a peer that owns the key, or owned it before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PeerLookup {
    /// The peer sent its stored response.
    Found,
    /// The peer has no usable response.
    Missing,
    /// The peer did not respond.
    Error,
}

impl PeerLookup {
    pub(super) const ALL: [Self; 3] = [Self::Found, Self::Missing, Self::Error];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Found => "held",
            Self::Missing => "missing",
            Self::Error => "error",
        }
    }
}

/// The outcome of a TLS handshake that a listener has accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handshake {
    Full,
    /// The client resumed an earlier session.
    Resumed,
    /// The client disconnected.
    Closed,
    /// It was not complete within `limits.header_timeout`.
    Timeout,
    /// The client does not speak TLS.
    NotTls,
    /// No certificate has the requested name.
    UnknownName,
    /// The client has no certificate, or one that was rejected.
    ClientCertificate,
    /// A peer in cleartext, which `cluster.tls.mode` accepts.
    Cleartext,
    /// Another failure, such as no common version.
    Failed,
}

impl Handshake {
    pub(super) const ALL: [Self; 9] = [
        Self::Full,
        Self::Resumed,
        Self::Closed,
        Self::Timeout,
        Self::NotTls,
        Self::UnknownName,
        Self::ClientCertificate,
        Self::Cleartext,
        Self::Failed,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Resumed => "resumed",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::NotTls => "not_tls",
            Self::UnknownName => "unknown_name",
            Self::ClientCertificate => "client_certificate",
            Self::Cleartext => "cleartext",
            Self::Failed => "failed",
        }
    }
}

/// The reason for which a gossip datagram was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Refused {
    Seal,
    Replay,
    Time,
    Version,
    Stranger,
    Guest,
    Garbage,
}

impl Refused {
    pub(super) const ALL: [Self; 7] =
        [Self::Seal, Self::Replay, Self::Time, Self::Version, Self::Stranger, Self::Guest, Self::Garbage];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Seal => "seal",
            Self::Replay => "replay",
            Self::Time => "time",
            Self::Version => "version",
            Self::Stranger => "stranger",
            Self::Guest => "guest",
            Self::Garbage => "garbage",
        }
    }
}
