//! `[origin]`: the server that assets are fetched from.

use std::path::PathBuf;

use http::{HeaderName, Uri};
use serde::{Deserialize, Serialize};

use super::bounds::{check_nonzero, check_range, invalid, needs_feature};
use super::values::{self, Period, secs};
use crate::origin::http_origin;
use crate::semantics::request_headers::HeaderClass;
use crate::tls::{Alpn, ClientSettings, PairPaths, Verification};
use crate::upstream::DEFAULT_LIFETIME;

/// The table `[origin]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct OriginConfig {
    /// URL of the origin: `http[s]://host[:port][/folder]`.
    #[serde(with = "values::url")]
    pub url: Uri,
    /// Timeout for a connection, including the resolution of its name.
    pub connect_timeout: Period,
    /// Timeout from a request to the first byte of its response.
    pub first_byte_timeout: Period,
    /// Timeout between two chunks of a body.
    pub idle_timeout: Period,
    /// Time in which a connection takes new requests; its successor resolves the name again.
    pub connection_lifetime: Period,
    /// Largest number of requests waiting for a response at a time, and of uploads.
    pub requests: usize,
    /// Request headers that a fill sends, besides the ones that it always sends.
    pub forward: Vec<String>,
    /// Whether Location and Content-Location that point at the origin are rewritten to paths.
    pub rewrite_location: bool,
    /// Whether HTTP/2 is offered to an `https` origin, which selects it or HTTP/1.1.
    pub http2: bool,
    /// Issuers of the certificate of an `https` origin (PEM), in place of those that the system
    /// trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Name that the certificate of the origin must have, and that SNI requests, in place of the
    /// URL's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Certificate that the edge sends if the origin requests one, followed by its issuers (PEM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<PathBuf>,
    /// Private key of `client_certificate` (PEM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<PathBuf>,
    /// Whether the certificate of the origin is not verified: anyone on the way can then read and
    /// change everything.
    pub insecure_skip_verify: bool,
}

impl Default for OriginConfig {
    fn default() -> Self {
        Self {
            url: Uri::from_static("http://127.0.0.1:9000"),
            connect_timeout: secs(2),
            first_byte_timeout: secs(30),
            idle_timeout: secs(30),
            connection_lifetime: Period(DEFAULT_LIFETIME),
            requests: 1024,
            forward: Vec::new(),
            rewrite_location: true,
            http2: true,
            ca: None,
            server_name: None,
            client_certificate: None,
            client_key: None,
            insecure_skip_verify: false,
        }
    }
}

impl OriginConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        http_origin::check_url(&self.url).map_err(|error| invalid("origin.url", error))?;
        self.check_tls()?;
        check_range("origin.requests", self.requests, 1..=1_000_000)?;
        self.forwarded()?;
        check_nonzero("origin.connect_timeout", self.connect_timeout)?;
        check_nonzero("origin.connection_lifetime", self.connection_lifetime)?;
        check_nonzero("origin.first_byte_timeout", self.first_byte_timeout)?;
        check_nonzero("origin.idle_timeout", self.idle_timeout)
    }

    fn check_tls(&self) -> Result<(), String> {
        let is_https = self.url.scheme_str() == Some("https");
        if is_https && !cfg!(feature = "tls") {
            return Err(needs_feature("origin.url", &self.url.to_string(), "tls"));
        }
        for (key, is_set) in [
            ("origin.ca", self.ca.is_some()),
            ("origin.server_name", self.server_name.is_some()),
            ("origin.client_certificate", self.client_certificate.is_some()),
            ("origin.client_key", self.client_key.is_some()),
            ("origin.insecure_skip_verify", self.insecure_skip_verify),
        ] {
            if is_set && !is_https {
                return Err(invalid(key, "it needs an origin.url that begins with https://"));
            }
        }
        match (&self.client_certificate, &self.client_key) {
            (Some(_), None) => {
                Err("missing value for origin.client_key: origin.client_certificate needs it".to_owned())
            }
            (None, Some(_)) => {
                Err("missing value for origin.client_certificate: origin.client_key needs it".to_owned())
            }
            _ if self.insecure_skip_verify && self.ca.is_some() => {
                Err(invalid("origin.insecure_skip_verify", "it makes origin.ca useless; remove one of them"))
            }
            _ => Ok(()),
        }
    }

    /// Returns the settings of TLS to the origin.
    pub(crate) fn tls(&self) -> ClientSettings {
        let pair = self.client_certificate.clone().zip(self.client_key.clone());
        ClientSettings {
            ca: self.ca.clone(),
            pair: pair.map(|(chain, key)| PairPaths { chain, key }),
            server_name: self.server_name.clone(),
            verification: if self.insecure_skip_verify { Verification::Off } else { Verification::Required },
            alpn: if self.http2 { Alpn::Http2OrHttp1 } else { Alpn::Http1 },
        }
    }

    /// Returns the headers of `origin.forward`.
    pub(crate) fn forwarded(&self) -> Result<Box<[HeaderName]>, String> {
        let name = |text: &String| {
            let name = HeaderName::from_bytes(text.as_bytes());
            let name = name.map_err(|_| {
                invalid("origin.forward", format_args!("{text:?} (expected the name of a header, such as X-Tenant)"))
            })?;
            match HeaderClass::of(&name) {
                HeaderClass::Edge => Err(invalid(
                    "origin.forward",
                    format_args!("{text:?} is set by the edge itself and cannot be forwarded; remove it"),
                )),
                HeaderClass::Personal => Err(invalid(
                    "origin.forward",
                    format_args!(
                        "{text:?} identifies a client and is sent only where the response is not stored for others; remove it"
                    ),
                )),
                HeaderClass::Sent | HeaderClass::Inert | HeaderClass::Unknown => Ok(name),
            }
        };
        self.forward.iter().map(name).collect()
    }
}
