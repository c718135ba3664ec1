//! `[edge]`: the edge itself.

use serde::{Deserialize, Serialize};

use super::bounds::{check_range, invalid, needs_feature};
use super::values::{self, Listen, Network, Period, loopback, secs};
use crate::semantics::scheme::Scheme;
use crate::semantics::{authority, cache_status};

/// The table `[edge]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct EdgeConfig {
    /// Name in Via and Cache-Status; unique in the cluster.
    #[serde(deserialize_with = "values::text")]
    pub name: String,
    /// Listening addresses for clients in cleartext: HTTP/1.1 and HTTP/2. None, if clients use
    /// `tls.listen` alone.
    pub listen: Listen,
    /// Time that requests have to end after SIGTERM.
    pub drain: Period,
    /// Number of worker threads; 0 starts one for each core.
    pub threads: usize,
    /// Whether large bodies are sent without a copy, where the system supports it.
    pub zero_copy: ZeroCopy,
    /// Networks of the proxies whose X-Forwarded-* and Forwarded headers are trusted.
    pub trusted_proxies: Vec<Network>,
    /// Scheme of the requests whose scheme no trusted proxy states. The origin is told the scheme
    /// of each request, and responses for different schemes are stored apart.
    pub scheme: Scheme,
    /// Host of the requests that state none. The origin is told the host of each request, and
    /// responses for different hosts are stored apart. If it is empty, the origin is told only
    /// hosts that a trusted proxy states, and all other requests share the stored responses.
    #[serde(deserialize_with = "values::text")]
    pub host: String,
    /// Redirects cleartext requests of clients to `https`.
    pub redirect_to_https: bool,
}

/// Selects the connections on which large bodies are sent without a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "ZeroCopyValue", into = "ZeroCopyValue")]
#[non_exhaustive]
pub enum ZeroCopy {
    /// Where that takes less CPU time: always, except under BBR, where both ways are measured.
    Auto,
    /// All connections.
    On,
    /// No connection.
    Off,
}

/// The serialized form of [`ZeroCopy`].
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "expected \"auto\", true or false")]
enum ZeroCopyValue {
    Switch(bool),
    Word(ZeroCopyWord),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ZeroCopyWord {
    Auto,
}

impl From<ZeroCopyValue> for ZeroCopy {
    fn from(value: ZeroCopyValue) -> Self {
        match value {
            ZeroCopyValue::Word(ZeroCopyWord::Auto) => Self::Auto,
            ZeroCopyValue::Switch(true) => Self::On,
            ZeroCopyValue::Switch(false) => Self::Off,
        }
    }
}

impl From<ZeroCopy> for ZeroCopyValue {
    fn from(zero_copy: ZeroCopy) -> Self {
        match zero_copy {
            ZeroCopy::Auto => Self::Word(ZeroCopyWord::Auto),
            ZeroCopy::On => Self::Switch(true),
            ZeroCopy::Off => Self::Switch(false),
        }
    }
}

impl Default for EdgeConfig {
    fn default() -> Self {
        Self {
            name: "edge-1".to_owned(),
            listen: loopback(8001).into(),
            drain: secs(30),
            threads: 0,
            zero_copy: ZeroCopy::Auto,
            trusted_proxies: Vec::new(),
            scheme: Scheme::Http,
            host: String::new(),
            redirect_to_https: false,
        }
    }
}

impl EdgeConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        if !cache_status::is_token(&self.name) || self.name.contains(['/', ':']) {
            return Err(invalid(
                "edge.name",
                format_args!(
                    "{:?} is not a token for Via and Cache-Status (expected a letter, then letters, digits, -, . or _, such as edge-1)",
                    self.name
                ),
            ));
        }
        self.told_host()?;
        if self.zero_copy == ZeroCopy::On && !cfg!(feature = "zero-copy") {
            return Err(needs_feature("edge.zero_copy", "true", "zero-copy"));
        }
        check_range("edge.threads", self.threads, 0..=1024)
    }

    /// Returns `host` in its normal form; `None` if it is empty.
    pub(crate) fn told_host(&self) -> Result<Option<Box<str>>, String> {
        if self.host.is_empty() {
            return Ok(None);
        }
        let host = Some(self.host.as_bytes()).filter(|host| authority::is_host(host));
        let host = host.map(|host| authority::normalized(host, self.scheme.default_port()));
        host.filter(|host| !host.is_empty()).map(|host| Some(host.into())).ok_or_else(|| {
            invalid(
                "edge.host",
                format_args!(
                    "{:?} (expected a host such as www.example.com, with a port unless it is the scheme's default)",
                    self.host
                ),
            )
        })
    }
}
