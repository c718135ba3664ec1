//! The values that cross the border of this module; they exist in every build.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

/// The files of one certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PairPaths {
    /// PEM with the certificate itself first, then its issuers.
    pub(crate) chain: PathBuf,
    /// PEM with the private key.
    pub(crate) key: PathBuf,
}

/// The sources of certificates, and the policy of handshakes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The pairs of `[[tls.certificate]]`; the first is the default.
    pub(crate) pairs: Vec<PairPaths>,
    /// A directory of pairs.
    pub(crate) directory: Option<PathBuf>,
    /// PEM with the issuers of client certificates. If it is set, clients need one.
    pub(crate) client_ca: Option<PathBuf>,
    pub(crate) min_version: TlsVersion,
}

/// The settings of the connections to a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ClientSettings {
    /// PEM with the trusted issuers; `None` for those that the system trusts.
    pub(crate) ca: Option<PathBuf>,
    /// The certificate to send, if the server requests one.
    pub(crate) pair: Option<PairPaths>,
    /// The name in place of the server's host.
    pub(crate) server_name: Option<String>,
    pub(crate) verification: Verification,
    pub(crate) alpn: Alpn,
}

/// The protocols that a client offers by ALPN (RFC 7301).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Alpn {
    #[default]
    Http1,
    /// HTTP/2, or HTTP/1.1 with a server that does not select it.
    Http2OrHttp1,
}

/// The files and the rules of TLS between edges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerSettings {
    /// The certificate of this edge.
    pub(crate) pair: PairPaths,
    /// PEM with the issuers of the certificates of all edges.
    pub(crate) ca: PathBuf,
    pub(crate) identity: PeerIdentity,
    pub(crate) mode: PeerMode,
    /// The address of this edge, which its certificate must name; empty for an edge without one.
    pub(crate) own: String,
}

/// Returns the addresses (`host:port`) of the members of the cluster.
pub(crate) type MemberAddresses = Arc<dyn Fn() -> Vec<Arc<str>> + Send + Sync>;

/// The part of a peer's certificate that identifies the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PeerIdentity {
    /// A DNS name or an IP address: the host of the member that was dialled, or of any member that
    /// connects.
    Host,
    /// This URI, or one that continues it after a `/`.
    Uri(String),
}

impl PeerIdentity {
    /// Returns true if a certificate with this URI is a peer's.
    pub(crate) fn accepts_uri(&self, uri: &str) -> bool {
        let Self::Uri(identity) = self else { return false };
        uri.strip_prefix(&**identity).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// The transports that the listener for peers accepts, and that peers are dialled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PeerMode {
    Require,
    /// TLS, or cleartext with a peer that does not speak TLS yet.
    Accept,
}

/// The outcome of a TLS handshake with a peer that this edge dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DialOutcome {
    Ok,
    /// It was not complete within `cluster.connect_timeout`.
    Timeout,
    /// The peer's certificate was rejected.
    Certificate,
    /// The peer does not speak TLS.
    NotTls,
    /// Another failure, such as an alert of the peer.
    Failed,
}

impl DialOutcome {
    pub(crate) const ALL: [Self; 5] = [Self::Ok, Self::Timeout, Self::Certificate, Self::NotTls, Self::Failed];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Timeout => "timeout",
            Self::Certificate => "certificate",
            Self::NotTls => "not_tls",
            Self::Failed => "failed",
        }
    }
}

/// The reason for which a peer cannot be reached by TLS.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DialError {
    #[error(
        "the peer does not speak TLS on this port; set [cluster.tls] there, and mode = \"accept\" here until every edge has it"
    )]
    NotTls,
    #[error("{0}")]
    Failed(String),
}

/// The verification of a server's certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Verification {
    #[default]
    Required,
    /// Any certificate is accepted.
    Off,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(crate) enum TlsVersion {
    Tls12,
    Tls13,
}

impl TlsVersion {
    /// Returns the name in the access log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tls12 => "TLSv1.2",
            Self::Tls13 => "TLSv1.3",
        }
    }
}

/// Tells if a handshake resumed an earlier session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resumption {
    Full,
    Resumed,
}

/// The result of a handshake.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    pub(crate) version: TlsVersion,
    /// The name of the cipher suite, as in the registry of IANA.
    pub(crate) cipher: &'static str,
    pub(crate) resumption: Resumption,
}

/// The reason for which a handshake failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("timeout")]
    Timeout,
    #[error("the connection was closed")]
    Closed,
    #[error("the first bytes are not a TLS handshake")]
    NotTls,
    #[error("no certificate for this name")]
    UnknownName(Option<String>),
    #[error("certificate rejected: {0}")]
    ClientCertificate(String),
    #[error("{0}")]
    Failed(String),
}

/// The reason for which certificates cannot be used: the file, the fault, and the remedy.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub(crate) struct LoadError {
    pub(crate) path: PathBuf,
    pub(crate) problem: String,
}

impl LoadError {
    pub(super) fn new(path: impl Into<PathBuf>, problem: impl fmt::Display) -> Self {
        Self { path: path.into(), problem: problem.to_string() }
    }
}

/// The edges that know the secrets of session tickets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TicketScope {
    /// This edge, which makes secrets when it needs them.
    Local,
    /// The edges of the cluster, which exchange them.
    Shared,
}

/// Another edge's message of ticket secrets has an unknown format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed message of ticket secrets; do both edges run the same version?")]
pub(crate) struct MalformedSecrets;

/// The certificates of an acceptor, for metrics.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) usable: usize,
    /// Pairs that were rejected. The certificate that such a pair should replace may be in use.
    pub(crate) rejected: usize,
    /// A name and the end of validity of each certificate, the earliest first; not all of them,
    /// if there are many.
    pub(crate) expiries: Vec<(Box<str>, SystemTime)>,
}
