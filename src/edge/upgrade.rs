//! Requests for WebSocket: past the cache to the origin, and with its 101 (and
//! only then) a [`Tunnel`] to it.

use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use hyper::upgrade::OnUpgrade;

use super::{Answer, Ask};
use crate::body::Body;
use crate::observe::metrics::Source;
use crate::semantics::upgrade;
use crate::upstream::tunnel::Tunnel;

/// The client's end of the connection, if it asks for WebSocket as RFC 6455 §4.1
/// has it: by a GET without content, over HTTP/1.1. (In other versions the field
/// has no meaning, and the server has no end to give.)
pub(super) fn wanted(source: Source, request: &mut Parts, body: &Body) -> Option<OnUpgrade> {
    let client = request.extensions.remove::<OnUpgrade>()?;
    let wanted = source == Source::Client
        && request.method == Method::GET
        && http_body::Body::is_end_stream(body)
        && upgrade::is_to_websocket(&request.headers);
    wanted.then_some(client)
}

/// Asks the origin for the upgrade that the client asks of this edge.
pub(super) fn hand_on(ask: &Ask, fields: &mut HeaderMap) {
    if ask.upgrade.is_some() {
        upgrade::to_websocket(fields);
    }
}

/// Joins both ends when the answer is a 101; any other is an ordinary answer.
pub(super) fn join(ask: Ask, origin: Option<OnUpgrade>, answer: &mut Answer) {
    let switches = answer.response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if let Some(client) = ask.upgrade.filter(|_| switches) {
        upgrade::to_websocket(answer.response.headers_mut());
        answer.tunnel = origin.map(|origin| Tunnel { client, origin });
    }
}
