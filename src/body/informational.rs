//! Informational responses (RFC 9110 §15.2), such as 103 (Early Hints), forwarded from the
//! upstream to the client.
//!
//! hyper's server does not send them, so they bypass it. Three rules keep them out of the
//! middle of another message. A request's turn begins when the connection has the whole
//! response before it. The final response begins after [`Relay::close`] has resolved. In
//! between, the connection writes them only while it has nothing else to write.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, VIA};
use http::{HeaderMap, HeaderValue, Request, StatusCode};

use crate::semantics::forward;

/// The most informational responses of one request. They are hints: the rest is dropped.
const MOST: usize = 16;
/// The most bytes that they may have together.
const MOST_BYTES: usize = 16 * 1024;

/// The queue of informational responses of one HTTP/1.1 connection.
#[derive(Clone)]
pub(crate) struct Informational(Arc<Shared>);

struct Shared {
    via: HeaderValue,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Number of the current turn. It grows when a request's turn begins, and when it ends.
    turn: u64,
    /// Responses queued in this turn.
    count: usize,
    /// Their length in bytes.
    bytes: usize,
    /// Responses that the connection has not taken yet.
    queue: BytesMut,
    /// True while the connection has not written all queued responses.
    unwritten: bool,
    connection: Option<Waker>,
    closing: Option<Waker>,
}

impl Informational {
    /// `via` is the Via value that this edge adds to each response.
    pub(crate) fn new(via: HeaderValue) -> Self {
        Self(Arc::new(Shared { via, state: Mutex::default() }))
    }

    /// Begins the turn of a request.
    pub(crate) fn open(&self) -> Relay {
        let mut state = self.state();
        state.turn += 1;
        (state.count, state.bytes) = (0, 0);
        state.queue.clear();
        Relay { queue: self.clone(), turn: state.turn }
    }

    /// Returns the bytes to write next. The call means that the connection has written the
    /// bytes returned before. `connection` is woken when more are queued.
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

/// Forwards informational responses to the client of one request during its turn.
#[derive(Clone)]
pub(crate) struct Relay {
    queue: Informational,
    turn: u64,
}

impl Relay {
    /// Forwards the informational responses to `request`.
    pub(crate) fn listen<B>(&self, request: &mut Request<B>) {
        let relay = self.clone();
        hyper::ext::on_informational(request, move |response| relay.offer(response.status(), response.headers()));
    }

    /// Queues an informational response. Drops it if the turn is over or a limit is reached.
    pub(crate) fn offer(&self, status: StatusCode, headers: &HeaderMap) {
        // 100 concerns one connection only, and 101 is a final response.
        if matches!(status, StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS) {
            return;
        }
        let response = serialize(status, headers, &self.queue.0.via);
        let mut state = self.queue.state();
        if state.turn != self.turn || state.count == MOST || state.bytes + response.len() > MOST_BYTES {
            return;
        }
        state.count += 1;
        state.bytes += response.len();
        state.queue.extend_from_slice(&response);
        state.unwritten = true;
        if let Some(connection) = &state.connection {
            connection.wake_by_ref();
        }
    }

    /// Ends the turn. Resolves when its responses are written, so that the final response can
    /// follow.
    pub(crate) async fn close(self) {
        poll_fn(|cx| {
            let mut state = self.queue.state();
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

/// The acknowledgement of a request by a peer: an informational response says that the peer is
/// working on it.
#[derive(Clone, Default)]
pub(crate) struct Acknowledgement(Arc<AtomicBool>);

impl Acknowledgement {
    /// Listens for the acknowledgement of `request`. `relay` forwards informational responses,
    /// except 102 (Processing), which only peers send to each other.
    pub(crate) fn of<B>(request: &mut Request<B>, relay: Option<&Relay>) -> Self {
        let (acknowledgement, relay) = (Self::default(), relay.cloned());
        let Self(received) = acknowledgement.clone();
        hyper::ext::on_informational(request, move |response| {
            received.store(true, Ordering::Relaxed);
            if let Some(relay) = relay.as_ref().filter(|_| response.status() != StatusCode::PROCESSING) {
                relay.offer(response.status(), response.headers());
            }
        });
        acknowledgement
    }

    /// Returns true if the peer has acknowledged the request.
    pub(crate) fn has_come(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Serializes an informational response for HTTP/1.1.
fn serialize(status: StatusCode, headers: &HeaderMap, via: &HeaderValue) -> Vec<u8> {
    let mut headers = headers.clone();
    forward::strip_hop_by_hop(&mut headers);
    // RFC 9110 §8.6: an informational response has no content.
    headers.remove(CONTENT_LENGTH);
    headers.append(VIA, via.clone());
    let reason = status.canonical_reason().unwrap_or_default();
    let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).into_bytes();
    for (name, value) in &headers {
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

    fn queue() -> Informational {
        Informational::new(HeaderValue::from_static("1.1 edge-1"))
    }

    fn next(queue: &Informational) -> Option<String> {
        queue.next(Waker::noop()).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn only_end_to_end_headers_are_forwarded() {
        let queue = queue();
        let relay = queue.open();
        let upstream = headers(&[
            ("link", "</a.css>"),
            ("link", "</b.css>"),
            ("connection", "x-inner"),
            ("x-inner", "1"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
        ]);
        relay.offer(StatusCode::EARLY_HINTS, &upstream);
        let expected = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\nlink: </b.css>\r\nvia: 1.1 edge-1\r\n\r\n";
        assert_eq!(next(&queue).unwrap(), expected);
        for unrelayed in [StatusCode::CONTINUE, StatusCode::SWITCHING_PROTOCOLS] {
            relay.offer(unrelayed, &upstream);
            assert_eq!(next(&queue), None);
        }
    }

    #[test]
    fn responses_are_dropped_after_their_requests_turn() {
        let queue = queue();
        let mut cx = Context::from_waker(Waker::noop());
        let (first, headers) = (queue.open(), HeaderMap::new());
        let clone_of_first = first.clone();
        assert!(pin!(first.close()).poll(&mut cx).is_ready());
        clone_of_first.offer(StatusCode::PROCESSING, &headers);
        assert_eq!(next(&queue), None);
        let second = queue.open();
        clone_of_first.offer(StatusCode::PROCESSING, &headers);
        assert_eq!(next(&queue), None);
        second.offer(StatusCode::PROCESSING, &headers);
        assert!(next(&queue).unwrap().starts_with("HTTP/1.1 102 Processing\r\n"));
    }

    #[test]
    fn a_turn_ends_when_its_responses_are_written() {
        let queue = queue();
        let mut cx = Context::from_waker(Waker::noop());
        let relay = queue.open();
        relay.offer(StatusCode::EARLY_HINTS, &HeaderMap::new());
        let mut closed = pin!(relay.clone().close());
        assert!(closed.as_mut().poll(&mut cx).is_pending());
        // Dropped: otherwise the turn might never end.
        relay.offer(StatusCode::EARLY_HINTS, &HeaderMap::new());
        assert_eq!(next(&queue).unwrap().matches("HTTP/1.1").count(), 1);
        assert!(closed.as_mut().poll(&mut cx).is_pending(), "the response is being written");
        assert_eq!(next(&queue), None);
        assert!(closed.as_mut().poll(&mut cx).is_ready());
    }

    #[test]
    fn a_flood_of_responses_is_limited_in_number_and_bytes() {
        let queue = queue();
        let relay = queue.open();
        let mut taken = 0;
        for _ in 0..100 {
            relay.offer(StatusCode::EARLY_HINTS, &HeaderMap::new());
            taken += next(&queue).map_or(0, |text| text.matches("HTTP/1.1 103").count());
        }
        assert_eq!(taken, MOST);
        let relay = queue.open();
        let long = headers(&[("x-long", &"a".repeat(3000))]);
        for _ in 0..100 {
            relay.offer(StatusCode::EARLY_HINTS, &long);
        }
        let text = next(&queue).unwrap();
        assert!((10_000..=MOST_BYTES).contains(&text.len()) && text.ends_with("\r\n\r\n"));
    }
}
