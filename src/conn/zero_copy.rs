//! Sends large pieces of bodies without a copy, on the sockets where that is the cheaper way.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::net::sockopt::tcp_congestion;
use tokio::io::{AsyncWrite, Interest};
use tokio::net::TcpStream;

use crate::body::zero_copy::{self, Arena, Sent};
use crate::config::ZeroCopy;
use crate::conn::costs::{Costs, Measured, SendMethod, thread_time};
use crate::store::chunks::CHUNK;

/// The most that a socket is lent at a time, in bytes. By more at a time it is sent with
/// the same CPU, but later: the pages are looked up before the first of them goes.
const MOST: usize = CHUNK;

/// Gives each new connection its way to send pieces that are in [`Arena`].
pub(crate) struct Splicers {
    arena: Arc<Arena>,
    costs: Arc<Costs>,
    zero_copy: ZeroCopy,
}

impl Splicers {
    pub(crate) fn new(arena: Arc<Arena>, zero_copy: ZeroCopy) -> Self {
        Self { arena, costs: Arc::default(), zero_copy }
    }

    pub(crate) fn splicing(&self) -> Splicer {
        Splicer::new(Arc::clone(&self.arena), Arc::clone(&self.costs), self.zero_copy)
    }
}

/// How one connection sends pieces that are in [`Arena`].
pub(crate) struct Splicer {
    arena: Arc<Arena>,
    /// Those of all connections of the edge.
    costs: Arc<Costs>,
    choice: Choice,
    /// How much the socket is lent at a time, in bytes: a few times what it took before,
    /// for what it does not take is offered again.
    most: usize,
}

/// How a connection comes to the way in which it sends large pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// By the socket's congestion control, which is read when the first large piece is to
    /// be sent: most connections never send one.
    Open,
    /// By what the edge has measured so far.
    Measured,
    Fixed(SendMethod),
}

impl Choice {
    /// Returns the choice for a socket with that congestion control. Under BBR, lending
    /// costs twice the CPU of a copy on some machines and half of it on others; under
    /// other controls it cost less on every machine that was measured.
    fn under(control: &str) -> Self {
        // Its versions are called bbr2 and the like.
        if control.starts_with("bbr") { Self::Measured } else { Self::Fixed(SendMethod::Lend) }
    }
}

impl Splicer {
    pub(crate) fn new(arena: Arc<Arena>, costs: Arc<Costs>, zero_copy: ZeroCopy) -> Self {
        let choice = match zero_copy {
            ZeroCopy::Auto => Choice::Open,
            ZeroCopy::On => Choice::Fixed(SendMethod::Lend),
            ZeroCopy::Off => Choice::Fixed(SendMethod::Copy),
        };
        Self { arena, costs, choice, most: MOST }
    }

    /// Copies everything.
    pub(crate) fn none() -> Self {
        Self::new(Arena::none(), Arc::default(), ZeroCopy::Off)
    }

    /// As `poll_write_vectored` of the stream, by the way that is cheaper.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut TcpStream,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let (way, measured) =
            if self.arena.prefers_splice(bufs) { self.next_way(stream) } else { (SendMethod::Copy, Measured::No) };
        let before = (measured == Measured::Yes).then(thread_time);
        let written = match way {
            SendMethod::Lend => self.poll_lend(cx, stream, bufs),
            SendMethod::Copy => Pin::new(stream).poll_write_vectored(cx, bufs),
        };
        if let Poll::Ready(Ok(bytes)) = written {
            self.arena.note_sent(bufs, bytes);
            if let Some(before) = before {
                let spent = thread_time().checked_sub(before).expect("a thread's CPU time only grows");
                self.costs.add(way, bytes, spent);
            }
        }
        written
    }

    fn next_way(&mut self, stream: &TcpStream) -> (SendMethod, Measured) {
        if self.choice == Choice::Open {
            // A copy is what every other server makes.
            self.choice =
                tcp_congestion(stream).map_or(Choice::Fixed(SendMethod::Copy), |control| Choice::under(&control));
        }
        match self.choice {
            Choice::Fixed(way) => (way, Measured::No),
            Choice::Open | Choice::Measured => self.costs.next(),
        }
    }

    /// As `poll_write_vectored`, but the socket is lent the pieces that it can be lent.
    fn poll_lend(
        &mut self,
        cx: &mut Context<'_>,
        stream: &TcpStream,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(stream.poll_write_ready(cx))?;
            let mut bytes = 0;
            let lent = stream.try_io(Interest::WRITABLE, || {
                let taken = self.arena.send(stream.as_fd(), bufs, self.most)?;
                let (Sent::All(all) | Sent::Part(all)) = taken;
                bytes = all;
                match taken {
                    Sent::All(_) => Ok(()),
                    // That it takes no more has to be known here: then it is waited for.
                    Sent::Part(_) => Err(io::ErrorKind::WouldBlock.into()),
                }
            });
            match lent {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                Err(_) => self.most = (2 * bytes).clamp(zero_copy::MIN_SPLICE, MOST),
                Ok(()) => self.most = (2 * self.most).min(MOST),
            }
            if bytes > 0 {
                return Poll::Ready(Ok(bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::IoSlice;

    use bytes::Bytes;
    use rustix::net::sockopt::set_tcp_congestion;
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn the_way_is_measured_under_bbr_and_fixed_under_other_controls() {
        for (control, choice) in [
            ("bbr", Choice::Measured),
            ("bbr2", Choice::Measured),
            ("cubic", Choice::Fixed(SendMethod::Lend)),
            ("reno", Choice::Fixed(SendMethod::Lend)),
            ("dctcp", Choice::Fixed(SendMethod::Lend)),
            ("", Choice::Fixed(SendMethod::Lend)),
        ] {
            assert_eq!(Choice::under(control), choice, "{control}");
        }
    }

    /// A connection whose sockets have `control`, if the system lets them.
    async fn connected_under(control: &str) -> Option<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        set_tcp_congestion(&listener, control).ok()?;
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        Some((client, listener.accept().await.unwrap().0))
    }

    fn asked_often(arena: &Arc<Arena>) -> Bytes {
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
            tried.push(control);
            // The first send that is measured is a copy.
            let automatic =
                if control == "bbr" { (SendMethod::Copy, Measured::Yes) } else { (SendMethod::Lend, Measured::No) };
            for (zero_copy, next) in [
                (ZeroCopy::Auto, automatic),
                (ZeroCopy::On, (SendMethod::Lend, Measured::No)),
                (ZeroCopy::Off, (SendMethod::Copy, Measured::No)),
            ] {
                let mut splicing = Splicer::new(Arc::clone(&arena), Arc::default(), zero_copy);
                assert_eq!(splicing.next_way(&server), next, "{control} {zero_copy:?}");
            }
        }
        // The kernel has it built in, and lets every user choose it.
        assert!(tried.contains(&"reno"), "{tried:?}");
    }

    #[tokio::test]
    async fn a_control_holds_for_the_whole_connection() {
        let arena = Arena::reserve(CHUNK as u64).unwrap();
        let (_client, server) = connected_under("reno").await.unwrap();
        let mut splicing = Splicer::new(arena, Arc::default(), ZeroCopy::Auto);
        assert_eq!(splicing.next_way(&server), (SendMethod::Lend, Measured::No));
        // Where there is no BBR, the control stays as it is.
        let _ = set_tcp_congestion(&server, "bbr");
        assert_eq!(splicing.next_way(&server), (SendMethod::Lend, Measured::No));
    }

    #[tokio::test]
    async fn a_measured_connection_sends_both_ways_then_settles() {
        let arena = Arena::reserve(CHUNK as u64).unwrap();
        let large = asked_often(&arena);
        let (mut client, mut server) = connected_under("reno").await.unwrap();
        let reader = tokio::spawn(async move { tokio::io::copy(&mut client, &mut tokio::io::sink()).await.unwrap() });
        let mut splicing =
            Splicer { choice: Choice::Measured, ..Splicer::new(Arc::clone(&arena), Arc::default(), ZeroCopy::Auto) };
        let mut sent = 0;
        while splicing.next_way(&server).1 == Measured::Yes {
            let bufs = [IoSlice::new(&large)];
            sent += poll_fn(|cx| splicing.poll_write(cx, &mut server, &bufs)).await.unwrap();
        }
        let lent = arena.spliced();
        assert!(lent > 0 && lent < sent as u64, "{lent} of {sent}");
        drop(server);
        assert_eq!(reader.await.unwrap(), sent as u64);
    }
}
