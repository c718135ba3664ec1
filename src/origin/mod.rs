//! Where assets come from.

use std::error::Error as StdError;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use tokio::sync::Semaphore;

use crate::body::Body;
use crate::error::Error;
use crate::key::AssetKey;

pub mod files;
pub mod http_origin;

/// The one thing that whoever embeds Peerage brings along: where assets come
/// from. A closure from [`AssetKey`] to bytes is an origin.
///
/// ```
/// use peerage::{AssetKey, Origin};
///
/// fn takes_an_origin(_: impl Origin) {}
/// takes_an_origin(|key: AssetKey| async move {
///     let text = format!("this is {key}");
///     Ok::<_, std::io::Error>(Some(text.into()))
/// });
/// ```
pub trait Origin: Send + Sync + 'static {
    /// Answers `request`, whose URI is a canonical path and query.
    ///
    /// # Errors
    /// One of the `Origin…` kinds of [`Error`]: no answer could be had.
    fn fetch(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, Error>>;
}

/// A closure gives an asset's bytes, or `None` for 404. What it gives is kept
/// until it is evicted: like groupcache's, its values never change.
impl<F, Fut, E> Origin for F
where
    F: Fn(AssetKey) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Option<Bytes>, E>> + Send + 'static,
    E: StdError + Send,
{
    fn fetch(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, Error>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Box::pin(std::future::ready(Ok(not_allowed())));
        }
        let bytes = AssetKey::from_uri(request.uri(), usize::MAX).map(self);
        Box::pin(async move {
            let bytes = bytes?.await.map_err(|error| Error::OriginFailed(crate::body::describe(&error)))?;
            Ok(bytes.map_or_else(not_found, found))
        })
    }
}

/// An embedded origin with the bounds that an HTTP origin has of itself.
pub(crate) struct Bounded {
    origin: Box<dyn Origin>,
    first_byte: Duration,
    places: Semaphore,
}

impl Bounded {
    /// At most `requests` at a time, each for the time of `first_byte`.
    pub(crate) fn new(origin: impl Origin, first_byte: Duration, requests: usize) -> Self {
        Self { origin: Box::new(origin), first_byte, places: Semaphore::new(requests) }
    }
}

impl Origin for Bounded {
    fn fetch(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, Error>> {
        Box::pin(async move {
            let answer = async {
                let Ok(_place) = self.places.acquire().await else {
                    return Err(Error::Overloaded);
                };
                self.origin.fetch(request).await
            };
            let response = tokio::time::timeout(self.first_byte, answer).await.unwrap_or(Err(Error::OriginTimeout))?;
            if response.status().is_informational() {
                return Err(Error::OriginFailed(format!("{} is no final answer", response.status())));
            }
            Ok(response)
        })
    }
}

fn found(bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let forever = HeaderValue::from_static("public, max-age=31536000, immutable");
    response.headers_mut().insert(CACHE_CONTROL, forever);
    response.headers_mut().insert(CONTENT_LENGTH, bytes.len().into());
    *response.body_mut() = bytes.into();
    response
}

fn not_found() -> Response<Body> {
    let mut response = Response::new("not found\n".into());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

fn not_allowed() -> Response<Body> {
    let mut response = Response::new("only GET and HEAD\n".into());
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}
