//! [`Scheme`]: the scheme of an HTTP URL.

use serde::{Deserialize, Serialize};

/// The scheme of an HTTP URL (RFC 9110 §4.2): there are two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Cleartext.
    #[default]
    Http,
    /// TLS, which the edge or a proxy in front of it terminates.
    Https,
}

impl Scheme {
    /// Every scheme.
    pub const ALL: [Self; 2] = [Self::Http, Self::Https];

    /// Returns the scheme of a request from its name, in any case; `None` for other schemes. A
    /// WebSocket begins with an HTTP request, so `ws` and `wss` are names of these schemes, too
    /// (RFC 6455 §3).
    pub fn of_name(name: &[u8]) -> Option<Self> {
        let is = |names: [&str; 2]| names.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
        if is(["http", "ws"]) {
            Some(Self::Http)
        } else if is(["https", "wss"]) {
            Some(Self::Https)
        } else {
            None
        }
    }

    /// Returns the name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// Returns the port of URLs that state none.
    pub fn default_port(self) -> &'static str {
        match self {
            Self::Http => "80",
            Self::Https => "443",
        }
    }
}
