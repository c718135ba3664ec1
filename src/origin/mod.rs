//! Origins: the sources of assets.

use futures_util::future::BoxFuture;
use http::{Request, Response};

use crate::body::Body;
use crate::error::Error;

pub(crate) mod embedded;
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
    /// Responds to `request`. Its URI is a canonical path and query.
    ///
    /// # Errors
    /// One of the `Origin…` variants of [`Error`] if the origin gives no response.
    fn fetch(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, Error>>;
}
