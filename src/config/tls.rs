//! `[tls]`: HTTPS for clients.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::bounds::{check_range, invalid, needs_feature};
use super::values::{Listen, Period, secs};
use crate::tls::{PairPaths, Settings, TlsVersion};

/// The table `[tls]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct TlsConfig {
    /// Listening addresses for HTTPS: HTTP/1.1 and HTTP/2 over TLS. TLS is off without one.
    pub listen: Listen,
    /// Directory of certificates: pairs `NAME.pem` and `NAME.key`, and folders with `tls.crt` and
    /// `tls.key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// Certificates with their keys. The first is the default: clients get it that request no
    /// name, or a name that no certificate has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificate: Vec<CertificateConfig>,
    /// Issuers of client certificates (PEM). If it is set, every client needs a certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
    /// Lowest version of TLS.
    pub min_version: MinVersion,
    /// Interval at which changes of the files are looked for.
    pub refresh: Period,
    /// Lifetime of Strict-Transport-Security on responses over TLS (RFC 6797); 0 sends none.
    pub hsts: Period,
}

/// One certificate of `[[tls.certificate]]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct CertificateConfig {
    /// File of the certificate, followed by its issuers (PEM).
    pub chain: PathBuf,
    /// File of the private key (PEM).
    pub key: PathBuf,
}

/// The lowest version of TLS that clients may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum MinVersion {
    /// TLS 1.2 and 1.3.
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3 only.
    #[serde(rename = "1.3")]
    Tls13,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            listen: Listen::default(),
            directory: None,
            certificate: Vec::new(),
            client_ca: None,
            min_version: MinVersion::Tls12,
            refresh: secs(30),
            hsts: secs(0),
        }
    }
}

impl CertificateConfig {
    /// Returns the pair of two files.
    pub fn new(chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self { chain: chain.into(), key: key.into() }
    }
}

impl TlsConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        let is_configured = self.directory.is_some() || !self.certificate.is_empty();
        match self.listen.first() {
            None if is_configured => {
                return Err(invalid(
                    "tls.listen",
                    "there are certificates but no address (expected an address such as 0.0.0.0:443)",
                ));
            }
            Some(address) if !cfg!(feature = "tls") => {
                return Err(needs_feature("tls.listen", &address.to_string(), "tls"));
            }
            Some(_) if !is_configured => {
                return Err(invalid(
                    "tls.listen",
                    "there is no certificate (set tls.directory, or add [[tls.certificate]] with chain and key)",
                ));
            }
            _ => {}
        }
        for CertificateConfig { chain, key } in &self.certificate {
            for (name, path, example) in [("chain", chain, "example.com.pem"), ("key", key, "example.com.key")] {
                if path.as_os_str().is_empty() {
                    return Err(format!(
                        "missing value for tls.certificate.{name}: each [[tls.certificate]] needs one, such as \"/etc/peerage/{example}\""
                    ));
                }
            }
        }
        check_range("tls.refresh", self.refresh, secs(1)..=secs(24 * 60 * 60))?;
        check_range("tls.hsts", self.hsts, secs(0)..=secs(10 * 365 * 24 * 60 * 60))
    }

    /// Returns the sources of certificates and the policy of handshakes.
    pub(crate) fn settings(&self) -> Settings {
        let pair = |pair: &CertificateConfig| PairPaths { chain: pair.chain.clone(), key: pair.key.clone() };
        Settings {
            pairs: self.certificate.iter().map(pair).collect(),
            directory: self.directory.clone(),
            client_ca: self.client_ca.clone(),
            min_version: match self.min_version {
                MinVersion::Tls12 => TlsVersion::Tls12,
                MinVersion::Tls13 => TlsVersion::Tls13,
            },
        }
    }
}
