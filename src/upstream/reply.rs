//! [`Reply`]: a response from upstream and the properties of its connection.

use std::sync::Arc;

use http::{HeaderValue, Response};
use hyper::upgrade::OnUpgrade;

use crate::body::Body;

/// A response from an origin or a peer, with the properties that its headers do not show.
#[non_exhaustive]
pub struct Reply {
    /// The response.
    pub response: Response<Body>,
    /// The way in which the end of the body is recognised.
    pub framing: Framing,
    /// The connection after a 101 (Switching Protocols).
    pub(crate) upgrade: Option<OnUpgrade>,
    /// The names by which the server refers to its own resources. Only the replies of HTTP origins
    /// to unsafe methods have it, for the invalidation of these resources.
    pub(crate) base: Option<Arc<BaseUrl>>,
}

impl From<Response<Body>> for Reply {
    /// Creates a reply with a delimited body.
    fn from(response: Response<Body>) -> Self {
        Self { response, framing: Framing::Delimited, upgrade: None, base: None }
    }
}

impl Reply {
    /// Replaces the body.
    pub(crate) fn map_body(self, map: impl FnOnce(Body) -> Body) -> Self {
        Self { response: self.response.map(map), ..self }
    }
}

/// The way in which the end of a body is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Framing {
    /// By a length or by chunks: a body that was cut off ends with an error.
    Delimited,
    /// By the end of the connection (RFC 9112 §6.3). A body that was cut off ends in the same way,
    /// so its end does not prove that it is complete.
    UntilClose,
}

/// The host and path prefix by which a server names its own resources.
pub(crate) struct BaseUrl {
    pub(crate) host: HeaderValue,
    /// The URL's path without a trailing slash.
    pub(crate) prefix: String,
}
