//! The fast path of a connection: plain requests, which hyper need not see.
//!
//! It stands between hyper and the socket. While hyper waits for a request, what comes
//! is looked at here first: a [plain](crate::edge::FastRequest) GET for what is here and
//! fresh, or at hand at its owner's, is answered without hyper; everything else is handed
//! to hyper as it came. There is no second set of rules for HTTP: where anything is
//! unusual, be it good or bad, hyper reads it.
//!
//! hyper is left alone unless it is certain to wait for a request: all that it was
//! given was one head of a request without content, that has been answered to its end,
//! and hyper has asked for a flush since, which it does only when its own buffer is
//! empty.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::conn::TimeoutIo;
use crate::conn::serving::{Peek, Serving};
use crate::edge::NotFastHit;
use crate::peer::peek_codec;

mod answers;
mod first;
mod trailers;

use answers::Answers;
use first::First;
use trailers::Trailers;

/// How much is read at a time, and how long a head may be here, in bytes.
const MOST: usize = 4096;

const STATUS_LINE: &[u8] = b"HTTP/1.1 200 OK\r\n";

/// A connection with a fast path.
pub(crate) struct FastPath {
    io: TimeoutIo,
    serving: Arc<Serving>,
    hyper: Hyper,
    /// What has come; from `first` on it has neither been answered nor read by hyper.
    came: Vec<u8>,
    first: usize,
    answers: Answers,
    awaited: Option<Awaited>,
    trailers: Trailers,
}

/// What hyper is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hyper {
    /// It has nothing, and waits for a request.
    Waits,
    /// It has one request; this many had ended before.
    Has(u32),
    /// It has more than can be followed from here.
    Leads,
}

/// A request whose owner is asked; if that is in vain, it is hyper's.
struct Awaited {
    answer: Peek,
    /// How long the request is, in bytes.
    length: usize,
}

/// What became of the first of what has come.
enum Begun {
    Answer,
    /// Its answer is waited for.
    Peek,
    /// It is for hyper, and so many bytes long.
    Hyper(usize),
    /// More has to come first.
    Nothing,
}

impl FastPath {
    pub(crate) fn new(io: TimeoutIo, serving: Arc<Serving>) -> Self {
        let (came, answers, trailers) = (Vec::new(), Answers::default(), Trailers::default());
        Self { io, serving, hyper: Hyper::Waits, came, first: 0, answers, awaited: None, trailers }
    }

    /// Whether nothing has come that hyper has not read.
    pub(crate) fn is_empty(&self) -> bool {
        self.came.len() == self.first
    }

    /// Returns true if a TLS handshake waits for hyper: a record of that type (RFC 8446
    /// §5.1), of any version. No method begins with that byte.
    pub(crate) fn has_tls_handshake(&self) -> bool {
        self.came[self.first..].starts_with(&[22, 3])
    }

    /// Answers what it can. Resolves when there is something for hyper, or when the
    /// client has ended the connection.
    pub(crate) fn poll_hits(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let awaited = ready!(self.poll_awaited(cx))?;
            if !self.answers.have_room() {
                ready!(self.answers.poll_sent(&mut self.io, cx))?;
            }
            let begun = match awaited {
                Some(length) => Begun::Hyper(length),
                None => self.begin(cx)?,
            };
            if matches!(begun, Begun::Answer) && !self.is_empty() {
                continue;
            }
            if !self.answers.is_empty() {
                // What was begun besides will be looked at again.
                ready!(self.answers.poll_sent(&mut self.io, cx))?;
                continue;
            }
            match begun {
                Begun::Answer | Begun::Peek => {}
                Begun::Hyper(length) => {
                    self.hand(length);
                    return Poll::Ready(Ok(()));
                }
                Begun::Nothing => {
                    if ready!(self.poll_more(cx))? == 0 {
                        self.hyper = Hyper::Leads;
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }

    /// Resolves when no answer is under way here.
    pub(crate) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Without an answer, there is none here.
        ready!(self.poll_awaited(cx))?;
        self.answers.poll_sent(&mut self.io, cx)
    }

    /// Resolves when no answer of an owner is waited for; to the length of a request for
    /// which there is none.
    fn poll_awaited(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<usize>>> {
        let Some(Awaited { answer, length }) = &mut self.awaited else {
            return Poll::Ready(Ok(None));
        };
        let (answer, length) = (ready!(answer.as_mut().poll(cx)), *length);
        self.awaited = None;
        let Some((lines, body)) = answer else {
            return Poll::Ready(Ok(Some(length)));
        };
        let mut head = self.answers.head();
        for part in [STATUS_LINE, &lines, b"\r\n"] {
            head.extend_from_slice(part);
        }
        self.answers.push(head, Some(body), cx)?;
        self.first += length;
        Poll::Ready(Ok(None))
    }

    /// Begins to answer the first of what has come, or leaves it to hyper.
    fn begin(&mut self, cx: &mut Context<'_>) -> io::Result<Begun> {
        if self.is_empty() {
            return Ok(Begun::Nothing);
        }
        if self.serving.is_draining() {
            // The long way adds `Connection: close` to its answer.
            return Ok(Begun::Hyper(usize::MAX));
        }
        let came = &self.came[self.first..];
        let first = First::of(came);
        let (First::Plain(ask, length) | First::Peek(ask, length)) = &first else {
            return Ok(match first {
                First::Head(length) => Begun::Hyper(length),
                First::Part => Begun::Nothing,
                _ => Begun::Hyper(usize::MAX),
            });
        };
        let length = *length;
        let mut head = self.answers.head();
        head.extend_from_slice(STATUS_LINE);
        let missing = match self.serving.answer_fast(ask, &mut head) {
            Ok(body) => {
                head.extend_from_slice(b"\r\n");
                self.answers.push(head, Some(body), cx)?;
                self.first += length;
                return Ok(Begun::Answer);
            }
            Err(NotFastHit::Missing(key, client)) => Some((key, client)),
            Err(NotFastHit::Involved) => None,
        };
        if matches!(first, First::Peek(..)) && self.serving.answers_peeks() {
            head.clear();
            head.extend_from_slice(peek_codec::MISS.as_bytes());
            self.answers.push(head, None, cx)?;
            // It counts, or who asks for nothing else would seem to be silent.
            drop(self.serving.requests().begin());
            self.first += length;
            return Ok(Begun::Answer);
        }
        self.answers.give_back(head);
        // What is behind other answers has its turn when they are sent.
        if self.answers.is_empty()
            && matches!(first, First::Plain(..))
            && let Some(answer) = missing.and_then(|(key, client)| Serving::peek(&self.serving, key, client, ask))
        {
            self.awaited = Some(Awaited { answer, length });
            return Ok(Begun::Peek);
        }
        Ok(Begun::Hyper(length))
    }

    /// The first of what has come is hyper's, so many bytes of it.
    fn hand(&mut self, length: usize) {
        self.hyper = match self.serving.requests().all_ended() {
            Some(ended) if length == self.came.len() - self.first => Hyper::Has(ended),
            _ => Hyper::Leads,
        };
    }

    /// Reads what is hyper's, unchecked.
    fn poll_bytes(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.hyper == Hyper::Waits {
            ready!(self.poll_hits(cx))?;
        }
        if !self.is_empty() {
            let came = &self.came[self.first..];
            let fits = came.len().min(buf.remaining());
            buf.put_slice(&came[..fits]);
            self.first += fits;
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.hyper = Hyper::Leads;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads; returns how many bytes.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [MaybeUninit::uninit(); MOST];
        let mut read = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
        self.came.drain(..self.first);
        self.first = 0;
        self.came.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }
}

impl AsyncRead for FastPath {
    /// What is hyper's.
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if !self.trailers.is_malformed() {
            ready!(self.poll_bytes(cx, buf))?;
            if self.serving.leads_elsewhere() {
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
        if let Hyper::Has(before) = self.hyper
            && self.is_empty()
            && self.serving.requests().all_ended() == Some(before.wrapping_add(1))
        {
            self.hyper = Hyper::Waits;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_answer(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
