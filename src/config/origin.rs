//! `[origin]`: the server that assets are fetched from.

use http::{HeaderName, Uri};
use serde::{Deserialize, Serialize};

use super::bounds::{check_nonzero, check_range, invalid};
use super::values::{self, Period, secs};
use crate::origin::http_origin;
use crate::semantics::request_headers::HeaderClass;
use crate::upstream::DEFAULT_LIFETIME;

/// The table `[origin]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct OriginConfig {
    /// URL of the origin: `http://host[:port][/folder]`.
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
        }
    }
}

impl OriginConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        http_origin::check_url(&self.url).map_err(|error| invalid("origin.url", error))?;
        check_range("origin.requests", self.requests, 1..=1_000_000)?;
        self.forwarded()?;
        check_nonzero("origin.connect_timeout", self.connect_timeout)?;
        check_nonzero("origin.connection_lifetime", self.connection_lifetime)?;
        check_nonzero("origin.first_byte_timeout", self.first_byte_timeout)?;
        check_nonzero("origin.idle_timeout", self.idle_timeout)
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
