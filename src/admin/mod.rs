//! The listener for operators: `/metrics`, `/healthz`, `/readyz`, `/peers`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::config::{LimitsConfig, Period};
use crate::conn::accept::{LogLatch, accepted};
use crate::conn::{Io, Splicer, TimeoutIo};
use crate::edge::Edge;
use crate::observe::activity::Activity;

/// The maximum number of connections.
const CONNECTIONS: usize = 64;
/// The maximum idle time of a connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// The readiness of this edge for new clients.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    /// The number of [`NotReady`].
    warming: AtomicUsize,
    draining: AtomicBool,
}

impl Readiness {
    /// Begins a part of the warm-up. The edge is not ready until all returned guards are dropped.
    pub(crate) fn begin_warm_up(self: &Arc<Self>) -> NotReady {
        self.warming.fetch_add(1, Ordering::Relaxed);
        NotReady(Arc::clone(self))
    }

    fn is_warming(&self) -> bool {
        self.warming.load(Ordering::Relaxed) > 0
    }

    /// Notes that the edge drains: it is not ready from now on.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// Ends a part of the warm-up of an edge when it is dropped.
pub(crate) struct NotReady(Arc<Readiness>);

impl Drop for NotReady {
    fn drop(&mut self) {
        self.0.warming.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The response to `/peers`: the cluster, as this edge sees it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PeersReport {
    /// The number of the view, which grows with each change.
    pub(crate) epoch: u64,
    pub(crate) members: Vec<MemberReport>,
}

/// The state of one member.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MemberReport {
    /// The `edge.name` of the member; `None` until a datagram of it was received.
    pub(crate) name: Option<String>,
    /// The address of the member, which is its name on the ring.
    pub(crate) address: String,
    pub(crate) state: String,
    /// The time of the last change of state (RFC 3339).
    pub(crate) since: String,
    /// The share of all keys that the member owns, from 0 to 1.
    pub(crate) share: f64,
    /// True if the member responded to the last request, and is not down.
    pub(crate) up: bool,
    /// The moving mean of the time to the first byte of a response, in milliseconds.
    pub(crate) latency_ms: Option<f64>,
    /// The number of requests to the member that failed.
    pub(crate) errors: u64,
    /// True for the edge that sends this report.
    pub(crate) own: bool,
}

/// Serves the endpoints for operators until it is aborted.
pub(crate) async fn serve(listener: TcpListener, edge: Arc<Edge>, readiness: Arc<Readiness>, mut limits: LimitsConfig) {
    limits.header_timeout = Period(limits.header_timeout.0.min(IDLE_TIMEOUT));
    let mut open = AdminConnections::default();
    let mut failing = LogLatch::default();
    loop {
        let Some((stream, _)) = accepted("admin.listen", listener.accept().await, &mut failing).await else {
            continue;
        };
        let (edge, readiness) = (Arc::clone(&edge), Arc::clone(&readiness));
        let requests = Activity::default();
        let timeout_io = TimeoutIo::new(Io::Tcp(stream), &limits, requests.clone(), Splicer::none());
        open.admit(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let _active = requests.begin();
                let response = respond(&request, &edge, &readiness);
                async move { Ok::<_, Infallible>(response) }
            });
            // TimeoutIo enforces the timeout of a request head.
            let mut builder = http1::Builder::new();
            builder.header_read_timeout(None);
            if let Err(error) = builder.serve_connection(TokioIo::new(timeout_io), service).await {
                tracing::debug!(%error, "admin connection failed");
            }
        });
    }
}

/// The tasks of the open connections, the oldest first.
#[derive(Default)]
struct AdminConnections(VecDeque<AbortHandle>);

impl AdminConnections {
    /// Serves a connection. At the limit, the oldest one is closed: requests here take no
    /// time, so the oldest connection is the one that has been kept open the longest.
    fn admit(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        self.0.retain(|connection| !connection.is_finished());
        if self.0.len() >= CONNECTIONS
            && let Some(oldest) = self.0.pop_front()
        {
            tracing::warn!(
                listener = "admin.listen",
                connections = CONNECTIONS,
                "connection limit reached, closing the oldest connection"
            );
            oldest.abort();
        }
        self.0.push_back(tokio::spawn(connection).abort_handle());
    }
}

fn respond(request: &Request<Incoming>, edge: &Edge, readiness: &Readiness) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET and HEAD\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        #[cfg(feature = "observe")]
        "/metrics" => {
            use crate::observe::metrics;
            let exposed = metrics::exposition(edge.metrics(), edge.gauges(), Arc::clone(&edge.membership().view()));
            let accept = request.headers().get_all(http::header::ACCEPT).iter();
            if accept.filter_map(|line| line.to_str().ok()).any(|line| line.contains("application/openmetrics-text")) {
                text(StatusCode::OK, metrics::OPEN_METRICS, exposed)
            } else {
                text(StatusCode::OK, metrics::PLAIN, metrics::plain(&exposed))
            }
        }
        "/healthz" => text(StatusCode::OK, "text/plain", "ok\n".into()),
        "/readyz" if readiness.is_draining() => {
            text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "draining\n".into())
        }
        "/readyz" if !edge.membership().has_joined() => {
            text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "joining\n".into())
        }
        "/readyz" if readiness.is_warming() => text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "warming\n".into()),
        "/readyz" => text(StatusCode::OK, "text/plain", "ready\n".into()),
        #[cfg(feature = "observe")]
        "/peers" => text(StatusCode::OK, "application/json", peers(edge)),
        _ => text(
            StatusCode::NOT_FOUND,
            "text/plain",
            "not found; the endpoints are /metrics, /healthz, /readyz and /peers\n".into(),
        ),
    }
}

#[cfg(feature = "observe")]
fn peers(edge: &Edge) -> String {
    let membership = edge.membership();
    let view = membership.view();
    let peer = |seen: &crate::cluster::view::Seen| {
        let health = view.peer(&seen.address);
        MemberReport {
            name: Some(&*seen.edge).filter(|name| !name.is_empty()).map(str::to_owned),
            address: seen.address.to_string(),
            state: seen.state.name().to_owned(),
            since: rfc3339(std::time::SystemTime::now() - seen.since.elapsed()),
            share: view.share(&seen.address),
            up: health.is_none_or(|peer| peer.is_up()),
            latency_ms: health.and_then(|peer| peer.latency()).map(|latency| latency.as_secs_f64() * 1000.0),
            errors: health.map_or(0, |peer| peer.errors()),
            own: seen.address == *membership.own(),
        }
    };
    let peers = PeersReport { epoch: view.epoch, members: view.members().iter().map(peer).collect() };
    serde_json::to_string_pretty(&peers).unwrap_or_default() + "\n"
}

#[cfg(feature = "observe")]
fn rfc3339(time: std::time::SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

fn text(status: StatusCode, media: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
