//! The listener for operators: `/metrics`, `/healthz`, `/readyz`, `/peers`.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::edge::Edge;
use crate::metrics;

/// How many operators can be connected at a time.
const CONNECTIONS: usize = 64;
/// For a request's head to come.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether this edge should be sent new clients.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    draining: AtomicBool,
}

impl Readiness {
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

#[derive(Serialize)]
struct Peer<'a> {
    name: &'a str,
    own: bool,
    up: bool,
    errors: u64,
}

/// Serves until it is aborted.
pub(crate) async fn serve(listener: TcpListener, edge: Arc<Edge>, readiness: Arc<Readiness>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::error!(%error, "cannot accept an operator's connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (edge, readiness) = (Arc::clone(&edge), Arc::clone(&readiness));
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let answer = answer(&request, &edge, &readiness);
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
            if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "an operator's connection ended badly");
            }
            drop(place);
        });
    }
}

fn answer(request: &Request<Incoming>, edge: &Edge, readiness: &Readiness) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET and HEAD\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/metrics" => {
            text(StatusCode::OK, metrics::EXPOSITION_TYPE, metrics::exposition(edge.metrics(), edge.gauges()))
        }
        "/healthz" => text(StatusCode::OK, "text/plain", "ok\n".into()),
        "/readyz" if readiness.is_draining() => {
            text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "draining\n".into())
        }
        "/readyz" => text(StatusCode::OK, "text/plain", "ready\n".into()),
        "/peers" => text(StatusCode::OK, "application/json", peers(edge)),
        _ => text(StatusCode::NOT_FOUND, "text/plain", "here are /metrics, /healthz, /readyz and /peers\n".into()),
    }
}

fn peers(edge: &Edge) -> String {
    let membership = edge.membership();
    let view = membership.view();
    let peers: Vec<_> = view
        .ring
        .members()
        .iter()
        .map(|member| {
            let standing = view.peer(member.name());
            Peer {
                name: member.name(),
                own: member.name() == membership.own(),
                up: standing.is_none_or(|peer| peer.is_up()),
                errors: standing.map_or(0, |peer| peer.errors()),
            }
        })
        .collect();
    serde_json::to_string_pretty(&peers).unwrap_or_default() + "\n"
}

fn text(status: StatusCode, media: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
