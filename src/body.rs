//! [`Body`]: whatever is sent as the content of a message.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::budget::Charge;
use crate::digest::{Algorithm, Hashing};
use crate::error::Error;

pub(crate) mod growing;
mod held;
pub(crate) mod proven;
mod room;

use growing::{Next, PIECE, Reader};
use held::Slice;
pub(crate) use held::{Held, RUN, Run};
use proven::{Proof, Proving};
pub(crate) use room::Room;

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
    Held(Slice, Turn),
    Flight(Box<Follower>),
    Received(Box<Received>),
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

    pub(crate) fn held(held: Arc<Held>, first: u64, end: u64) -> Self {
        Self(Kind::Held(Slice::new(held, first, end), Turn::default()))
    }

    /// What a flight brings; `room` is the flight's share of the budget, which
    /// is taken for as long as anyone reads. Without `resume`, a reader that loses its
    /// place cannot go on; with `given`, it notes what it gives out until then.
    pub(crate) fn flight(reader: Reader, room: Arc<Room>, resume: Option<Resume>, given: Option<Box<Given>>) -> Self {
        // Hundreds may wait for one head: first they all get it, then they all
        // get a little, then more and more. If all of it is a little, it goes with
        // the head.
        let short = reader.remaining().is_some_and(|left| left <= FIRST_STRIDE as u64);
        let turn = if short { Turn::Take } else { Turn::Yield };
        let state = Following::Flight { reader, resume, room, given };
        Self(Kind::Flight(Box::new(Follower { state, stride: FIRST_STRIDE, turn })))
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

    /// `body`, and when it was last taken from.
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
        Self(Kind::Received(Box::new(Received { incoming, patience, left: u64::MAX, blame, timer: None })))
    }

    /// As `poll_frame`, but each frame keeps its share of the budget, and what is held in
    /// memory comes in runs of at most `most` bytes.
    pub(crate) fn poll_run(&mut self, most: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Run>, Error>>> {
        let room = match &mut self.0 {
            Kind::Held(slice, turn) => {
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
        if let Kind::Received(received) = &mut self.0 {
            received.left = most;
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
            Kind::Held(..) => "Body(held)",
            Kind::Flight(_) => "Body(flight)",
            Kind::Received(_) => "Body(received)",
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

impl http_body::Body for Body {
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
            Kind::Held(slice, turn) => {
                ready!(turn.poll(cx));
                *turn = Turn::Yield;
                Poll::Ready(slice.next_piece().map(|data| Ok(Frame::data(data))))
            }
            Kind::Flight(follower) => follower.poll_frame(cx),
            Kind::Received(received) => received.poll_frame(cx),
            Kind::Skipping(body, skip) => skip.poll_behind(body, cx),
            Kind::Proving(proving) => proving.poll_frame(cx),
            Kind::Charged { body, .. } => Pin::new(&mut **body).poll_frame(cx),
            Kind::Stream(stream) => stream.as_mut().poll_next(cx).map_ok(Frame::data),
            Kind::Told(told) => told.poll_frame(cx),
            Kind::Observed(body, progress) => {
                progress.note();
                Pin::new(&mut **body).poll_frame(cx)
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
            Kind::Held(slice, _) => slice.len() == 0,
            Kind::Flight(follower) => follower.remaining() == Some(0),
            Kind::Received(received) => received.incoming.is_end_stream(),
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
            Kind::Held(slice, _) => SizeHint::with_exact(slice.len()),
            Kind::Flight(follower) => follower.remaining().map(SizeHint::with_exact).unwrap_or_default(),
            Kind::Received(received) => received.incoming.size_hint(),
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

/// How a body ended, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Well,
    /// It broke off.
    Badly,
    /// Nobody read it to its end.
    Unread,
}

/// A body that tells how it ends.
struct Told {
    body: Body,
    /// Gone when it has been told.
    tell: Option<Box<dyn FnOnce(Ended) + Send>>,
}

impl Told {
    fn tell(&mut self, ended: Ended) {
        if let Some(tell) = self.tell.take() {
            tell(ended);
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            None => self.tell(Ended::Well),
            Some(Err(_)) => self.tell(Ended::Badly),
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame)
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let ended = if self.body.is_end_stream() { Ended::Well } else { Ended::Unread };
        self.tell(ended);
    }
}

/// The beginning of a body, which is dropped.
struct Skip {
    /// How much of it has still to come, in bytes.
    left: u64,
    /// What it has to be, where that matters.
    given: Option<Box<Given>>,
}

impl Skip {
    /// The next frame behind it.
    fn poll_behind(&mut self, body: &mut Body, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
            let frame = match frame {
                Some(Ok(frame)) => frame,
                None if self.left > 0 => {
                    let short = format!("it ends {} bytes before what was wanted of it", self.left);
                    return Poll::Ready(Some(Err(Error::OriginBroke(short))));
                }
                other => return Poll::Ready(other),
            };
            let Ok(mut data) = frame.into_data() else {
                continue;
            };
            let behind = data.split_off(to_usize(self.left).min(data.len()));
            self.left -= data.len() as u64;
            if let Some(given) = &mut self.given {
                given.hold_against(&data);
            }
            if self.left == 0 && self.given.take().is_some_and(|given| !given.agrees()) {
                let other = "what was given out is of another copy".to_owned();
                return Poll::Ready(Some(Err(Error::OriginWrong(other))));
            }
            if !behind.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(behind))));
            }
        }
    }
}

/// What a reader has been given of a body that has still to prove itself, by its
/// digest: the rest may come with another copy, whose proof is not of these bytes.
pub(crate) struct Given {
    given: Hashing,
    again: Hashing,
}

impl Given {
    pub(crate) fn nothing() -> Box<Self> {
        Box::new(Self { given: Algorithm::Blake3.hashing(), again: Algorithm::Blake3.hashing() })
    }

    fn note(&mut self, data: &[u8]) {
        self.given.update(data);
    }

    /// The same place of another copy.
    fn hold_against(&mut self, data: &[u8]) {
        self.again.update(data);
    }

    fn agrees(self) -> bool {
        self.given.finish() == self.again.finish()
    }
}

/// Where a reader is that has lost its place.
pub(crate) struct Place {
    /// How many bytes it has been given.
    pub(crate) at: u64,
    /// What they were, if the body has still to prove itself.
    pub(crate) given: Option<Box<Given>>,
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

/// How a reader that a window has left behind goes on by itself: given its
/// place, a body of what follows.
pub(crate) type Resume = Arc<dyn Fn(Place) -> BoxFuture<'static, Result<Body, Error>> + Send + Sync>;

/// What a reader of a flight gets in its first turn, in bytes.
const FIRST_STRIDE: usize = 16 * 1024;

struct Follower {
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
    fn room(&self) -> Option<Arc<Room>> {
        match &self.state {
            Following::Flight { room, .. } => Some(Arc::clone(room)),
            Following::Resuming(_) | Following::Alone(_) => None,
        }
    }

    fn remaining(&self) -> Option<u64> {
        match &self.state {
            Following::Flight { reader, .. } => reader.remaining(),
            Following::Resuming(_) => None,
            Following::Alone(body) => body.size_hint().exact(),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
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
                            self.stride = (self.stride * 2).min(PIECE);
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

/// When something last made progress, such as a body for whoever waits on its
/// other end.
#[derive(Debug, Clone)]
pub(crate) struct Progress(Arc<Mutex<Instant>>);

impl Progress {
    pub(crate) fn begin() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    pub(crate) fn note(&self) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Resolves when there was none for the time of `patience`.
    pub(crate) async fn stalls(&self, patience: Duration) {
        let mut last = self.last();
        loop {
            tokio::time::sleep_until(last + patience).await;
            let later = self.last();
            if later == last {
                return;
            }
            last = later;
        }
    }
}

/// A body that comes over a connection, with a bound on the wait for each
/// frame, and somebody to blame when it breaks off.
struct Received {
    incoming: Incoming,
    patience: Option<Duration>,
    /// How many bytes more it may bring.
    left: u64,
    blame: fn(String) -> Error,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Received {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        let Poll::Ready(frame) = polled else {
            return self.poll_patience(cx);
        };
        self.timer = None;
        match frame {
            // Trailers are not relayed: RFC 9110 §6.5.1 lets an intermediary drop them.
            Some(Ok(frame)) if frame.is_trailers() => Poll::Ready(None),
            Some(Ok(frame)) => {
                let len = frame.data_ref().map_or(0, |data| data.len() as u64);
                let Some(left) = self.left.checked_sub(len) else {
                    return Poll::Ready(Some(Err(Error::ContentTooLarge)));
                };
                self.left = left;
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => Poll::Ready(Some(Err((self.blame)(describe(&error))))),
            None => Poll::Ready(None),
        }
    }

    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(patience) = self.patience else {
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + patience)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Some(Err((self.blame)(format!("nothing came for {patience:?}")))))
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

fn to_usize(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use http_body_util::BodyExt;
    use proptest::prelude::*;

    use super::growing::Growing;
    use super::*;
    use crate::budget::Budget;

    fn charge() -> Charge {
        Budget::new(u64::MAX).charge(1).unwrap()
    }

    /// Ends a body, and returns its pieces.
    fn complete(body: &Growing) -> Option<Vec<Bytes>> {
        let mut kept = None;
        body.complete(Bytes::new(), |pieces| kept = Some(pieces));
        kept
    }

    fn read(reader: &mut Reader) -> (Vec<u8>, Option<Next>) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut bytes = Vec::new();
        loop {
            match reader.poll_next(usize::MAX, &mut cx) {
                Poll::Ready(Next::Data(data)) => bytes.extend_from_slice(&data),
                Poll::Ready(other) => return (bytes, Some(other)),
                Poll::Pending => return (bytes, None),
            }
        }
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn readers_see_what_was_written(
            sizes in proptest::collection::vec(0usize..100_000, 1..20),
            joins in proptest::collection::vec(0usize..20, 0..6),
        ) {
            let body = Growing::new();
            let whole = pattern(sizes.iter().sum());
            let mut readers = Vec::new();
            let mut sent = 0;
            for (i, size) in sizes.iter().enumerate() {
                for _ in joins.iter().filter(|&&join| join == i) {
                    readers.push((Reader::new(body.clone()), Vec::new()));
                }
                body.append(Bytes::copy_from_slice(&whole[sent..sent + size]));
                sent += size;
                if let Some((reader, got)) = readers.get_mut(i % 3) {
                    got.extend(read(reader).0);
                }
            }
            let pieces = complete(&body).unwrap();
            prop_assert!(pieces.iter().rev().skip(1).all(|piece| piece.len() == PIECE));
            prop_assert_eq!(&pieces.concat(), &whole);
            for (mut reader, mut got) in readers {
                let (rest, end) = read(&mut reader);
                got.extend(rest);
                prop_assert!(matches!(end, Some(Next::End)));
                prop_assert_eq!(&got, &whole);
            }
        }
    }

    #[tokio::test]
    async fn skipping_is_by_bytes_not_frames() {
        let whole = pattern(3 * PIECE);
        let pieces = whole.chunks(PIECE).map(Bytes::copy_from_slice).collect();
        let held = Arc::new(Held::new(pieces, charge()));
        let rest = Body::skipping(Body::held(held, 0, whole.len() as u64), PIECE as u64 + 7);
        assert_eq!(rest.collect().await.unwrap().to_bytes(), &whole[PIECE + 7..]);
    }

    #[test]
    fn byte_by_byte_costs_no_more_than_its_bytes() {
        let body = Growing::new();
        let mut reader = Reader::new(body.clone());
        for byte in pattern(5000) {
            body.append(Bytes::copy_from_slice(&[byte]));
        }
        assert_eq!(read(&mut reader).0, pattern(5000));
        assert_eq!(complete(&body).unwrap().concat(), pattern(5000));
    }

    #[test]
    fn failure_comes_after_what_was_there() {
        let body = Growing::new();
        let mut reader = Reader::new(body.clone());
        reader.narrow(0, Some(10));
        body.append(Bytes::from_static(b"1234"));
        body.fail(Error::OriginTimeout);
        body.fail(Error::Panicked);
        let (bytes, end) = read(&mut reader);
        assert_eq!(bytes, b"1234");
        assert!(matches!(end, Some(Next::Failed(Error::OriginTimeout))));
    }

    #[test]
    fn a_body_shorter_than_it_said_never_ends_cleanly() {
        let body = Growing::new();
        let mut reader = Reader::new(body.clone());
        reader.narrow(0, Some(10));
        body.append(Bytes::from_static(b"1234"));
        complete(&body);
        assert!(matches!(read(&mut reader).1, Some(Next::Failed(Error::OriginBroke(_)))));
    }

    #[test]
    fn a_window_keeps_the_pace_of_its_fastest_reader() {
        let mut cx = Context::from_waker(Waker::noop());
        let body = Growing::new();
        let mut fast = Reader::new(body.clone());
        let mut slow = Reader::new(body.clone());
        let piece = Bytes::from(vec![7; PIECE]);
        body.become_window(2 * PIECE as u64);
        for _ in 0..20 {
            assert!(matches!(body.poll_room(&mut cx), Poll::Ready(Ok(()))));
            body.append(piece.clone());
            assert_eq!(read(&mut fast).0.len(), PIECE);
        }
        assert!(matches!(slow.poll_next(usize::MAX, &mut cx), Poll::Ready(Next::Lost(0))));
        let mut ahead = 0;
        while body.poll_room(&mut cx).is_ready() {
            body.append(piece.clone());
            ahead += PIECE;
        }
        assert!(ahead <= 1024 * 1024 + PIECE, "{ahead} bytes ahead of its fastest reader");
        drop((fast, slow));
        assert!(matches!(body.poll_room(&mut cx), Poll::Ready(Err(Error::Abandoned))));
        assert!(complete(&body).is_none());
    }

    #[tokio::test]
    async fn a_lost_reader_goes_on_alone() {
        let body = Growing::new();
        let resume: Resume = Arc::new(|place| Box::pin(async move { Ok(Body::from(format!("from {}", place.at))) }));
        let lost = Body::flight(Reader::new(body.clone()), Room::new(charge()), Some(resume), None);
        body.append(Bytes::from(vec![7; 3 * PIECE]));
        body.become_window(PIECE as u64);
        assert_eq!(lost.collect().await.unwrap().to_bytes(), "from 0");
        let failed = Body::flight(Reader::new(body.clone()), Room::new(charge()), None, None);
        assert!(failed.collect().await.is_err());
    }
}
