//! The access log: one line for each request, written when its answer ends.

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

use crate::body::{Body, RUN};
use crate::cluster::membership::Membership;
use crate::error::Error;
use crate::key::AssetKey;
use crate::observe::activity::{Piece, Way};
use crate::observe::metrics::{Metrics, Served, Source};
use crate::store::chunks::CHUNK;

/// The source of the bytes that a client got.
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

/// What is known of a request when its answer begins.
#[derive(Debug)]
pub struct Record {
    /// Which listener it came in by.
    pub source: Source,
    /// Its method.
    pub method: Method,
    /// Its canonical name, or the target that has none.
    pub key: Result<AssetKey, Box<str>>,
    /// What became of it.
    pub served: Served,
    /// Whose bytes the client gets.
    pub from: ServedFrom,
    /// Why the response was not stored, a stale one was served, or the request passed: a
    /// word for each reason. Those of Cache-Status' `detail` are the same.
    pub reason: Option<&'static str>,
    /// What went wrong.
    pub error: Option<Error>,
}

impl Record {
    /// Returns true for a peer's question to this edge itself, asked several times a second:
    /// it is counted, and has no line.
    fn is_probe(&self) -> bool {
        self.source == Source::Peer && self.method == Method::OPTIONS && self.from == ServedFrom::Edge
    }
}

/// The parts of a request's head that only its line tells. Made where lines are written.
#[derive(Debug)]
pub(crate) struct Details {
    protocol: &'static str,
    host: Option<Box<str>>,
    user_agent: Option<Box<str>>,
    request_id: Option<Box<str>>,
}

impl Details {
    /// Copies the beginnings of what was sent: lines wait in memory.
    pub(crate) fn new(version: Version, [host, user_agent, request_id]: [Option<&[u8]>; 3]) -> Self {
        let short = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST_FIELD)]).into();
        let protocol = match version {
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2",
            _ => "HTTP/1.1",
        };
        let (host, user_agent, request_id) = (host.map(short), user_agent.map(short), request_id.map(short));
        Self { protocol, host, user_agent, request_id }
    }

    fn of<B>(request: &Request<B>) -> Self {
        let field = |name: &str| request.headers().get(name).map(HeaderValue::as_bytes);
        let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
        Self::new(request.version(), [authority.or_else(|| field("host")), field("user-agent"), field("x-request-id")])
    }
}

/// How much of a field goes into a line, in bytes.
const LONGEST_FIELD: usize = 256;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Text,
}

/// Where requests are written down, and counted.
pub(crate) struct Access {
    pub(crate) edge: String,
    pub(crate) membership: Arc<Membership>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) lines: Option<(Format, NonBlocking)>,
}

impl Access {
    /// The parts of `request` that its line tells, if lines are written.
    pub(crate) fn details<B>(&self, request: &Request<B>) -> Option<Box<Details>> {
        self.lines.is_some().then(|| Box::new(Details::of(request)))
    }

    /// Counts and logs the request when `response` has ended, or was dropped.
    pub(crate) fn watch(
        self: &Arc<Self>,
        client: IpAddr,
        (record, details): (Record, Option<Box<Details>>),
        response: Response<Body>,
        began: Instant,
        way: Way,
    ) -> Response<Watched> {
        let status = response.status();
        response.map(|body| self.watch_body(client, (record, details), status, body, began, way))
    }

    /// As [`watch`](Self::watch), of a response with this status and body.
    pub(crate) fn watch_body(
        self: &Arc<Self>,
        client: IpAddr,
        (record, details): (Record, Option<Box<Details>>),
        status: StatusCode,
        body: Body,
        began: Instant,
        way: Way,
    ) -> Watched {
        Watched {
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
            broke: false,
            way,
        }
    }

    /// Counts and logs the request if its client leaves before it is answered.
    pub(crate) fn expect<B>(
        self: &Arc<Self>,
        client: IpAddr,
        source: Source,
        request: &Request<B>,
        began: Instant,
    ) -> Unanswered {
        let (method, uri) = (request.method().clone(), request.uri().clone());
        Unanswered {
            access: Some(Arc::clone(self)),
            client,
            source,
            method,
            uri,
            details: self.details(request),
            began,
        }
    }

    fn note(&self, client: IpAddr, (record, details): (&Record, Option<&Details>), sent: &Sent) {
        let served = if record.error.is_some() { Served::Error } else { record.served };
        self.metrics.request(record.source, served, sent.status, sent.total);
        self.metrics.sent(record.source, sent.bytes);
        if self.lines.is_none() || record.is_probe() {
            return;
        }
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
            path: in_short(record.key.as_ref().map_or_else(|target| &**target, AssetKey::as_str)),
            protocol: details.map(|details| details.protocol),
            status: sent.status,
            result: served.name(),
            from: match &record.from {
                ServedFrom::Store => "memory",
                ServedFrom::Origin => "origin",
                ServedFrom::Peer(name) => name,
                ServedFrom::Edge => "-",
            },
            owner: owner.map(|owner| &**owner.name()),
            bytes: sent.bytes,
            first_byte_ms: millis(sent.first.unwrap_or(sent.total)),
            total_ms: millis(sent.total),
            complete: sent.complete,
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
        // The appender takes lines off this thread; when its queue is full it
        // drops them, and counts.
        let _ = out.clone().write_all(text.as_bytes());
    }
}

/// How an answer went.
struct Sent {
    status: u16,
    /// Of its body.
    bytes: u64,
    first: Option<Duration>,
    total: Duration,
    complete: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    edge: &'a str,
    source: &'static str,
    /// Who is at the connection's other end.
    client: IpAddr,
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'static str>,
    status: u16,
    result: &'static str,
    from: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'a str>,
    bytes: u64,
    first_byte_ms: f64,
    total_ms: f64,
    /// Whether the answer ended as it should.
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
        for (name, value) in [("protocol", self.protocol), ("reason", self.reason)] {
            let _ = value.map(|value| write!(text, " {name}={value}"));
        }
        // A client's words, so quoted.
        for (name, value) in [("host", self.host), ("agent", self.user_agent), ("id", self.request_id)] {
            let _ = value.map(|value| write!(text, " {name}={value:?}"));
        }
        if let Some(error) = &self.error {
            let _ = write!(text, " error=\"{error}\"");
        }
        text
    }
}

/// The status in the log of a request whose client left before it was answered: nginx's,
/// for none is sent.
const LEFT: u16 = 499;

/// A request that has not been answered yet.
pub(crate) struct Unanswered {
    /// Nothing once it is answered.
    access: Option<Arc<Access>>,
    client: IpAddr,
    source: Source,
    method: Method,
    uri: Uri,
    details: Option<Box<Details>>,
    began: Instant,
}

impl Unanswered {
    /// There is an answer, which tells of itself; returns what its line tells of the request.
    pub(crate) fn answered(mut self) -> Option<Box<Details>> {
        self.access = None;
        self.details.take()
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        let Some(access) = self.access.take() else { return };
        let target = self.uri.path_and_query().map_or("-", |target| target.as_str());
        let record = Record {
            source: self.source,
            method: self.method.clone(),
            key: Err(in_short(target).into()),
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
            &Sent { status: LEFT, bytes: 0, first: None, total, complete: false },
        );
    }
}

/// A body that knows what it is the answer to.
pub(crate) struct Watched {
    body: Body,
    access: Arc<Access>,
    client: IpAddr,
    record: Record,
    details: Option<Box<Details>>,
    status: StatusCode,
    began: Instant,
    first: Option<Duration>,
    bytes: u64,
    /// How much has to be sent still, as far as the body knows.
    unsent: u64,
    ended: bool,
    broke: bool,
    way: Way,
}

impl hyper::body::Body for Watched {
    type Data = Piece;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, Error>>> {
        let this = &mut *self;
        let polled = match &this.way {
            Way::Connection { .. } => this.body.poll_run(RUN, cx).map_ok(|frame| frame.map_data(Piece::from)),
            Way::Stream(stream) => {
                let polled = this.body.poll_run(CHUNK as u64, cx);
                if polled.is_pending() {
                    stream.has_nothing();
                }
                polled.map_ok(|frame| frame.map_data(|run| stream.hand(run)))
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
                self.broke = true;
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

impl Drop for Watched {
    fn drop(&mut self) {
        // hyper drops a body of known length once it has all of it, without
        // asking for its end.
        let complete = !self.broke && (self.ended || self.unsent == 0 && self.body.is_end_stream());
        let (status, total) = (self.status.as_u16(), self.began.elapsed());
        let sent = Sent { status, bytes: self.bytes, first: self.first, total, complete };
        self.access.note(self.client, (&self.record, self.details.as_deref()), &sent);
    }
}

/// How much of a path goes into a line, in bytes: lines wait in memory.
const LONGEST: usize = 2048;

fn in_short(path: &str) -> &str {
    &path[..path.floor_char_boundary(LONGEST)]
}

/// To a hundredth of a millisecond.
fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 100_000.0).round() / 100.0
}
