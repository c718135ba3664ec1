//! `[edge]`: this edge itself.

use std::net::SocketAddr;

use http::HeaderValue;
use serde::{Deserialize, Serialize};

use super::bounds::within;
use super::values::{self, Network, Period, Scheme, loopback, secs};
use crate::semantics::{authority, cache_status};

/// `[edge]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EdgeConfig {
    /// In Via and Cache-Status; unique in the cluster.
    #[serde(deserialize_with = "values::text")]
    pub name: String,
    /// For clients: HTTP/1.1 and cleartext HTTP/2.
    #[serde(with = "values::address")]
    pub listen: SocketAddr,
    /// How long requests may take to end after SIGTERM.
    pub drain: Period,
    /// Worker threads; 0 is one for each core.
    pub threads: usize,
    /// When sockets are lent the memory of large bodies, where the system can do that.
    pub zero_copy: ZeroCopy,
    /// The proxies in front, whose X-Forwarded-* and Forwarded are believed.
    pub trusted_proxies: Vec<Network>,
    /// The scheme by which clients reach the site: fills tell it, and a request by another
    /// passes.
    pub scheme: Scheme,
    /// The host of the site: fills tell it, and a request for another passes. If it is
    /// empty, fills tell none, and all hosts share what is stored.
    #[serde(deserialize_with = "values::text")]
    pub host: String,
}

/// When a socket is lent the memory of large bodies; otherwise the bodies are copied to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub enum ZeroCopy {
    /// Where lending costs less under the socket's congestion control: unless that is BBR.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// The form of [`ZeroCopy`] in a file.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "\"auto\", true or false is needed")]
enum Written {
    Switch(bool),
    Word(Word),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Auto,
}

impl From<Written> for ZeroCopy {
    fn from(written: Written) -> Self {
        match written {
            Written::Word(Word::Auto) => Self::Auto,
            Written::Switch(true) => Self::On,
            Written::Switch(false) => Self::Off,
        }
    }
}

impl From<ZeroCopy> for Written {
    fn from(zero_copy: ZeroCopy) -> Self {
        match zero_copy {
            ZeroCopy::Auto => Self::Word(Word::Auto),
            ZeroCopy::On => Self::Switch(true),
            ZeroCopy::Off => Self::Switch(false),
        }
    }
}

impl Default for EdgeConfig {
    fn default() -> Self {
        Self {
            name: "edge-1".to_owned(),
            listen: loopback(8001),
            drain: secs(30),
            threads: 0,
            zero_copy: ZeroCopy::Auto,
            trusted_proxies: Vec::new(),
            scheme: Scheme::Http,
            host: String::new(),
        }
    }
}

impl EdgeConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        if !cache_status::is_token(&self.name) || self.name.contains(['/', ':']) {
            return Err(format!(
                "edge.name: `{}` cannot stand in Via and Cache-Status; a letter, then letters, digits, `-`, `.` or `_` are needed, such as `edge-1`",
                self.name
            ));
        }
        self.told_host()?;
        within("edge.threads", self.threads, 0..=1024)
    }

    /// The host that fills tell, if they tell one.
    pub(crate) fn told_host(&self) -> Result<Option<HeaderValue>, String> {
        if self.host.is_empty() {
            return Ok(None);
        }
        let host = HeaderValue::from_str(&self.host).ok().filter(|host| authority::is_host(host.as_bytes()));
        host.map(Some).ok_or_else(|| {
            format!(
                "edge.host: `{}` is not a host; one such as `www.example.com` is needed, with its port if that is not the scheme's own",
                self.host
            )
        })
    }
}
