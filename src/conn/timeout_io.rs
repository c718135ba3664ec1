//! [`TimeoutIo`]: a connection whose reads and writes have timeouts.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::config::LimitsConfig;
use crate::conn::frames::{Flood, Frames};
use crate::conn::io::Io;
use crate::conn::sniff::Protocol;
use crate::conn::zero_copy::Splicer;
use crate::observe::activity::Activity;

/// A connection that limits the time for which a client may be idle or slow.
///
/// - A read fails if no request is active and no head arrives within `limits.header_timeout`.
/// - A write fails if the client reads nothing for `limits.send_timeout`, or reads slower than
///   `limits.send_rate`.
/// - A read fails if the client exceeds `limits.control_frames`.
pub(crate) struct TimeoutIo {
    io: Io,
    /// True once the writing side was shut down, after all responses were sent.
    is_shut_down: bool,
    protocol: Protocol,
    /// `limits.control_frames`, by the second.
    max_control_frames: u32,
    /// Counts the client's frames; only over HTTP/2.
    frames: Option<Box<Frames>>,
    /// The result of the last write; only over HTTP/2.
    last_write: LastWrite,
    idle: IdleTimer,
    /// True once the idle timeout was reported over HTTP/2. hyper then ends the connection
    /// with GOAWAY, and its pings detect a client that is gone.
    is_idle_reported: bool,
    send_timeout: Duration,
    stall: Option<WriteStall>,
    /// The minimum rate at which the client must read, in bytes a second.
    send_rate: u64,
    /// The time for which writes have waited for the client, less the time that `send_rate`
    /// allows for the bytes that it read.
    debt: Duration,
    splicer: Splicer,
}

/// Tells if the socket accepted all bytes of a write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LastWrite {
    Complete,
    Partial,
}

/// The timer of a connection without active requests.
struct IdleTimer {
    requests: Activity,
    /// The number of completed requests when the connection became idle, and that time.
    since: Option<(u32, Instant)>,
    timeout: Duration,
    /// It is reset only after it has fired: once in a while, not for each request.
    timer: Pin<Box<Sleep>>,
}

impl IdleTimer {
    /// Resolves when the connection has been idle for the timeout.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(completed) = self.requests.completed_if_idle() else {
            return Poll::Pending;
        };
        let since = match self.since {
            Some((known, since)) if known == completed => since,
            _ => self.since.insert((completed, Instant::now())).1,
        };
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let due = since + self.timeout;
            if self.timer.deadline() >= due {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(due);
        }
    }
}

impl TimeoutIo {
    /// Wraps `io`. `splicer` sends the large chunks of bodies.
    pub(crate) fn new(io: Io, limits: &LimitsConfig, requests: Activity, splicer: Splicer) -> Self {
        let timeout = limits.header_timeout.0;
        let idle = IdleTimer { requests, since: None, timeout, timer: Box::pin(tokio::time::sleep(timeout)) };
        Self {
            io,
            is_shut_down: false,
            protocol: Protocol::Unknown(0),
            max_control_frames: limits.control_frames,
            frames: None,
            last_write: LastWrite::Complete,
            idle,
            is_idle_reported: false,
            send_timeout: limits.send_timeout.0,
            stall: None,
            send_rate: limits.send_rate.0,
            debt: Duration::ZERO,
            splicer,
        }
    }

    /// Detects the protocol of the received bytes, and over HTTP/2 counts their frames.
    fn inspect(&mut self, received: &[u8]) -> io::Result<()> {
        let frame_bytes = self.protocol.accept(received);
        if self.protocol != Protocol::Http2 {
            return Ok(());
        }
        let frames = self.frames.get_or_insert_with(|| Box::new(Frames::new(self.max_control_frames)));
        frames.take(frame_bytes).map_err(|Flood| {
            self.idle.requests.mark_flooded();
            // After a partial write, the GOAWAY would become a part of another frame.
            if self.last_write == LastWrite::Complete {
                let _ = self.io.try_write(&frames.go_away());
            }
            io::Error::other("too many HTTP/2 control frames")
        })
    }

    /// Notes a write of `all` bytes, or of a part of them.
    fn note_written(&mut self, written: &Poll<io::Result<usize>>, all: impl FnOnce() -> usize) {
        if let (Some(frames), Poll::Ready(Ok(bytes))) = (&mut self.frames, written) {
            frames.note_sent(*bytes);
            self.last_write = if *bytes == all() { LastWrite::Complete } else { LastWrite::Partial };
        }
    }

    /// Resolves when the connection is to be closed because it is idle. An HTTP/2 connection
    /// is reported instead: GOAWAY has to come first, so that no request is lost.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_idle_reported {
            return Poll::Pending;
        }
        ready!(self.idle.poll(cx));
        if self.protocol == Protocol::Http2 {
            self.is_idle_reported = true;
            self.idle.requests.report_idle();
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Fails a write that has waited for the client for `send_timeout`: without progress, or
    /// in sum while the client reads slower than `send_rate`.
    fn check_stall(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = &written {
            if self.stall.is_some() || !self.debt.is_zero() {
                self.note_progress(*result.as_ref().unwrap_or(&0));
            }
            return written;
        }
        let timeout = self.send_timeout.saturating_sub(self.debt);
        let stall = self.stall.get_or_insert_with(|| WriteStall::begin(timeout));
        match stall.timer.as_mut().poll(cx) {
            Poll::Ready(()) => {
                self.idle.requests.mark_stalled();
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Sends the bytes that wait in the transport: none over cleartext, encrypted ones over TLS.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = Pin::new(&mut self.io).poll_flush(cx);
        self.check_stalled_end(cx, sent)
    }

    /// Checks a flush or a shutdown for a stall; see [`check_stall`](Self::check_stall).
    fn check_stalled_end(&mut self, cx: &mut Context<'_>, ended: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
        if ended.is_ready() && self.stall.is_none() {
            return ended;
        }
        self.check_stall(cx, ended.map_ok(|()| 0)).map_ok(drop)
    }

    /// Ends a stall after the client read `bytes` bytes, and updates the debt.
    fn note_progress(&mut self, bytes: usize) {
        let waited = self.stall.take().map(|stall| stall.since.elapsed()).unwrap_or_default();
        let nanos = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(1_000_000_000) / self.send_rate;
        self.debt = (self.debt + waited).saturating_sub(Duration::from_nanos(nanos));
    }
}

/// A write that waits for the client to read.
struct WriteStall {
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl WriteStall {
    fn begin(timeout: Duration) -> Self {
        Self { since: Instant::now(), timer: Box::pin(tokio::time::sleep(timeout)) }
    }
}

impl AsyncRead for TimeoutIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if read.is_pending() {
            // A stalled write has a timer of its own.
            return match self.stall {
                None => self.poll_idle(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
                Some(_) => Poll::Pending,
            };
        }
        self.inspect(&buf.filled()[before..])?;
        read
    }
}

impl AsyncWrite for TimeoutIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.note_written(&written, || buf.len());
        self.check_stall(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { io, splicer, .. } = &mut *self;
        let written = splicer.poll_write(cx, io, bufs);
        self.note_written(&written, || bufs.iter().map(|buf| buf.len()).sum());
        self.check_stall(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        // All is written. hyper may have a read pending from before and not poll another one,
        // so the idle timer is polled here, too.
        if self.poll_idle(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.io).poll_shutdown(cx);
        ready!(self.check_stalled_end(cx, shut))?;
        self.is_shut_down = true;
        Poll::Ready(Ok(()))
    }
}

impl Drop for TimeoutIo {
    /// Resets the connection if a response that ends with it broke off: a FIN would make the
    /// response look complete. Over TLS a client can tell the difference also by the missing
    /// `close_notify`, which only a shutdown sends.
    fn drop(&mut self) {
        if !self.is_shut_down && self.idle.requests.is_unframed() {
            self.io.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::IoSlice;
    use std::sync::Arc;

    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::body::zero_copy::Arena;
    use crate::config::{Period, ZeroCopy};
    use crate::conn::sniff::PREFACE;
    use crate::observe::activity::ActivityEvent;
    use crate::store::chunks::CHUNK;

    const TIMEOUT: Duration = Duration::from_secs(10);

    async fn connected() -> (TcpStream, TimeoutIo, Activity) {
        connected_with(Splicer::none()).await
    }

    async fn connected_with(splicer: Splicer) -> (TcpStream, TimeoutIo, Activity) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let limits = LimitsConfig { header_timeout: Period(TIMEOUT), ..LimitsConfig::default() };
        let requests = Activity::default();
        (client, TimeoutIo::new(Io::Tcp(stream), &limits, requests.clone(), splicer), requests)
    }

    #[cfg(feature = "zero-copy")]
    #[tokio::test]
    async fn a_chunk_that_follows_a_spliced_one_is_spliced_in_its_turn() {
        let arena = Arena::reserve(2 * CHUNK as u64).unwrap();
        let (mut client, mut timeout_io, _) =
            connected_with(Splicer::new(Arc::clone(&arena), Arc::default(), ZeroCopy::On)).await;
        let chunks = [1, 2].map(|byte| arena.gather([Bytes::from(vec![byte; CHUNK])].iter(), CHUNK));
        let slices = [IoSlice::new(&chunks[0]), IoSlice::new(&chunks[1])];
        let reader = tokio::spawn(async move { tokio::io::copy(&mut client, &mut tokio::io::sink()).await.unwrap() });
        // The second chunk joins when the first is spliced already.
        for slices in [&slices[..1], &slices] {
            for _ in 0..6 {
                let mut left = slices.to_vec();
                let mut left = &mut left[..];
                while !left.is_empty() {
                    let sent = timeout_io.write_vectored(left).await.unwrap();
                    IoSlice::advance_slices(&mut left, sent);
                }
            }
            assert!(slices.iter().all(|slice| arena.prefers_splice(&[*slice])));
        }
        drop(timeout_io);
        assert_eq!(reader.await.unwrap(), 18 * CHUNK as u64);
    }

    /// Reads until the read times out. Returns the time that this took.
    async fn time_out(timeout_io: &mut TimeoutIo) -> Duration {
        let began = Instant::now();
        let mut buffer = [0; 100];
        let error = loop {
            match timeout_io.read(&mut buffer).await {
                Ok(read) => assert_ne!(read, 0, "the client is still there"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        began.elapsed()
    }

    fn is_about_the_timeout(time: Duration) -> bool {
        (TIMEOUT..TIMEOUT + Duration::from_millis(10)).contains(&time)
    }

    #[tokio::test(start_paused = true)]
    async fn a_partial_head_does_not_extend_the_idle_timeout() {
        for start in ["", "GET / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n"] {
            let (mut client, mut timeout_io, _) = connected().await;
            client.write_all(start.as_bytes()).await.unwrap();
            let time = time_out(&mut timeout_io).await;
            assert!(is_about_the_timeout(time), "{start:?}: {time:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn active_requests_do_not_time_out_and_the_idle_time_begins_at_their_end() {
        let (_client, mut timeout_io, requests) = connected().await;
        for _ in 0..3 {
            let request = requests.begin();
            let waiting = tokio::time::timeout(5 * TIMEOUT, timeout_io.read_u8()).await;
            assert!(waiting.is_err(), "{waiting:?}");
            drop(request);
            poll_fn(|cx| Pin::new(&mut timeout_io).poll_flush(cx)).await.unwrap();
            tokio::time::sleep(TIMEOUT / 2).await;
        }
        let time = time_out(&mut timeout_io).await + TIMEOUT / 2;
        assert!(is_about_the_timeout(time), "{time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn over_http2_the_idle_timeout_is_reported_and_fails_no_read() {
        let (mut client, mut timeout_io, requests) = connected().await;
        client.write_all(PREFACE).await.unwrap();
        timeout_io.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
        let request = requests.begin();
        let both = async { tokio::join!(timeout_io.read_u8(), requests.next_event(TIMEOUT)) };
        assert!(tokio::time::timeout(5 * TIMEOUT, both).await.is_err());
        drop(request);
        let began = Instant::now();
        let event = tokio::select! {
            read = timeout_io.read_u8() => panic!("{read:?}"),
            event = requests.next_event(TIMEOUT) => event,
        };
        assert!(
            event == ActivityEvent::Idle && is_about_the_timeout(began.elapsed()),
            "{event:?} after {:?}",
            began.elapsed()
        );
    }

    /// Returns how often a client can read 64 KiB every five seconds before the connection is
    /// closed; at most 20 times.
    async fn slow_reads(send_rate: u64) -> usize {
        let listener = tokio::net::TcpSocket::new_v4().unwrap();
        // A socket becomes writable only when a third of its buffer is free.
        listener.set_send_buffer_size(16 * 1024).unwrap();
        listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = listener.listen(1).unwrap();
        let client = tokio::net::TcpSocket::new_v4().unwrap();
        client.set_recv_buffer_size(16 * 1024).unwrap();
        let mut client = client.connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let limits = LimitsConfig {
            send_timeout: Period(Duration::from_mins(1)),
            send_rate: crate::config::Size(send_rate),
            ..LimitsConfig::default()
        };
        let mut timeout_io = TimeoutIo::new(Io::Tcp(stream), &limits, Activity::default(), Splicer::none());
        let writing = tokio::spawn(async move {
            let data = vec![0; CHUNK];
            while timeout_io.write_all(&data).await.is_ok() {}
        });
        let mut received = vec![0; CHUNK];
        for read in 0..20 {
            tokio::time::sleep(TIMEOUT / 2).await;
            if writing.is_finished() {
                return read;
            }
            client.read_exact(&mut received[..64 * 1024]).await.unwrap();
        }
        writing.abort();
        20
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_slower_than_the_send_rate_is_disconnected() {
        assert_eq!(slow_reads(1).await, 20);
        let reads = slow_reads(1024 * 1024).await;
        assert!(reads < 20, "{reads}");
    }
}
