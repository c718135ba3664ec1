//! [`Settings`]: the settings of registries.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::tls::ClientSettings;

/// The settings of registries.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The time between two reads; the longest pause after failures, too.
    pub(crate) refresh: Duration,
    /// The nameserver to use instead of the system's.
    pub(crate) nameserver: Option<SocketAddr>,
    /// The lease on this edge's key in etcd.
    pub(crate) lease: Duration,
    /// The timeout for a connection to etcd.
    pub(crate) connect: Duration,
    /// This edge's name on the ring.
    pub(crate) own: Arc<str>,
    /// This edge's `edge.name`.
    pub(crate) edge: String,
    /// The connection to etcd.
    pub(crate) etcd: EtcdSettings,
}

/// The settings of the connection to etcd.
#[derive(Debug, Clone, Default)]
pub(crate) struct EtcdSettings {
    /// The settings of TLS, for `etcds` endpoints.
    pub(crate) tls: ClientSettings,
    pub(crate) credentials: Option<Credentials>,
}

/// A user of etcd.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: Password,
}

/// A password; its `Debug` form does not show it.
#[derive(Clone)]
pub(crate) enum Password {
    Text(String),
    /// A file with the password in one line.
    File(PathBuf),
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}
