//! [`TlsStream`]: a connection after its TLS handshake.

use std::io::{self, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::{HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server;

use super::settings::{Resumption, Session, TlsVersion};

/// A connection after its handshake. Written bytes may wait in it until it is flushed.
pub(crate) struct TlsStream(server::TlsStream<TcpStream>);

impl TlsStream {
    pub(super) fn new(stream: server::TlsStream<TcpStream>) -> Box<Self> {
        Box::new(Self(stream))
    }

    /// Returns the transport, whose bytes are encrypted.
    pub(crate) fn tcp(&self) -> &TcpStream {
        self.0.get_ref().0
    }

    /// Returns the result of the handshake.
    pub(super) fn session(&self) -> Session {
        let connection = self.0.get_ref().1;
        Session {
            version: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => TlsVersion::Tls12,
                _ => TlsVersion::Tls13,
            },
            cipher: connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("unknown"),
            resumption: match connection.handshake_kind() {
                Some(HandshakeKind::Resumed) => Resumption::Resumed,
                _ => Resumption::Full,
            },
        }
    }

    /// Writes without waiting. Returns the number of bytes that were taken; a part of them may
    /// not have been sent.
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (tcp, connection) = self.0.get_mut();
        let taken = connection.writer().write(bytes)?;
        while connection.wants_write() {
            connection.write_tls(&mut TryWrite(tcp))?;
        }
        Ok(taken)
    }
}

/// Writes to a socket without waiting.
struct TryWrite<'a>(&'a TcpStream);

impl io::Write for TryWrite<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    /// Sends the alert `close_notify`, which tells the client that it has received everything.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
