//! WebSocket requests: they bypass the cache, and a 101 of the origin (and only that) opens a
//! [`Tunnel`] to it.

use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use hyper::upgrade::OnUpgrade;

use super::request::{Answer, Inbound};
use crate::body::Body;
use crate::observe::metrics::Source;
use crate::semantics::upgrade;
use crate::upstream::tunnel::Tunnel;

/// Returns the client's end of the connection if the client asks for WebSocket according to RFC
/// 6455 §4.1: by a GET without content, over HTTP/1.1. (In other versions the header has no
/// meaning, and the server has no end to give.)
pub(super) fn wanted(source: Source, request: &mut Parts, body: &Body) -> Option<OnUpgrade> {
    let client = request.extensions.remove::<OnUpgrade>()?;
    let wanted = source == Source::Client
        && request.method == Method::GET
        && hyper::body::Body::is_end_stream(body)
        && upgrade::is_to_websocket(&request.headers);
    wanted.then_some(client)
}

/// Adds the client's upgrade to the request to the origin.
pub(super) fn hand_on(inbound: &Inbound, fields: &mut HeaderMap) {
    if inbound.upgrade.is_some() {
        upgrade::to_websocket(fields);
    }
}

/// Joins both ends if the response is a 101.
pub(super) fn join(inbound: Inbound, origin: Option<OnUpgrade>, answer: &mut Answer) {
    let switches = answer.response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if let Some(client) = inbound.upgrade.filter(|_| switches) {
        upgrade::to_websocket(answer.response.headers_mut());
        answer.tunnel = origin.map(|origin| Tunnel { client, origin });
    }
}
