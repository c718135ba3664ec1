//! `[cluster.etcd]`: the connection to the etcd that `cluster.discover` names.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::bounds::invalid;
use super::values::Secret;
use crate::cluster::discovery::{Credentials, EtcdSettings, Password};
use crate::tls::{Alpn, ClientSettings, PairPaths, Verification};

/// The table `[cluster.etcd]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct EtcdConfig {
    /// Issuers of the certificates of an `etcds` server (PEM), in place of those that the system
    /// trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Certificate that the edge sends if etcd requests one, followed by its issuers (PEM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// Private key of `certificate` (PEM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// User of etcd; `None` if etcd has no users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Password of `user`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// File with the password of `user`, in place of `password`; read at each authentication.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
}

/// The kind of `cluster.discover`, as far as it concerns `[cluster.etcd]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EtcdTransport {
    /// No etcd.
    None,
    Tcp,
    Tls,
}

impl EtcdConfig {
    pub(super) fn check(&self, transport: EtcdTransport) -> Result<(), String> {
        for (key, is_set) in [
            ("cluster.etcd.ca", self.ca.is_some()),
            ("cluster.etcd.certificate", self.certificate.is_some()),
            ("cluster.etcd.key", self.key.is_some()),
        ] {
            if is_set && transport != EtcdTransport::Tls {
                return Err(invalid(key, "it needs a cluster.discover that begins with etcds:"));
            }
        }
        if self.user.is_some() && transport == EtcdTransport::None {
            return Err(invalid("cluster.etcd.user", "it needs a cluster.discover that begins with etcd: or etcds:"));
        }
        let missing = |key: &str, by: &str| Err(format!("missing value for {key}: {by} needs it"));
        match (&self.certificate, &self.key) {
            (Some(_), None) => return missing("cluster.etcd.key", "cluster.etcd.certificate"),
            (None, Some(_)) => return missing("cluster.etcd.certificate", "cluster.etcd.key"),
            _ => {}
        }
        match (&self.user, &self.password, &self.password_file) {
            (_, Some(_), Some(_)) => {
                Err(invalid("cluster.etcd.password", "cluster.etcd.password_file is set, too; remove one of them"))
            }
            (Some(_), None, None) => missing("cluster.etcd.password", "cluster.etcd.user"),
            (None, Some(_), None) => missing("cluster.etcd.user", "cluster.etcd.password"),
            (None, None, Some(_)) => missing("cluster.etcd.user", "cluster.etcd.password_file"),
            _ => Ok(()),
        }
    }

    /// Returns the settings of the connection.
    pub(crate) fn settings(&self) -> EtcdSettings {
        let pair = self.certificate.clone().zip(self.key.clone());
        let password = match (&self.password, &self.password_file) {
            (Some(password), _) => Some(Password::Text(password.0.clone())),
            (None, Some(path)) => Some(Password::File(path.clone())),
            (None, None) => None,
        };
        EtcdSettings {
            tls: ClientSettings {
                ca: self.ca.clone(),
                pair: pair.map(|(chain, key)| PairPaths { chain, key }),
                server_name: None,
                verification: Verification::Required,
                alpn: Alpn::Http1,
            },
            credentials: self.user.clone().zip(password).map(|(user, password)| Credentials { user, password }),
        }
    }
}
