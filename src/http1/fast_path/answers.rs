//! [`Answers`]: what a connection is sent without hyper, several answers to a write.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use hyper::body::Body as _;
use tokio::io::AsyncWrite as _;

use super::MOST;
use crate::conn::TimeoutIo;
use crate::observe::access::Watched;
use crate::observe::activity::Piece;

/// How many answers wait for one write.
const ANSWERS: usize = 16;
/// How much of bodies does, in bytes: then it is written before there is more.
const BYTES: usize = 64 * 1024;
/// How many pieces a write has at most, heads among them.
const PIECES: usize = 2 * ANSWERS;

/// Answers that are being sent, in their order.
#[derive(Default)]
pub(super) struct Answers {
    queue: VecDeque<Answer>,
    /// The memory of heads that were sent.
    spare: Vec<Vec<u8>>,
}

struct Answer {
    head: Vec<u8>,
    sent: usize,
    /// What is at hand of the body.
    run: Option<Piece>,
    body: Option<Watched>,
}

impl Answer {
    fn at_hand(&self) -> usize {
        self.run.as_ref().map_or(0, Buf::remaining)
    }

    /// Whether there is nothing to come behind what is at hand.
    fn is_whole(&self) -> bool {
        self.body.as_ref().is_none_or(Watched::is_end_stream)
    }

    fn is_sent(&self) -> bool {
        self.left_of_head().is_empty() && self.at_hand() == 0 && self.is_whole()
    }

    fn left_of_head(&self) -> &[u8] {
        &self.head[self.sent..]
    }

    /// Has more of the body at hand, if that was sent which was. An error is the body's.
    fn poll_run(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.at_hand() == 0
            && let Some(body) = self.body.as_mut().filter(|body| !body.is_end_stream())
        {
            let frame = ready!(Pin::new(body).poll_frame(cx)).transpose();
            self.run = frame.map_err(io::Error::other)?.and_then(|frame| frame.into_data().ok());
        }
        Poll::Ready(Ok(()))
    }

    /// What is at hand of it; returns how many slices that are.
    fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let of_head = usize::from(!self.left_of_head().is_empty());
        if of_head > 0 {
            slices[0] = IoSlice::new(self.left_of_head());
        }
        of_head + self.run.as_ref().map_or(0, |run| run.chunks_vectored(&mut slices[of_head..]))
    }

    /// Notes that so many bytes were sent; returns how many were not of this answer.
    fn advance(&mut self, sent: usize) -> usize {
        let of_head = sent.min(self.left_of_head().len());
        self.sent += of_head;
        let of_run = (sent - of_head).min(self.at_hand());
        if let Some(run) = &mut self.run {
            run.advance(of_run);
        }
        sent - of_head - of_run
    }
}

impl Answers {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether another answer may go with the same write.
    pub(super) fn have_room(&self) -> bool {
        let bytes: usize = self.queue.iter().map(Answer::at_hand).sum();
        self.queue.len() < ANSWERS && bytes < BYTES && self.queue.back().is_none_or(Answer::is_whole)
    }

    /// An empty head.
    pub(super) fn head(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes back a head that was not used.
    pub(super) fn give_back(&mut self, mut head: Vec<u8>) {
        if head.capacity() <= MOST && self.spare.len() < ANSWERS {
            head.clear();
            self.spare.push(head);
        }
    }

    /// One more, behind the others; without a body, the head is all of it.
    pub(super) fn push(&mut self, head: Vec<u8>, body: Option<Watched>, cx: &mut Context<'_>) -> io::Result<()> {
        let mut answer = Answer { head, sent: 0, run: None, body };
        // What is not there yet is waited for when it is this answer's turn.
        if let Poll::Ready(run) = answer.poll_run(cx) {
            run?;
        }
        self.queue.push_back(answer);
        Ok(())
    }

    /// Resolves when all are sent.
    pub(super) fn poll_sent(&mut self, io: &mut TimeoutIo, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(first) = self.queue.front_mut() {
            if first.left_of_head().is_empty() {
                ready!(first.poll_run(cx))?;
            }
            if first.is_sent() {
                self.pop();
                continue;
            }
            let mut slices = [IoSlice::new(&[]); PIECES];
            let filled = self.slices(&mut slices);
            if filled > 0 {
                match ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices[..filled]))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    sent => self.advance(sent),
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// What can be sent now, in order; returns how many slices that are.
    fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; PIECES]) -> usize {
        let mut filled = 0;
        for answer in &self.queue {
            if PIECES - filled < 2 {
                break;
            }
            filled += answer.slices(&mut slices[filled..]);
            if !answer.is_whole() {
                break;
            }
        }
        filled
    }

    fn advance(&mut self, mut sent: usize) {
        for answer in &mut self.queue {
            sent = answer.advance(sent);
            if sent == 0 {
                break;
            }
        }
        while self.queue.front().is_some_and(Answer::is_sent) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some(Answer { head, .. }) = self.queue.pop_front() {
            self.give_back(head);
        }
    }
}
