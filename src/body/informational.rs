//! Informational responses (RFC 9110 §15.2), such as 103 (Early Hints): from whoever
//! is asked upstream to the client who waits.
//!
//! hyper's server sends none, so they go past it. That they never come in the
//! middle of a message rests on three things: a connection's request has its
//! turn only when the response before it is with the connection whole; its own
//! final response is not begun before [`Relay::close`] is through; and in
//! between they are written only where the connection has nothing else to write.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, VIA};
use http::{HeaderMap, HeaderValue, Request, StatusCode};

use crate::body::Body;
use crate::semantics::forward;

/// How many one request may bring. They are hints: what is more is dropped.
const MOST: usize = 16;
/// How long they may be together, in bytes.
const MOST_BYTES: usize = 16 * 1024;

/// What is to be sent on one connection before its final responses.
#[derive(Clone)]
pub(crate) struct Informational(Arc<Shared>);

struct Shared {
    via: HeaderValue,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whose turn it is: a new number for each request, and one for nobody.
    turn: u64,
    /// How many have come in this turn, and of how many bytes.
    came: usize,
    bytes: usize,
    /// What the connection has not taken yet.
    queue: BytesMut,
    /// Something was queued that the connection has not written to its end.
    unwritten: bool,
    connection: Option<Waker>,
    closing: Option<Waker>,
}

impl Informational {
    /// `via` is what this edge adds to each.
    pub(crate) fn new(via: HeaderValue) -> Self {
        Self(Arc::new(Shared { via, state: Mutex::default() }))
    }

    /// A request's turn begins.
    pub(crate) fn open(&self) -> Relay {
        let mut state = self.state();
        state.turn += 1;
        (state.came, state.bytes) = (0, 0);
        state.queue.clear();
        Relay { interim: self.clone(), turn: state.turn }
    }

    /// What is to be written next, by a connection that has written what it was
    /// given before; `connection` is told of more.
    pub(crate) fn next(&self, connection: &Waker) -> Option<Bytes> {
        let mut state = self.state();
        match &mut state.connection {
            Some(known) => known.clone_from(connection),
            unknown => *unknown = Some(connection.clone()),
        }
        if state.queue.is_empty() {
            state.unwritten = false;
            if let Some(closing) = state.closing.take() {
                closing.wake();
            }
            return None;
        }
        Some(state.queue.split().freeze())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way back to the client of one request, for as long as it is its turn.
#[derive(Clone)]
pub(crate) struct Relay {
    interim: Informational,
    turn: u64,
}

impl Relay {
    /// Has the client get the interim responses to `request`.
    pub(crate) fn listen(&self, request: &mut Request<Body>) {
        let relay = self.clone();
        hyper::ext::on_informational(request, move |response| relay.offer(response.status(), response.headers()));
    }

    /// Queues one, unless its turn is over or enough have come.
    pub(crate) fn offer(&self, status: StatusCode, fields: &HeaderMap) {
        // Each connection has a 100 of its own, and a 101 is a final answer.
        if matches!(status, StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS) {
            return;
        }
        let response = written(status, fields, &self.interim.0.via);
        let mut state = self.interim.state();
        if state.turn != self.turn || state.came == MOST || state.bytes + response.len() > MOST_BYTES {
            return;
        }
        state.came += 1;
        state.bytes += response.len();
        state.queue.extend_from_slice(&response);
        state.unwritten = true;
        if let Some(connection) = &state.connection {
            connection.wake_by_ref();
        }
    }

    /// Ends the turn; resolves when all that came in it is written, so that the
    /// final response can follow.
    pub(crate) async fn close(self) {
        poll_fn(|cx| {
            let mut state = self.interim.state();
            if state.turn == self.turn {
                state.turn += 1;
            }
            if state.unwritten {
                state.closing = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }
}

/// The acknowledgement of a request by a peer: the word, in an interim response, that it
/// has begun to answer.
#[derive(Clone, Default)]
pub(crate) struct Acknowledgement(Arc<AtomicBool>);

impl Acknowledgement {
    /// Listens for that of `request`. Informational responses go on by `relay`, but for 102
    /// (Processing), which peers say to each other.
    pub(crate) fn of(request: &mut Request<Body>, relay: Option<&Relay>) -> Self {
        let (acknowledgement, relay) = (Self::default(), relay.cloned());
        let Self(came) = acknowledgement.clone();
        hyper::ext::on_informational(request, move |response| {
            came.store(true, Ordering::Relaxed);
            if let Some(relay) = relay.as_ref().filter(|_| response.status() != StatusCode::PROCESSING) {
                relay.offer(response.status(), response.headers());
            }
        });
        acknowledgement
    }

    pub(crate) fn has_come(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// An interim response as it goes over HTTP/1.1.
fn written(status: StatusCode, fields: &HeaderMap, via: &HeaderValue) -> Vec<u8> {
    let mut fields = fields.clone();
    forward::strip_hop_by_hop(&mut fields);
    // RFC 9110 §8.6: it has no content.
    fields.remove(CONTENT_LENGTH);
    fields.append(VIA, via.clone());
    let reason = status.canonical_reason().unwrap_or_default();
    let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).into_bytes();
    for (name, value) in &fields {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn interim() -> Informational {
        Informational::new(HeaderValue::from_static("1.1 edge-1"))
    }

    fn next(interim: &Informational) -> Option<String> {
        interim.next(Waker::noop()).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn end_to_end_fields_alone_go_on() {
        let interim = interim();
        let relay = interim.open();
        let fields = headers(&[
            ("link", "</a.css>"),
            ("link", "</b.css>"),
            ("connection", "x-inner"),
            ("x-inner", "1"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
        ]);
        relay.offer(StatusCode::EARLY_HINTS, &fields);
        let expected = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\nlink: </b.css>\r\nvia: 1.1 edge-1\r\n\r\n";
        assert_eq!(next(&interim).unwrap(), expected);
        for unrelayed in [StatusCode::CONTINUE, StatusCode::SWITCHING_PROTOCOLS] {
            relay.offer(unrelayed, &fields);
            assert_eq!(next(&interim), None);
        }
    }

    #[test]
    fn only_in_their_requests_turn() {
        let interim = interim();
        let mut cx = Context::from_waker(Waker::noop());
        let (first, late) = (interim.open(), HeaderMap::new());
        let of_first = first.clone();
        assert!(pin!(first.close()).poll(&mut cx).is_ready());
        of_first.offer(StatusCode::PROCESSING, &late);
        assert_eq!(next(&interim), None);
        let second = interim.open();
        of_first.offer(StatusCode::PROCESSING, &late);
        assert_eq!(next(&interim), None);
        second.offer(StatusCode::PROCESSING, &late);
        assert!(next(&interim).unwrap().starts_with("HTTP/1.1 102 Processing\r\n"));
    }

    #[test]
    fn the_turn_ends_when_all_is_written() {
        let interim = interim();
        let mut cx = Context::from_waker(Waker::noop());
        let relay = interim.open();
        relay.offer(StatusCode::EARLY_HINTS, &HeaderMap::new());
        let mut closed = pin!(relay.clone().close());
        assert!(closed.as_mut().poll(&mut cx).is_pending());
        // No more from here on, or the end might never come.
        relay.offer(StatusCode::EARLY_HINTS, &HeaderMap::new());
        assert_eq!(next(&interim).unwrap().matches("HTTP/1.1").count(), 1);
        assert!(closed.as_mut().poll(&mut cx).is_pending(), "it is being written");
        assert_eq!(next(&interim), None);
        assert!(closed.as_mut().poll(&mut cx).is_ready());
    }

    #[test]
    fn a_flood_is_bounded_in_number_and_size() {
        let interim = interim();
        let relay = interim.open();
        let mut taken = 0;
        for _ in 0..100 {
            relay.offer(StatusCode::EARLY_HINTS, &HeaderMap::new());
            taken += next(&interim).map_or(0, |text| text.matches("HTTP/1.1 103").count());
        }
        assert_eq!(taken, MOST);
        let relay = interim.open();
        let long = headers(&[("x-long", &"a".repeat(3000))]);
        for _ in 0..100 {
            relay.offer(StatusCode::EARLY_HINTS, &long);
        }
        let text = next(&interim).unwrap();
        assert!((10_000..=MOST_BYTES).contains(&text.len()) && text.ends_with("\r\n\r\n"));
    }
}
