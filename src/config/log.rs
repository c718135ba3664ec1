//! `[log]`: the log on standard error and the access log on standard output.

use serde::{Deserialize, Serialize};

use super::values::{Period, secs};

/// The table `[log]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct LogConfig {
    /// Format of both logs.
    pub format: LogFormat,
    /// Level of the edge's own lines.
    pub level: LogLevel,
    /// Level of the lines of libraries (h2, hyper).
    pub libraries: LogLevel,
    /// Time in which further lines of the same kind are counted instead of written, if
    /// clients or origins can cause them; 0 writes every line.
    pub repeat: Period,
    /// Whether each request gets a line on standard output.
    pub access: bool,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object per line.
    Json,
    /// Text for people.
    Text,
}

/// The least severity of the lines that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
#[non_exhaustive]
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
