//! [`Io`]: the transport of one accepted connection.

use std::io;
#[cfg(feature = "zero-copy")]
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
#[cfg(feature = "zero-copy")]
use std::task::ready;
use std::task::{Context, Poll};

use rustix::net::sockopt::set_socket_send_buffer_size;
#[cfg(feature = "zero-copy")]
use rustix::net::sockopt::tcp_congestion;
#[cfg(feature = "zero-copy")]
use tokio::io::Interest;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

#[cfg(feature = "zero-copy")]
use crate::body::zero_copy::Sent;

/// An accepted connection, at present always cleartext TCP. Reads and writes go to the stream;
/// the other methods are the operations that another transport does differently.
pub(crate) struct Io {
    stream: TcpStream,
}

impl Io {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream }
    }

    /// Sends each write at once, without Nagle's algorithm.
    pub(crate) fn set_nodelay(&self) -> io::Result<()> {
        self.stream.set_nodelay(true)
    }

    /// Sets the size of the socket's send buffer, in bytes.
    pub(crate) fn set_send_buffer(&self, bytes: usize) -> io::Result<()> {
        Ok(set_socket_send_buffer_size(&self.stream, bytes)?)
    }

    /// Returns the name of the socket's congestion control; `None` if it is unknown, or if
    /// this transport cannot splice.
    #[cfg(feature = "zero-copy")]
    pub(super) fn congestion(&self) -> Option<String> {
        tcp_congestion(&self.stream).ok()
    }

    /// Makes the drop of this connection a reset (RST) instead of an orderly end.
    pub(super) fn abort(&self) {
        // An error means that the connection has failed already.
        let _ = self.stream.set_zero_linger();
    }

    /// Writes without waiting. Returns the number of bytes that the transport accepted.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.try_write(bytes)
    }

    /// Calls `splice` with the socket when it is writable; `splice` sends pages and returns
    /// the number of bytes. Resolves to that number. Returns `None` if this transport cannot
    /// send pages, as one that encrypts: the bytes must then be written.
    #[cfg(feature = "zero-copy")]
    #[expect(clippy::unnecessary_wraps, reason = "TCP can always splice; a transport that encrypts returns None")]
    pub(super) fn try_splice(
        &self,
        cx: &mut Context<'_>,
        splice: impl FnMut(BorrowedFd<'_>) -> io::Result<Sent>,
    ) -> Option<Poll<io::Result<usize>>> {
        Some(self.poll_splice(cx, splice))
    }

    #[cfg(feature = "zero-copy")]
    fn poll_splice(
        &self,
        cx: &mut Context<'_>,
        mut splice: impl FnMut(BorrowedFd<'_>) -> io::Result<Sent>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            let mut bytes = 0;
            let result = self.stream.try_io(Interest::WRITABLE, || {
                let taken = splice(self.stream.as_fd())?;
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
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
