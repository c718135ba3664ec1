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
pub struct Ask {
    address: SocketAddr,
    request: Request<Full<Bytes>>,
    version: Version,
    /// The Host header of a request over HTTP/2, beside `:authority`.
    host: Option<HeaderValue>,
}

/// A response, as far as it was received.
#[derive(Debug)]
pub struct Got {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// True if the body ended as its framing requires.
    pub complete: bool,
}

impl Got {
    pub fn field(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Returns the Cache-Status member of the edge that answered, which is the last one.
    pub fn cache_status(&self) -> &str {
        self.field("cache-status").rsplit(", ").next().unwrap()
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// A response whose body was not read yet.
pub struct Open {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Incoming,
}

pub fn ask(address: SocketAddr, method: Method, target: &str) -> Ask {
    let mut request = Request::new(Full::default());
    *request.method_mut() = method;
    *request.uri_mut() = target.parse().unwrap();
    request.headers_mut().insert("host", "site.example".parse().unwrap());
    Ask { address, request, version: Version::HTTP_11, host: None }
}

impl Ask {
    pub fn field(mut self, name: &'static str, value: &str) -> Self {
        self.request.headers_mut().append(name, value.parse().unwrap());
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
    pub async fn open(self) -> Open {
        self.try_open().await.unwrap()
    }

    /// Like [`open`](Self::open), but returns an error if the connection ends before the head.
    pub async fn try_open(self) -> hyper::Result<Open> {
        let response = if self.version == Version::HTTP_2 {
            self.connect_http2().await.send_request(self.into_http2()).await?
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(self.connect().await).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(self.request).await?
        };
        Ok(Open::of(response))
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
    pub async fn get(self) -> Got {
        self.open().await.rest().await
    }
}

/// Sends `asks` over one connection, and returns when the edge has accepted all of them. An edge
/// accepts requests in order, so a response to `last`, which is sent behind them, proves that.
pub async fn send_until_accepted(asks: impl IntoIterator<Item = Ask>, last: Ask) -> Vec<JoinHandle<Got>> {
    let mut sender = last.connect_http2().await;
    let mut answers = Vec::new();
    for ask in asks {
        let answer = sender.send_request(ask.into_http2());
        answers.push(tokio::spawn(async move { Open::of(answer.await.unwrap()).rest().await }));
    }
    sender.send_request(last.into_http2()).await.unwrap();
    answers
}

impl Open {
    fn of(response: Response<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        Self { status: parts.status, headers: parts.headers, body }
    }

    /// Returns the next chunk of the body, or `None` at its end. Panics if the body breaks off.
    pub async fn piece(&mut self) -> Option<Bytes> {
        self.try_piece().await.map(Result::unwrap)
    }

    /// Like [`piece`](Self::piece), but returns an error if the body breaks off.
    pub async fn try_piece(&mut self) -> Option<hyper::Result<Bytes>> {
        Some(self.body.frame().await?.map(|frame| frame.into_data().unwrap()))
    }

    /// Reads at least `count` more bytes.
    pub async fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            bytes.extend_from_slice(&self.piece().await.expect("the body is longer"));
        }
        bytes
    }

    pub async fn rest(mut self) -> Got {
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
        Got { status: self.status, headers: self.headers, body: body.into(), complete }
    }
}
