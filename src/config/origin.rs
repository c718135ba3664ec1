//! `[origin]`: where assets come from.

use http::{HeaderName, Uri};
use serde::{Deserialize, Serialize};

use super::bounds::{some_time, within};
use super::values::{self, Period, secs};
use crate::origin::http_origin;
use crate::semantics::request_fields::Class;
use crate::upstream::DEFAULT_LIFETIME;

/// `[origin]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OriginConfig {
    /// `http://host[:port][/folder]`
    #[serde(with = "values::url")]
    pub url: Uri,
    /// To have a connection.
    pub connect_timeout: Period,
    /// From a request to the first byte of its answer.
    pub first_byte_timeout: Period,
    /// Between two pieces of a body.
    pub idle_timeout: Period,
    /// For how long a connection takes new requests: the next resolves the name anew.
    pub connection_lifetime: Period,
    /// How many requests may wait for its answers at a time, and as many uploads.
    pub requests: usize,
    /// Request headers that go with a fill, besides those that always do.
    pub forward: Vec<String>,
    /// Whether Location and Content-Location that name the origin are rewritten to paths.
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
        http_origin::check_url(&self.url).map_err(|error| format!("origin.url: {error}"))?;
        within("origin.requests", self.requests, 1..=1_000_000)?;
        self.forwarded()?;
        some_time("origin.connect_timeout", self.connect_timeout)?;
        some_time("origin.connection_lifetime", self.connection_lifetime)?;
        some_time("origin.first_byte_timeout", self.first_byte_timeout)?;
        some_time("origin.idle_timeout", self.idle_timeout)
    }

    /// Returns the headers of `origin.forward`.
    pub(crate) fn forwarded(&self) -> Result<Box<[HeaderName]>, String> {
        let name = |text: &String| {
            let name = HeaderName::from_bytes(text.as_bytes());
            let name = name.map_err(|_| {
                format!("origin.forward: `{text}` is not the name of a header; a name such as \"X-Tenant\" is needed")
            })?;
            match Class::of(&name) {
                Class::Edge => Err(format!(
                    "origin.forward: {text} is read or written by the edge itself, and cannot be forwarded; remove it"
                )),
                Class::Own => Err(format!(
                    "origin.forward: {text} identifies a client; it goes along where its response is not stored for others; remove it"
                )),
                Class::Sent | Class::Inert | Class::Unknown => Ok(name),
            }
        };
        self.forward.iter().map(name).collect()
    }
}
