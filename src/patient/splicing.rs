//! Sends large pieces of bodies without a copy, on the sockets where that is the cheaper way.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::net::sockopt::tcp_congestion;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::config::ZeroCopy;
use crate::held::PIECE;
use crate::pages::{self, Pages, Taken};

/// The most that a socket is lent at a time, in bytes. By more at a time it is sent with
/// the same CPU, but later: the pages are looked up before the first of them goes.
const MOST: usize = PIECE;

/// How one connection sends pieces that are in [`Pages`].
pub(crate) struct Splicing {
    pages: Arc<Pages>,
    choice: Choice,
    /// How much the socket is lent at a time, in bytes: a few times what it took before,
    /// for what it does not take is offered again.
    most: usize,
}

/// How large pieces get into a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// By the socket's congestion control, which is read when the first large piece is to
    /// be sent: most connections never send one.
    Open,
    /// The socket is lent the pages.
    Splice,
    Copy,
}

impl Choice {
    /// Returns the way that is cheaper on every machine that was measured: lending costs up
    /// to twice the CPU of a copy under BBR on some, and half of it under other controls.
    fn under(control: &str) -> Self {
        // Its versions are called bbr2 and the like.
        if control.starts_with("bbr") { Self::Copy } else { Self::Splice }
    }
}

impl Splicing {
    pub(crate) fn new(pages: Arc<Pages>, zero_copy: ZeroCopy) -> Self {
        let choice = match zero_copy {
            ZeroCopy::Auto => Choice::Open,
            ZeroCopy::On => Choice::Splice,
            ZeroCopy::Off => Choice::Copy,
        };
        Self { pages, choice, most: MOST }
    }

    /// Copies everything.
    pub(crate) fn none() -> Self {
        Self::new(Pages::none(), ZeroCopy::Off)
    }

    /// Returns true if `bufs` are to be sent by [`poll_send`](Self::poll_send).
    pub(super) fn applies(&mut self, stream: &TcpStream, bufs: &[io::IoSlice<'_>]) -> bool {
        self.pages.lends_any(bufs) && self.chosen(stream) == Choice::Splice
    }

    fn chosen(&mut self, stream: &TcpStream) -> Choice {
        if self.choice == Choice::Open {
            // A copy is what every other server makes.
            self.choice = tcp_congestion(stream).map_or(Choice::Copy, |control| Choice::under(&control));
        }
        self.choice
    }

    /// As `poll_write_vectored`, but the socket is lent the pieces that it can be lent.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        stream: &TcpStream,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(stream.poll_write_ready(cx))?;
            let mut bytes = 0;
            let lent = stream.try_io(Interest::WRITABLE, || {
                let taken = self.pages.lend(stream.as_fd(), bufs, self.most)?;
                let (Taken::All(all) | Taken::Part(all)) = taken;
                bytes = all;
                match taken {
                    Taken::All(_) => Ok(()),
                    // That it takes no more has to be known here: then it is waited for.
                    Taken::Part(_) => Err(io::ErrorKind::WouldBlock.into()),
                }
            });
            match lent {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                Err(_) => self.most = (2 * bytes).clamp(pages::LEAST, MOST),
                Ok(()) => self.most = (2 * self.most).min(MOST),
            }
            if bytes > 0 {
                return Poll::Ready(Ok(bytes));
            }
        }
    }

    /// Notes that the first `bytes` bytes of `bufs` were sent.
    pub(super) fn note_sent(&self, bufs: &[io::IoSlice<'_>], bytes: usize) {
        self.pages.note_sent(bufs, bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use bytes::Bytes;
    use rustix::net::sockopt::set_tcp_congestion;
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn bodies_are_copied_under_bbr_and_lent_under_other_controls() {
        for (control, choice) in [
            ("bbr", Choice::Copy),
            ("bbr2", Choice::Copy),
            ("cubic", Choice::Splice),
            ("reno", Choice::Splice),
            ("dctcp", Choice::Splice),
            ("", Choice::Splice),
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

    fn asked_often(pages: &Arc<Pages>) -> Bytes {
        let bytes = pages.gather([Bytes::from(vec![7; PIECE])].iter(), PIECE);
        while !pages.lends_any(&[IoSlice::new(&bytes)]) {
            pages.note_sent(&[IoSlice::new(&bytes)], PIECE);
        }
        bytes
    }

    #[tokio::test]
    async fn each_connection_decides_by_its_own_congestion_control() {
        let pages = Pages::reserve(PIECE as u64).unwrap();
        let large = asked_often(&pages);
        let (large, small) = (IoSlice::new(&large), IoSlice::new(b"small"));
        let mut tried = Vec::new();
        for control in ["reno", "cubic", "bbr"] {
            let Some((_client, server)) = connected_under(control).await else { continue };
            tried.push(control);
            for (zero_copy, splices) in
                [(ZeroCopy::Auto, control != "bbr"), (ZeroCopy::On, true), (ZeroCopy::Off, false)]
            {
                let mut splicing = Splicing::new(Arc::clone(&pages), zero_copy);
                let before = splicing.choice;
                assert!(!splicing.applies(&server, &[small]) && splicing.choice == before);
                assert_eq!(splicing.applies(&server, &[small, large]), splices, "{control} {zero_copy:?}");
            }
        }
        // The kernel has it built in, and lets every user choose it.
        assert!(tried.contains(&"reno"), "{tried:?}");
    }

    #[tokio::test]
    async fn a_decision_holds_for_the_whole_connection() {
        let pages = Pages::reserve(PIECE as u64).unwrap();
        let large = asked_often(&pages);
        let large = [IoSlice::new(&large)];
        let (_client, server) = connected_under("reno").await.unwrap();
        let mut splicing = Splicing::new(pages, ZeroCopy::Auto);
        assert!(splicing.applies(&server, &large));
        // Where there is no BBR, the control stays as it is.
        let _ = set_tcp_congestion(&server, "bbr");
        assert!(splicing.applies(&server, &large));
    }
}
