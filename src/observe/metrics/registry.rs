//! [`Metrics`]: the counters that requests, fetches and connections update.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

#[cfg(feature = "cli")]
use tracing_appender::non_blocking::ErrorCounter;

use super::counters::{Counter, Histogram};
use super::labels::{Asked, Fetched, Handshake, PeerLookup, Refused, Served, Source};
use crate::cluster::MAX_SECRETS;
use crate::tls::{DialOutcome, PeerTls, Report};

/// The classes of response statuses, from 100 up.
pub(super) const STATUSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The counters of one edge.
#[derive(Default)]
pub(crate) struct Metrics {
    /// By sender, cache result and status class.
    pub(super) requests: [[[Counter; STATUSES.len()]; Served::ALL.len()]; Source::ALL.len()],
    /// Bytes of request bodies, by sender.
    pub(super) received_bytes: [Counter; Source::ALL.len()],
    /// Bytes of response bodies, by sender.
    pub(super) sent_bytes: [Counter; Source::ALL.len()],
    /// By listener.
    pub(super) open_connections: [AtomicU64; Source::LISTENERS.len()],
    pub(super) request_times: Histogram,
    /// By upstream and outcome.
    pub(super) fetches: [[Counter; 2]; 2],
    pub(super) fetch_times: [Histogram; 2],
    pub(super) wrong_contents: [Counter; 2],
    pub(super) takeovers: [Counter; PeerLookup::ALL.len()],
    pub(super) peeks: [Counter; PeerLookup::ALL.len()],
    pub(super) refused_connections: Counter,
    pub(super) refused_client_connections: Counter,
    pub(super) refused_client_requests: Counter,
    pub(super) stalled_connections: Counter,
    pub(super) flooded_connections: Counter,
    pub(super) overflowed_invalidations: Counter,
    pub(super) malformed_requests: Counter,
    pub(super) refused_datagrams: [Counter; Refused::ALL.len()],
    /// By the position of the secret.
    pub(super) opened_datagrams: [Counter; MAX_SECRETS],
    pub(super) discoveries: [Counter; Fetched::ALL.len()],
    /// By listener and outcome.
    pub(super) handshakes: [[Counter; Handshake::ALL.len()]; Source::LISTENERS.len()],
    pub(super) handshake_times: Histogram,
    /// By listener.
    certificates: [Mutex<Report>; Source::LISTENERS.len()],
    /// Counts the handshakes with peers that this edge dialled.
    peer_tls: OnceLock<Arc<PeerTls>>,
    pub(super) ticket_exchanges: [Counter; Fetched::ALL.len()],
    #[cfg(feature = "cli")]
    log_lines_lost: Mutex<Vec<ErrorCounter>>,
}

/// Counts a connection as open until it is dropped.
pub(crate) struct OpenConnection {
    metrics: Arc<Metrics>,
    source: Source,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.metrics.open_connections[self.source as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

/// A fetch without a response yet. It counts as an error when it is dropped in this state:
/// the fetch failed, or was cancelled.
pub(crate) struct Fetching<'a> {
    metrics: Option<&'a Metrics>,
    asked: Asked,
    began: Instant,
}

impl Fetching<'_> {
    /// Notes that the response began; the fetch is counted when the response ends.
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
    /// Counts a request, and the time from its head to the end of its response.
    pub(crate) fn request(&self, source: Source, served: Served, status: u16, time: Duration) {
        let class = usize::from(status / 100).clamp(1, STATUSES.len()) - 1;
        self.requests[source as usize][served as usize][class].add(1);
        self.request_times.observe(time);
    }

    /// Counts bytes of a response body.
    pub(crate) fn sent(&self, source: Source, bytes: u64) {
        self.sent_bytes[source as usize].add(bytes);
    }

    /// Counts bytes of a request body.
    pub(crate) fn received(&self, source: Source, bytes: u64) {
        self.received_bytes[source as usize].add(bytes);
    }

    /// Counts a connection as open until the returned guard is dropped.
    pub(crate) fn connected(self: &Arc<Self>, source: Source) -> OpenConnection {
        self.open_connections[source as usize].fetch_add(1, Ordering::Relaxed);
        OpenConnection { metrics: Arc::clone(self), source }
    }

    /// Counts a fetch, and the time that it took.
    pub(crate) fn fetch(&self, asked: Asked, fetched: Fetched, time: Duration) {
        self.fetches[asked as usize][fetched as usize].add(1);
        self.fetch_times[asked as usize].observe(time);
    }

    /// Begins a fetch. It counts as failed unless [`Fetching::answered`] is called.
    pub(crate) fn fetching(&self, asked: Asked) -> Fetching<'_> {
        Fetching { metrics: Some(self), asked, began: Instant::now() }
    }

    /// Counts a body that failed verification.
    pub(crate) fn wrong_content(&self, asked: Asked) {
        self.wrong_contents[asked as usize].add(1);
    }

    /// Counts a request for a key to a peer that may have owned it before.
    pub(crate) fn taken_over(&self, outcome: PeerLookup) {
        self.takeovers[outcome as usize].add(1);
    }

    /// Counts a peek at an owner.
    pub(crate) fn peeked(&self, outcome: PeerLookup) {
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

    /// Counts an overflow of the list of invalidations that is kept for an unreachable peer.
    pub(crate) fn overflowed_invalidations(&self) {
        self.overflowed_invalidations.add(1);
    }

    pub(crate) fn flooded_connection(&self) {
        self.flooded_connections.add(1);
    }

    pub(crate) fn refused_datagram(&self, reason: Refused) {
        self.refused_datagrams[reason as usize].add(1);
    }

    /// Counts a datagram that the secret at `position` opened.
    pub(crate) fn opened_datagram(&self, position: usize) {
        self.opened_datagrams[position].add(1);
    }

    /// Counts a lookup of the member list (`cluster.discover`).
    pub(crate) fn discovery(&self, outcome: Fetched) {
        self.discoveries[outcome as usize].add(1);
    }

    /// Counts a TLS handshake on the listener for `source`, and the time that it took if it
    /// succeeded.
    pub(crate) fn handshake(&self, source: Source, outcome: Handshake, time: Duration) {
        self.handshakes[source as usize][outcome as usize].add(1);
        if matches!(outcome, Handshake::Full | Handshake::Resumed) {
            self.handshake_times.observe(time);
        }
    }

    /// Replaces the state of the certificates of the listener for `source`.
    pub(crate) fn set_certificates(&self, source: Source, report: Report) {
        *self.certificates[source as usize].lock().unwrap_or_else(PoisonError::into_inner) = report;
    }

    /// Returns the state of the certificates of the listener for `source`.
    pub(super) fn certificates(&self, source: Source) -> Report {
        self.certificates[source as usize].lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds the handshakes that `tls` counts.
    pub(crate) fn count_dials(&self, tls: Arc<PeerTls>) {
        // An edge has one.
        let _ = self.peer_tls.set(tls);
    }

    /// Returns the number of handshakes with peers that this edge dialled.
    pub(super) fn dials(&self, outcome: DialOutcome) -> u64 {
        self.peer_tls.get().map_or(0, |tls| tls.dials(outcome))
    }

    /// Counts an exchange of session ticket secrets with a peer.
    pub(crate) fn ticket_exchange(&self, outcome: Fetched) {
        self.ticket_exchanges[outcome as usize].add(1);
    }

    /// Adds a log's counter of dropped lines to the metric `log_lines_lost`.
    #[cfg(feature = "cli")]
    pub(crate) fn count_lost_lines(&self, counter: ErrorCounter) {
        self.log_lines_lost.lock().unwrap_or_else(PoisonError::into_inner).push(counter);
    }

    /// Returns the number of log lines that were dropped.
    #[cfg(all(feature = "observe", not(feature = "cli")))]
    #[allow(clippy::unused_self)] // as with the feature
    pub(super) fn log_lines_lost(&self) -> u64 {
        0
    }

    #[cfg(feature = "cli")]
    pub(super) fn log_lines_lost(&self) -> u64 {
        let counters = self.log_lines_lost.lock().unwrap_or_else(PoisonError::into_inner);
        counters.iter().map(|counter| counter.dropped_lines() as u64).sum()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}
