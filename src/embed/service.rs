//! [`EdgeService`]: the edge behind a program's own HTTP server.

use std::error::Error as StdError;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Extensions, Request, Response};

use super::exchange::{Answered, Exchange};
use crate::body::{Body, ReceivedFrom};
use crate::edge::{Edge, Remote};
use crate::observe::metrics::Source;
use crate::semantics::scheme::Scheme;

impl Edge {
    /// Returns a service for a program that has its own HTTP server.
    pub fn service(self: &Arc<Self>) -> EdgeService {
        EdgeService { exchange: Exchange::new(Arc::clone(self)), client: None, scheme: Scheme::Http }
    }
}

/// Responds to the requests that a program's own HTTP server has received, as a listener of the
/// edge does: with Age, Cache-Status and Via, conditions and ranges applied. The server adds Date
/// and the framing of the connection.
///
/// Cloning is cheap. With the feature `tower`, this is a `tower::Service`, so that routers such as
/// axum's take it.
///
/// A server that is not a Peerage listener has no informational responses to pass on, and no
/// tunnel: a WebSocket request reaches the origin as a plain GET. The requests count in the
/// metrics, but have no line in the access log.
///
/// ```
/// use http_body_util::{BodyExt, Empty};
/// use peerage::{AssetKey, Edge};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let origin = |key: AssetKey| async move { Ok::<_, std::io::Error>(Some(format!("this is {key}").into())) };
/// let edge = Edge::builder().origin(origin).build()?;
///
/// // The server knows the address of the client.
/// let service = edge.service().for_client("192.0.2.7".parse()?);
/// let request = http::Request::get("/logo.png").header("host", "example.com").body(Empty::new())?;
/// let response = service.respond(request).await;
///
/// assert_eq!(response.headers()["cache-status"], "edge-1;fwd=uri-miss;stored");
/// assert_eq!(response.into_body().collect().await?.to_bytes(), "this is /logo.png");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct EdgeService {
    exchange: Exchange,
    client: Option<IpAddr>,
    scheme: Scheme,
}

impl EdgeService {
    /// Returns a service for the requests of one connection from `address`. The address counts in
    /// `limits.requests_per_client`, and the origin sees it in X-Forwarded-For. If it is in
    /// `edge.trusted_proxies`, the forwarded headers of the request name the client instead.
    ///
    /// Without an address, requests have no limit for each client, and the origin sees 127.0.0.1.
    pub fn for_client(self, address: IpAddr) -> Self {
        Self { client: Some(address.to_canonical()), ..self }
    }

    /// Returns a service for requests that have come over TLS: their scheme is `https`. The scheme
    /// of other requests is `edge.scheme`, unless a trusted proxy states one.
    pub fn over_tls(self) -> Self {
        Self { scheme: Scheme::Https, ..self }
    }

    /// Responds to a request. An error is a response, too: its status and Cache-Status name it. The
    /// body of the response ends with an error, never cleanly, when its source breaks off.
    ///
    /// The content of the request must arrive in time, as `limits` requires. Its extensions are not
    /// used.
    pub async fn respond<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + Send + 'static,
    {
        let edge = &self.exchange.edge;
        let (source, requester) = match self.client {
            Some(address) => {
                let remote = Remote { address, scheme: self.scheme };
                (Source::Client, edge.requester(Source::Client, remote, request.headers()))
            }
            None => (Source::Program, edge.program(Some(self.scheme).filter(|scheme| *scheme == Scheme::Https))),
        };
        let mut request = request.map(|body| edge.receive(source, ReceivedFrom::program(body)));
        // hyper puts the connection there, for an upgrade that this service cannot make.
        *request.extensions_mut() = Extensions::new();
        let Answered { response, .. } = self.exchange.answer(source, requester, request).await;
        response
    }
}
