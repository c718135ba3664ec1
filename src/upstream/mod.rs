//! Asking over HTTP/1.1: what the origin and the peers have in common.
//!
//! Connections are pooled; every wait has a bound; a request without content
//! is repeated once, and only when a reused connection turned out to be dead.

use std::time::Duration;

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};

use crate::body::{Body, Progress, describe, next_data};
use crate::error::Error;
use crate::semantics::{content_length, upgrade};

mod pool;
pub(crate) mod tunnel;

use pool::{Connection, Pool};

/// The bounds on waiting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) connect: Duration,
    /// Between two pieces of a body.
    pub(crate) idle: Duration,
    /// For how long a connection takes new requests.
    pub(crate) lifetime: Duration,
}

/// How long a connection takes new requests by default: a change of its host's addresses
/// is followed after that, also while the old server lives.
pub(crate) const LIFETIME: Duration = Duration::from_mins(1);

/// Whom errors name.
pub(crate) struct Blame {
    pub(crate) unreachable: fn(String) -> Error,
    pub(crate) late: fn(String) -> Error,
    pub(crate) garbage: fn(String) -> Error,
    pub(crate) broke: fn(String) -> Error,
}

/// How long the head of a chunked response is held back until its first chunk is there.
const FIRST_CHUNK: Duration = Duration::from_millis(20);

/// A client for servers that the configuration names.
pub(crate) struct Outgoing {
    pool: Pool,
    patience: Patience,
    blame: Blame,
}

impl Outgoing {
    /// Takes answers of at most `fields` fields.
    pub(crate) fn new(patience: Patience, blame: Blame, fields: usize) -> Self {
        Self { pool: Pool::new(patience.connect, patience.lifetime, fields), patience, blame }
    }

    /// Sends `request`, whose URI is a path, to `host`, which may name a port. Waits for
    /// the head: for `within` at most after the last of the request's body was taken.
    pub(crate) async fn send(
        &self,
        host: &str,
        mut request: Request<Body>,
        within: Duration,
    ) -> Result<Response<Body>, Error> {
        let name = HeaderValue::from_str(host).map_err(|error| (self.blame.unreachable)(error.to_string()))?;
        request.headers_mut().insert(HOST, name);
        write_framing(&mut request);
        let progress = if request.body().is_end_stream() {
            Progress::begin()
        } else {
            let (body, progress) = Body::with_progress(std::mem::take(request.body_mut()));
            *request.body_mut() = body;
            progress
        };
        let upgrade = upgrade::is_to_websocket(request.headers());
        let (connection, response) = tokio::select! {
            answered = self.send_or_repeat(host, request) => answered?,
            () = progress.stalls(within) => return Err((self.blame.late)(host.to_owned())),
        };
        // RFC 9110 §15.2.2: a server changes to what it was asked for.
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if switches && !(upgrade && upgrade::is_to_websocket(response.headers())) {
            return Err((self.blame.garbage)("a 101 that nobody asked for".to_owned()));
        }
        let framing = framing(&response).map_err(|what| (self.blame.garbage)(what.to_owned()))?;
        // Otherwise it is not sure where the response ends.
        if !has_forbidden_length(&response) {
            self.pool.keep(host, connection);
        }
        self.receive(response, framing).await
    }

    async fn receive(&self, response: Response<Incoming>, framing: Framing) -> Result<Response<Body>, Error> {
        let mut response =
            response.map(|incoming| Body::received(incoming, Some(self.patience.idle), self.blame.broke));
        match framing {
            Framing::Counted(length) => write_length(&mut response, length),
            // RFC 9112 §6.3: chunks override a Content-Length, and an
            // intermediary removes it.
            Framing::Chunked => {
                response.headers_mut().remove(CONTENT_LENGTH);
                let body = begun(std::mem::take(response.body_mut())).await?;
                *response.body_mut() = body;
            }
            Framing::UntilClose => drop(response.extensions_mut().insert(Unframed)),
        }
        Ok(response)
    }

    async fn send_or_repeat(
        &self,
        host: &str,
        mut request: Request<Body>,
    ) -> Result<(Connection, Response<Incoming>), Error> {
        if let Some(mut connection) = self.pool.take(host) {
            let again = again(&request);
            match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok((connection, response)),
                Err(mut failed) => match (failed.take_message(), again) {
                    // Nothing of it has gone out.
                    (Some(unsent), _) => request = unsent,
                    (None, Some(again)) if no_answer_came(failed.error()) => request = again,
                    (None, _) => return Err(self.failure(failed.error())),
                },
            }
        }
        let mut connection = self.pool.open(host).await.map_err(self.blame.unreachable)?;
        let response = connection.sender.send_request(request).await.map_err(|error| self.failure(&error))?;
        Ok((connection, response))
    }

    fn failure(&self, error: &hyper::Error) -> Error {
        if error.is_user() {
            // What was to be sent broke off, and may have said why.
            let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<Error>());
            cause.cloned().unwrap_or_else(|| Error::ClientBroke(describe(error)))
        } else if error.is_parse() {
            (self.blame.garbage)(describe(error))
        } else {
            (self.blame.broke)(describe(error))
        }
    }
}

/// A second copy of a request, if it may be sent twice.
fn again(request: &Request<Body>) -> Option<Request<Body>> {
    if !is_repeatable(request.method()) || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    Some(copy)
}

/// Returns true if a reused connection turned out to be dead, or brought bytes that are no
/// response: the rest of the response before, which was longer than it said.
fn no_answer_came(error: &hyper::Error) -> bool {
    let closed = error.is_incomplete_message() || error.is_canceled() || error.is_closed();
    closed || error.is_parse() || is_reset(error)
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
    /// By a Content-Length, or by the absence of a body, which may state one all the same.
    Counted(Option<u64>),
    Chunked,
    UntilClose,
}

/// Whether a request may be sent twice (RFC 9110 §9.2.2); what is purged twice is purged.
fn is_repeatable(method: &Method) -> bool {
    method.is_idempotent() || method.as_str() == "PURGE"
}

/// How the end of an HTTP/1 response's body is told; an error says what is wrong with it.
fn framing(response: &Response<Incoming>) -> Result<Framing, &'static str> {
    let counted = || {
        let length = content_length::of_response(response.headers());
        length.map(Framing::Counted).map_err(|content_length::Invalid| "its Content-Length is not one number")
    };
    let mut codings = response.headers().get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (Some(_), _) if response.version() == Version::HTTP_10 => Err("a transfer coding over HTTP/1.0"),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (Some(_), _) => Err("a transfer coding other than chunked"),
        (None, _) if response.body().is_end_stream() => counted(),
        (None, _) if response.headers().contains_key(CONTENT_LENGTH) => counted(),
        (None, _) => Ok(Framing::UntilClose),
    }
}

/// Returns true for a 204 that announces content, which it cannot have (RFC 9110 §8.6, RFC
/// 9112 §6.1). What the sender may write behind the head is the response to no request.
fn has_forbidden_length(response: &Response<Incoming>) -> bool {
    let length = || content_length::of_response(response.headers()).ok().flatten();
    response.status() == StatusCode::NO_CONTENT
        && (response.headers().contains_key(TRANSFER_ENCODING) || length().is_some_and(|length| length > 0))
}

/// Writes the framing of a request from its body. What the client wrote does not reach the
/// next server, which may read it differently.
fn write_framing(request: &mut Request<Body>) {
    let (is_empty, length) = (request.body().is_end_stream(), request.body().size_hint().exact());
    let headers = request.headers_mut();
    let stated = headers.contains_key(CONTENT_LENGTH);
    // A body of this program's own does not know its length: the request states it.
    let number = content_length::of_request(headers).ok().flatten();
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRANSFER_ENCODING);
    match length.or(number) {
        // A POST without content states so, a GET does not: each as its client did.
        _ if is_empty && !stated => {}
        _ if is_empty => drop(headers.insert(CONTENT_LENGTH, 0.into())),
        Some(length) => drop(headers.insert(CONTENT_LENGTH, length.into())),
        // hyper drops the content of a GET whose length is unknown, unless it is told this.
        None => drop(headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))),
    }
}

/// Writes the Content-Length of a response from the number that the sender stated.
fn write_length(response: &mut Response<Body>, length: Option<u64>) {
    match length {
        // A 204 has no Content-Length (RFC 9110 §8.6).
        Some(length) if response.status() != StatusCode::NO_CONTENT => {
            response.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
        _ => drop(response.headers_mut().remove(CONTENT_LENGTH)),
    }
}

/// Waits for the first chunk of a body, for [`FIRST_CHUNK`] at most. Returns the error of a
/// body that breaks off before it: the client then gets a 502 instead of an empty response.
async fn begun(mut body: Body) -> Result<Body, Error> {
    match tokio::time::timeout(FIRST_CHUNK, next_data(&mut body)).await {
        Ok(None) => Ok(Body::empty()),
        Ok(Some(first)) => Ok(Body::chain([first?.into(), body])),
        // A stream of events may have nothing to send yet; its head is wanted before.
        Err(_) => Ok(body),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Barrier;

    use super::*;

    const BLAME: Blame = Blame {
        unreachable: Error::PeerUnreachable,
        late: |_| Error::PeerTimeout,
        garbage: Error::PeerBroke,
        broke: Error::PeerBroke,
    };

    async fn read_head(stream: &mut TcpStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
    }

    /// A server each of whose connections answers one request, and is dead to the next.
    /// The first two answer together.
    async fn forgetful() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let both = Arc::new(Barrier::new(2));
        tokio::spawn(async move {
            for number in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let both = Arc::clone(&both);
                tokio::spawn(async move {
                    read_head(&mut stream).await;
                    if number < 2 {
                        both.wait().await;
                    }
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                    read_head(&mut stream).await;
                });
            }
        });
        host
    }

    #[tokio::test]
    async fn what_a_dead_connection_took_goes_out_once_more_on_a_new_one() {
        let host = forgetful().await;
        let long = Duration::from_secs(20);
        let outgoing = Outgoing::new(Patience { connect: long, idle: long, lifetime: long }, BLAME, 100);
        let get = || outgoing.send(&host, Request::new(Body::empty()), long);
        let (first, second) = tokio::join!(get(), get());
        assert!(first.is_ok() && second.is_ok());
        // Two connections rest, and both are dead.
        assert!(get().await.is_ok());
        let mut post = Request::new(Body::from("content"));
        *post.method_mut() = Method::POST;
        let error = outgoing.send(&host, post, long).await.map(drop).unwrap_err();
        assert!(matches!(error, Error::PeerBroke(_)), "{error}");
    }

    /// A server that answers the first request with `head`, and later ones on the same
    /// connection with 203; on other connections, every request gets a 200.
    async fn answering(head: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            for connection in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let right = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    let forged = "HTTP/1.1 203 Forged\r\ncontent-length: 0\r\n\r\n";
                    let (mut next, later) = if connection == 0 { (head, forged) } else { (right, right) };
                    loop {
                        read_head(&mut stream).await;
                        stream.write_all(next.as_bytes()).await.unwrap();
                        next = later;
                    }
                });
            }
        });
        host
    }

    #[tokio::test]
    async fn a_204_that_announces_content_is_delivered_and_its_connection_not_reused() {
        let long = Duration::from_secs(20);
        let outgoing = Outgoing::new(Patience { connect: long, idle: long, lifetime: long }, BLAME, 100);
        for (head, reused) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", true),
            ("HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n", true),
            ("HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", true),
            ("HTTP/1.1 204 No Content\r\ncontent-length: 9\r\n\r\n", false),
            ("HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n", false),
        ] {
            let host = answering(head).await;
            let first = outgoing.send(&host, Request::new(Body::empty()), long).await.unwrap();
            assert!(head.contains(first.status().as_str()), "{head}");
            // A connection that is kept may take a moment to be free.
            let mut is_reused = false;
            for _ in 0..10 {
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                let next = outgoing.send(&host, Request::new(Body::empty()), long).await.unwrap();
                is_reused |= next.status().as_u16() == 203;
            }
            assert_eq!(is_reused, reused, "{head}");
        }
    }
}
