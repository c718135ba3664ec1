//! [`Tunnel`]: bytes between a client and the origin after a protocol switch (WebSocket).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};

use crate::body::{Progress, describe};

/// The connections of a client and the origin after a 101 (Switching Protocols). Until the
/// origin has sent the 101, the client's bytes are handled as HTTP.
pub(crate) struct Tunnel {
    pub(crate) client: OnUpgrade,
    pub(crate) origin: OnUpgrade,
}

impl Tunnel {
    /// Copies bytes both ways until both sides have ended, one fails, or no byte was
    /// transferred for `idle_timeout`.
    pub(crate) async fn carry(self, idle_timeout: Duration) -> Result<(), String> {
        let ends = futures_util::future::try_join(self.client, self.origin);
        let (client, origin) = ends.await.map_err(|error| describe(&error))?;
        let progress = Progress::begin();
        let mut client = Observed { io: TokioIo::new(client), progress: progress.clone() };
        let mut origin = TokioIo::new(origin);
        tokio::select! {
            ended = copy_bidirectional(&mut client, &mut origin) => ended.map(drop).map_err(|error| describe(&error)),
            () = progress.stalls(idle_timeout) => Err(format!("idle for {idle_timeout:?}")),
        }
    }
}

/// The client's connection, which records progress. All bytes pass through it, so it is enough
/// to observe this end.
struct Observed {
    io: TokioIo<Upgraded>,
    progress: Progress,
}

impl Observed {
    fn note<T>(&self, moved: &Poll<io::Result<T>>) {
        if matches!(moved, Poll::Ready(Ok(_))) {
            self.progress.note();
        }
    }
}

impl AsyncRead for Observed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        self.note(&read);
        read
    }
}

impl AsyncWrite for Observed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.note(&written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
