//! `[cluster.tls]`: TLS between edges.

use std::path::PathBuf;

use http::Uri;
use serde::{Deserialize, Serialize};

use super::bounds::{invalid, needs_feature};
use crate::tls::{PairPaths, PeerIdentity, PeerMode, PeerSettings};

/// The table `[cluster.tls]`. If it is set, connections between edges are mutually authenticated.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ClusterTlsConfig {
    /// Certificate of this edge, followed by its issuers (PEM). It is used in both directions.
    pub certificate: PathBuf,
    /// Private key of `certificate` (PEM).
    pub key: PathBuf,
    /// Issuers of the certificates of all edges (PEM).
    pub ca: PathBuf,
    /// URI that the certificate of every edge must have, or continue after a `/`. Without it a
    /// certificate must have the host of a member's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Acceptance of peers in cleartext.
    pub mode: ClusterTlsMode,
}

/// The connections between edges that are accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ClusterTlsMode {
    /// TLS only.
    #[default]
    Require,
    /// TLS, and cleartext with edges that do not speak TLS yet.
    Accept,
}

impl ClusterTlsConfig {
    /// Returns the configuration with these files.
    pub fn new(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>, ca: impl Into<PathBuf>) -> Self {
        Self { certificate: certificate.into(), key: key.into(), ca: ca.into(), ..Self::default() }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if !cfg!(feature = "tls") {
            return Err(needs_feature("cluster.tls", "a certificate", "tls"));
        }
        for (name, path, example) in [
            ("certificate", &self.certificate, "edge-1.pem"),
            ("key", &self.key, "edge-1.key"),
            ("ca", &self.ca, "cluster-ca.pem"),
        ] {
            if path.as_os_str().is_empty() {
                return Err(format!(
                    "missing value for cluster.tls.{name}: [cluster.tls] needs certificate, key and ca, such as \"/etc/peerage/{example}\""
                ));
            }
        }
        let is_identity = |text: &String| {
            let uri = text.parse::<Uri>().ok().filter(|uri| uri.scheme().is_some() && uri.query().is_none());
            uri.is_some_and(|uri| !uri.host().unwrap_or_default().is_empty()) && !text.ends_with('/')
        };
        match self.identity.as_ref().filter(|identity| !is_identity(identity)) {
            Some(bad) => Err(invalid(
                "cluster.tls.identity",
                format_args!("{bad:?} (expected a URI without a final /, such as spiffe://example.org/peerage)"),
            )),
            None => Ok(()),
        }
    }

    /// Returns the settings of TLS of the edge at the address `own`.
    pub(crate) fn settings(&self, own: &str) -> PeerSettings {
        PeerSettings {
            pair: PairPaths { chain: self.certificate.clone(), key: self.key.clone() },
            ca: self.ca.clone(),
            identity: self.identity.clone().map_or(PeerIdentity::Host, PeerIdentity::Uri),
            mode: match self.mode {
                ClusterTlsMode::Require => PeerMode::Require,
                ClusterTlsMode::Accept => PeerMode::Accept,
            },
            own: own.to_owned(),
        }
    }
}
