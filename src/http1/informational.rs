//! [`InformationalWriter`]: a connection that writes informational responses (RFC 9110 §15.2)
//! between the responses of hyper.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::body::informational::Informational;

/// Writes informational responses when hyper flushes. hyper flushes whenever its task is
/// polled, but only with an empty write buffer. All earlier responses are written then, and
/// the response of the current request has not begun.
pub(crate) struct InformationalWriter<IO> {
    io: IO,
    informational: Informational,
    /// The rest of an informational response. It is written before anything else.
    partial: Bytes,
}

impl<IO: AsyncWrite + Unpin> InformationalWriter<IO> {
    pub(crate) fn new(io: IO, informational: Informational) -> Self {
        Self { io, informational, partial: Bytes::new() }
    }

    fn poll_partial(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.partial.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.partial))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.partial.advance(written);
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
        ready!(self.poll_partial(cx))?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_partial(cx))?;
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_partial(cx))?;
            match self.informational.next(cx.waker()) {
                Some(next) => self.partial = next,
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

    /// A writer that accepts `room` more bytes.
    #[derive(Default)]
    struct LimitedWriter {
        written: Vec<u8>,
        room: usize,
    }

    impl AsyncWrite for LimitedWriter {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let fits = buf.len().min(self.room);
            self.room -= fits;
            self.written.extend_from_slice(&buf[..fits]);
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
    fn an_informational_response_is_written_at_a_flush() {
        let mut cx = Context::from_waker(Waker::noop());
        let informational = informational();
        let mut io =
            InformationalWriter::new(LimitedWriter { room: 1000, ..LimitedWriter::default() }, informational.clone());
        hint(&informational.open());
        let write = Pin::new(&mut io).poll_write(&mut cx, b"the end of a body");
        assert!(matches!(write, Poll::Ready(Ok(17))));
        assert!(Pin::new(&mut io).poll_flush(&mut cx).is_ready());
        assert_eq!(String::from_utf8_lossy(&io.io.written), format!("the end of a body{HINT}"));
    }

    #[test]
    fn a_partial_informational_response_is_completed_before_other_writes() {
        let mut cx = Context::from_waker(Waker::noop());
        let informational = informational();
        let mut io =
            InformationalWriter::new(LimitedWriter { room: 10, ..LimitedWriter::default() }, informational.clone());
        hint(&informational.open());
        assert!(Pin::new(&mut io).poll_flush(&mut cx).is_pending());
        io.io.room = 5;
        assert!(Pin::new(&mut io).poll_write(&mut cx, b"a message").is_pending());
        assert_eq!(io.io.written, HINT.as_bytes()[..15]);
        io.io.room = 1000;
        assert!(Pin::new(&mut io).poll_write(&mut cx, b"a message").is_ready());
        assert_eq!(String::from_utf8_lossy(&io.io.written), format!("{HINT}a message"));
    }

    /// The time at which a request's content is read. If the response comes first, hyper
    /// reads the next request before it has written the whole response. (With vectored writes
    /// it does not: it waits, possibly forever.)
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum ContentRead {
        BeforeResponse,
        Anytime,
    }

    /// Responds in chunks, while hints are offered at all times, invalid times included.
    async fn respond(
        request: Request<Incoming>,
        informational: Informational,
        read: ContentRead,
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
        if read == ContentRead::BeforeResponse {
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

    /// Splits a head off `bytes`. Returns its status, and the rest.
    fn split_head(bytes: &str) -> (&str, &str) {
        let (head, rest) = bytes.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 ") && !head[1..].contains("HTTP/1.1 "), "{head}");
        (&head[9..12], rest)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn hyper_flushes_only_between_messages() {
        for (room, read) in [1, 7, 64, 1000]
            .into_iter()
            .flat_map(|room| [ContentRead::BeforeResponse, ContentRead::Anytime].map(|read| (room, read)))
        {
            let informational = informational();
            let (client, server) = tokio::io::duplex(room);
            let io = TokioIo::new(InformationalWriter::new(server, informational.clone()));
            let service = service_fn(move |request| respond(request, informational.clone(), read));
            let mut builder = http1::Builder::new();
            builder.writev(read == ContentRead::BeforeResponse);
            tokio::spawn(builder.serve_connection(io, service));
            let (mut from, mut to) = tokio::io::split(client);
            tokio::spawn(async move {
                for number in 0..30 {
                    // All requests are sent at once. hyper sends 100 (Continue) to some.
                    let expects = if number % 2 == 0 { "expect: 100-continue\r\n" } else { "" };
                    let close = if number == 29 { "connection: close\r\n" } else { "" };
                    let request = format!("PUT /{number} HTTP/1.1\r\n{expects}{close}content-length: 7\r\n\r\ncontent");
                    to.write_all(request.as_bytes()).await.unwrap();
                }
            });
            let mut received = String::new();
            from.read_to_string(&mut received).await.unwrap();
            let (mut rest, mut hints) = (received.as_str(), 0);
            for number in 0..30 {
                let status = loop {
                    let (status, after) = split_head(rest);

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
