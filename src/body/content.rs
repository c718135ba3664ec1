//! [`Body`]: the content of a request or response.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::BoxStream;
use hyper::body::{Body as _, Frame, SizeHint};

use super::end_hook::{EndHook, Ended};
use super::follower::{Follower, ResumeWith};
use super::growing::Reader;
use super::progress::Progress;
use super::proof::{Proof, Proving};
use super::room::Room;
use super::skip::{Delivered, Position, Skip};
use super::slice::{Run, Slice};
use super::timed_body::{ReceivedFrom, TimedBody};
use super::turn::Turn;
use crate::error::Error;
use crate::store::budget::Charge;
use crate::store::entry::Stored;

/// Continues for a reader that fell out of the window of a flight: returns a body of the
/// bytes after its position.
pub(crate) type Resume = ResumeWith<Body>;

/// The content of a request or response, in frames of [`Bytes`].
///
/// Ends with an error, never cleanly, when its source breaks off.
#[derive(Default)]
pub struct Body(Kind);

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Full(Bytes),
    Stored(Slice, Turn),
    Flight(Box<Follower<Body>>),
    TimedBody(Box<TimedBody>),
    Skipping(Box<Body>, Skip),
    Proving(Box<Proving<Body>>),
    /// Bytes in memory with their share of the budget.
    Charged {
        body: Box<Body>,
        _charge: Charge,
    },
    Stream(BoxStream<'static, Result<Bytes, Error>>),
    Observed(Box<Body>, Progress),
    EndHook(Box<EndHook<Body>>),
    Chain(VecDeque<Body>),
}

impl Body {
    /// No content.
    pub const fn empty() -> Self {
        Self(Kind::Empty)
    }

    /// The data of `stream`. An error of the stream breaks the body off.
    pub fn from_stream(stream: impl Stream<Item = Result<Bytes, Error>> + Send + 'static) -> Self {
        Self(Kind::Stream(Box::pin(stream)))
    }

    /// The bytes of a stored body from `first` to `end`.
    pub(crate) fn stored(stored: Stored, first: u64, end: u64) -> Self {
        Self(Kind::Stored(Slice::new(stored, first, end), Turn::default()))
    }

    /// The body of a flight. `room` is the flight's share of the budget, charged for as long
    /// as it has readers. Without `resume`, a reader that falls out of the window ends with an
    /// error. With `delivered`, the bytes delivered before that are digested.
    pub(crate) fn flight(
        reader: Reader,
        room: Arc<Room>,
        resume: Option<Resume>,
        delivered: Option<Box<Delivered>>,
    ) -> Self {
        Self(Kind::Flight(Box::new(Follower::new(reader, room, resume, delivered))))
    }

    /// `body` without its first `bytes` bytes. A shorter body ends with an error.
    pub(crate) fn skipping(body: Self, bytes: u64) -> Self {
        Self(Kind::Skipping(Box::new(body), Skip { left: bytes, delivered: None }))
    }

    /// The bytes of `body` after `position`. Ends with an error if the bytes before it differ
    /// from those that were delivered.
    pub(crate) fn resumed(body: Self, position: Position) -> Self {
        Self(Kind::Skipping(Box::new(body), Skip { left: position.at, delivered: position.delivered }))
    }

    /// `body`, with its last bytes withheld until its digests are verified.
    pub(crate) fn proving(body: Self, proof: Proof) -> Self {
        Self(Kind::Proving(Box::new(Proving::new(body, proof))))
    }

    /// `body`, with the charge of its bytes in memory, which is released with it.
    pub(crate) fn charged(body: Self, charge: Charge) -> Self {
        Self(Kind::Charged { body: Box::new(body), _charge: charge })
    }

    /// Returns the partial digests of a body that broke off, so that its continuation can be
    /// verified together with the bytes before.
    pub(crate) fn into_proof(self) -> Option<Proof> {
        match self.0 {
            Kind::Proving(proving) => proving.into_proof(),
            Kind::Chain(mut bodies) => bodies.pop_back()?.into_proof(),
            _ => None,
        }
    }

    /// `bodies`, one after the other.
    pub(crate) fn chain(bodies: impl IntoIterator<Item = Self>) -> Self {
        Self(Kind::Chain(bodies.into_iter().collect()))
    }

    /// `body`, and the time of its last progress. The clock pauses while the body has no data
    /// ready: its sender has a timeout of its own.
    pub(crate) fn with_progress(body: Self) -> (Self, Progress) {
        let progress = Progress::begin();
        (Self(Kind::Observed(Box::new(body), progress.clone())), progress)
    }

    /// `body`, which calls `hook` once, when it ends or is dropped, with the number of bytes that
    /// were read.
    pub(crate) fn with_end_hook(body: Self, hook: impl FnOnce(Ended, u64) + Send + 'static) -> Self {
        Self(Kind::EndHook(Box::new(EndHook::new(body, hook))))
    }

    /// A received body. It fails with `blame` when it breaks off, or when no data arrives for
    /// `idle`.
    pub(crate) fn received(
        incoming: impl Into<ReceivedFrom>,
        idle: Option<Duration>,
        blame: fn(String) -> Error,
    ) -> Self {
        let incoming = incoming.into();
        if incoming.is_end_stream() {
            return Self::empty();
        }
        Self(Kind::TimedBody(Box::new(TimedBody::new(incoming, idle, blame))))
    }

    /// Polls like `poll_frame`. Each frame also keeps its share of the budget, and a stored
    /// body comes in runs of at most `most` bytes.
    pub(crate) fn poll_run(&mut self, most: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Run>, Error>>> {
        let room = match &mut self.0 {
            Kind::Stored(slice, turn) => {
                ready!(turn.poll(cx));
                *turn = Turn::Yield;
                return Poll::Ready(slice.next_run(most).map(|run| Ok(Frame::data(run.into()))));
            }
            Kind::Flight(follower) => follower.room(),
            _ => None,
        };
        Pin::new(self).poll_frame(cx).map_ok(|frame| frame.map_data(|bytes| Run::new(bytes, room)))
    }

    /// Breaks a received body off at `most` bytes.
    pub(crate) fn at_most(mut self, most: u64) -> Self {
        if let Kind::TimedBody(received) = &mut self.0 {
            received.limit(most);
        }
        self
    }

    /// Breaks a received body off below `rate` bytes a second, on average over the time spent
    /// waiting for data. The idle timeout is granted once on top of that. The sender is a
    /// client: the error is [`Error::ContentTooSlow`].
    pub(crate) fn no_slower_than(mut self, rate: u64) -> Self {
        if let Kind::TimedBody(received) = &mut self.0 {
            received.require_rate(rate);
        }
        self
    }

    /// Calls `count` with the length in bytes of each frame of a received body.
    pub(crate) fn counted(mut self, count: impl Fn(u64) + Send + Sync + 'static) -> Self {
        if let Kind::TimedBody(received) = &mut self.0 {
            received.count_with(count);
        }
        self
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(if bytes.is_empty() { Kind::Empty } else { Kind::Full(bytes) })
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Empty => "Body(empty)",
            Kind::Full(_) => "Body(full)",
            Kind::Stored(..) => "Body(stored)",
            Kind::Flight(_) => "Body(flight)",
            Kind::TimedBody(_) => "Body(received)",
            Kind::Skipping(..) => "Body(skipping)",
            Kind::Proving(_) => "Body(proving)",
            Kind::Charged { .. } => "Body(charged)",
            Kind::Stream(_) => "Body(stream)",
            Kind::Observed(..) => "Body(observed)",
            Kind::EndHook(_) => "Body(end hook)",
            Kind::Chain(_) => "Body(chain)",
        })
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.0 = Kind::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Kind::Stored(slice, turn) => {
                ready!(turn.poll(cx));
                *turn = Turn::Yield;
                Poll::Ready(slice.next_chunk().map(|data| Ok(Frame::data(data))))
            }
            Kind::Flight(follower) => follower.poll_frame(cx),
            Kind::TimedBody(received) => received.poll_frame(cx),
            Kind::Skipping(body, skip) => skip.poll_rest(&mut **body, cx),
            Kind::Proving(proving) => proving.poll_frame(cx),
            Kind::Charged { body, .. } => Pin::new(&mut **body).poll_frame(cx),
            Kind::Stream(stream) => stream.as_mut().poll_next(cx).map_ok(Frame::data),
            Kind::EndHook(hooked) => hooked.poll_frame(cx),
            Kind::Observed(body, progress) => {
                let frame = Pin::new(&mut **body).poll_frame(cx);
                if frame.is_pending() {
                    progress.pause();
                } else {
                    progress.note();
                }
                frame
            }
            Kind::Chain(bodies) => {
                while let Some(body) = bodies.front_mut() {
                    match ready!(Pin::new(body).poll_frame(cx)) {
                        None => drop(bodies.pop_front()),
                        frame => return Poll::Ready(frame),
                    }
                }
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Full(bytes) => bytes.is_empty(),
            Kind::Stored(slice, _) => slice.len() == 0,
            Kind::Flight(follower) => follower.remaining() == Some(0),
            Kind::TimedBody(received) => received.is_end_stream(),
            Kind::Skipping(body, _) | Kind::Observed(body, _) | Kind::Charged { body, .. } => body.is_end_stream(),
            Kind::Proving(proving) => proving.is_end_stream(),
            Kind::EndHook(hooked) => hooked.body().is_end_stream(),
            Kind::Stream(_) => false,
            Kind::Chain(bodies) => bodies.iter().all(Self::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Stored(slice, _) => SizeHint::with_exact(slice.len()),
            Kind::Flight(follower) => follower.remaining().map(SizeHint::with_exact).unwrap_or_default(),
            Kind::TimedBody(received) => received.size_hint(),
            Kind::Skipping(body, skip) => {
                let rest = |len: u64| SizeHint::with_exact(len.saturating_sub(skip.left));
                body.size_hint().exact().map(rest).unwrap_or_default()
            }
            Kind::Proving(proving) => proving.size_hint(),
            Kind::EndHook(hooked) => hooked.body().size_hint(),
            Kind::Stream(_) => SizeHint::default(),
            Kind::Observed(body, _) | Kind::Charged { body, .. } => body.size_hint(),
            Kind::Chain(bodies) => {
                let exact = bodies.iter().map(|body| body.size_hint().exact()).sum::<Option<u64>>();
                exact.map(SizeHint::with_exact).unwrap_or_default()
            }
        }
    }
}

/// Returns the next bytes of a body, or `None` at its end.
pub(crate) async fn next_data(body: &mut Body) -> Option<Result<Bytes, Error>> {
    loop {
        match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await? {
            Ok(frame) => {
                if let Ok(data) = frame.into_data() {
                    return Some(Ok(data));
                }
            }
            Err(error) => return Some(Err(error)),
        }
    }
}
