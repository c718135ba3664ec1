//! [`Io`]: the transport of one accepted connection.

use std::io;
#[cfg(feature = "zero-copy")]
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
#[cfg(feature = "zero-copy")]
use std::task::ready;
use std::task::{Context, Poll};

#[cfg(feature = "zero-copy")]
use rustix::net::sockopt::tcp_congestion;
#[cfg(feature = "zero-copy")]
use tokio::io::Interest;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

#[cfg(feature = "zero-copy")]
use crate::body::zero_copy::Sent;
use crate::config::Scheme;
use crate::tls::TlsStream;

/// An accepted connection: cleartext TCP, or TLS after its handshake. Bytes that were written
/// may wait in a TLS connection until it is flushed.
pub(crate) enum Io {
    Tcp(TcpStream),
    Tls(Box<TlsStream>),
}

impl Io {
    /// Returns the scheme of the requests on this connection.
    pub(crate) fn scheme(&self) -> Scheme {
        match self {
            Self::Tcp(_) => Scheme::Http,
            Self::Tls(_) => Scheme::Https,
        }
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.tcp(),
        }
    }

    /// Returns the name of the socket's congestion control; `None` if it is unknown, or if
    /// this transport cannot splice.
    #[cfg(feature = "zero-copy")]
    pub(super) fn congestion(&self) -> Option<String> {
        match self {
            Self::Tcp(stream) => tcp_congestion(stream).ok(),
            Self::Tls(_) => None,
        }
    }

    /// Makes the drop of this connection a reset (RST) instead of an orderly end.
    pub(super) fn abort(&self) {
        // An error means that the connection has failed already.
        let _ = self.tcp().set_zero_linger();
    }

    /// Writes without waiting. Returns the number of bytes that the transport accepted.
    pub(super) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Tls(stream) => stream.try_write(bytes),
        }
    }

    /// Calls `splice` with the socket when it is writable; `splice` sends pages and returns
    /// the number of bytes. Resolves to that number. Returns `None` if this transport cannot
    /// send pages, as one that encrypts: the bytes must then be written.
    #[cfg(feature = "zero-copy")]
    pub(super) fn try_splice(
        &self,
        cx: &mut Context<'_>,
        splice: impl FnMut(BorrowedFd<'_>) -> io::Result<Sent>,
    ) -> Option<Poll<io::Result<usize>>> {
        match self {
            Self::Tcp(stream) => Some(poll_splice(stream, cx, splice)),
            Self::Tls(_) => None,
        }
    }
}

#[cfg(feature = "zero-copy")]
fn poll_splice(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    mut splice: impl FnMut(BorrowedFd<'_>) -> io::Result<Sent>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_write_ready(cx))?;
        let mut bytes = 0;
        let result = stream.try_io(Interest::WRITABLE, || {
            let taken = splice(stream.as_fd())?;
            let (Sent::All(count) | Sent::Part(count)) = taken;
            bytes = count;
            match taken {
                Sent::All(_) => Ok(()),
                // The socket is full. `WouldBlock` makes the runtime wait until it is writable.
                Sent::Part(_) => Err(io::ErrorKind::WouldBlock.into()),
            }
        });
        match result {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
            _ if bytes > 0 => return Poll::Ready(Ok(bytes)),
            _ => {}
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
