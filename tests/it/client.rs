//! An HTTP client that reports everything that it receives, and whether the body was complete.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// A request to be sent.
#[derive(Clone)]
pub struct RequestBuilder {
    address: SocketAddr,
    request: Request<Full<Bytes>>,
    version: Version,
    /// The Host header of a request over HTTP/2, beside `:authority`.
    host: Option<HeaderValue>,
}

/// A response, as far as it was received.
#[derive(Debug)]
pub struct FullResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// True if the body ended as its framing requires.
    pub complete: bool,
}

impl FullResponse {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Returns the Cache-Status member of the edge that answered, which is the last one.
    pub fn cache_status(&self) -> &str {
        self.header("cache-status").rsplit(", ").next().unwrap()
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// A response before its body is read.
pub struct OpenResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Incoming,
}

pub fn request(address: SocketAddr, method: Method, target: &str) -> RequestBuilder {
    let mut request = Request::new(Full::default());
    *request.method_mut() = method;
    *request.uri_mut() = target.parse().unwrap();
    request.headers_mut().insert("host", "site.example".parse().unwrap());
    RequestBuilder { address, request, version: Version::HTTP_11, host: None }
}

impl RequestBuilder {
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.request.headers_mut().append(name, value.parse().unwrap());
        self
    }

    /// Sets Host, for HTTP/1.1.
    pub fn at_host(mut self, host: &str) -> Self {
        self.request.headers_mut().insert("host", host.parse().unwrap());
        self
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        *self.request.body_mut() = Full::new(body.into());
        self
    }

    pub fn http2(mut self) -> Self {
        self.version = Version::HTTP_2;
        self
    }

    /// Sends over HTTP/2, with a Host header beside `:authority`.
    pub fn also_host(mut self, host: &str) -> Self {
        self.host = Some(host.parse().unwrap());
        self.http2()
    }

    /// Sends the request and waits for the response head.
    pub async fn open(self) -> OpenResponse {
        self.try_open().await.unwrap()
    }

    /// Like [`open`](Self::open), but returns an error if the connection ends before the head.
    pub async fn try_open(self) -> hyper::Result<OpenResponse> {
        let response = if self.version == Version::HTTP_2 {
            self.connect_http2().await.send_request(self.into_http2()).await?
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(self.connect().await).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(self.request).await?
        };
        Ok(OpenResponse::of(response))
    }

    async fn connect(&self) -> TokioIo<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        TokioIo::new(stream)
    }

    async fn connect_http2(&self) -> http2::SendRequest<Full<Bytes>> {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), self.connect().await).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    fn into_http2(mut self) -> Request<Full<Bytes>> {
        *self.request.uri_mut() = format!("http://site.example{}", self.request.uri()).parse().unwrap();
        self.request.headers_mut().remove("host");
        if let Some(host) = self.host {
            self.request.headers_mut().insert("host", host);
        }
        self.request
    }

    /// Sends the request and waits for the whole response.
    pub async fn send(self) -> FullResponse {
        self.open().await.rest().await
    }
}

/// Sends `asks` over one connection, and returns when the edge has accepted all of them. An edge
/// accepts requests in order, so a response to `last`, which is sent behind them, proves that.
pub async fn send_until_accepted(
    asks: impl IntoIterator<Item = RequestBuilder>,
    last: RequestBuilder,
) -> Vec<JoinHandle<FullResponse>> {
    let mut sender = last.connect_http2().await;
    let mut answers = Vec::new();
    for ask in asks {
        let answer = sender.send_request(ask.into_http2());
        answers.push(tokio::spawn(async move { OpenResponse::of(answer.await.unwrap()).rest().await }));
    }
    sender.send_request(last.into_http2()).await.unwrap();
    answers
}

impl OpenResponse {
    fn of(response: Response<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        Self { status: parts.status, headers: parts.headers, body }
    }

    /// Returns the next chunk of the body, or `None` at its end. Panics if the body breaks off.
    pub async fn chunk(&mut self) -> Option<Bytes> {
        self.try_chunk().await.map(Result::unwrap)
    }

    /// Like [`chunk`](Self::chunk), but returns an error if the body breaks off.
    pub async fn try_chunk(&mut self) -> Option<hyper::Result<Bytes>> {
        Some(self.body.frame().await?.map(|frame| frame.into_data().unwrap()))
    }

    /// Reads at least `count` more bytes.
    pub async fn read_at_least(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            bytes.extend_from_slice(&self.chunk().await.expect("the body is longer"));
        }
        bytes
    }

    pub async fn rest(mut self) -> FullResponse {
        let mut body = Vec::new();
        let mut complete = true;
        while let Some(frame) = self.body.frame().await {
            if let Ok(frame) = frame {
                body.extend_from_slice(&frame.into_data().unwrap_or_default());
            } else {
                complete = false;
                break;
            }
        }
        FullResponse { status: self.status, headers: self.headers, body: body.into(), complete }
    }
}
