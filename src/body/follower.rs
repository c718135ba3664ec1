//! A reader of a flight, as a body.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::body::Frame;

use super::growing::{Next, Reader};
use super::room::Room;
use super::skip::{Delivered, Position};
use super::turn::Turn;
use crate::error::Error;
use crate::store::chunks::CHUNK;

/// Continues for a reader that fell out of the window: returns a body of the bytes after its
/// position.
pub(super) type ResumeWith<B> = Arc<dyn Fn(Position) -> BoxFuture<'static, Result<B, Error>> + Send + Sync>;

/// Bytes that a reader of a flight gets in its first turn.
const FIRST_STRIDE: usize = 16 * 1024;

/// A reader of a flight that continues with a body of its own, a `B`, when it falls out of
/// the window.
pub(super) struct Follower<B> {
    state: State<B>,
    /// The most bytes of one turn; doubled with each.
    stride: usize,
    turn: Turn,
}

enum State<B> {
    /// Holds the room for as long as it refers to the flight's chunks.
    Flight {
        reader: Reader,
        resume: Option<ResumeWith<B>>,
        room: Arc<Room>,
        delivered: Option<Box<Delivered>>,
    },
    Resuming(BoxFuture<'static, Result<B, Error>>),
    Resumed(B),
}

impl<B: hyper::body::Body<Data = Bytes, Error = Error> + Unpin> Follower<B> {
    pub(super) fn new(
        reader: Reader,
        room: Arc<Room>,
        resume: Option<ResumeWith<B>>,
        delivered: Option<Box<Delivered>>,
    ) -> Self {
        // Hundreds of readers may wait for one head. All get the head first, then a little
        // of the body each, then more with every turn. A body that fits into the first turn
        // goes with the head.
        let short = reader.remaining().is_some_and(|left| left <= FIRST_STRIDE as u64);
        let turn = if short { Turn::Read } else { Turn::Yield };
        let state = State::Flight { reader, resume, room, delivered };
        Self { state, stride: FIRST_STRIDE, turn }
    }

    pub(super) fn room(&self) -> Option<Arc<Room>> {
        match &self.state {
            State::Flight { room, .. } => Some(Arc::clone(room)),
            State::Resuming(_) | State::Resumed(_) => None,
        }
    }

    pub(super) fn remaining(&self) -> Option<u64> {
        match &self.state {
            State::Flight { reader, .. } => reader.remaining(),
            State::Resuming(_) => None,
            State::Resumed(body) => body.size_hint().exact(),
        }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            self.state = match &mut self.state {
                State::Flight { reader, resume, delivered, .. } => {
                    ready!(self.turn.poll(cx));
                    match ready!(reader.poll_next(self.stride, cx)) {
                        Next::Data(data) => {
                            if let Some(delivered) = delivered {
                                delivered.note(&data);
                            }
                            self.turn = Turn::Yield;
                            self.stride = (self.stride * 2).min(CHUNK);
                            return Poll::Ready(Some(Ok(Frame::data(data))));
                        }
                        Next::End => return Poll::Ready(None),
                        Next::Failed(error) => return Poll::Ready(Some(Err(error))),
                        // Replacing the state releases the room.
                        Next::Lost(at) => match resume {
                            Some(resume) => State::Resuming(resume(Position { at, delivered: delivered.take() })),
                            None => return Poll::Ready(Some(Err(Error::Outgrown))),
                        },
                    }
                }
                State::Resuming(future) => match ready!(future.as_mut().poll(cx)) {
                    Ok(body) => State::Resumed(body),
                    Err(error) => return Poll::Ready(Some(Err(error))),
                },
                State::Resumed(body) => return Pin::new(body).poll_frame(cx),
            };
        }
    }
}
