//! [`TlsStream`]: a connection after its TLS handshake.

use std::io::{self, BufRead as _, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::{HandshakeKind, ProtocolVersion, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::records::RecordSizes;
use super::settings::{Resumption, Session, TlsVersion};

/// The number of waiting bytes from which a write sends them. Fewer wait for the flush, so the
/// responses of several HTTP/2 streams are one write to the socket.
const MAX_UNSENT: usize = 32 * 1024;

/// A connection after its handshake. Written bytes wait in it until it is flushed, or until they are
/// many.
pub(crate) struct TlsStream {
    tcp: TcpStream,
    connection: ServerConnection,
    sizes: RecordSizes,
    /// The number of bytes that were encrypted since no byte waited.
    unsent: usize,
}

impl TlsStream {
    pub(super) fn new(accepted: tokio_rustls::server::TlsStream<TcpStream>) -> Box<Self> {
        let (tcp, connection) = accepted.into_inner();
        Box::new(Self { tcp, connection, sizes: RecordSizes::default(), unsent: 0 })
    }

    /// Returns the TCP connection, which carries encrypted bytes.
    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Returns the result of the handshake.
    pub(super) fn session(&self) -> Session {
        Session {
            version: match self.connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => TlsVersion::Tls12,
                _ => TlsVersion::Tls13,
            },
            cipher: self
                .connection
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or("unknown"),
            resumption: match self.connection.handshake_kind() {
                Some(HandshakeKind::Resumed) => Resumption::Resumed,
                _ => Resumption::Full,
            },
        }
    }

    /// Writes without waiting. Returns the number of bytes that were taken; a part of them may
    /// not have been sent.
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.connection.writer().write(bytes)?;
        while self.connection.wants_write() {
            self.connection.write_tls(&mut TryWrite(&self.tcp))?;
        }
        Ok(taken)
    }

    /// Sends the encrypted bytes that wait.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { tcp, connection, unsent, .. } = self;
        while connection.wants_write() {
            match connection.write_tls(&mut Socket { tcp, cx }) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        *unsent = 0;
        Poll::Ready(Ok(()))
    }

    /// Receives records, and decrypts them.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { tcp, connection, .. } = self;
        match connection.read_tls(&mut Socket { tcp, cx }) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            Err(error) => return Poll::Ready(Err(error)),
        }
        Poll::Ready(connection.process_new_packets().map(drop).map_err(|error| {
            // The alert that tells the client; the error below is the one that matters.
            let _ = connection.write_tls(&mut TryWrite(tcp));
            io::Error::new(io::ErrorKind::InvalidData, error)
        }))
    }
}

/// The socket as rustls uses it: an operation that has to wait fails with `WouldBlock`, and the task
/// is woken.
struct Socket<'a, 'b> {
    tcp: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
}

fn or_would_block<T>(result: Poll<io::Result<T>>) -> io::Result<T> {
    match result {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl io::Read for Socket<'_, '_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let mut space = ReadBuf::new(space);
        or_would_block(Pin::new(&mut *self.tcp).poll_read(self.cx, &mut space))?;
        Ok(space.filled().len())
    }
}

impl io::Write for Socket<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        or_would_block(Pin::new(&mut *self.tcp).poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match bufs {
            // The system call for one buffer costs less.
            [bytes] => self.write(bytes),
            bufs => or_would_block(Pin::new(&mut *self.tcp).poll_write_vectored(self.cx, bufs)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes to a socket without waiting, and wakes no task.
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
    /// Reads the bytes of all records that have arrived. An end without `close_notify` is an error.
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        while buf.remaining() > 0 {
            let mut reader = self.connection.reader();
            match reader.fill_buf() {
                Ok([]) => break,
                Ok(bytes) => {
                    let fits = bytes.len().min(buf.remaining());
                    buf.put_slice(&bytes[..fits]);
                    reader.consume(fits);
                }
                // An error is returned again by the next read.
                Err(_) if buf.filled().len() > before => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.poll_receive(cx))?,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.unsent >= MAX_UNSENT {
            ready!(self.poll_send(cx))?;
        }
        let Self { connection, sizes, unsent, .. } = &mut *self;
        let taken = sizes.encrypt(&mut connection.writer(), bufs)?;
        *unsent += taken;
        if *unsent >= MAX_UNSENT {
            // What the socket does not accept waits for the next write or flush.
            let _ = self.poll_send(cx)?;
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    /// Sends the alert `close_notify`, which tells the client that it has received everything.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // rustls sends it once.
        self.connection.send_close_notify();
        ready!(self.poll_send(cx))?;
        match ready!(Pin::new(&mut self.tcp).poll_shutdown(cx)) {
            // The client has closed the connection already.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            ended => Poll::Ready(ended),
        }
    }
}
