//! [`EdgeService`] as a service of tower.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use tower_service::Service;

use super::service::EdgeService;
use crate::body::Body;

/// Is always ready: the limits of the edge answer a request that exceeds them.
///
/// ```
/// use http_body_util::{BodyExt, Empty};
/// use peerage::{AssetKey, Edge};
/// use tower_service::Service;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let origin = |key: AssetKey| async move { Ok::<_, std::io::Error>(Some(format!("this is {key}").into())) };
/// let mut service = Edge::builder().origin(origin).build()?.service();
///
/// let request = http::Request::get("/logo.png").header("host", "example.com").body(Empty::new())?;
/// let response = service.call(request).await?;
/// assert_eq!(response.into_body().collect().await?.to_bytes(), "this is /logo.png");
/// # Ok(())
/// # }
/// ```
impl<B> Service<Request<B>> for EdgeService
where
    B: hyper::body::Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(service.respond(request).await) })
    }
}
