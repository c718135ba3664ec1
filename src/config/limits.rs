//! `[limits]`: what a client may ask of this edge.

use serde::{Deserialize, Serialize};

use super::bounds::{some_time, within};
use super::values::{Period, Size, mib, secs};
use crate::semantics::methods::Methods;

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitsConfig {
    /// Connections at a time, on each listener.
    pub connections: usize,
    /// Connections at a time that one client may have; 0 is a quarter of `connections`.
    pub connections_per_client: usize,
    /// Requests at the origin at a time that one client may have; 0 is a quarter of
    /// `origin.requests`.
    pub requests_per_client: usize,
    /// Requests at a time on one HTTP/2 connection.
    pub streams: u32,
    /// HTTP/2 control frames (SETTINGS, PING, PRIORITY, `WINDOW_UPDATE`, unknown ones) in a
    /// second on one connection, beside those that its requests and answers call for.
    pub control_frames: u32,
    /// The head of a request.
    pub header: Size,
    /// The target of a request.
    pub uri: Size,
    /// The content of a request.
    pub body: Size,
    /// For a request's head to come; also how long an idle connection is kept.
    pub header_timeout: Period,
    /// How long a client may take nothing of what it asked for.
    pub send_timeout: Period,
    /// How many bytes of it must be taken in a second, on average and beside that time.
    pub send_rate: Size,
    /// How much each socket may hold of it (`SO_SNDBUF`); 0 is the system's choice.
    pub send_buffer: Size,
    /// How long a client may send nothing of the body that it announced.
    pub body_timeout: Period,
    /// How many bytes of it must come in a second, on average and beside that time.
    pub body_rate: Size,
    /// How long an upgraded connection may carry nothing, in either direction.
    pub tunnel_timeout: Period,
    /// The methods that clients may use.
    pub methods: Vec<String>,
    /// Whether request headers with `_` in their names are kept. CGI, WSGI and Rack read
    /// `_` as `-`, so such a header can pass for another.
    pub underscore_headers: bool,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections: 16_384,
            connections_per_client: 0,
            requests_per_client: 0,
            streams: 128,
            control_frames: 1000,
            header: Size(64 * 1024),
            uri: Size(16 * 1024),
            body: mib(1024),
            header_timeout: secs(60),
            send_timeout: secs(60),
            send_rate: Size(1024),
            send_buffer: Size(0),
            body_timeout: secs(60),
            body_rate: Size(1024),
            tunnel_timeout: secs(60 * 60),
            methods: ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"].map(str::to_owned).to_vec(),
            underscore_headers: false,
        }
    }
}

impl LimitsConfig {
    /// Returns how many connections one client may have.
    pub(crate) fn most_per_client(&self) -> usize {
        quarter_unless_set(self.connections_per_client, self.connections)
    }

    /// Returns the methods that clients may use.
    ///
    /// # Errors
    /// A text that names the key.
    pub(crate) fn methods(&self) -> Result<Methods, String> {
        Methods::new(&self.methods).map_err(|error| format!("limits.methods: {error}"))
    }

    /// Returns how many requests one client may have at the origin, which takes
    /// `requests` at a time.
    pub(crate) fn most_requests_per_client(&self, requests: usize) -> usize {
        quarter_unless_set(self.requests_per_client, requests)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        self.methods()?;
        within("limits.connections", self.connections, 1..=10_000_000)?;
        within("limits.connections_per_client", self.connections_per_client, 0..=10_000_000)?;
        within("limits.requests_per_client", self.requests_per_client, 0..=1_000_000)?;
        within("limits.streams", self.streams, 1..=100_000)?;
        within("limits.control_frames", self.control_frames, 100..=1_000_000)?;
        within("limits.header", self.header, Size(8 * 1024)..=mib(1))?;
        within("limits.uri", self.uri, Size(256)..=Size(60 * 1024))?;
        within("limits.send_rate", self.send_rate, Size(1)..=mib(1024))?;
        within("limits.send_buffer", self.send_buffer, Size(0)..=mib(1024))?;
        within("limits.body_rate", self.body_rate, Size(1)..=mib(1024))?;
        some_time("limits.header_timeout", self.header_timeout)?;
        some_time("limits.send_timeout", self.send_timeout)?;
        some_time("limits.body_timeout", self.body_timeout)?;
        some_time("limits.tunnel_timeout", self.tunnel_timeout)
    }
}

/// Returns the share of one client in `all`: `set`, or a quarter where that is 0.
fn quarter_unless_set(set: usize, all: usize) -> usize {
    if set == 0 { (all / 4).max(1) } else { set }
}
