//! The fast path of a connection: plain hits, which hyper need not see.
//!
//! It stands between hyper and the socket. While hyper waits for a request, what comes
//! is looked at here first: a [plain](Plainly) GET for what is here and fresh is
//! answered with one write; everything else is handed to hyper as it came. There is no
//! second set of rules for HTTP: where anything is unusual, be it good or bad, hyper
//! reads it.
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

use bytes::Buf;
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::serving::Serving;
use crate::access::Watched;
use crate::edge::Plainly;
use crate::patient::Patient;
use crate::requests::Piece;
use crate::semantics::manner::Manner;

/// How much is read at a time, and how long a head may be here, in bytes.
const MOST: usize = 4096;
/// How many fields a request may have here. Browsers send a dozen.
const FIELDS: usize = 32;
/// How many pieces a write has at most, the head among them.
const PIECES: usize = 16;

const STATUS_LINE: &[u8] = b"HTTP/1.1 200 OK\r\n";

/// A connection with a fast path.
pub(super) struct FastPath {
    io: Patient,
    serving: Arc<Serving>,
    hyper: Hyper,
    /// What has come; from `first` on it has neither been answered nor read by hyper.
    came: Vec<u8>,
    first: usize,
    answer: Option<Answer>,
    /// The memory of the last head, for the next.
    spare: Vec<u8>,
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

/// An answer that is being sent.
struct Answer {
    head: Vec<u8>,
    sent: usize,
    run: Option<Piece>,
    body: Watched,
}

impl Answer {
    /// What is left of the head, and of as much of the body as is at hand.
    fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; PIECES]) -> usize {
        let head = &self.head[self.sent..];
        let of_head = usize::from(!head.is_empty());
        if of_head > 0 {
            slices[0] = IoSlice::new(head);
        }
        let of_run = self.run.as_ref().map_or(0, |run| run.chunks_vectored(&mut slices[of_head..]));
        of_head + of_run
    }

    fn advance(&mut self, written: usize) {
        let of_head = written.min(self.head.len() - self.sent);
        self.sent += of_head;
        if let Some(run) = &mut self.run {
            run.advance(written - of_head);
        }
    }
}

/// What is at the beginning of what has come.
enum First<'a> {
    /// A plain request, of so many bytes.
    Plain(Plainly<'a>, usize),
    /// Another head of a request without content, of so many bytes.
    Head(usize),
    /// A part of a head.
    Part,
    /// What hyper should see to.
    Other,
}

impl First<'_> {
    fn of(bytes: &[u8]) -> First<'_> {
        let mut fields = [MaybeUninit::uninit(); FIELDS];
        let mut request = httparse::Request::new(&mut []);
        let length = match request.parse_with_uninit_headers(bytes, &mut fields) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() < MOST => return First::Part,
            _ => return First::Other,
        };
        let (Some(method @ ("GET" | "HEAD")), Some(1)) = (request.method, request.version) else {
            return First::Other;
        };
        let (mut hosts, mut host, mut size, mut manner) = (0, &[][..], 0, Manner::Plain);
        for field in &*request.headers {
            size += field.name.len() + field.value.len() + 4;
            let is = |name| field.name.eq_ignore_ascii_case(name);
            if is("host") {
                hosts += 1;
                host = field.value;
            } else if is("connection") && !field.value.eq_ignore_ascii_case(b"keep-alive")
                || ["upgrade", "expect", "content-length", "transfer-encoding"].into_iter().any(is)
            {
                return First::Other;
            } else if Manner::of_line(field.name) == Manner::Particular {
                manner = Manner::Particular;
            }
        }
        match request.path {
            Some(target) if method == "GET" && manner == Manner::Plain && hosts == 1 && target.starts_with('/') => {
                First::Plain(Plainly { target, host, size }, length)
            }
            _ => First::Head(length),
        }
    }
}

/// What became of the first of what has come.
enum Begun {
    Answer,
    /// It is hyper's.
    Handed,
    /// More has to come first.
    Nothing,
}

impl FastPath {
    pub(super) fn new(io: Patient, serving: Arc<Serving>) -> Self {
        Self { io, serving, hyper: Hyper::Waits, came: Vec::new(), first: 0, answer: None, spare: Vec::new() }
    }

    /// Whether nothing has come that hyper has not read.
    pub(super) fn is_empty(&self) -> bool {
        self.came.len() == self.first
    }

    /// Answers what it can. Resolves when there is something for hyper, or when the
    /// client has ended the connection.
    pub(super) fn poll_hits(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_answer(cx))?;
            match self.begin() {
                Begun::Answer => {}
                Begun::Handed => return Poll::Ready(Ok(())),
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
    pub(super) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(answer) = &mut self.answer else {
            return Poll::Ready(Ok(()));
        };
        loop {
            if answer.run.as_ref().is_none_or(|run| !run.has_remaining()) && !answer.body.is_end_stream() {
                let frame = ready!(Pin::new(&mut answer.body).poll_frame(cx)).transpose();
                answer.run = frame.map_err(io::Error::other)?.and_then(|frame| frame.into_data().ok());
            }
            let mut slices = [IoSlice::new(&[]); PIECES];
            let filled = answer.slices(&mut slices);
            if filled == 0 {
                break;
            }
            match ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &slices[..filled]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => answer.advance(written),
            }
        }
        if let Some(Answer { head, .. }) = self.answer.take()
            && head.capacity() <= MOST
        {
            self.spare = head;
        }
        Poll::Ready(Ok(()))
    }

    /// Begins to answer the first of what has come, or leaves it to hyper.
    fn begin(&mut self) -> Begun {
        if self.serving.is_draining() {
            // The long way adds `Connection: close` to its answer.
            self.hyper = Hyper::Leads;
            return if self.is_empty() { Begun::Nothing } else { Begun::Handed };
        }
        let came = &self.came[self.first..];
        let length = match First::of(came) {
            First::Plain(ask, length) => {
                let mut head = std::mem::take(&mut self.spare);
                head.clear();
                head.extend_from_slice(STATUS_LINE);
                if let Some(body) = self.serving.answer_at_once(&ask, &mut head) {
                    head.extend_from_slice(b"\r\n");
                    self.answer = Some(Answer { head, sent: 0, run: None, body });
                    self.first += length;
                    return Begun::Answer;
                }
                self.spare = head;
                length
            }
            First::Head(length) => length,
            First::Part => return Begun::Nothing,
            First::Other => usize::MAX,
        };
        self.hyper = match self.serving.requests().all_ended() {
            Some(ended) if length == came.len() => Hyper::Has(ended),
            _ => Hyper::Leads,
        };
        Begun::Handed
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
        let this = &mut *self;
        if this.hyper == Hyper::Waits {
            ready!(this.poll_hits(cx))?;
        }
        if !this.is_empty() {
            let came = &this.came[this.first..];
            let fits = came.len().min(buf.remaining());
            buf.put_slice(&came[..fits]);
            this.first += fits;
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            this.hyper = Hyper::Leads;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(request: &str) -> &'static str {
        match First::of(request.as_bytes()) {
            First::Plain(..) => "plain",
            First::Head(_) => "head",
            First::Part => "part",
            First::Other => "other",
        }
    }

    #[test]
    fn only_what_asks_for_nothing_but_a_name_is_plain() {
        for (expected, line, fields) in [
            ("plain", "GET /a?b HTTP/1.1", "Host: h"),
            ("plain", "GET /a HTTP/1.1", "hOsT: h\r\nAccept: */*\r\nCookie: a=b\r\nConnection: Keep-Alive"),
            ("head", "GET /a HTTP/1.1", "Host: h\r\nHost: h"),
            ("head", "GET /a HTTP/1.1", "Accept: */*"),
            ("head", "GET /a HTTP/1.1", "Host: h\r\nRANGE: bytes=0-1"),
            ("head", "GET /a HTTP/1.1", "Host: h\r\nCache-control: no-cache"),
            ("head", "GET http://h/a HTTP/1.1", "Host: h"),
            ("head", "HEAD /a HTTP/1.1", "Host: h"),
            ("other", "GET /a HTTP/1.0", "Host: h"),
            ("other", "POST /a HTTP/1.1", "Host: h"),
            ("other", "GET /a HTTP/1.1", "Host: h\r\nConnection: close"),
            ("other", "GET /a HTTP/1.1", "Host: h\r\nConnection: keep-alive\r\nconnection: upgrade"),
            ("other", "GET /a HTTP/1.1", "Host: h\r\nUpgrade: websocket"),
            ("other", "GET /a HTTP/1.1", "Host: h\r\nContent-Length: 0"),
            ("other", "GET /a HTTP/1.1", "Host: h\r\nTransfer-Encoding: chunked"),
            ("other", "GET /a HTTP/1.1", "Host : h"),
            ("other", "GET /a HTTP/1.1", "Host: h\r\n folded: x"),
            ("other", "PRI * HTTP/2.0", ""),
        ] {
            assert_eq!(kind(&format!("{line}\r\n{fields}\r\n\r\n")), expected, "{line} {fields}");
        }
        assert_eq!(kind(""), "part");
        assert_eq!(kind("GET /a HTTP/1.1\r\nHost: h\r\n"), "part");
        assert_eq!(kind(&format!("GET /{} HTTP/1.1\r\n", "a".repeat(MOST))), "other");
        assert_eq!(kind(&format!("GET /a HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(FIELDS + 1))), "other");
    }

    #[test]
    fn what_follows_a_request_is_not_part_of_it() {
        let one = "GET /a HTTP/1.1\r\nHost: host\r\nAccept: */*\r\n\r\n";
        let two = format!("{one}GET /b HTTP/1.1\r\n");
        let First::Plain(ask, length) = First::of(two.as_bytes()) else { panic!("it is plain") };
        assert_eq!((ask.target, ask.host, ask.size, length), ("/a", &b"host"[..], 4 + 4 + 4 + 6 + 3 + 4, one.len()));
    }
}
