//! [`ResponseQueue`]: the responses of the fast path, several to one write.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use hyper::body::Body as _;
use tokio::io::AsyncWrite as _;

use crate::conn::TimeoutIo;
use crate::observe::access::LoggedBody;
use crate::observe::activity::TrackedBuf;

/// The maximum number of responses in one write.
const MAX_RESPONSES: usize = 16;
/// The number of buffered body bytes from which the queue is written before it takes another
/// response.
const MAX_BUFFERED: usize = 64 * 1024;
/// The maximum number of slices in one write, heads included.
const MAX_SLICES: usize = 2 * MAX_RESPONSES;
/// The largest head buffer that is kept for another response, in bytes.
const MAX_SPARE: usize = 4096;

/// Responses that are being sent, in order.
#[derive(Default)]
pub(super) struct ResponseQueue {
    queue: VecDeque<QueuedResponse>,
    /// The buffers of heads that were sent.
    spare: Vec<Vec<u8>>,
    /// True if written bytes may wait in the transport.
    is_unsent: bool,
}

struct QueuedResponse {
    head: Vec<u8>,
    /// Bytes of the head that were sent.
    head_sent: usize,
    /// The data of the body that is ready to be sent.
    data: Option<TrackedBuf>,
    body: Option<LoggedBody>,
}

impl QueuedResponse {
    /// Returns the number of body bytes that are ready to be sent.
    fn buffered(&self) -> usize {
        self.data.as_ref().map_or(0, Buf::remaining)
    }

    /// Returns true if the body has no data after the buffered data.
    fn is_body_ended(&self) -> bool {
        self.body.as_ref().is_none_or(LoggedBody::is_end_stream)
    }

    fn is_sent(&self) -> bool {
        self.unsent_head().is_empty() && self.buffered() == 0 && self.is_body_ended()
    }

    fn unsent_head(&self) -> &[u8] {
        &self.head[self.head_sent..]
    }

    /// Takes the next data from the body once the previous data is sent. An error is the
    /// body's.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.buffered() == 0
            && let Some(body) = self.body.as_mut().filter(|body| !body.is_end_stream())
        {
            let frame = ready!(Pin::new(body).poll_frame(cx)).transpose();
            self.data = frame.map_err(io::Error::other)?.and_then(|frame| frame.into_data().ok());
        }
        Poll::Ready(Ok(()))
    }

    /// Fills `slices` with the unsent head and the buffered data. Returns the number of slices.
    fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let head_slices = usize::from(!self.unsent_head().is_empty());
        if head_slices > 0 {
            slices[0] = IoSlice::new(self.unsent_head());
        }
        head_slices + self.data.as_ref().map_or(0, |data| data.chunks_vectored(&mut slices[head_slices..]))
    }

    /// Notes that `sent` bytes were sent. Returns the number that belongs to later responses.
    fn advance(&mut self, sent: usize) -> usize {
        let of_head = sent.min(self.unsent_head().len());
        self.head_sent += of_head;
        let of_data = (sent - of_head).min(self.buffered());
        if let Some(data) = &mut self.data {
            data.advance(of_data);
        }
        sent - of_head - of_data
    }
}

impl ResponseQueue {
    /// Returns true if all responses are sent.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && !self.is_unsent
    }

    /// Returns true if another response may join the next write.
    pub(super) fn has_room(&self) -> bool {
        let bytes: usize = self.queue.iter().map(QueuedResponse::buffered).sum();
        self.queue.len() < MAX_RESPONSES
            && bytes < MAX_BUFFERED
            && self.queue.back().is_none_or(QueuedResponse::is_body_ended)
    }

    /// Returns an empty buffer for a head.
    pub(super) fn take_head(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes back the buffer of a head that was sent or not used.
    pub(super) fn recycle(&mut self, mut head: Vec<u8>) {
        if head.capacity() <= MAX_SPARE && self.spare.len() < MAX_RESPONSES {
            head.clear();
            self.spare.push(head);
        }
    }

    /// Appends a response. Without a body, the head is the whole response.
    pub(super) fn push(&mut self, head: Vec<u8>, body: Option<LoggedBody>, cx: &mut Context<'_>) -> io::Result<()> {
        let mut response = QueuedResponse { head, head_sent: 0, data: None, body };
        // If the body has no data yet, it is polled again when the response is the first.
        if let Poll::Ready(data) = response.poll_data(cx) {
            data?;
        }
        if self.queue.capacity() == 0 {
            // Most connections have one response at a time.
            self.queue.reserve_exact(1);
        }
        self.queue.push_back(response);
        Ok(())
    }

    /// Resolves when all responses are sent.
    pub(super) fn poll_sent(&mut self, io: &mut TimeoutIo, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(first) = self.queue.front_mut() {
            if first.unsent_head().is_empty() {
                let data = first.poll_data(cx);
                if data.is_pending() && self.is_unsent {
                    // What was written so far does not wait for the rest of the body.
                    let _ = io.poll_send(cx)?;
                }
                ready!(data)?;
            }
            if first.is_sent() {
                self.pop();
                continue;
            }
            self.is_unsent = true;
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let filled = self.fill(&mut slices);
            if filled > 0 {
                match ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices[..filled]))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    sent => self.advance(sent),
                }
            }
        }
        if self.is_unsent {
            ready!(io.poll_send(cx))?;
            self.is_unsent = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Fills `slices` with the bytes that can be sent now, in order. Returns the number of
    /// slices.
    fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>; MAX_SLICES]) -> usize {
        let mut filled = 0;
        for response in &self.queue {
            if MAX_SLICES - filled < 2 {
                break;
            }
            filled += response.fill(&mut slices[filled..]);
            if !response.is_body_ended() {
                break;
            }
        }
        filled
    }

    fn advance(&mut self, mut sent: usize) {
        for response in &mut self.queue {
            sent = response.advance(sent);
            if sent == 0 {
                break;
            }
        }
        while self.queue.front().is_some_and(QueuedResponse::is_sent) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some(QueuedResponse { head, .. }) = self.queue.pop_front() {
            self.recycle(head);
        }
    }
}
