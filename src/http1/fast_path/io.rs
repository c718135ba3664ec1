//! [`FastPath`]: a connection that responds to plain requests before hyper reads them.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::head::{MAX_HEAD, NextRequest};
use super::responses::ResponseQueue;
use super::trailers::TrailerCheck;
use crate::conn::TimeoutIo;
use crate::conn::handler::{Handler, PeekFuture};
use crate::edge::NotFastHit;
use crate::peer::peek_codec;

/// The size of one read, in bytes.
const READ: usize = MAX_HEAD;

const STATUS_LINE: &[u8] = b"HTTP/1.1 200 OK\r\n";

/// A connection with a fast path.
pub(crate) struct FastPath {
    io: TimeoutIo,
    handler: Arc<Handler>,
    hyper: HyperState,
    /// Received bytes. Those before `consumed` were answered here, or read by hyper.
    received: Vec<u8>,
    consumed: usize,
    responses: ResponseQueue,
    pending_peek: Option<PendingPeek>,
    trailers: TrailerCheck,
}

/// The state of hyper, as the fast path knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HyperState {
    /// hyper has no request, and waits for one.
    Waiting,
    /// hyper has one request. The number is the count of completed requests before it.
    OneRequest(u32),
    /// hyper has more than the fast path can follow; the connection is hyper's for good.
    InControl,
}

/// A request that waits for a peek at its owner. If the owner has no response in memory, hyper
/// gets the request.
struct PendingPeek {
    response: PeekFuture,
    /// The length of the request, in bytes.
    length: usize,
}

/// The result of a look at the next request.
enum Step {
    /// Its response is queued.
    Responded,
    /// A peek for it is pending.
    Peeking,
    /// hyper gets it; the number is its length in bytes.
    PassToHyper(usize),
    /// It is not complete.
    NeedsMore,
}

impl FastPath {
    pub(crate) fn new(io: TimeoutIo, handler: Arc<Handler>) -> Self {
        Self {
            io,
            handler,
            hyper: HyperState::Waiting,
            received: Vec::new(),
            consumed: 0,
            responses: ResponseQueue::default(),
            pending_peek: None,
            trailers: TrailerCheck::default(),
        }
    }

    /// Returns true if there are no received bytes left for hyper.
    pub(crate) fn is_empty(&self) -> bool {
        self.unread().is_empty()
    }

    /// Returns true if the next bytes are a TLS handshake: a record of that type (RFC 8446
    /// §5.1), of any version. No HTTP method begins with that byte.
    pub(crate) fn has_tls_handshake(&self) -> bool {
        self.unread().starts_with(&[22, 3])
    }

    fn unread(&self) -> &[u8] {
        &self.received[self.consumed..]
    }

    /// Responds to plain requests. Resolves when there are bytes for hyper, or when the client
    /// has closed the connection.
    pub(crate) fn poll_hits(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let unanswered = ready!(self.poll_peek(cx))?;
            if !self.responses.has_room() {
                ready!(self.responses.poll_sent(&mut self.io, cx))?;
            }
            let step = match unanswered {
                Some(length) => Step::PassToHyper(length),
                None => self.step(cx)?,
            };
            if matches!(step, Step::Responded) && !self.is_empty() {
                continue;
            }
            if !self.responses.is_empty() {
                // The request of any other step is parsed again after this.
                ready!(self.responses.poll_sent(&mut self.io, cx))?;
                continue;
            }
            match step {
                Step::Responded | Step::Peeking => {}
                Step::PassToHyper(length) => {
                    self.pass_to_hyper(length);
                    return Poll::Ready(Ok(()));
                }
                Step::NeedsMore => {
                    if ready!(self.poll_receive(cx))? == 0 {
                        self.hyper = HyperState::InControl;
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }

    /// Resolves when no response of the fast path is pending.
    pub(crate) fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // If the owner has no response, the request stays in `received` for hyper.
        ready!(self.poll_peek(cx))?;
        self.responses.poll_sent(&mut self.io, cx)
    }

    /// Resolves when no peek is pending; to the length of its request if the owner has no
    /// response.
    fn poll_peek(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<usize>>> {
        let Some(PendingPeek { response, length }) = &mut self.pending_peek else {
            return Poll::Ready(Ok(None));
        };
        let (response, length) = (ready!(response.as_mut().poll(cx)), *length);
        self.pending_peek = None;
        let Some((lines, body)) = response else {
            return Poll::Ready(Ok(Some(length)));
        };
        let mut head = self.responses.take_head();
        for part in [STATUS_LINE, &lines, b"\r\n"] {
            head.extend_from_slice(part);
        }
        self.responses.push(head, Some(body), cx)?;
        self.consumed += length;
        Poll::Ready(Ok(None))
    }

    /// Begins the response to the next request, or leaves the request to hyper.
    fn step(&mut self, cx: &mut Context<'_>) -> io::Result<Step> {
        if self.is_empty() {
            return Ok(Step::NeedsMore);
        }
        if self.handler.is_draining() {
            // The path through hyper adds `Connection: close` to the response.
            return Ok(Step::PassToHyper(usize::MAX));
        }
        let next = NextRequest::parse(&self.received[self.consumed..]);
        let (NextRequest::Plain(request, length) | NextRequest::Peek(request, length)) = &next else {
            return Ok(match next {
                NextRequest::Head(length) => Step::PassToHyper(length),
                NextRequest::Partial => Step::NeedsMore,
                _ => Step::PassToHyper(usize::MAX),
            });
        };
        let length = *length;
        let mut head = self.responses.take_head();
        head.extend_from_slice(STATUS_LINE);
        let missing = match self.handler.answer_fast(request, &mut head) {
            Ok(body) => {
                head.extend_from_slice(b"\r\n");
                self.responses.push(head, Some(body), cx)?;
                self.consumed += length;
                return Ok(Step::Responded);
            }
            Err(NotFastHit::Missing(key, client)) => Some((key, client)),
            Err(NotFastHit::Involved) => None,
        };
        if matches!(next, NextRequest::Peek(..)) && self.handler.answers_peeks() {
            head.clear();
            head.extend_from_slice(peek_codec::MISS.as_bytes());
            self.responses.push(head, None, cx)?;
            // This counts as a request, or a connection with such peeks alone would time out.
            drop(self.handler.requests().begin());
            self.consumed += length;
            return Ok(Step::Responded);
        }
        self.responses.recycle(head);
        // Behind other responses, the request is parsed again when they are sent.
        if self.responses.is_empty()
            && matches!(next, NextRequest::Plain(..))
            && let Some(response) = missing.and_then(|(key, client)| Handler::peek(&self.handler, key, client, request))
        {
            self.pending_peek = Some(PendingPeek { response, length });
            return Ok(Step::Peeking);
        }
        Ok(Step::PassToHyper(length))
    }

    /// Passes the next request, of `length` bytes, to hyper.
    fn pass_to_hyper(&mut self, length: usize) {
        self.hyper = match self.handler.requests().completed_if_idle() {
            Some(completed) if length == self.unread().len() => HyperState::OneRequest(completed),
            _ => HyperState::InControl,
        };
    }

    /// Reads the bytes for hyper, before the check of trailers.
    fn poll_read_unchecked(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.hyper == HyperState::Waiting {
            ready!(self.poll_hits(cx))?;
        }
        if !self.is_empty() {
            let unread = &self.received[self.consumed..];
            let fits = unread.len().min(buf.remaining());
            buf.put_slice(&unread[..fits]);
            self.consumed += fits;
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.hyper = HyperState::InControl;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads from the socket into `received`. Returns the number of bytes.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [MaybeUninit::uninit(); READ];
        let mut read = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
        self.received.drain(..self.consumed);
        self.consumed = 0;
        self.received.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }
}

impl AsyncRead for FastPath {
    /// Reads the bytes for hyper.
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if !self.trailers.is_malformed() {
            ready!(self.poll_read_unchecked(cx, buf))?;
            if self.handler.is_upgraded() {
                return Poll::Ready(Ok(()));
            }
            let accepted = self.trailers.accept(&buf.filled()[before..]);
            buf.set_filled(before + accepted);
        }
        if self.trailers.is_malformed() && buf.filled().len() == before {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a trailer line ends in a bare LF")));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FastPath {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        if let HyperState::OneRequest(before) = self.hyper
            && self.is_empty()
            && self.handler.requests().completed_if_idle() == Some(before.wrapping_add(1))
        {
            self.hyper = HyperState::Waiting;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_idle(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
