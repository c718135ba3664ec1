//! [`Body`]: whatever is sent as the content of a message.

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
use hyper::body::Incoming;
use hyper::body::{Body as _, Frame, SizeHint};

use crate::error::Error;
use crate::store::budget::Charge;
use crate::store::entry::Stored;

mod following;
pub(crate) mod growing;
pub(crate) mod informational;
mod observed;
pub(crate) mod proven;
mod received;
mod room;
mod run;
mod skipping;
#[cfg_attr(not(feature = "zero-copy"), path = "zero_copy/disabled.rs")]
pub(crate) mod zero_copy;

use following::Follower;
pub(crate) use following::Resume;
use growing::Reader;
use observed::Told;
pub(crate) use observed::{Ended, Progress};
use proven::{Proof, Proving};
use received::TimedBody;
pub(crate) use room::Room;
use run::Slice;
pub(crate) use run::{RUN, Run};
use skipping::Skip;
pub(crate) use skipping::{Given, Place};

/// The content of a request or response, in frames of [`Bytes`].
///
/// It ends with an error, never cleanly, when its source breaks off.
#[derive(Default)]
pub struct Body(Kind);

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Full(Bytes),
    Stored(Slice, Turn),
    Flight(Box<Follower>),
    TimedBody(Box<TimedBody>),
    Skipping(Box<Body>, Skip),
    Proving(Box<Proving>),
    /// Bytes in memory, and their share of the budget.
    Charged {
        body: Box<Body>,
        _charge: Charge,
    },
    Stream(BoxStream<'static, Result<Bytes, Error>>),
    Observed(Box<Body>, Progress),
    Told(Box<Told>),
    Chain(VecDeque<Body>),
}

impl Body {
    /// No content.
    pub const fn empty() -> Self {
        Self(Kind::Empty)
    }

    /// What `stream` brings; an error of its breaks the body off.
    pub fn from_stream(stream: impl Stream<Item = Result<Bytes, Error>> + Send + 'static) -> Self {
        Self(Kind::Stream(Box::pin(stream)))
    }

    /// The bytes of what is stored from `first` to `end`.
    pub(crate) fn stored(stored: Stored, first: u64, end: u64) -> Self {
        Self(Kind::Stored(Slice::new(stored, first, end), Turn::default()))
    }

    /// What a flight brings; `room` is the flight's share of the budget, which
    /// is taken for as long as anyone reads. Without `resume`, a reader that loses its
    /// place cannot go on; with `given`, it notes what it gives out until then.
    pub(crate) fn flight(reader: Reader, room: Arc<Room>, resume: Option<Resume>, given: Option<Box<Given>>) -> Self {
        Self(Kind::Flight(Box::new(Follower::new(reader, room, resume, given))))
    }

    /// `body` without its first `bytes` bytes; it has to have as many.
    pub(crate) fn skipping(body: Self, bytes: u64) -> Self {
        Self(Kind::Skipping(Box::new(body), Skip { left: bytes, given: None }))
    }

    /// What of `body` follows `place`, if what comes before is what was given out there;
    /// else it breaks off.
    pub(crate) fn following(body: Self, place: Place) -> Self {
        Self(Kind::Skipping(Box::new(body), Skip { left: place.at, given: place.given }))
    }

    /// `body`, whose last bytes wait until all of it has proven to be right.
    pub(crate) fn proving(body: Self, proof: Proof) -> Self {
        Self(Kind::Proving(Box::new(Proving::new(body, proof))))
    }

    /// `body`, whose bytes are in memory and take `charge` of the budget until
    /// they are gone.
    pub(crate) fn charged(body: Self, charge: Charge) -> Self {
        Self(Kind::Charged { body: Box::new(body), _charge: charge })
    }

    /// The proof of a body that broke off, as far as it has come: what follows can go
    /// on with it.
    pub(crate) fn into_proof(self) -> Option<Proof> {
        match self.0 {
            Kind::Proving(proving) => proving.into_proof(),
            Kind::Chain(mut bodies) => bodies.pop_back()?.into_proof(),
            _ => None,
        }
    }

    /// One after the other.
    pub(crate) fn chain(bodies: impl IntoIterator<Item = Self>) -> Self {
        Self(Kind::Chain(bodies.into_iter().collect()))
    }

    /// `body`, and when it last made progress: while it is waited for, that is up to who
    /// sends it.
    pub(crate) fn observed(body: Self) -> (Self, Progress) {
        let progress = Progress::begin();
        (Self(Kind::Observed(Box::new(body), progress.clone())), progress)
    }

    /// `body`, whose end is told: whether it broke off. Of one that is not read to its end,
    /// nothing is known.
    pub(crate) fn told(body: Self, tell: impl FnOnce(Ended) + Send + 'static) -> Self {
        Self(Kind::Told(Box::new(Told { body, tell: Some(Box::new(tell)) })))
    }

    pub(crate) fn received(incoming: Incoming, patience: Option<Duration>, blame: fn(String) -> Error) -> Self {
        if incoming.is_end_stream() {
            return Self::empty();
        }
        Self(Kind::TimedBody(Box::new(TimedBody::new(incoming, patience, blame))))
    }

    /// As `poll_frame`, but each frame keeps its share of the budget, and what is held in
    /// memory comes in runs of at most `most` bytes.
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

    /// Breaks a received body off where it goes beyond `most` bytes.
    pub(crate) fn at_most(mut self, most: u64) -> Self {
        if let Kind::TimedBody(received) = &mut self.0 {
            received.left = most;
        }
        self
    }

    /// Breaks a received body off where fewer than `rate` bytes a second come, on average
    /// over the time that was spent waiting for them; what it has for each piece comes on
    /// top. Its sender is a client, who is told to have been too slow.
    pub(crate) fn no_slower_than(mut self, rate: u64) -> Self {
        if let Kind::TimedBody(received) = &mut self.0 {
            received.expect(rate);
        }
        self
    }

    /// Tells `count` how many bytes each piece of a received body has.
    pub(crate) fn counted(mut self, count: impl Fn(u64) + Send + Sync + 'static) -> Self {
        if let Kind::TimedBody(received) = &mut self.0 {
            received.count = Some(Box::new(count));
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
            Kind::Told(_) => "Body(told)",
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
                Poll::Ready(slice.next_piece().map(|data| Ok(Frame::data(data))))
            }
            Kind::Flight(follower) => follower.poll_frame(cx),
            Kind::TimedBody(received) => received.poll_frame(cx),
            Kind::Skipping(body, skip) => skip.poll_behind(body, cx),
            Kind::Proving(proving) => proving.poll_frame(cx),
            Kind::Charged { body, .. } => Pin::new(&mut **body).poll_frame(cx),
            Kind::Stream(stream) => stream.as_mut().poll_next(cx).map_ok(Frame::data),
            Kind::Told(told) => told.poll_frame(cx),
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
            Kind::Told(told) => told.body.is_end_stream(),
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
                let behind = |len: u64| SizeHint::with_exact(len.saturating_sub(skip.left));
                body.size_hint().exact().map(behind).unwrap_or_default()
            }
            Kind::Proving(proving) => proving.size_hint(),
            Kind::Told(told) => told.body.size_hint(),
            Kind::Stream(_) => SizeHint::default(),
            Kind::Observed(body, _) | Kind::Charged { body, .. } => body.size_hint(),
            Kind::Chain(bodies) => {
                let exact = bodies.iter().map(|body| body.size_hint().exact()).sum::<Option<u64>>();
                exact.map(SizeHint::with_exact).unwrap_or_default()
            }
        }
    }
}

/// Whose turn it is on this thread. A reader gives way after each take: a
/// socket can take megabytes at a time, and readers that wait for their first
/// byte go before those that have some.
#[derive(Default)]
enum Turn {
    #[default]
    Take,
    Yield,
}

impl Turn {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Take => Poll::Ready(()),
            Self::Yield => {
                *self = Self::Take;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

/// The next bytes of a body; `None` at its end.
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

/// An error with its causes, in one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
