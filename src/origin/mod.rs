//! Where assets come from.

use std::error::Error as StdError;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Body as _;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::Instant;

use crate::body::Body;
use crate::error::Error;
use crate::key::AssetKey;

#[cfg(feature = "cli")]
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

/// The places of those who wait for an origin's answer to begin.
struct Places {
    fetches: Semaphore,
    /// As many for those with content: who is slow to send it holds up nobody but others
    /// who send.
    uploads: Semaphore,
    patience: Duration,
}

impl Places {
    /// `requests` of either kind; each may wait for the time of `patience`.
    fn new(requests: usize, patience: Duration) -> Self {
        Self { fetches: Semaphore::new(requests), uploads: Semaphore::new(requests), patience }
    }

    /// A place for this request, and how long the answer may take still: one deadline
    /// holds for both. Who has left waits for none.
    fn take<'a>(
        &'a self,
        request: &Request<Body>,
    ) -> impl Future<Output = Result<(SemaphorePermit<'a>, Duration), Error>> + use<'a> {
        let deadline = Instant::now() + self.patience;
        let places = if request.body().is_end_stream() { &self.fetches } else { &self.uploads };
        let asker = request.extensions().get::<Asker>().cloned();
        async move {
            let place = tokio::select! {
                biased;
                () = has_left(asker) => return Err(Error::ClientLeft),
                place = tokio::time::timeout_at(deadline, places.acquire()) => place,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            match place {
                Ok(Ok(place)) if !left.is_zero() => Ok((place, left)),
                _ => Err(Error::Overloaded),
            }
        }
    }
}

/// Whoever waits for the answer to a request that goes on without them, once it has a
/// place: they have left when the other half is gone.
#[derive(Clone)]
pub(crate) struct Asker(watch::Receiver<()>);

impl Asker {
    /// Marks `request`: its asker is there for as long as what is returned.
    pub(crate) fn mark(request: &mut Request<Body>) -> watch::Sender<()> {
        let (here, asker) = watch::channel(());
        request.extensions_mut().insert(Self(asker));
        here
    }
}

/// Resolves when the asker has left; never where the request ends with them.
async fn has_left(asker: Option<Asker>) {
    match asker {
        Some(Asker(mut asker)) => while asker.changed().await.is_ok() {},
        None => std::future::pending().await,
    }
}

/// The error for an embedded origin that takes too long.
fn late() -> Error {
    Error::OriginTimeout("the embedded origin".to_owned())
}

/// An embedded origin with the bounds that an HTTP origin has of itself.
pub(crate) struct Bounded {
    origin: Box<dyn Origin>,
    places: Places,
}

impl Bounded {
    /// At most `requests` at a time, each for the time of `first_byte`.
    pub(crate) fn new(origin: impl Origin, first_byte: Duration, requests: usize) -> Self {
        Self { origin: Box::new(origin), places: Places::new(requests, first_byte) }
    }
}

impl Origin for Bounded {
    fn fetch(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, Error>> {
        Box::pin(async move {
            let (_place, left) = self.places.take(&request).await?;
            let answer = tokio::time::timeout(left, self.origin.fetch(request)).await;
            let response = answer.unwrap_or_else(|_| Err(late()))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_place_in_time_is_told_of_overload() {
        let never = |_: AssetKey| std::future::pending::<Result<Option<Bytes>, std::io::Error>>();
        let origin = Bounded::new(never, Duration::from_secs(1), 1);
        let fetch = || origin.fetch(Request::new(Body::empty()));
        let (first, second) = tokio::join!(fetch(), fetch());
        assert_eq!(first.map(drop), Err(late()));
        assert_eq!(second.map(drop), Err(Error::Overloaded));
        let upload = origin.fetch(Request::new(Body::from("content")));
        let (waits, upload) = tokio::join!(fetch(), upload);
        assert_eq!((waits.map(drop), upload.map(drop)), (Err(late()), Err(late())));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_left_is_given_no_place() {
        let never = |_: AssetKey| std::future::pending::<Result<Option<Bytes>, std::io::Error>>();
        let origin = Bounded::new(never, Duration::from_secs(1), 1);
        let (mut sent, mut waits) = (Request::new(Body::empty()), Request::new(Body::empty()));
        let askers = (Asker::mark(&mut sent), Asker::mark(&mut waits));
        let leave = async {
            tokio::task::yield_now().await;
            drop(askers);
        };
        let (sent, waits, ()) = tokio::join!(origin.fetch(sent), origin.fetch(waits), leave);
        // The first goes on without its asker, for the time that it has.
        assert_eq!((sent.map(drop), waits.map(drop)), (Err(late()), Err(Error::ClientLeft)));
    }
}
