//! [`Cache`]: the edge without HTTP.

use std::sync::Arc;

use http::{Request, Response, Version};

use super::exchange::{Answered, Exchange};
use crate::body::Body;
use crate::edge::Edge;
use crate::error::Error;
use crate::key::AssetKey;
use crate::observe::metrics::Source;

impl Edge {
    /// Returns the cache of this edge for the program itself.
    pub fn cache(self: &Arc<Self>) -> Cache {
        Cache { exchange: Exchange::new(Arc::clone(self)) }
    }
}

/// The cache of an edge, for the program that embeds it. It is to Peerage what a `Group` is to
/// groupcache. Cloning is cheap.
///
/// ```
/// use http_body_util::BodyExt;
/// use peerage::{AssetKey, Edge};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let origin = |key: AssetKey| async move { Ok::<_, std::io::Error>(Some(format!("this is {key}").into())) };
/// let cache = Edge::builder().origin(origin).build()?.cache();
///
/// let logo = cache.get("/logo.png").await?;
/// assert_eq!(logo.status(), 200);
/// assert_eq!(logo.into_body().collect().await?.to_bytes(), "this is /logo.png");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Cache {
    exchange: Exchange,
}

impl Cache {
    /// Returns the response for the path and query `key`: from memory, or else from the owner of
    /// the key, or else from the origin. Concurrent calls, and clients' requests, share one fill.
    ///
    /// The response is the one that a GET without headers gets, for `edge.host` and `edge.scheme`.
    /// Its status is the origin's: a missing asset is a 404, not an error. The body may still be
    /// arriving. It ends with an error, never cleanly, when its source breaks off.
    ///
    /// A caller that drops the future or the body does not cancel the fill for others. Calls count
    /// for no client: `limits.requests_per_client` does not apply.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    ///
    /// # Errors
    /// - [`Error::BadRequest`] or [`Error::UriTooLong`] for a key that is not a path.
    /// - An `Origin…` variant if the origin gave no response. A failing peer is no error: the fill
    ///   asks the next in rank, and the origin at last.
    /// - [`Error::Overloaded`] and the other errors of the edge's own ([`Fault::Own`]).
    ///
    /// [`Fault::Own`]: crate::Fault::Own
    pub async fn get(&self, key: &str) -> Result<Response<Body>, Error> {
        let key = AssetKey::parse(key, usize::MAX)?;
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = key.target().into();
        // HTTP/1.1 needs a Host header, which the program has none of.
        *request.version_mut() = Version::HTTP_2;
        let requester = self.exchange.edge.program(None);
        let Answered { response, error } = self.exchange.answer(Source::Program, requester, request).await;
        error.map_or(Ok(response), Err)
    }
}
