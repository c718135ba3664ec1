//! Sends large chunks of bodies without a copy, on the connections where that is cheaper.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite as _;

use crate::body::zero_copy::{self, Arena, Sent};
use crate::config::ZeroCopy;
use crate::conn::costs::{Costs, Measured, SendMethod, thread_time};
use crate::conn::io::Io;
use crate::store::chunks::CHUNK;

/// The maximum size of one splice, in bytes. More at a time takes the same CPU time but adds
/// latency: the kernel looks up all pages before it sends the first.
const MAX_SPLICE: usize = CHUNK;

/// Creates the splicers of an edge's connections.
pub(crate) struct Splicers {
    arena: Arc<Arena>,
    costs: Arc<Costs>,
    zero_copy: ZeroCopy,
}

impl Splicers {
    pub(crate) fn new(arena: Arc<Arena>, zero_copy: ZeroCopy) -> Self {
        Self { arena, costs: Arc::default(), zero_copy }
    }

    /// Returns a splicer for a new connection.
    pub(crate) fn splicer(&self) -> Splicer {
        Splicer::new(Arc::clone(&self.arena), Arc::clone(&self.costs), self.zero_copy)
    }
}

/// Sends the bodies of one connection: chunks that are in an [`Arena`] by splice, if that is
/// cheaper, and all else by copy.
pub(crate) struct Splicer {
    arena: Arc<Arena>,
    /// Shared by all connections of the edge.
    costs: Arc<Costs>,
    choice: Choice,
    /// The size of the next splice, in bytes. It follows the number of bytes that the socket
    /// accepts at a time, since the rest has to be offered again.
    splice_size: usize,
}

/// The rule by which a connection chooses the method for large chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// By the socket's congestion control. It is read before the first large chunk, since
    /// most connections never send one.
    ByCongestionControl,
    /// By the costs that the edge has measured.
    ByCost,
    Fixed(SendMethod),
}

impl Choice {
    /// Returns the choice for a socket with that congestion control. Under BBR, a splice
    /// costs twice the CPU time of a copy on some machines and half of it on others. Under
    /// other controls it cost less on every machine that was measured.
    fn under(control: &str) -> Self {
        // The versions of BBR are called bbr2 and the like.
        if control.starts_with("bbr") { Self::ByCost } else { Self::Fixed(SendMethod::Splice) }
    }
}

impl Splicer {
    pub(crate) fn new(arena: Arc<Arena>, costs: Arc<Costs>, zero_copy: ZeroCopy) -> Self {
        let choice = match zero_copy {
            ZeroCopy::Auto => Choice::ByCongestionControl,
            ZeroCopy::On => Choice::Fixed(SendMethod::Splice),
            ZeroCopy::Off => Choice::Fixed(SendMethod::Copy),
        };
        Self { arena, costs, choice, splice_size: MAX_SPLICE }
    }

    /// Returns a splicer that copies all bytes.
    pub(crate) fn none() -> Self {
        Self::new(Arena::none(), Arc::default(), ZeroCopy::Off)
    }

    /// Writes as `poll_write_vectored` of the transport does, by the cheaper method.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Io,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let (method, measured) =
            if self.arena.prefers_splice(bufs) { self.next_method(io) } else { (SendMethod::Copy, Measured::No) };
        let before = (measured == Measured::Yes).then(thread_time);
        let spliced = if method == SendMethod::Splice { self.try_splice(cx, io, bufs) } else { None };
        let (method, written) = match spliced {
            Some(written) => (SendMethod::Splice, written),
            None => (SendMethod::Copy, Pin::new(io).poll_write_vectored(cx, bufs)),
        };
        if let Poll::Ready(Ok(bytes)) = written {
            self.arena.note_sent(bufs, bytes);
            if let Some(before) = before {
                let spent = thread_time().checked_sub(before).expect("a thread's CPU time only grows");
                self.costs.add(method, bytes, spent);
            }
        }
        written
    }

    fn next_method(&mut self, io: &Io) -> (SendMethod, Measured) {
        if self.choice == Choice::ByCongestionControl {
            // If the control is unknown, a copy is the safe choice: all other servers copy.
            self.choice = io.congestion().map_or(Choice::Fixed(SendMethod::Copy), |control| Choice::under(&control));
        }
        match self.choice {
            Choice::Fixed(method) => (method, Measured::No),
            Choice::ByCongestionControl | Choice::ByCost => self.costs.next(),
        }
    }

    /// Writes as `poll_write_vectored` does, but splices the chunks that are in the arena.
    /// Returns `None` if the transport cannot splice.
    fn try_splice(&mut self, cx: &mut Context<'_>, io: &Io, bufs: &[IoSlice<'_>]) -> Option<Poll<io::Result<usize>>> {
        let Self { arena, splice_size, .. } = self;
        io.try_splice(cx, |socket| {
            let taken = arena.send(socket, bufs, *splice_size);
            *splice_size = match &taken {
                Ok(Sent::All(_)) => (2 * *splice_size).min(MAX_SPLICE),
                Ok(Sent::Part(bytes)) => (2 * bytes).clamp(zero_copy::MIN_SPLICE, MAX_SPLICE),
                Err(_) => zero_copy::MIN_SPLICE,
            };
            taken
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::os::fd::AsFd as _;

    use bytes::Bytes;
    use rustix::net::sockopt::set_tcp_congestion;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_method_is_measured_under_bbr_and_fixed_under_other_controls() {
        for (control, choice) in [
            ("bbr", Choice::ByCost),
            ("bbr2", Choice::ByCost),
            ("cubic", Choice::Fixed(SendMethod::Splice)),
            ("reno", Choice::Fixed(SendMethod::Splice)),
            ("dctcp", Choice::Fixed(SendMethod::Splice)),
            ("", Choice::Fixed(SendMethod::Splice)),
        ] {
            assert_eq!(Choice::under(control), choice, "{control}");
        }
    }

    /// Returns a connection with the congestion control `control`, if the system allows it.
    async fn connected_under(control: &str) -> Option<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        set_tcp_congestion(&listener, control).ok()?;
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        Some((client, listener.accept().await.unwrap().0))
    }

    /// Returns a chunk that was sent often enough to be spliced.
    fn popular_chunk(arena: &Arc<Arena>) -> Bytes {
        let bytes = arena.gather([Bytes::from(vec![7; CHUNK])].iter(), CHUNK);
        while !arena.prefers_splice(&[IoSlice::new(&bytes)]) {
            arena.note_sent(&[IoSlice::new(&bytes)], CHUNK);
        }
        bytes
    }

    #[tokio::test]
    async fn each_connection_decides_by_its_own_congestion_control() {
        let arena = Arena::reserve(CHUNK as u64).unwrap();
        let mut tried = Vec::new();
        for control in ["reno", "cubic", "bbr"] {
            let Some((_client, server)) = connected_under(control).await else { continue };
            let io = Io::Tcp(server);
            tried.push(control);
            // The first measured send is a copy.
            let automatic =
                if control == "bbr" { (SendMethod::Copy, Measured::Yes) } else { (SendMethod::Splice, Measured::No) };
            for (zero_copy, next) in [
                (ZeroCopy::Auto, automatic),
                (ZeroCopy::On, (SendMethod::Splice, Measured::No)),
                (ZeroCopy::Off, (SendMethod::Copy, Measured::No)),
            ] {
                let mut splicer = Splicer::new(Arc::clone(&arena), Arc::default(), zero_copy);
                assert_eq!(splicer.next_method(&io), next, "{control} {zero_copy:?}");
            }
        }
        // reno is built into the kernel, and every user may choose it.
        assert!(tried.contains(&"reno"), "{tried:?}");
    }

    #[tokio::test]
    async fn the_congestion_control_is_read_once_per_connection() {
        let arena = Arena::reserve(CHUNK as u64).unwrap();
        let (_client, server) = connected_under("reno").await.unwrap();
        let socket = server.as_fd().try_clone_to_owned().unwrap();
        let io = Io::Tcp(server);
        let mut splicer = Splicer::new(arena, Arc::default(), ZeroCopy::Auto);
        assert_eq!(splicer.next_method(&io), (SendMethod::Splice, Measured::No));
        // Without BBR on this system, the control stays as it is.
        let _ = set_tcp_congestion(&socket, "bbr");
        assert_eq!(splicer.next_method(&io), (SendMethod::Splice, Measured::No));
    }

    #[tokio::test]
    async fn a_measured_connection_tries_both_methods_then_settles() {
        let arena = Arena::reserve(CHUNK as u64).unwrap();
        let large = popular_chunk(&arena);
        let (mut client, server) = connected_under("reno").await.unwrap();
        let mut io = Io::Tcp(server);
        let reader = tokio::spawn(async move { tokio::io::copy(&mut client, &mut tokio::io::sink()).await.unwrap() });
        let mut splicer =
            Splicer { choice: Choice::ByCost, ..Splicer::new(Arc::clone(&arena), Arc::default(), ZeroCopy::Auto) };
        let mut sent = 0;
        while splicer.next_method(&io).1 == Measured::Yes {
            let bufs = [IoSlice::new(&large)];
            sent += poll_fn(|cx| splicer.poll_write(cx, &mut io, &bufs)).await.unwrap();
        }
        let spliced = arena.spliced();
        assert!(spliced > 0 && spliced < sent as u64, "{spliced} of {sent}");

        drop(io);
        assert_eq!(reader.await.unwrap(), sent as u64);
    }
}
