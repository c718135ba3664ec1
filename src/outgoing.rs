//! Asking over HTTP/1.1: what the origin and the peers have in common.
//!
//! Connections are pooled; every wait has a bound; a request without content
//! is repeated once, and only when a reused connection turned out to be dead.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Extensions, HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use hyper::body::{Body as _, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{self, CaptureConnection, Connection, HttpConnector, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;

use crate::body::{Body, Progress, describe};
use crate::error::Error;
use crate::semantics::{self, upgrade};

/// The bounds on waiting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) connect: Duration,
    /// Between two pieces of a body.
    pub(crate) idle: Duration,
}

/// Whom errors name.
pub(crate) struct Blame {
    pub(crate) unreachable: fn(String) -> Error,
    pub(crate) late: Error,
    pub(crate) garbage: fn(String) -> Error,
    pub(crate) broke: fn(String) -> Error,
}

/// How many idle connections are kept for each host.
const IDLE_CONNECTIONS: usize = 256;
/// How long an idle connection is kept: for less than its other end is likely to, or
/// requests would often cross its end.
const IDLE_FOR: Duration = Duration::from_secs(30);
/// The most that is read ahead of whoever takes the body; it bounds an
/// answer's head too.
const READ_AHEAD: usize = 256 * 1024;

/// A client for servers that the configuration names.
pub(crate) struct Outgoing {
    client: Client<Remembering, Body>,
    patience: Patience,
    blame: Blame,
}

impl Outgoing {
    /// Takes answers of at most `fields` fields.
    pub(crate) fn new(patience: Patience, blame: Blame, fields: usize) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(patience.connect));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_FOR)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .http1_max_buf_size(READ_AHEAD)
            .http1_max_headers(fields)
            .set_host(false)
            .build(Remembering(connector));
        Self { client, patience, blame }
    }

    /// Sends `request`, whose URI is absolute, and waits for the head: for
    /// `within` at most after the last of the request's body was taken.
    pub(crate) async fn send(&self, mut request: Request<Body>, within: Duration) -> Result<Response<Body>, Error> {
        let progress = if request.body().is_end_stream() {
            // Or the next request on the connection would be taken for the body.
            if request.headers().get(CONTENT_LENGTH).is_some_and(|length| length != "0") {
                request.headers_mut().remove(CONTENT_LENGTH);
            }
            Progress::begin()
        } else {
            let (body, progress) = Body::observed(std::mem::take(request.body_mut()));
            *request.body_mut() = body;
            progress
        };
        let upgrade = upgrade::is_to_websocket(request.headers());
        let response = tokio::select! {
            response = self.send_or_repeat(request) => response?,
            () = progress.stalls(within) => return Err(self.blame.late.clone()),
        };
        // RFC 9110 §15.2.2: a server changes to what it was asked for.
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if switches && !(upgrade && upgrade::is_to_websocket(response.headers())) {
            return Err((self.blame.garbage)("a 101 that nobody asked for".to_owned()));
        }
        self.receive(response)
    }

    fn receive(&self, response: Response<Incoming>) -> Result<Response<Body>, Error> {
        let framing = framing(&response).map_err(|what| (self.blame.garbage)(what.to_owned()))?;
        let mut response =
            response.map(|incoming| Body::received(incoming, Some(self.patience.idle), self.blame.broke));
        match framing {
            Framing::Counted => {
                say_length_once(response.headers_mut()).map_err(|what| (self.blame.garbage)(what.to_owned()))?;
            }
            // RFC 9112 §6.3: chunks override a Content-Length, and an
            // intermediary removes it.
            Framing::Chunked => drop(response.headers_mut().remove(CONTENT_LENGTH)),
            Framing::UntilClose => drop(response.extensions_mut().insert(Unframed)),
        }
        Ok(response)
    }

    async fn send_or_repeat(&self, request: Request<Body>) -> Result<Response<Incoming>, Error> {
        let repeat = (is_repeatable(request.method()) && request.body().is_end_stream()).then(|| {
            let mut copy = Request::new(Body::empty());
            *copy.method_mut() = request.method().clone();
            *copy.uri_mut() = request.uri().clone();
            *copy.headers_mut() = request.headers().clone();
            *copy.extensions_mut() = request.extensions().clone();
            copy
        });
        match (self.send_once(request).await, repeat) {
            (Ok(response), _) => Ok(response),
            (Err((error, Connected::Reused)), Some(copy)) if no_answer_came(&error) => {
                self.send_once(copy).await.map_err(|(error, _)| self.failure(&error))
            }
            (Err((error, _)), _) => Err(self.failure(&error)),
        }
    }

    async fn send_once(&self, mut request: Request<Body>) -> Result<Response<Incoming>, (legacy::Error, Connected)> {
        let connection = capture_connection(&mut request);
        let sent = self.client.request(request).await;
        let used = Used::of(&connection);
        match sent {
            Ok(response) => {
                if let Some(used) = used {
                    used.0.store(true, Ordering::Relaxed);
                }
                Ok(response)
            }
            Err(error) if used.is_some_and(|used| used.0.load(Ordering::Relaxed)) => Err((error, Connected::Reused)),
            Err(error) => Err((error, Connected::Anew)),
        }
    }

    fn failure(&self, error: &legacy::Error) -> Error {
        if error.is_connect() {
            return (self.blame.unreachable)(describe(error));
        }
        match inner(error) {
            // What was to be sent broke off, and may have said why.
            Some(inner) if inner.is_user() => {
                let cause = std::error::Error::source(inner).and_then(|cause| cause.downcast_ref::<Error>());
                cause.cloned().unwrap_or_else(|| Error::ClientBroke(describe(inner)))
            }
            Some(inner) if inner.is_parse() => (self.blame.garbage)(describe(inner)),
            _ => (self.blame.broke)(describe(error)),
        }
    }
}

fn inner(error: &legacy::Error) -> Option<&hyper::Error> {
    std::error::Error::source(error)?.downcast_ref()
}

fn no_answer_came(error: &legacy::Error) -> bool {
    inner(error).is_some_and(|inner| {
        inner.is_incomplete_message() || inner.is_canceled() || inner.is_closed() || is_reset(inner)
    })
}

fn is_reset(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    cause.is_some_and(|io| matches!(io.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe))
}

/// Marks a response whose body ends where its connection does (RFC 9112 §6.3):
/// one that was cut off ends there too, so its end proves nothing.
#[derive(Clone, Copy)]
pub(crate) struct Unframed;

enum Framing {
    Counted,
    Chunked,
    UntilClose,
}

/// Whether a request may be sent twice (RFC 9110 §9.2.2); what is purged twice is purged.
fn is_repeatable(method: &Method) -> bool {
    method.is_idempotent() || method.as_str() == "PURGE"
}

/// How the end of an HTTP/1 response's body is told; an error says what is wrong with it.
fn framing(response: &Response<Incoming>) -> Result<Framing, &'static str> {
    let mut codings = response.headers().get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (Some(_), _) => Err("a transfer coding other than chunked"),
        (None, _) if response.body().is_end_stream() => Ok(Framing::Counted),
        (None, _) if response.headers().contains_key(CONTENT_LENGTH) => Ok(Framing::Counted),
        (None, _) => Ok(Framing::UntilClose),
    }
}

/// Has Content-Length say once what it says several times (RFC 9110 §8.6): whoever gets
/// it next may read it otherwise. An error says what is wrong with it: where there is no
/// body, as for HEAD, nobody else has compared them.
fn say_length_once(headers: &mut HeaderMap) -> Result<(), &'static str> {
    let mut lengths = semantics::members(headers, &CONTENT_LENGTH);
    let (Some(first), Some(second)) = (lengths.next(), lengths.next()) else {
        return Ok(());
    };
    if second != first || lengths.any(|other| other != first) {
        return Err("it says several lengths");
    }
    let length = HeaderValue::from_bytes(first).map_err(|_| "its length is none")?;
    drop(lengths);
    headers.insert(CONTENT_LENGTH, length);
    Ok(())
}

/// A connector whose connections remember that they have been of use.
#[derive(Clone)]
struct Remembering(HttpConnector);

impl tower_service::Service<Uri> for Remembering {
    type Response = Remembered;
    type Error = <HttpConnector as tower_service::Service<Uri>>::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Remembered, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        tower_service::Service::poll_ready(&mut self.0, cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = tower_service::Service::call(&mut self.0, uri);
        Box::pin(async move { Ok(Remembered { io: connecting.await?, used: Used::default() }) })
    }
}

/// What kind of connection a request went out on.
enum Connected {
    /// One that had brought an answer before.
    Reused,
    Anew,
}

/// Whether a connection has brought an answer before.
#[derive(Clone, Default)]
struct Used(Arc<AtomicBool>);

impl Used {
    fn of(capture: &CaptureConnection) -> Option<Self> {
        let mut extensions = Extensions::new();
        capture.connection_metadata().as_ref()?.get_extras(&mut extensions);
        extensions.remove()
    }
}

struct Remembered {
    io: TokioIo<TcpStream>,
    used: Used,
}

impl Connection for Remembered {
    fn connected(&self) -> connect::Connected {
        self.io.connected().extra(self.used.clone())
    }
}

impl Read for Remembered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Remembered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
