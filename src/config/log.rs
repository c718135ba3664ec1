//! `[log]`: what is written down.

use serde::{Deserialize, Serialize};

use super::values::{Period, secs};

/// `[log]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// `auto` is text on a terminal and JSON elsewhere.
    pub format: LogFormat,
    /// What happens to the edge itself, on standard error.
    pub level: LogLevel,
    /// What libraries (h2, hyper) say, on standard error.
    pub libraries: LogLevel,
    /// How long the same kind of line is not written again, but counted, where a client
    /// or an origin can cause it; zero writes every line.
    pub repeat: Period,
    /// A line for each request, on standard output.
    pub access: bool,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// A JSON object a line.
    Json,
    /// For people.
    Text,
}

/// What is logged: this, and all that is worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: LogFormat::Auto,
            level: LogLevel::Info,
            libraries: LogLevel::Error,
            repeat: secs(10),
            access: true,
        }
    }
}
