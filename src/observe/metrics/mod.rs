//! What this edge counts.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
#[cfg(feature = "cli")]
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

#[cfg(feature = "cli")]
use tracing_appender::non_blocking::ErrorCounter;

mod counting;
#[cfg(feature = "observe")]
mod exposition;
#[cfg(feature = "observe")]
mod process;

use counting::{Count, Times};
#[cfg(feature = "observe")]
pub(crate) use exposition::{Gauges, OPEN_METRICS, PLAIN, exposition, plain};

/// Which listener a request came in by: a fact, not a field of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `edge.listen`
    Client,
    /// `cluster.listen`
    Peer,
}

impl Source {
    const ALL: [Self; 2] = [Self::Client, Self::Peer];

    /// The label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Peer => "peer",
        }
    }

    /// The key of the listener.
    pub(crate) fn listener(self) -> &'static str {
        match self {
            Self::Client => "edge.listen",
            Self::Peer => "cluster.listen",
        }
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Served {
    Hit,
    HotHit,
    Miss,
    Collapsed,
    Stale,
    Pass,
    Error,
}

impl Served {
    const ALL: [Self; 7] = [Self::Hit, Self::HotHit, Self::Miss, Self::Collapsed, Self::Stale, Self::Pass, Self::Error];

    /// The label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::HotHit => "hot_hit",
            Self::Miss => "miss",
            Self::Collapsed => "collapsed",
            Self::Stale => "stale",
            Self::Pass => "pass",
            Self::Error => "error",
        }
    }
}

/// Whom this edge asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Asked {
    Peer,
    Origin,
}

impl Asked {
    const ALL: [Self; 2] = [Self::Peer, Self::Origin];

    fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Origin => "origin",
        }
    }
}

/// How it went: `Ok` is any answer that came whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Fetched {
    Ok,
    Error,
}

impl Fetched {
    const ALL: [Self; 2] = [Self::Ok, Self::Error];

    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
        }
    }
}

/// What came of asking a peer for what it may have: a key that it owns, or owned before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sought {
    /// It holds it.
    Chunks,
    /// It does not.
    Missing,
    /// It did not answer.
    Error,
}

impl Sought {
    const ALL: [Self; 3] = [Self::Chunks, Self::Missing, Self::Error];

    fn name(self) -> &'static str {
        match self {
            Self::Chunks => "held",
            Self::Missing => "missing",
            Self::Error => "error",
        }
    }
}

/// Why a datagram of gossip was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Refused {
    Seal,
    Version,
    Stranger,
    Guest,
    Garbage,
}

impl Refused {
    const ALL: [Self; 5] = [Self::Seal, Self::Version, Self::Stranger, Self::Guest, Self::Garbage];

    fn name(self) -> &'static str {
        match self {
            Self::Seal => "seal",
            Self::Version => "version",
            Self::Stranger => "stranger",
            Self::Guest => "guest",
            Self::Garbage => "garbage",
        }
    }
}

/// The classes of statuses, from 100 up.
const STATUSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The counters that the request path turns.
#[derive(Default)]
pub(crate) struct Metrics {
    requests: [[[Count; STATUSES.len()]; Served::ALL.len()]; 2],
    /// Of contents and bodies, by listener.
    received_bytes: [Count; 2],
    sent_bytes: [Count; 2],
    open_connections: [AtomicU64; 2],
    request_times: Times,
    fetches: [[Count; 2]; 2],
    fetch_times: [Times; 2],
    wrong_contents: [Count; 2],
    takeovers: [Count; Sought::ALL.len()],
    peeks: [Count; Sought::ALL.len()],
    refused_connections: Count,
    refused_client_connections: Count,
    refused_client_requests: Count,
    stalled_connections: Count,
    flooded_connections: Count,
    overflowed_invalidations: Count,
    malformed_requests: Count,
    refused_datagrams: [Count; Refused::ALL.len()],
    discoveries: [Count; Fetched::ALL.len()],
    #[cfg(feature = "cli")]
    log_lines_lost: Mutex<Vec<ErrorCounter>>,
}

/// An open connection.
pub(crate) struct Connected {
    metrics: Arc<Metrics>,
    source: Source,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.metrics.open_connections[self.source as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

/// A fetch that has no answer yet. Dropped so, because it failed or nobody waits for it any
/// more, it counts as an error.
pub(crate) struct Fetching<'a> {
    metrics: Option<&'a Metrics>,
    asked: Asked,
    began: Instant,
}

impl Fetching<'_> {
    /// There is an answer: who sees its end counts it.
    pub(crate) fn answered(mut self) {
        self.metrics = None;
    }
}

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        if let Some(metrics) = self.metrics {
            metrics.fetch(self.asked, Fetched::Error, self.began.elapsed());
        }
    }
}

impl Metrics {
    pub(crate) fn request(&self, source: Source, served: Served, status: u16, time: Duration) {
        let class = usize::from(status / 100).clamp(1, STATUSES.len()) - 1;
        self.requests[source as usize][served as usize][class].add(1);
        self.request_times.observe(time);
    }

    /// Counts the bytes of a response's body.
    pub(crate) fn sent(&self, source: Source, bytes: u64) {
        self.sent_bytes[source as usize].add(bytes);
    }

    /// Counts bytes of a request's content.
    pub(crate) fn received(&self, source: Source, bytes: u64) {
        self.received_bytes[source as usize].add(bytes);
    }

    /// Counts a connection as open until the returned guard is dropped.
    pub(crate) fn connected(self: &Arc<Self>, source: Source) -> Connected {
        self.open_connections[source as usize].fetch_add(1, Ordering::Relaxed);
        Connected { metrics: Arc::clone(self), source }
    }

    pub(crate) fn fetch(&self, asked: Asked, fetched: Fetched, time: Duration) {
        self.fetches[asked as usize][fetched as usize].add(1);
        self.fetch_times[asked as usize].observe(time);
    }

    /// A fetch begins; unless there is an answer, it has failed.
    pub(crate) fn fetching(&self, asked: Asked) -> Fetching<'_> {
        Fetching { metrics: Some(self), asked, began: Instant::now() }
    }

    pub(crate) fn wrong_content(&self, asked: Asked) {
        self.wrong_contents[asked as usize].add(1);
    }

    pub(crate) fn taken_over(&self, outcome: Sought) {
        self.takeovers[outcome as usize].add(1);
    }

    /// An owner was asked what it has at hand.
    pub(crate) fn peeked(&self, outcome: Sought) {
        self.peeks[outcome as usize].add(1);
    }

    pub(crate) fn malformed_request(&self) {
        self.malformed_requests.add(1);
    }

    pub(crate) fn refused_connection(&self) {
        self.refused_connections.add(1);
    }

    pub(crate) fn refused_client_connection(&self) {
        self.refused_client_connections.add(1);
    }

    pub(crate) fn refused_client_request(&self) {
        self.refused_client_requests.add(1);
    }

    pub(crate) fn stalled_connection(&self) {
        self.stalled_connections.add(1);
    }

    /// A peer has missed more invalidations than are kept for it.
    pub(crate) fn overflowed_invalidations(&self) {
        self.overflowed_invalidations.add(1);
    }

    pub(crate) fn flooded_connection(&self) {
        self.flooded_connections.add(1);
    }

    pub(crate) fn refused_datagram(&self, why: Refused) {
        self.refused_datagrams[why as usize].add(1);
    }

    pub(crate) fn discovery(&self, outcome: Fetched) {
        self.discoveries[outcome as usize].add(1);
    }

    /// From now on, this counter too tells of log lines that were lost.
    #[cfg(feature = "cli")]
    pub(crate) fn count_lost_lines(&self, counter: ErrorCounter) {
        self.log_lines_lost.lock().unwrap_or_else(PoisonError::into_inner).push(counter);
    }

    #[cfg(all(feature = "observe", not(feature = "cli")))]
    #[allow(clippy::unused_self)] // as with the feature
    fn log_lines_lost(&self) -> u64 {
        0
    }

    #[cfg(feature = "cli")]
    fn log_lines_lost(&self) -> u64 {
        let counters = self.log_lines_lost.lock().unwrap_or_else(PoisonError::into_inner);
        counters.iter().map(|counter| counter.dropped_lines() as u64).sum()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}
