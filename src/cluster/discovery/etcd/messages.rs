//! The messages of etcd's JSON gateway.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

#[derive(Deserialize)]
pub(super) struct Failure {
    #[serde(default)]
    pub(super) message: String,
}

/// An item of a streaming response: a result or an error.
#[derive(Deserialize)]
pub(super) struct Streamed<T> {
    pub(super) result: Option<T>,
    pub(super) error: Option<Failure>,
}

impl<T> Streamed<T> {
    pub(super) fn into_result(self) -> Result<T, String> {
        let message = self.error.map_or_else(|| "no result".to_owned(), |error| escaped(&error.message));
        self.result.ok_or_else(|| format!("etcd error: {message}"))
    }
}

#[derive(Deserialize)]
pub(super) struct Granted {
    #[serde(rename = "ID")]
    pub(super) id: String,
}

#[derive(Deserialize)]
pub(super) struct Alive {
    #[serde(rename = "TTL")]
    pub(super) ttl: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Listing {
    pub(super) header: Header,
    #[serde(default)]
    pub(super) kvs: Vec<Pair>,
}

#[derive(Deserialize)]
pub(super) struct Header {
    /// The gateway encodes 64-bit numbers as strings.
    #[serde(deserialize_with = "number")]
    pub(super) revision: u64,
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

#[derive(Deserialize)]
pub(super) struct Pair {
    /// The key in base64.
    pub(super) key: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Watched {
    pub(super) events: Vec<Event>,
    pub(super) canceled: bool,
    pub(super) cancel_reason: String,
    pub(super) compact_revision: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Event {
    #[serde(rename = "type", default)]
    pub(super) kind: Kind,
    pub(super) kv: Pair,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Kind {
    /// The default, because the gateway omits it.
    #[default]
    Put,
    Delete,
}

/// The answer to a user's password.
#[derive(Deserialize)]
pub(super) struct Authenticated {
    pub(super) token: String,
}

/// Shortens and escapes text from etcd for the log.
pub(super) fn escaped(text: &str) -> String {
    text.chars().take(200).collect::<String>().escape_debug().to_string()
}

/// Parses the response to a request for `path`.
pub(super) fn parse<T: DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("{path}: invalid JSON response: {error}"))
}
