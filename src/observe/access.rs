//! The access log: one line for each request, written when its response ends.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Buf;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body as _, Frame, SizeHint};
use serde::Serialize;
#[cfg(not(feature = "cli"))]
use std::convert::Infallible as NonBlocking;
#[cfg(feature = "cli")]
use tracing_appender::non_blocking::NonBlocking;

use crate::body::{Body, Ended, RUN};
use crate::cluster::membership::Membership;
use crate::error::Error;
use crate::key::AssetKey;
use crate::observe::activity::{Delivery, TrackedBuf};
use crate::observe::metrics::{Metrics, Served, Source};
use crate::store::chunks::CHUNK;
use crate::tls::Session;

/// The source of the bytes of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServedFrom {
    /// The store of this edge.
    Store,
    /// The origin, asked by this edge.
    Origin,
    /// The peer of this name, asked by this edge.
    Peer(Arc<str>),
    /// A response that this edge made itself.
    Edge,
}

/// The facts about a request that are known when its response begins.
#[derive(Debug)]
pub struct Record {
    /// The sender of the request.
    pub source: Source,
    /// The method of the request.
    pub method: Method,
    /// The key, or the request target if it has no valid key.
    pub key: Result<AssetKey, Box<str>>,
    /// The cache result.
    pub served: Served,
    /// The source of the response.
    pub from: ServedFrom,
    /// The reason for which the response was not stored, was served stale, or passed the
    /// cache: one word, the same as in the `detail` parameter of Cache-Status.
    pub reason: Option<&'static str>,
    /// The error, if the request failed.
    pub error: Option<Error>,
}

impl Record {
    /// Returns true if the request is a health check by a peer. There are several a second,
    /// so they are counted but not logged.
    fn is_probe(&self) -> bool {
        self.source == Source::Peer && self.method == Method::OPTIONS && self.from == ServedFrom::Edge
    }
}

/// The parts of a request head that only the log line needs; kept only if lines are written.
#[derive(Debug)]
pub(crate) struct Details {
    protocol: &'static str,
    host: Option<Box<str>>,
    user_agent: Option<Box<str>>,
    request_id: Option<Box<str>>,
    session: Option<Session>,
}

impl Details {
    /// Copies at most [`MAX_HEADER`] bytes of each value, since lines wait in memory. `session` is
    /// that of TLS.
    pub(crate) fn new(
        version: Version,
        session: Option<Session>,
        [host, user_agent, request_id]: [Option<&[u8]>; 3],
    ) -> Self {
        let short = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_HEADER)]).into();
        let protocol = match version {
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2",
            _ => "HTTP/1.1",
        };
        let (host, user_agent, request_id) = (host.map(short), user_agent.map(short), request_id.map(short));
        Self { protocol, host, user_agent, request_id, session }
    }

    fn of<B>(request: &Request<B>, session: Option<Session>) -> Self {
        let header = |name: &str| request.headers().get(name).map(HeaderValue::as_bytes);
        let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
        Self::new(
            request.version(),
            session,
            [authority.or_else(|| header("host")), header("user-agent"), header("x-request-id")],
        )
    }
}

/// The maximum length of a header value in a line, in bytes.
const MAX_HEADER: usize = 256;

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Text,
}

/// Counts requests in the metrics, and writes the access log.
pub(crate) struct Access {
    pub(crate) edge: String,
    pub(crate) membership: Arc<Membership>,
    pub(crate) metrics: Arc<Metrics>,
    /// The format and writer of the access log; `None` if it is off.
    pub(crate) lines: Option<(Format, NonBlocking)>,
}

impl Access {
    /// Returns the details of `request` for its line; `None` if no lines are written.
    pub(crate) fn details<B>(&self, request: &Request<B>, session: Option<Session>) -> Option<Box<Details>> {
        self.lines.is_some().then(|| Box::new(Details::of(request, session)))
    }

    /// Wraps `response` so that the request is counted and logged when the body ends or is
    /// dropped.
    pub(crate) fn log_response(
        self: &Arc<Self>,
        client: IpAddr,
        (record, details): (Record, Option<Box<Details>>),
        response: Response<Body>,
        began: Instant,
        delivery: Delivery,
    ) -> Response<LoggedBody> {
        let status = response.status();
        response.map(|body| self.log_body(client, (record, details), status, body, began, delivery))
    }

    /// Wraps `body`, as [`log_response`](Self::log_response) does, for a response with `status`.
    pub(crate) fn log_body(
        self: &Arc<Self>,
        client: IpAddr,
        (record, details): (Record, Option<Box<Details>>),
        status: StatusCode,
        body: Body,
        began: Instant,
        delivery: Delivery,
    ) -> LoggedBody {
        LoggedBody {
            unsent: body.size_hint().lower(),
            ended: body.is_end_stream(),
            body,
            access: Arc::clone(self),
            client,
            record,
            details,
            status,
            began,
            first: None,
            bytes: 0,
            failed: false,
            delivery,
        }
    }

    /// Wraps `response`, as [`log_response`](Self::log_response) does, for a server of the program.
    /// That server sends the bytes, so the time of the first one is unknown here.
    pub(crate) fn log_for_program(
        self: &Arc<Self>,
        client: IpAddr,
        (mut record, details): (Record, Option<Box<Details>>),
        response: Response<Body>,
        began: Instant,
    ) -> Response<Body> {
        let (access, status) = (Arc::clone(self), response.status().as_u16());
        let log = move |ended, bytes| {
            let (total, complete) = (began.elapsed(), ended == Ended::Complete);
            if let Ended::Failed(error) = ended {
                record.error = Some(error);
            }
            let stats = ResponseStats { status, bytes, first: None, total, complete };
            access.note(client, (&record, details.as_deref()), &stats);
        };
        response.map(|body| Body::with_end_hook(body, log))
    }

    /// Counts and logs the request if the client disconnects before the response begins.
    pub(crate) fn begin_request<B>(
        self: &Arc<Self>,
        client: IpAddr,
        source: Source,
        request: &Request<B>,
        session: Option<Session>,
        began: Instant,
    ) -> PendingRequest {
        let (method, uri) = (request.method().clone(), request.uri().clone());
        PendingRequest {
            access: Some(Arc::clone(self)),
            client,
            source,
            method,
            uri,
            details: self.details(request, session),
            began,
        }
    }

    fn note(&self, client: IpAddr, (record, details): (&Record, Option<&Details>), stats: &ResponseStats) {
        let served = if record.error.is_some() { Served::Error } else { record.served };
        self.metrics.request(record.source, served, stats.status, stats.total);
        self.metrics.sent(record.source, stats.bytes);
        if self.lines.is_none() || record.is_probe() {
            return;
        }
        let session = details.and_then(|details| details.session);
        let view = self.membership.view();
        let owner =
            record.key.as_ref().ok().filter(|_| !view.peers().is_empty()).and_then(|key| view.ring.owner(key.hash()));
        self.write(&Line {
            timestamp: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
            edge: &self.edge,
            source: record.source.name(),
            client,
            method: record.method.as_str(),
            host: details.and_then(|details| details.host.as_deref()),
            path: shorten(record.key.as_ref().map_or_else(|target| &**target, AssetKey::as_str)),
            protocol: details.map(|details| details.protocol),
            tls: session.map(|session| session.version.name()),
            cipher: session.map(|session| session.cipher),
            status: stats.status,
            result: served.name(),
            from: match &record.from {
                ServedFrom::Store => "memory",
                ServedFrom::Origin => "origin",
                ServedFrom::Peer(name) => name,
                ServedFrom::Edge => "-",
            },
            owner: owner.map(|owner| &**owner.name()),
            bytes: stats.bytes,
            first_byte_ms: millis(stats.first.unwrap_or(stats.total)),
            total_ms: millis(stats.total),
            complete: stats.complete,
            user_agent: details.and_then(|details| details.user_agent.as_deref()),
            request_id: details.and_then(|details| details.request_id.as_deref()),
            reason: record.reason,
            error: record.error.as_ref().map(|error| format!("{}: {error}", error.name())),
        });
    }

    /// Writes nothing: only the `peerage` program has an access log.
    #[cfg(not(feature = "cli"))]
    #[allow(clippy::unused_self)] // as with the feature
    fn write(&self, _: &Line<'_>) {}

    #[cfg(feature = "cli")]
    fn write(&self, line: &Line<'_>) {
        use std::io::Write as _;
        let Some((format, out)) = &self.lines else {
            return;
        };
        let mut text = match format {
            Format::Json => serde_json::to_string(line).unwrap_or_default(),
            Format::Text => line.text(),
        };
        text.push('\n');
        // Another thread writes the lines. When its queue is full, the appender drops lines
        // and counts them.
        let _ = out.clone().write_all(text.as_bytes());
    }
}

/// The size, times and outcome of a response.
struct ResponseStats {
    status: u16,
    /// Bytes of the body that were sent.
    bytes: u64,
    /// The time until the first byte of the body.
    first: Option<Duration>,
    total: Duration,
    complete: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    edge: &'a str,
    source: &'static str,
    /// The address at the other end of the connection, or the address that a trusted proxy
    /// forwards.
    client: IpAddr,
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'static str>,
    /// The version of TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cipher: Option<&'static str>,
    status: u16,
    result: &'static str,
    from: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'a str>,
    bytes: u64,
    first_byte_ms: f64,
    total_ms: f64,
    /// True if the response ended without an error.
    complete: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[cfg(feature = "cli")]
impl Line<'_> {
    fn text(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::with_capacity(160);
        let _ = write!(
            text,
            "{} {} {} {} {} {} {} from={}",
            self.timestamp, self.edge, self.source, self.method, self.path, self.status, self.result, self.from
        );
        if let Some(owner) = self.owner {
            let _ = write!(text, " owner={owner}");
        }
        let _ = write!(text, " client={}", self.client);
        let _ = write!(text, " bytes={} first={:.1}ms total={:.1}ms", self.bytes, self.first_byte_ms, self.total_ms);
        if !self.complete {
            text.push_str(" INCOMPLETE");
        }
        for (name, value) in
            [("protocol", self.protocol), ("tls", self.tls), ("cipher", self.cipher), ("reason", self.reason)]
        {
            let _ = value.map(|value| write!(text, " {name}={value}"));
        }
        // The client chooses these values, so they are quoted.
        for (name, value) in [("host", self.host), ("agent", self.user_agent), ("id", self.request_id)] {
            let _ = value.map(|value| write!(text, " {name}={value:?}"));
        }
        if let Some(error) = &self.error {
            let _ = write!(text, " error=\"{error}\"");
        }
        text
    }
}

/// The logged status of a request that its client abandoned before the response began. No
/// status is sent; nginx logs the same number.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// A request until its response begins. It is counted and logged if it is dropped in this
/// state.
pub(crate) struct PendingRequest {
    /// `None` once the response has begun.
    access: Option<Arc<Access>>,
    client: IpAddr,
    source: Source,
    method: Method,
    uri: Uri,
    details: Option<Box<Details>>,
    began: Instant,
}

impl PendingRequest {
    /// Notes that the response has begun; its [`LoggedBody`] writes the line. Returns the
    /// details for that line.
    pub(crate) fn answered(mut self) -> Option<Box<Details>> {
        self.access = None;
        self.details.take()
    }
}

impl Drop for PendingRequest {
    fn drop(&mut self) {
        let Some(access) = self.access.take() else { return };
        let target = self.uri.path_and_query().map_or("-", |target| target.as_str());
        let record = Record {
            source: self.source,
            method: self.method.clone(),
            key: Err(shorten(target).into()),
            served: Served::Error,
            from: ServedFrom::Edge,
            reason: None,
            error: Some(Error::ClientLeft),
        };
        let total = self.began.elapsed();
        let details = self.details.as_deref();
        access.note(
            self.client,
            (&record, details),
            &ResponseStats { status: CLIENT_CLOSED_REQUEST, bytes: 0, first: None, total, complete: false },
        );
    }
}

/// A response body that counts and logs its request when it is dropped.
pub(crate) struct LoggedBody {
    body: Body,
    access: Arc<Access>,
    client: IpAddr,
    record: Record,
    details: Option<Box<Details>>,
    status: StatusCode,
    began: Instant,
    first: Option<Duration>,
    bytes: u64,
    /// Bytes that are still to be sent, as far as the body knows its length.
    unsent: u64,
    ended: bool,
    failed: bool,
    delivery: Delivery,
}

impl hyper::body::Body for LoggedBody {
    type Data = TrackedBuf;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<TrackedBuf>, Error>>> {
        let this = &mut *self;
        let polled = match &this.delivery {
            Delivery::Connection { .. } => this.body.poll_run(RUN, cx).map_ok(|frame| frame.map_data(TrackedBuf::from)),
            Delivery::Stream(stream) => {
                let polled = this.body.poll_run(CHUNK as u64, cx);
                if polled.is_pending() {
                    stream.note_no_data();
                }
                polled.map_ok(|frame| frame.map_data(|run| stream.buffer(run)))
            }
        };
        match &polled {
            Poll::Pending => {}
            Poll::Ready(None) => self.ended = true,
            Poll::Ready(Some(Ok(frame))) => {
                if self.first.is_none() && self.access.lines.is_some() {
                    self.first = Some(self.began.elapsed());
                }
                let len = frame.data_ref().map_or(0, |data| data.remaining() as u64);
                self.bytes += len;
                self.unsent = self.unsent.saturating_sub(len);
            }
            Poll::Ready(Some(Err(error))) => {
                self.failed = true;
                self.record.error = Some(error.clone());
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for LoggedBody {
    fn drop(&mut self) {
        // hyper drops a body of known length after the last byte, without polling for its end.
        let complete = !self.failed && (self.ended || self.unsent == 0 && self.body.is_end_stream());
        let (status, total) = (self.status.as_u16(), self.began.elapsed());
        let stats = ResponseStats { status, bytes: self.bytes, first: self.first, total, complete };
        self.access.note(self.client, (&self.record, self.details.as_deref()), &stats);
    }
}

/// The maximum length of a path in a line, in bytes, since lines wait in memory.
const MAX_PATH: usize = 2048;

fn shorten(path: &str) -> &str {
    &path[..path.floor_char_boundary(MAX_PATH)]
}

/// Returns `time` in milliseconds, rounded to a hundredth.
fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 100_000.0).round() / 100.0
}
