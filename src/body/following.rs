//! A reader of a flight, as a body.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::body::{Body as _, Frame};

use super::growing::{Next, Reader};
use super::skipping::{Given, Place};
use super::{Body, Room, Turn};
use crate::error::Error;
use crate::store::chunks::CHUNK;

/// How a reader that a window has left behind goes on by itself: given its
/// place, a body of what follows.
pub(crate) type Resume = Arc<dyn Fn(Place) -> BoxFuture<'static, Result<Body, Error>> + Send + Sync>;

/// What a reader of a flight gets in its first turn, in bytes.
const FIRST_STRIDE: usize = 16 * 1024;

pub(super) struct Follower {
    state: Following,
    /// The most that is given in one turn; it grows with each.
    stride: usize,
    turn: Turn,
}

enum Following {
    /// The room is held for as long as the flight's pieces are.
    Flight {
        reader: Reader,
        resume: Option<Resume>,
        room: Arc<Room>,
        given: Option<Box<Given>>,
    },
    Resuming(BoxFuture<'static, Result<Body, Error>>),
    Alone(Body),
}

impl Follower {
    pub(super) fn new(reader: Reader, room: Arc<Room>, resume: Option<Resume>, given: Option<Box<Given>>) -> Self {
        // Hundreds may wait for one head: first they all get it, then they all
        // get a little, then more and more. If all of it is a little, it goes with
        // the head.
        let short = reader.remaining().is_some_and(|left| left <= FIRST_STRIDE as u64);
        let turn = if short { Turn::Take } else { Turn::Yield };
        let state = Following::Flight { reader, resume, room, given };
        Self { state, stride: FIRST_STRIDE, turn }
    }

    pub(super) fn room(&self) -> Option<Arc<Room>> {
        match &self.state {
            Following::Flight { room, .. } => Some(Arc::clone(room)),
            Following::Resuming(_) | Following::Alone(_) => None,
        }
    }

    pub(super) fn remaining(&self) -> Option<u64> {
        match &self.state {
            Following::Flight { reader, .. } => reader.remaining(),
            Following::Resuming(_) => None,
            Following::Alone(body) => body.size_hint().exact(),
        }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            self.state = match &mut self.state {
                Following::Flight { reader, resume, given, .. } => {
                    ready!(self.turn.poll(cx));
                    match ready!(reader.poll_next(self.stride, cx)) {
                        Next::Data(data) => {
                            if let Some(given) = given {
                                given.note(&data);
                            }
                            self.turn = Turn::Yield;
                            self.stride = (self.stride * 2).min(CHUNK);
                            return Poll::Ready(Some(Ok(Frame::data(data))));
                        }
                        Next::End => return Poll::Ready(None),
                        Next::Failed(error) => return Poll::Ready(Some(Err(error))),
                        // What the flight holds for this reader goes with the state.
                        Next::Lost(at) => match resume {
                            Some(resume) => Following::Resuming(resume(Place { at, given: given.take() })),
                            None => return Poll::Ready(Some(Err(Error::Outgrown))),
                        },
                    }
                }
                Following::Resuming(future) => match ready!(future.as_mut().poll(cx)) {
                    Ok(body) => Following::Alone(body),
                    Err(error) => return Poll::Ready(Some(Err(error))),
                },
                Following::Alone(body) => return Pin::new(body).poll_frame(cx),
            };
        }
    }
}
