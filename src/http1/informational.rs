//! A connection with interim responses between what hyper writes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::body::informational::Informational;

/// Writes interim responses where hyper asks for a flush. It does so whenever
/// its task is polled, but only when its own buffer is empty: then all that was
/// begun is written, and while a request has its turn nothing is half begun.
pub(crate) struct InformationalWriter<IO> {
    io: IO,
    informational: Informational,
    /// What has been begun of an interim response goes before all else.
    begun: Bytes,
}

impl<IO: AsyncWrite + Unpin> InformationalWriter<IO> {
    pub(crate) fn new(io: IO, informational: Informational) -> Self {
        Self { io, informational, begun: Bytes::new() }
    }

    fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.begun.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.begun))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.begun.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for InformationalWriter<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for InformationalWriter<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_begun(cx))?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_begun(cx))?;
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_begun(cx))?;
            match self.informational.next(cx.waker()) {
                Some(next) => self.begun = next,
                None => return Pin::new(&mut self.io).poll_flush(cx),
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::task::Waker;

    use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
    use http_body_util::{BodyExt, StreamBody};
    use hyper::body::{Frame, Incoming};
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::body::informational::Relay;

    /// Takes as many bytes as it has room for.
    #[derive(Default)]
    struct Narrow {
        taken: Vec<u8>,
        room: usize,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let fits = buf.len().min(self.room);
            self.room -= fits;
            self.taken.extend_from_slice(&buf[..fits]);
            if fits == 0 { Poll::Pending } else { Poll::Ready(Ok(fits)) }
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn informational() -> Informational {
        Informational::new(HeaderValue::from_static("1.1 edge-1"))
    }

    fn hint(relay: &Relay) {
        relay.offer(StatusCode::EARLY_HINTS, &HeaderMap::new());
    }

    const HINT: &str = "HTTP/1.1 103 Early Hints\r\nvia: 1.1 edge-1\r\n\r\n";

    #[test]
    fn only_where_there_is_nothing_else_to_write() {
        let mut cx = Context::from_waker(Waker::noop());
        let informational = informational();
        let mut io = InformationalWriter::new(Narrow { room: 1000, ..Narrow::default() }, informational.clone());
        hint(&informational.open());
        let write = Pin::new(&mut io).poll_write(&mut cx, b"the end of a body");
        assert!(matches!(write, Poll::Ready(Ok(17))));
        assert!(Pin::new(&mut io).poll_flush(&mut cx).is_ready());
        assert_eq!(String::from_utf8_lossy(&io.io.taken), format!("the end of a body{HINT}"));
    }

    #[test]
    fn what_is_begun_is_carried_on_before_all_else() {
        let mut cx = Context::from_waker(Waker::noop());
        let informational = informational();
        let mut io = InformationalWriter::new(Narrow { room: 10, ..Narrow::default() }, informational.clone());
        hint(&informational.open());
        assert!(Pin::new(&mut io).poll_flush(&mut cx).is_pending());
        io.io.room = 5;
        assert!(Pin::new(&mut io).poll_write(&mut cx, b"a message").is_pending());
        assert_eq!(io.io.taken, HINT.as_bytes()[..15]);
        io.io.room = 1000;
        assert!(Pin::new(&mut io).poll_write(&mut cx, b"a message").is_ready());
        assert_eq!(String::from_utf8_lossy(&io.io.taken), format!("{HINT}a message"));
    }

    /// When a request's content is read. Where the answer is first, hyper begins
    /// with the next request before it has written all of that answer. (But not
    /// with vectored writes: it then waits, and may do so for ever.)
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Reading {
        BeforeTheAnswer,
        Anytime,
    }

    /// Answers in pieces, while hints come at all times, the wrong ones too.
    async fn answer(
        request: Request<Incoming>,
        informational: Informational,
        reading: Reading,
    ) -> Result<Response<Chunks>, Infallible> {
        let number: usize = request.uri().path()[1..].parse().unwrap();
        let relay = informational.open();
        let hinting = relay.clone();
        tokio::spawn(async move {
            for _ in 0..40 {
                hint(&hinting);
                tokio::task::yield_now().await;
            }
        });
        for _ in 0..number % 7 {
            tokio::task::yield_now().await;
        }
        let content = tokio::spawn(request.into_body().collect());
        if reading == Reading::BeforeTheAnswer {
            content.await.unwrap().unwrap();
        }
        relay.close().await;
        let chunks = futures_util::stream::unfold(number, |left| async move {
            tokio::task::yield_now().await;
            let next = left.checked_sub(1)?;
            Some((Ok(Frame::data(Bytes::from_static(b"chunk of a body "))), next))
        });
        Ok(Response::new(StreamBody::new(Box::pin(chunks))))
    }

    type Chunks = StreamBody<Pin<Box<dyn futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>>;

    /// The head at the beginning of `bytes`, and what follows it.
    fn head(bytes: &str) -> (&str, &str) {
        let (head, rest) = bytes.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 ") && !head[1..].contains("HTTP/1.1 "), "{head}");
        (&head[9..12], rest)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn hyper_asks_for_a_flush_between_messages_only() {
        for (room, reading) in [1, 7, 64, 1000]
            .into_iter()
            .flat_map(|room| [Reading::BeforeTheAnswer, Reading::Anytime].map(|reading| (room, reading)))
        {
            let informational = informational();
            let (client, server) = tokio::io::duplex(room);
            let io = TokioIo::new(InformationalWriter::new(server, informational.clone()));
            let service = service_fn(move |request| answer(request, informational.clone(), reading));
            let mut builder = http1::Builder::new();
            builder.writev(reading == Reading::BeforeTheAnswer);
            tokio::spawn(builder.serve_connection(io, service));
            let (mut from, mut to) = tokio::io::split(client);
            tokio::spawn(async move {
                for number in 0..30 {
                    // All at once, some with content, for which hyper has a 100.
                    let expects = if number % 2 == 0 { "expect: 100-continue\r\n" } else { "" };
                    let close = if number == 29 { "connection: close\r\n" } else { "" };
                    let request = format!("PUT /{number} HTTP/1.1\r\n{expects}{close}content-length: 7\r\n\r\ncontent");
                    to.write_all(request.as_bytes()).await.unwrap();
                }
            });
            let mut came = String::new();
            from.read_to_string(&mut came).await.unwrap();
            let (mut rest, mut hints) = (came.as_str(), 0);
            for number in 0..30 {
                let status = loop {
                    let (status, after) = head(rest);
                    rest = after;
                    match status {
                        "100" => {}
                        "103" => hints += 1,
                        _ => break status,
                    }
                };
                assert_eq!(status, "200");
                for _ in 0..number {
                    rest = rest.strip_prefix("10\r\nchunk of a body \r\n").unwrap();
                }
                rest = rest.strip_prefix("0\r\n\r\n").unwrap();
            }
            assert_eq!(rest, "");
            assert!(hints > 0);
        }
    }
}
