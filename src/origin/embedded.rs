//! Origins inside the program: closures, and the limits on an embedded origin.

use std::error::Error as StdError;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, stream};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH};
use http::{HeaderValue, Method, Response, StatusCode};
use hyper::body::Body as _;

use super::permits::Permits;
use super::{Call, Origin};
use crate::body::{Body, describe, next_data};
use crate::error::Error;
use crate::key::AssetKey;
use crate::semantics::content_length;
use crate::upstream::Reply;

/// A closure returns an asset's bytes, or `None` for a 404. The bytes stay in the cache until
/// they are evicted: like groupcache's, the values never change.
impl<F, Fut, E> Origin for F
where
    F: Fn(AssetKey) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Option<Bytes>, E>> + Send + 'static,
    E: StdError + Send,
{
    fn fetch(&self, call: Call) -> BoxFuture<'_, Result<Reply, Error>> {
        if !matches!(*call.request.method(), Method::GET | Method::HEAD) {
            return Box::pin(std::future::ready(Ok(method_not_allowed().into())));
        }
        let bytes = AssetKey::from_uri(call.request.uri(), usize::MAX).map(self);
        Box::pin(async move {
            let bytes = bytes?.await.map_err(|error| Error::OriginFailed(describe(&error)))?;
            Ok(bytes.map_or_else(not_found, found).into())
        })
    }
}

fn found(bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let immutable = HeaderValue::from_static("public, max-age=31536000, immutable");
    response.headers_mut().insert(CACHE_CONTROL, immutable);
    response.headers_mut().insert(CONTENT_LENGTH, bytes.len().into());
    *response.body_mut() = bytes.into();
    response
}

fn not_found() -> Response<Body> {
    let mut response = Response::new("not found\n".into());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

fn method_not_allowed() -> Response<Body> {
    let mut response = Response::new("only GET and HEAD\n".into());
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

/// An embedded origin with the limits that an HTTP origin has: concurrent requests and the time
/// until the response begins.
pub(crate) struct Bounded {
    origin: Box<dyn Origin>,
    permits: Permits,
}

impl Bounded {
    /// Allows at most `requests` at a time. Each takes at most `first_byte` until its response
    /// begins.
    pub(crate) fn new(origin: Box<dyn Origin>, first_byte: Duration, requests: usize) -> Self {
        Self { origin, permits: Permits::new(requests, first_byte) }
    }
}

impl Origin for Bounded {
    fn fetch(&self, mut call: Call) -> BoxFuture<'_, Result<Reply, Error>> {
        Box::pin(async move {
            let (_permit, timeout) = self.permits.acquire(&call.request, call.client.take()).await?;
            let method = call.request.method().clone();
            let fetching = AssertUnwindSafe(async { self.origin.fetch(call).await }).catch_unwind();
            let fetched = tokio::time::timeout(timeout, fetching).await;
            let reply = fetched.map_or_else(|_| Err(timed_out()), |fetched| fetched.unwrap_or(Err(Error::Panicked)))?;
            let status = reply.response.status();
            if status.is_informational() {
                return Err(Error::OriginFailed(format!("{status} is not a final response")));
            }
            let length = content_length::of_response(reply.response.headers());
            let length =
                length.map_err(|content_length::Invalid| Error::OriginGarbage("invalid Content-Length".to_owned()))?;
            let has_content =
                method != Method::HEAD && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
            Ok(if has_content { reply.map_body(|body| checked(body, length)) } else { reply })
        })
    }
}

/// Returns a body that ends with an error if it is not of the stated `length` in bytes, or if it
/// panics.
fn checked(body: Body, length: Option<u64>) -> Body {
    if length.is_none_or(|length| body.size_hint().exact() == Some(length)) && body.size_hint().exact().is_some() {
        return body;
    }
    let chunks = stream::try_unfold((body, 0), move |(mut body, sent)| async move {
        let next = AssertUnwindSafe(next_data(&mut body)).catch_unwind().await.map_err(|_| Error::Panicked)?;
        let chunk = next.transpose()?;
        let sent = sent + chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        match length {
            Some(length) if sent > length || chunk.is_none() && sent < length => {
                Err(Error::OriginBroke(format!("{sent} bytes in a body of {length}")))
            }
            _ => Ok(chunk.map(|chunk| (chunk, (body, sent)))),
        }
    });
    Body::from_stream(chunks)
}

fn timed_out() -> Error {
    Error::OriginTimeout("the embedded origin".to_owned())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::origin::permits::ClientPresence;

    #[tokio::test(start_paused = true)]
    async fn a_request_without_a_permit_in_time_gets_overloaded() {
        let never = |_: AssetKey| std::future::pending::<Result<Option<Bytes>, std::io::Error>>();
        let origin = Bounded::new(Box::new(never), Duration::from_secs(1), 1);
        let fetch = || origin.fetch(Request::new(Body::empty()).into());
        let (first, second) = tokio::join!(fetch(), fetch());
        assert_eq!(first.map(drop), Err(timed_out()));
        assert_eq!(second.map(drop), Err(Error::Overloaded));
        let upload = origin.fetch(Request::new(Body::from("content")).into());
        let (waits, upload) = tokio::join!(fetch(), upload);
        assert_eq!((waits.map(drop), upload.map(drop)), (Err(timed_out()), Err(timed_out())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_queued_request_whose_client_left_gets_no_permit() {
        let never = |_: AssetKey| std::future::pending::<Result<Option<Bytes>, std::io::Error>>();
        let origin = Bounded::new(Box::new(never), Duration::from_secs(1), 1);
        let write = || {
            let (client, presence) = ClientPresence::new();
            (client, Call { client: Some(presence), ..Request::new(Body::empty()).into() })
        };
        let ((first, sent), (second, queued)) = (write(), write());
        let leave = async {
            tokio::task::yield_now().await;
            drop((first, second));
        };
        let (sent, queued, ()) = tokio::join!(origin.fetch(sent), origin.fetch(queued), leave);
        // The request that was sent continues without its client until the timeout.
        assert_eq!((sent.map(drop), queued.map(drop)), (Err(timed_out()), Err(Error::ClientLeft)));
    }
}
