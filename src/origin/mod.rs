//! Origins: the sources of assets.

use futures_util::future::BoxFuture;
use http::Request;

use crate::body::Body;
use crate::error::Error;
use crate::upstream::Reply;
use permits::ClientPresence;

pub(crate) mod embedded;
#[cfg(feature = "cli")]
pub mod files;
pub mod http_origin;
pub(crate) mod permits;

/// A source of assets. A program that embeds Peerage provides one; a closure from
/// [`AssetKey`](crate::AssetKey) to bytes is an origin.
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
    /// Responds to a request. A [`Response`](http::Response) converts into a [`Reply`].
    ///
    /// # Errors
    /// One of the `Origin…` variants of [`Error`] if the origin gives no response.
    fn fetch(&self, call: Call) -> BoxFuture<'_, Result<Reply, Error>>;
}

/// A request to an origin.
#[non_exhaustive]
pub struct Call {
    /// The request. Its URI is a canonical path and query.
    pub request: Request<Body>,
    /// The client of a write that continues without its client once it is sent.
    pub(crate) client: Option<ClientPresence>,
}

impl From<Request<Body>> for Call {
    fn from(request: Request<Body>) -> Self {
        Self { request, client: None }
    }
}
