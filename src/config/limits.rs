//! `[limits]`: bounds on the connections and requests of clients.

use serde::{Deserialize, Serialize};

use super::bounds::{check_nonzero, check_range, invalid};
use super::values::{Period, Size, mib, secs};
use crate::semantics::methods::Methods;

/// The table `[limits]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct LimitsConfig {
    /// Open connections on each listener.
    pub connections: usize,
    /// Open connections of one client; 0 is a quarter of `connections`.
    pub connections_per_client: usize,
    /// Concurrent requests of one client at the origin; 0 is a quarter of `origin.requests`.
    pub requests_per_client: usize,
    /// Concurrent requests on one HTTP/2 connection.
    pub streams: u32,
    /// HTTP/2 control frames (SETTINGS, PING, PRIORITY, `WINDOW_UPDATE`, unknown frames) per
    /// second on one connection, besides the frames that its requests and responses need.
    pub control_frames: u32,
    /// Size of a request's head.
    pub header: Size,
    /// Size of a request's target.
    pub uri: Size,
    /// Size of a request's body.
    pub body: Size,
    /// Timeout for a request's head; also for an idle connection.
    pub header_timeout: Period,
    /// Time in which a client must read at least one byte of its response.
    pub send_timeout: Period,
    /// Least average rate at which it must read, in bytes per second; `send_timeout` is the
    /// time by which it may lag behind.
    pub send_rate: Size,
    /// Size of each socket's send buffer (`SO_SNDBUF`); 0 leaves it to the system.
    pub send_buffer: Size,
    /// Time in which a client must send at least one byte of its request body.
    pub body_timeout: Period,
    /// Least average rate at which it must send, in bytes per second; `body_timeout` is the
    /// time by which it may lag behind.
    pub body_rate: Size,
    /// Idle timeout of an upgraded connection, for both directions together.
    pub tunnel_timeout: Period,
    /// The methods that clients may use.
    pub methods: Vec<String>,
    /// Whether request headers with `_` in their names are kept. CGI, WSGI and Rack read `_`
    /// as `-`, so such a header can pose as another.
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
    /// Returns the number of connections that one client may have open.
    pub(crate) fn most_per_client(&self) -> usize {
        quarter_unless_set(self.connections_per_client, self.connections)
    }

    /// Returns the methods that clients may use.
    ///
    /// # Errors
    /// A text that names the key.
    pub(crate) fn methods(&self) -> Result<Methods, String> {
        Methods::new(&self.methods).map_err(|error| invalid("limits.methods", error))
    }

    /// Returns the number of requests that one client may have at an origin that takes
    /// `requests` at a time.
    pub(crate) fn most_requests_per_client(&self, requests: usize) -> usize {
        quarter_unless_set(self.requests_per_client, requests)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        self.methods()?;
        check_range("limits.connections", self.connections, 1..=10_000_000)?;
        check_range("limits.connections_per_client", self.connections_per_client, 0..=10_000_000)?;
        check_range("limits.requests_per_client", self.requests_per_client, 0..=1_000_000)?;
        check_range("limits.streams", self.streams, 1..=100_000)?;
        check_range("limits.control_frames", self.control_frames, 100..=1_000_000)?;
        check_range("limits.header", self.header, Size(8 * 1024)..=mib(1))?;
        check_range("limits.uri", self.uri, Size(256)..=Size(60 * 1024))?;
        check_range("limits.send_rate", self.send_rate, Size(1)..=mib(1024))?;
        check_range("limits.send_buffer", self.send_buffer, Size(0)..=mib(1024))?;
        check_range("limits.body_rate", self.body_rate, Size(1)..=mib(1024))?;
        check_nonzero("limits.header_timeout", self.header_timeout)?;
        check_nonzero("limits.send_timeout", self.send_timeout)?;
        check_nonzero("limits.body_timeout", self.body_timeout)?;
        check_nonzero("limits.tunnel_timeout", self.tunnel_timeout)
    }
}

/// Returns `configured`, or a quarter of `all` if that is 0.
fn quarter_unless_set(configured: usize, all: usize) -> usize {
    if configured == 0 { (all / 4).max(1) } else { configured }
}
