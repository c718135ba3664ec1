//! A connection that does not wait for ever.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::config::LimitsConfig;
use crate::observe::activity::Activity;

use super::frames::{Flood, Frames};
use super::zero_copy::Splicer;

/// What every connection to HTTP/2 begins with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection whose other end must ask for something, and must take what it is
/// sent: a head that does not come for a time fails a read, and no progress fails
/// a write. A flood of HTTP/2 control frames fails a read, too.
pub(crate) struct TimeoutIo {
    stream: TcpStream,
    end: End,
    version: Version,
    control_frames: u32,
    /// Over HTTP/2, what the client sends.
    frames: Option<Box<Frames>>,
    /// Over HTTP/2, how the last write ended.
    written: Written,
    silence: Silence,
    patience: Duration,
    stalled: Option<Stall>,
    /// How many bytes the client must take in a second, on average.
    send_rate: u64,
    /// How long the client was waited for, less the time that `send_rate` gives it for
    /// what it took.
    debt: Duration,
    splicing: Splicer,
}

/// How the connection has ended, on this side.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Not, or in the middle of something.
    None,
    /// All was sent.
    Orderly,
}

/// How much of what was to be written the socket took.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    All,
    Part,
}

/// What a client speaks, as far as it is clear.
enum Version {
    /// So much of the preface has come.
    Unclear(usize),
    Http1,
    /// Pings, too, find out whether it is still there.
    Http2,
    /// HTTP/2, idle for too long: a graceful end was asked for.
    Resting,
}

impl Version {
    fn after(&self, came: &[u8]) -> Option<Self> {
        let Self::Unclear(seen) = *self else { return None };
        let expected = &PREFACE[seen..];
        let common = expected.len().min(came.len());
        Some(match came.len() {
            _ if expected[..common] != came[..common] => Self::Http1,
            all if all >= expected.len() => Self::Http2,
            part => Self::Unclear(seen + part),
        })
    }
}

/// How long no head has come while nothing was asked for.
struct Silence {
    requests: Activity,
    /// Since when, and after how many requests.
    since: Option<(u32, Instant)>,
    patience: Duration,
    /// It is set anew only when it has run out: once in a while, not for each
    /// request.
    timer: Pin<Box<Sleep>>,
}

impl Silence {
    /// Ready when it has lasted too long.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(ended) = self.requests.all_ended() else {
            return Poll::Pending;
        };
        let since = match self.since {
            Some((known, since)) if known == ended => since,
            _ => self.since.insert((ended, Instant::now())).1,
        };
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let due = since + self.patience;
            if self.timer.deadline() >= due {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(due);
        }
    }
}

impl TimeoutIo {
    /// Large pieces of bodies are sent by `splicing`.
    pub(crate) fn new(stream: TcpStream, limits: &LimitsConfig, requests: Activity, splicing: Splicer) -> Self {
        let patience = limits.header_timeout.0;
        let silence = Silence { requests, since: None, patience, timer: Box::pin(tokio::time::sleep(patience)) };
        let version = Version::Unclear(0);
        Self {
            stream,
            end: End::None,
            version,
            control_frames: limits.control_frames,
            frames: None,
            written: Written::All,
            silence,
            patience: limits.send_timeout.0,
            stalled: None,
            send_rate: limits.send_rate.0,
            debt: Duration::ZERO,
            splicing,
        }
    }

    /// Follows what the client speaks, and over HTTP/2 counts its frames.
    fn follow(&mut self, came: &[u8]) -> io::Result<()> {
        let mut after_preface = came;
        if let Some(version) = self.version.after(came) {
            if let (Version::Unclear(seen), Version::Http2) = (&self.version, &version) {
                after_preface = &came[PREFACE.len() - seen..];
                self.frames = Some(Box::new(Frames::new(self.control_frames)));
            }
            self.version = version;
        }
        let Some(frames) = &mut self.frames else {
            return Ok(());
        };
        frames.take(after_preface).map_err(|Flood| {
            self.silence.requests.flood();
            // Inside a frame, a GOAWAY would be taken for a part of it.
            if self.written == Written::All {
                let _ = self.stream.try_write(&frames.go_away());
            }
            io::Error::other("too many HTTP/2 control frames")
        })
    }

    /// Notes how many of `all` bytes were written.
    fn note_written(&mut self, written: &Poll<io::Result<usize>>, all: impl FnOnce() -> usize) {
        if let (Some(frames), Poll::Ready(Ok(bytes))) = (&mut self.frames, written) {
            frames.note_sent(*bytes);
            self.written = if *bytes == all() { Written::All } else { Written::Part };
        }
    }

    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Version::Resting = self.version {
            return Poll::Pending;
        }
        ready!(self.silence.poll(cx));
        if let Version::Http2 = self.version {
            // There the other end is told first, so that no request crosses the end.
            self.version = Version::Resting;
            self.silence.requests.rest();
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Fails a write that the client keeps waiting: for all of the patience without
    /// progress, or for as long in sum with too little of it.
    fn guard(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = &written {
            if self.stalled.is_some() || !self.debt.is_zero() {
                self.note_taken(*result.as_ref().unwrap_or(&0));
            }
            return written;
        }
        let patience = self.patience.saturating_sub(self.debt);
        let stalled = self.stalled.get_or_insert_with(|| Stall::begin(patience));
        match stalled.timer.as_mut().poll(cx) {
            Poll::Ready(()) => {
                self.silence.requests.stall();
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Notes that the client took `bytes`, after it was waited for or while it is in debt.
    fn note_taken(&mut self, bytes: usize) {
        let waited = self.stalled.take().map(|stalled| stalled.since.elapsed()).unwrap_or_default();
        let nanos = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(1_000_000_000) / self.send_rate;
        self.debt = (self.debt + waited).saturating_sub(Duration::from_nanos(nanos));
    }
}

/// A write that waits for the client.
struct Stall {
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Stall {
    fn begin(patience: Duration) -> Self {
        Self { since: Instant::now(), timer: Box::pin(tokio::time::sleep(patience)) }
    }
}

impl AsyncRead for TimeoutIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_pending() {
            // While a write is stalled, that has a time limit of its own.
            return match self.stalled {
                None => self.poll_silence(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
                Some(_) => Poll::Pending,
            };
        }
        self.follow(&buf.filled()[before..])?;
        read
    }
}

impl AsyncWrite for TimeoutIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note_written(&written, || buf.len());
        self.guard(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, splicing, .. } = &mut *self;
        let written = splicing.poll_write(cx, stream, bufs);
        self.note_written(&written, || bufs.iter().map(|buf| buf.len()).sum());
        self.guard(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // All is written. hyper has a read waiting from before, and may not try another.
        if self.poll_silence(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        self.end = End::Orderly;
        Poll::Ready(Ok(()))
    }
}

impl Drop for TimeoutIo {
    /// Where the end of the connection tells that of an answer, one that broke off must
    /// not look whole: it ends with a reset.
    fn drop(&mut self) {
        if self.end == End::None && self.silence.requests.are_unframed() {
            let _ = self.stream.set_zero_linger();
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
    use tokio::net::TcpListener;

    use super::*;
    use crate::body::zero_copy::Arena;
    use crate::config::{Period, ZeroCopy};
    use crate::observe::activity::News;
    use crate::store::chunks::CHUNK;

    const PATIENCE: Duration = Duration::from_secs(10);

    async fn connected() -> (TcpStream, TimeoutIo, Activity) {
        connected_with(Splicer::none()).await
    }

    async fn connected_with(splicing: Splicer) -> (TcpStream, TimeoutIo, Activity) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let limits = LimitsConfig { header_timeout: Period(PATIENCE), ..LimitsConfig::default() };
        let requests = Activity::default();
        (client, TimeoutIo::new(stream, &limits, requests.clone(), splicing), requests)
    }

    #[tokio::test]
    async fn what_goes_with_what_is_lent_is_lent_in_its_turn() {
        let arena = Arena::reserve(2 * CHUNK as u64).unwrap();
        let (mut client, mut timeout_io, _) =
            connected_with(Splicer::new(Arc::clone(&arena), Arc::default(), ZeroCopy::On)).await;
        let chunks = [1, 2].map(|byte| arena.gather([Bytes::from(vec![byte; CHUNK])].iter(), CHUNK));
        let slices = [IoSlice::new(&chunks[0]), IoSlice::new(&chunks[1])];
        let reader = tokio::spawn(async move { tokio::io::copy(&mut client, &mut tokio::io::sink()).await.unwrap() });
        // The second comes later, when the first is lent already.
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

    /// Reads until that fails, and returns after what time it did.
    async fn let_go(timeout_io: &mut TimeoutIo) -> Duration {
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

    fn about(time: Duration) -> bool {
        (PATIENCE..PATIENCE + Duration::from_millis(10)).contains(&time)
    }

    #[tokio::test(start_paused = true)]
    async fn part_of_a_head_gains_no_time() {
        for beginning in ["", "GET / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n"] {
            let (mut client, mut timeout_io, _) = connected().await;
            client.write_all(beginning.as_bytes()).await.unwrap();
            let time = let_go(&mut timeout_io).await;
            assert!(about(time), "{beginning:?}: {time:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_under_way_has_its_time_and_silence_counts_from_its_end() {
        let (_client, mut timeout_io, requests) = connected().await;
        for _ in 0..3 {
            let request = requests.begin();
            let waiting = tokio::time::timeout(5 * PATIENCE, timeout_io.read_u8()).await;
            assert!(waiting.is_err(), "{waiting:?}");
            drop(request);
            poll_fn(|cx| Pin::new(&mut timeout_io).poll_flush(cx)).await.unwrap();
            tokio::time::sleep(PATIENCE / 2).await;
        }
        let time = let_go(&mut timeout_io).await + PATIENCE / 2;
        assert!(about(time), "{time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn over_http2_silence_is_told_and_ends_nothing_by_itself() {
        let (mut client, mut timeout_io, requests) = connected().await;
        client.write_all(PREFACE).await.unwrap();
        timeout_io.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
        let request = requests.begin();
        let both = async { tokio::join!(timeout_io.read_u8(), requests.news(PATIENCE)) };
        assert!(tokio::time::timeout(5 * PATIENCE, both).await.is_err());
        drop(request);
        let began = Instant::now();
        let news = tokio::select! {
            read = timeout_io.read_u8() => panic!("{read:?}"),
            news = requests.news(PATIENCE) => news,
        };
        assert!(news == News::Idle && about(began.elapsed()), "{news:?} after {:?}", began.elapsed());
    }

    /// How often a client can take 64 KiB every five seconds before it is cut, up to 20 times.
    async fn slow_reads(send_rate: u64) -> usize {
        let listener = tokio::net::TcpSocket::new_v4().unwrap();
        // A socket takes more only when a third of its buffer is free.
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
        let mut timeout_io = TimeoutIo::new(stream, &limits, Activity::default(), Splicer::none());
        let writing = tokio::spawn(async move {
            let data = vec![0; CHUNK];
            while timeout_io.write_all(&data).await.is_ok() {}
        });
        let mut taken = vec![0; CHUNK];
        for read in 0..20 {
            tokio::time::sleep(PATIENCE / 2).await;
            if writing.is_finished() {
                return read;
            }
            client.read_exact(&mut taken[..64 * 1024]).await.unwrap();
        }
        writing.abort();
        20
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_less_than_the_send_rate_is_cut() {
        assert_eq!(slow_reads(1).await, 20);
        let reads = slow_reads(1024 * 1024).await;
        assert!(reads < 20, "{reads}");
    }

    #[test]
    fn the_version_is_known_by_the_preface() {
        for (chunks, clear) in [(&["GET"][..], "1"), (&["PRI", " * HTTP/1"], "1"), (&["P", "RI *"], "?")] {
            let mut version = Version::Unclear(0);
            for chunk in chunks {
                version = version.after(chunk.as_bytes()).unwrap();
            }
            let found = match version {
                Version::Unclear(_) => "?",
                Version::Http1 => "1",
                Version::Http2 | Version::Resting => "2",
            };
            assert_eq!(found, clear, "{chunks:?}");
        }
        for cut in 1..PREFACE.len() {
            let version = Version::Unclear(0).after(&PREFACE[..cut]).unwrap();
            let long = [&PREFACE[cut..], b"more"].concat();
            assert!(matches!(version.after(&long), Some(Version::Http2)));
        }
    }
}
