//! The values that cross the border of this module; they exist in every build.

use std::fmt;
use std::path::PathBuf;
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
    #[error("the client closed the connection")]
    Closed,
    #[error("the first bytes are not a TLS handshake")]
    NotTls,
    #[error("no certificate for this name")]
    UnknownName(Option<String>),
    #[error("client certificate rejected: {0}")]
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
