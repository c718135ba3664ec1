//! [`Inbound`]: a request to this edge, and [`Answer`]: its response.

use std::sync::Arc;
use std::time::SystemTime;

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, Version};
use hyper::upgrade::OnUpgrade;

use super::forwarding::Requester;
use super::request_class::RequestClass;
use crate::body::Body;
use crate::body::informational::Relay;
use crate::flight::Provider;
use crate::key::AssetKey;
use crate::observe::access::{Record, ServedFrom};
use crate::observe::metrics::{Served, Source};
use crate::semantics::request_headers::RequestKind;
use crate::upstream::tunnel::Tunnel;

/// A request to this edge, with its target as a key.
pub(super) struct Inbound {
    pub(super) source: Source,
    pub(super) requester: Requester,
    pub(super) method: Method,
    pub(super) version: Version,
    /// The authority of the target, if it has one.
    pub(super) authority: Option<Authority>,
    pub(super) key: AssetKey,
    pub(super) headers: HeaderMap,
    pub(super) class: RequestClass,
    /// Known after a miss.
    pub(super) kind: RequestKind,
    pub(super) body: Body,
    /// The client's end of the connection, if it asks for another protocol.
    pub(super) upgrade: Option<OnUpgrade>,
    /// Relays informational responses to the client.
    pub(super) relay: Option<Relay>,
    pub(super) now: SystemTime,
    /// The number of lookups that are left.
    pub(super) tries: u8,
}

impl Inbound {
    /// Tells a peer that this edge works on its request, which may take as long as the origin does.
    /// Without this, the peer would ask another edge.
    pub(super) fn acknowledge(&self) {
        if let Some(relay) = self.relay.as_ref().filter(|_| self.source == Source::Peer) {
            relay.offer(StatusCode::PROCESSING, &HeaderMap::new());
        }
    }

    /// Returns the host that the client requests (RFC 9110 §7.2). A passed request tells the origin
    /// of it. HTTP/2 has it in the target, and an absolute target takes precedence over Host.
    pub(super) fn host(&self) -> Option<HeaderValue> {
        self.requester.host().cloned().or_else(|| self.own_host())
    }

    /// Returns the record of this request for the access log.
    pub(super) fn record(&self, served: Served, from: ServedFrom) -> Record {
        Record {
            source: self.source,
            method: self.method.clone(),
            key: Ok(self.key.clone()),
            served,
            from,
            reason: None,
            error: None,
        }
    }

    /// Returns the host of the request itself; a proxy may have sent another one in a forwarded
    /// header.
    fn own_host(&self) -> Option<HeaderValue> {
        match &self.authority {
            Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
            None => self.headers.get(HOST).cloned(),
        }
    }
}

/// A response, and its record for the access log.
pub(crate) struct Answer {
    pub(crate) response: Response<Body>,
    /// The tunnel to the origin after a 101 (Switching Protocols).
    pub(crate) tunnel: Option<Tunnel>,
    pub(crate) record: Record,
}

impl From<&Provider> for ServedFrom {
    fn from(provider: &Provider) -> Self {
        match provider {
            Provider::Origin => Self::Origin,
            Provider::Peer(name) => Self::Peer(Arc::clone(name)),
        }
    }
}

/// Returns a target that names no asset in a form that is safe to log: it cannot be mistaken for
/// another log line.
pub(super) fn target(uri: &Uri) -> Box<str> {
    let target = uri.path_and_query().map_or("-", |target| target.as_str());
    let plain = |char: char| if char.is_ascii_graphic() { char } else { '?' };
    target.chars().take(200).map(plain).collect()
}

/// Returns the size of headers as HTTP/1.1 writes them, in bytes.
pub(super) fn head_size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}
