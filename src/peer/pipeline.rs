//! [`Pipelines`]: sends peeks to other edges, many in one write.
//!
//! A pipeline is an HTTP/1.1 connection on which requests are sent before the responses to
//! earlier ones have arrived (RFC 9112 §9.3.2). That works well only if no response waits for
//! anything. So each request is a [peek](peek_codec), which the peer answers at once from memory
//! or with a miss.
//!
//! No request depends on a pipeline. If there is no connection, if it is overdue, or if a
//! response is not of the simple form that a peek allows, the peek ends without a response and
//! the caller sends an ordinary request.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::Response;
use tokio::io::{AsyncReadExt as _, AsyncWrite as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use crate::body::describe;
use crate::key::AssetKey;
use crate::peer::peek_codec::{self, Parsed};
use crate::semantics::vary::Accepted;
use crate::upstream::{Connector, Io};

/// The most peeks that wait in the queue of a pipeline.
const QUEUE: usize = 1024;
/// The most peeks taken from the queue at a time.
const BATCH: usize = 64;
/// The most peeks in flight: their responses may have to wait in socket buffers.
const MAX_IN_FLIGHT: usize = 256;
/// The least free space in the receive buffer before a read, in bytes.
const MIN_FREE: usize = 4096;
/// The space that is added to the receive buffer, unless a response needs more, in bytes.
const GROWTH: usize = 32 * 1024;
/// The least time between two attempts to open a pipeline to the same peer.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// The longest that an unused pipeline is kept: the peer is likely to keep it for longer.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Receives the outcome of a peek: the peer's response, or `None` for a miss. Dropped without a
/// call if there is no response.
pub(crate) type OnReply = Box<dyn FnOnce(Option<Response<Bytes>>) + Send>;

/// A peek for one asset.
pub(crate) struct PeekRequest {
    pub(crate) key: AssetKey,
    pub(crate) accepted: Accepted,
    pub(crate) on_reply: OnReply,
}

/// The timeouts of a pipeline.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// For the response to one peek, and for the connection.
    pub(crate) peek: Duration,
    /// For a peer that sends no response at all; the pipeline is closed then.
    pub(crate) peer: Duration,
}

/// The pipelines of an edge, one for each peer.
pub(crate) struct Pipelines {
    open: Mutex<HashMap<Arc<str>, Handle>>,
    connector: Connector,
    timeouts: Timeouts,
}

/// The sending end of a pipeline, which may have ended.
struct Handle {
    queue: mpsc::Sender<PeekRequest>,
    since: Instant,
    overdue: Arc<AtomicBool>,
}

impl Pipelines {
    /// Creates the pipelines, which `connector` opens.
    pub(crate) fn new(connector: Connector, timeouts: Timeouts) -> Self {
        Self { open: Mutex::default(), connector, timeouts }
    }

    /// Queues a peek for the edge that listens at `peer`. Drops the peek if the pipeline has
    /// ended, is overdue, or has a full queue.
    pub(crate) fn send(&self, peer: &Arc<str>, request: PeekRequest) {
        // No critical section can panic halfway through a change.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.get(peer).is_none_or(|pipeline| pipeline.queue.is_closed()) {
            // An ended pipeline stays in the map until it may be replaced.
            open.retain(|_, pipeline| !pipeline.queue.is_closed() || pipeline.since.elapsed() < RECONNECT_DELAY);
            open.entry(Arc::clone(peer)).or_insert_with(|| self.open(peer));
        }
        if let Some(pipeline) = open.get(peer).filter(|pipeline| !pipeline.overdue.load(Ordering::Relaxed)) {
            // Fails if the queue is full or the pipeline has just ended: the peek is dropped.
            let _ = pipeline.queue.try_send(request);
        }
    }

    fn open(&self, peer: &Arc<str>) -> Handle {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let overdue = Arc::new(AtomicBool::new(false));
        tokio::spawn(run(self.connector.clone(), Arc::clone(peer), receiver, Arc::clone(&overdue), self.timeouts));
        Handle { queue, since: Instant::now(), overdue }
    }
}

/// Connects to `peer` and runs the pipeline until it ends. Peeks that still wait then get no
/// response.
async fn run(
    connector: Connector,
    peer: Arc<str>,
    queue: mpsc::Receiver<PeekRequest>,
    overdue: Arc<AtomicBool>,
    timeouts: Timeouts,
) {
    if let Err(error) = connect_and_run(&connector, &peer, queue, overdue, timeouts).await {
        tracing::debug!(%peer, %error, "peer pipeline closed");
    }
}

async fn connect_and_run(
    connector: &Connector,
    peer: &Arc<str>,
    queue: mpsc::Receiver<PeekRequest>,
    overdue: Arc<AtomicBool>,
    timeouts: Timeouts,
) -> Result<(), String> {
    let io = connector.connect(&peer.parse()?).await?;
    let mut pipeline = Pipeline::new(io, Arc::clone(peer), queue, overdue, timeouts);
    poll_fn(|cx| pipeline.poll(cx)).await
}

struct Pipeline {
    io: Io,
    peer: Arc<str>,
    queue: mpsc::Receiver<PeekRequest>,
    batching: Batching,
    batch: Vec<PeekRequest>,
    /// Bytes to send.
    out: BytesMut,
    /// The peeks in flight, in the order of their requests.
    in_flight: VecDeque<InFlight>,
    /// The receive buffer.
    received: BytesMut,
    /// The least length of the first response; 0 while it is unknown.
    needed: usize,
    /// True while the oldest peek in flight has timed out.
    overdue: Arc<AtomicBool>,
    timeouts: Timeouts,
    timer: Pin<Box<Sleep>>,
    last_used: Instant,
}

/// Batching of peeks: the first one waits for a turn of the scheduler, so that tasks which are
/// about to peek (for requests on several connections) share one write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Batching {
    /// The next peek waits for others.
    Gather,
    /// The other tasks had their turn: send.
    Send,
}

struct InFlight {
    /// `None` if the peek has timed out; its response is discarded.
    on_reply: Option<OnReply>,
    since: Instant,
}

impl Pipeline {
    fn new(
        io: Io,
        peer: Arc<str>,
        queue: mpsc::Receiver<PeekRequest>,
        overdue: Arc<AtomicBool>,
        timeouts: Timeouts,
    ) -> Self {
        let timer = Box::pin(tokio::time::sleep(timeouts.peek));
        Self {
            io,
            peer,
            queue,
            batching: Batching::Gather,
            batch: Vec::with_capacity(BATCH),
            out: BytesMut::new(),
            in_flight: VecDeque::new(),
            received: BytesMut::new(),
            needed: 0,
            overdue,
            timeouts,
            timer,
            last_used: Instant::now(),
        }
    }

    /// Drives the pipeline. Ready when it has ended; `Ok` if no peek was in flight.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        loop {
            self.take_requests(cx);
            self.write(cx).map_err(|error| describe(&error))?;
            match self.poll_read(cx) {
                Poll::Ready(Ok(0)) if self.in_flight.is_empty() => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(0)) => return Poll::Ready(Err("closed by the peer".to_owned())),
                Poll::Ready(Ok(_)) => self.deliver()?,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(describe(&error))),
                Poll::Pending => return self.poll_timeouts(cx),
            }
        }
    }

    /// Takes peeks from the queue and encodes them.
    fn take_requests(&mut self, cx: &mut Context<'_>) {
        if self.overdue.load(Ordering::Relaxed) {
            // Drop them: an overdue pipeline takes no peeks.
            while let Poll::Ready(Some(_)) = self.queue.poll_recv(cx) {}
            return;
        }
        if self.batching == Batching::Gather && !self.queue.is_empty() {
            self.batching = Batching::Send;
            // The scheduler runs the tasks that are ready now before it polls this one again.
            return cx.waker().wake_by_ref();
        }
        self.batching = Batching::Gather;
        while self.in_flight.len() < MAX_IN_FLIGHT {
            let limit = BATCH.min(MAX_IN_FLIGHT - self.in_flight.len());
            let Poll::Ready(1..) = self.queue.poll_recv_many(cx, &mut self.batch, limit) else { return };
            self.last_used = Instant::now();
            for PeekRequest { key, accepted, on_reply } in self.batch.drain(..) {
                peek_codec::write_request(&mut self.out, &self.peer, &key, accepted);
                self.in_flight.push_back(InFlight { on_reply: Some(on_reply), since: self.last_used });
            }
        }
    }

    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while !self.out.is_empty() {
            match Pin::new(&mut self.io).poll_write(cx, &self.out)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => self.out.advance(written),
                Poll::Pending => return Ok(()),
            }
        }
        // Over TLS, encrypted bytes may wait for the socket.
        match Pin::new(&mut self.io).poll_flush(cx) {
            Poll::Ready(flushed) => flushed,
            Poll::Pending => Ok(()),
        }
    }

    /// Reads into the receive buffer. Returns the number of bytes read.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let free = self.received.capacity() - self.received.len();
        if free < self.needed.saturating_sub(self.received.len()).max(MIN_FREE) {
            self.received.reserve(self.needed.max(GROWTH));
        }
        pin!(self.io.read_buf(&mut self.received)).poll(cx)
    }

    /// Delivers the complete responses in the receive buffer.
    fn deliver(&mut self) -> Result<(), String> {
        while self.received.len() >= self.needed.max(1) {
            let response = match peek_codec::parse_response(&mut self.received)? {
                Parsed::Partial { needed } => {
                    self.needed = needed;
                    break;
                }
                Parsed::Hit(response) => Some(response),
                Parsed::Miss => None,
            };
            self.needed = 0;
            let peek = self.in_flight.pop_front().ok_or("response without a request")?;
            if let Some(on_reply) = peek.on_reply {
                on_reply(response);
            }
        }
        let overdue = self.in_flight.front().is_some_and(|peek| peek.on_reply.is_none());
        self.overdue.store(overdue, Ordering::Relaxed);
        Ok(())
    }

    /// Ends peeks that have timed out. Ready when the pipeline itself has timed out.
    fn poll_timeouts(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        loop {
            let due = match self.in_flight.iter().find(|peek| peek.on_reply.is_some()) {
                Some(first) => first.since + self.timeouts.peek,
                None => match self.in_flight.front() {
                    Some(late) => late.since + self.timeouts.peer,
                    None => self.last_used + IDLE_TIMEOUT,
                },
            };
            if self.timer.deadline() > due {
                self.timer.as_mut().reset(due);
            }
            ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            if now < due {
                self.timer.as_mut().reset(due);
                continue;
            }
            if self.in_flight.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if now >= self.in_flight[0].since + self.timeouts.peer {
                return Poll::Ready(Err("peer timeout".to_owned()));
            }
            self.overdue.store(true, Ordering::Relaxed);
            self.take_requests(cx);
            for late in self.in_flight.iter_mut().take_while(|peek| now >= peek.since + self.timeouts.peek) {
                late.on_reply = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::oneshot;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    async fn listen() -> (TcpListener, Arc<str>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, address.into())
    }

    fn pipelines(peek: Duration) -> Pipelines {
        Pipelines::new(Connector::to_peers(peek, None), Timeouts { peek, peer: LONG })
    }

    /// Peeks for `path`. Returns the body, `None` for a miss, or an error without a response.
    async fn peek(pipelines: &Pipelines, peer: &Arc<str>, path: &str) -> Result<Option<Bytes>, ()> {
        let (sender, receiver) = oneshot::channel();
        let on_reply =
            Box::new(|response: Option<Response<Bytes>>| drop(sender.send(response.map(Response::into_body))));
        let key = AssetKey::parse(path, 100).unwrap();
        pipelines.send(peer, PeekRequest { key, accepted: Accepted::default(), on_reply });
        receiver.await.map_err(drop)
    }

    /// Reads the head of a request and returns its path.
    async fn read_path(stream: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap().split(' ').nth(1).unwrap().to_owned()
    }

    fn hit(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn peeks_are_sent_before_earlier_ones_are_answered() {
        let (listener, peer) = listen().await;
        let pipelines = pipelines(LONG);
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert_eq!(
                [read_path(&mut stream).await, read_path(&mut stream).await, read_path(&mut stream).await],
                ["/a", "/b", "/c"]
            );
            stream.write_all([hit("a"), peek_codec::MISS.to_owned(), hit("c")].concat().as_bytes()).await.unwrap();
            stream
        };
        let (a, b, c, _stream) = tokio::join!(
            peek(&pipelines, &peer, "/a"),
            peek(&pipelines, &peer, "/b"),
            peek(&pipelines, &peer, "/c"),
            server
        );
        assert_eq!((a, b, c), (Ok(Some("a".into())), Ok(None), Ok(Some("c".into()))));
    }

    #[tokio::test]
    async fn a_late_response_is_discarded() {
        let (listener, peer) = listen().await;
        let pipelines = pipelines(Duration::from_millis(20));
        let accepting = async { listener.accept().await.unwrap().0 };
        let (late, mut stream) = tokio::join!(peek(&pipelines, &peer, "/late"), accepting);
        assert_eq!(late, Err(()));
        assert_eq!(peek(&pipelines, &peer, "/next").await, Err(()), "the pipeline is overdue");
        stream.write_all(hit("late").as_bytes()).await.unwrap();
        // After the late response the pipeline takes peeks again.
        assert_eq!(read_path(&mut stream).await, "/late");
        let server = async {
            assert_eq!(read_path(&mut stream).await, "/now");
            stream.write_all(hit("now").as_bytes()).await.unwrap();
        };
        let client = async {
            loop {
                if let Ok(body) = peek(&pipelines, &peer, "/now").await {
                    return body;
                }
                tokio::task::yield_now().await;
            }
        };
        let (now, ()) = tokio::join!(client, server);
        assert_eq!(now, Some("now".into()));
    }

    #[tokio::test]
    async fn peeks_still_in_the_queue_time_out_too() {
        let (listener, peer) = listen().await;
        let pipelines = pipelines(Duration::from_millis(20));
        let all = futures_util::future::join_all((0..3 * MAX_IN_FLIGHT).map(|i| {
            let (pipelines, peer) = (&pipelines, &peer);
            async move { peek(pipelines, peer, &format!("/{i}")).await }
        }));
        let (answers, stream) = tokio::join!(tokio::time::timeout(LONG / 2, all), listener.accept());
        assert!(answers.expect("the peeks wait until the pipeline ends").iter().all(Result::is_err));
        drop(stream);
    }

    #[tokio::test]
    async fn an_ended_pipeline_is_replaced_after_the_reconnect_delay() {
        let (listener, peer) = listen().await;
        let pipelines = pipelines(LONG);
        let closing = async { drop(listener.accept().await.unwrap()) };
        let (lost, ()) = tokio::join!(peek(&pipelines, &peer, "/a"), closing);
        assert_eq!(lost, Err(()));
        assert_eq!(peek(&pipelines, &peer, "/a").await, Err(()), "before the reconnect delay");
        tokio::time::pause();
        tokio::time::advance(RECONNECT_DELAY).await;
        tokio::time::resume();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_path(&mut stream).await;
            stream.write_all(hit("b").as_bytes()).await.unwrap();
            stream
        };
        let (found, mut stream) = tokio::join!(peek(&pipelines, &peer, "/b"), server);
        assert_eq!(found, Ok(Some("b".into())));
        // An unused pipeline ends.
        tokio::time::pause();
        tokio::time::advance(IDLE_TIMEOUT).await;
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_peer_that_stalls_in_a_response_delays_no_peek_beyond_its_timeout() {
        let (listener, peer) = listen().await;
        let peek_timeout = Duration::from_millis(20);
        let timeouts = Timeouts { peer: Duration::from_millis(60), peek: peek_timeout };
        let pipelines = Pipelines::new(Connector::to_peers(peek_timeout, None), timeouts);
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nbo").await.unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await
        };
        let (nothing, closed) = tokio::join!(peek(&pipelines, &peer, "/a"), server);
        assert_eq!(nothing, Err(()));
        assert!(closed.is_ok(), "the pipeline is closed");
    }
}
