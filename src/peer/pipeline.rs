//! [`Pipelines`]: asking other edges what they have at hand, many questions to a write.
//!
//! A link is a connection over HTTP/1.1 by which questions go out without waiting for
//! the answers to those before (RFC 9112 §9.3.2). That is good only where no answer waits
//! for anything. So each question is a [peek](peek_codec): who gets it answers from memory, or says at
//! once that it does not.
//!
//! Nothing depends on a link. Where there is none, where it is behind, and where anything
//! comes by it that is not as plain as what was asked for, whoever asks is told nothing,
//! and goes the long way.

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
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use crate::body::describe;
use crate::key::AssetKey;
use crate::peer::peek_codec::{self, Came};
use crate::semantics::vary::Accepted;

/// How many questions may wait to go out by a link.
const WAITING: usize = 1024;
/// How many are taken from there at a time.
const TAKEN: usize = 64;
/// How many may be out: what comes back waits in buffers of the system.
const OUT: usize = 256;
/// How much is read at a time: there is room for the least, and for the rest when there has
/// to be more. In bytes.
const LEAST: usize = 4096;
const READ: usize = 32 * 1024;
/// Between two attempts at a link to the same peer.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a link lasts by which nothing is asked: for less than its other end is likely
/// to keep it.
const REST: Duration = Duration::from_secs(30);

/// What becomes of an answer: of a response that the peer has, or of its word that it has
/// none. Dropped, there is no answer.
pub(crate) type Then = Box<dyn FnOnce(Option<Response<Bytes>>) + Send>;

/// What is asked for.
pub(crate) struct Question {
    pub(crate) key: AssetKey,
    pub(crate) accepted: Accepted,
    pub(crate) then: Then,
}

/// How long is waited.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waits {
    /// By whoever asks, for an answer; and for a connection.
    pub(crate) quiet: Duration,
    /// For a peer that says nothing at all any more.
    pub(crate) peer_timeout: Duration,
}

/// The links of an edge.
pub(crate) struct Pipelines {
    open: Mutex<HashMap<Arc<str>, Handle>>,
    waits: Waits,
}

/// A way into a link, which may have ended.
struct Handle {
    questions: mpsc::Sender<Question>,
    since: Instant,
    behind: Arc<AtomicBool>,
}

impl Pipelines {
    pub(crate) fn new(waits: Waits) -> Self {
        Self { open: Mutex::default(), waits }
    }

    /// Asks the edge that listens at `peer`, if there is a link that can take a question.
    pub(crate) fn ask(&self, peer: &Arc<str>, question: Question) {
        // Nothing in a critical section can leave it half changed.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.get(peer).is_none_or(|link| link.questions.is_closed()) {
            // Those that have ended a while ago may be followed by others.
            open.retain(|_, link| !link.questions.is_closed() || link.since.elapsed() < PAUSE);
            open.entry(Arc::clone(peer)).or_insert_with(|| self.begin(peer));
        }
        if let Some(link) = open.get(peer).filter(|link| !link.behind.load(Ordering::Relaxed)) {
            // If too many wait already, or it has just ended, this one does not.
            let _ = link.questions.try_send(question);
        }
    }

    fn begin(&self, peer: &Arc<str>) -> Handle {
        let (questions, asked) = mpsc::channel(WAITING);
        let behind = Arc::new(AtomicBool::new(false));
        tokio::spawn(serve(Arc::clone(peer), asked, Arc::clone(&behind), self.waits));
        Handle { questions, since: Instant::now(), behind }
    }
}

/// A link, from its beginning to its end: who waits then is told nothing.
async fn serve(peer: Arc<str>, questions: mpsc::Receiver<Question>, behind: Arc<AtomicBool>, waits: Waits) {
    let ended = match tokio::time::timeout(waits.quiet, TcpStream::connect(&*peer)).await {
        Ok(Ok(stream)) => {
            let _ = stream.set_nodelay(true);
            let mut link = Pipeline::new(stream, Arc::clone(&peer), questions, behind, waits);
            poll_fn(|cx| link.poll(cx)).await
        }
        Ok(Err(error)) => Err(describe(&error)),
        Err(_) => Err("there was no connection in time".to_owned()),
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "peer link closed");
    }
}

struct Pipeline {
    stream: TcpStream,
    peer: Arc<str>,
    questions: mpsc::Receiver<Question>,
    taking: Taking,
    taken: Vec<Question>,
    /// What is going out.
    out: BytesMut,
    /// Those that are out, in their order.
    asked: VecDeque<Asked>,
    /// What has come, and how much of it there must be at the least before an answer is
    /// whole.
    came: BytesMut,
    wanted: usize,
    behind: Arc<AtomicBool>,
    waits: Waits,
    timer: Pin<Box<Sleep>>,
    used: Instant,
}

/// Questions are let gather: whoever is about to ask, because requests have come by several
/// connections at once, does so before the first of them goes out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taking {
    /// When there is one, others are waited for.
    Waits,
    /// They had their time.
    Takes,
}

struct Asked {
    /// Nothing if the answer took too long, and nobody waits for it any more.
    then: Option<Then>,
    since: Instant,
}

impl Pipeline {
    fn new(
        stream: TcpStream,
        peer: Arc<str>,
        questions: mpsc::Receiver<Question>,
        behind: Arc<AtomicBool>,
        waits: Waits,
    ) -> Self {
        let timer = Box::pin(tokio::time::sleep(waits.quiet));
        Self {
            stream,
            peer,
            questions,
            taking: Taking::Waits,
            taken: Vec::with_capacity(TAKEN),
            out: BytesMut::new(),
            asked: VecDeque::new(),
            came: BytesMut::new(),
            wanted: 0,
            behind,
            waits,
            timer,
            used: Instant::now(),
        }
    }

    /// Ready when it has ended: well, if nobody waits for anything.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        loop {
            self.take_questions(cx);
            self.write(cx).map_err(|error| describe(&error))?;
            match self.poll_read(cx) {
                Poll::Ready(Ok(0)) if self.asked.is_empty() => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(0)) => return Poll::Ready(Err("the peer has closed it".to_owned())),
                Poll::Ready(Ok(_)) => self.answer()?,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(describe(&error))),
                Poll::Pending => return self.poll_patience(cx),
            }
        }
    }

    /// Writes down what is asked.
    fn take_questions(&mut self, cx: &mut Context<'_>) {
        if self.behind.load(Ordering::Relaxed) {
            // Nobody waits for a link that is behind.
            while let Poll::Ready(Some(_)) = self.questions.poll_recv(cx) {}
            return;
        }
        if self.taking == Taking::Waits && !self.questions.is_empty() {
            self.taking = Taking::Takes;
            // It comes to its turn again behind who is ready to run by now.
            return cx.waker().wake_by_ref();
        }
        self.taking = Taking::Waits;
        while self.asked.len() < OUT {
            let room = TAKEN.min(OUT - self.asked.len());
            let Poll::Ready(1..) = self.questions.poll_recv_many(cx, &mut self.taken, room) else { return };
            self.used = Instant::now();
            for Question { key, accepted, then } in self.taken.drain(..) {
                peek_codec::ask(&mut self.out, &self.peer, key.as_str(), accepted);
                self.asked.push_back(Asked { then: Some(then), since: self.used });
            }
        }
    }

    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while !self.out.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.out)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => self.out.advance(written),
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    /// How many bytes have come.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let room = self.came.capacity() - self.came.len();
        if room < self.wanted.saturating_sub(self.came.len()).max(LEAST) {
            self.came.reserve(self.wanted.max(READ));
        }
        pin!(self.stream.read_buf(&mut self.came)).poll(cx)
    }

    /// Hands on what has come whole.
    fn answer(&mut self) -> Result<(), String> {
        while self.came.len() >= self.wanted.max(1) {
            let response = match peek_codec::answer(&mut self.came)? {
                Came::Part { wanted } => {
                    self.wanted = wanted;
                    break;
                }
                Came::Chunks(response) => Some(response),
                Came::Nothing => None,
            };
            self.wanted = 0;
            let asked = self.asked.pop_front().ok_or("an answer that nobody has asked for")?;
            if let Some(then) = asked.then {
                then(response);
            }
        }
        let late = self.asked.front().is_some_and(|asked| asked.then.is_none());
        self.behind.store(late, Ordering::Relaxed);
        Ok(())
    }

    /// Lets go who has waited for too long. Ready when the link has outlived its use.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        loop {
            let due = match self.asked.iter().find(|asked| asked.then.is_some()) {
                Some(first) => first.since + self.waits.quiet,
                None => match self.asked.front() {
                    Some(late) => late.since + self.waits.peer_timeout,
                    None => self.used + REST,
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
            if self.asked.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if now >= self.asked[0].since + self.waits.peer_timeout {
                return Poll::Ready(Err("the peer says nothing".to_owned()));
            }
            self.behind.store(true, Ordering::Relaxed);
            self.take_questions(cx);
            for late in self.asked.iter_mut().take_while(|asked| now >= asked.since + self.waits.quiet) {
                late.then = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;
    use tokio::sync::oneshot;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    async fn listening() -> (TcpListener, Arc<str>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, address.into())
    }

    fn links(quiet: Duration) -> Pipelines {
        Pipelines::new(Waits { peer_timeout: LONG, quiet })
    }

    /// What comes of asking for `path`: the body, nothing, or no answer.
    async fn asked(links: &Pipelines, peer: &Arc<str>, path: &str) -> Result<Option<Bytes>, ()> {
        let (tell, told) = oneshot::channel();
        let then = Box::new(|response: Option<Response<Bytes>>| drop(tell.send(response.map(Response::into_body))));
        links.ask(peer, Question { key: AssetKey::parse(path, 100).unwrap(), accepted: Accepted::default(), then });
        told.await.map_err(drop)
    }

    async fn path(stream: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap().split(' ').nth(1).unwrap().to_owned()
    }

    fn held(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn questions_go_out_before_others_are_answered() {
        let (listener, peer) = listening().await;
        let links = links(LONG);
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert_eq!([path(&mut stream).await, path(&mut stream).await, path(&mut stream).await], ["/a", "/b", "/c"]);
            stream.write_all([held("a"), peek_codec::NOTHING.to_owned(), held("c")].concat().as_bytes()).await.unwrap();
            stream
        };
        let (a, b, c, _stream) =
            tokio::join!(asked(&links, &peer, "/a"), asked(&links, &peer, "/b"), asked(&links, &peer, "/c"), answering);
        assert_eq!((a, b, c), (Ok(Some("a".into())), Ok(None), Ok(Some("c".into()))));
    }

    #[tokio::test]
    async fn an_answer_that_comes_late_is_for_nobody() {
        let (listener, peer) = listening().await;
        let links = links(Duration::from_millis(20));
        let accepting = async { listener.accept().await.unwrap().0 };
        let (late, mut stream) = tokio::join!(asked(&links, &peer, "/late"), accepting);
        assert_eq!(late, Err(()));
        assert_eq!(asked(&links, &peer, "/next").await, Err(()), "the link is behind");
        stream.write_all(held("late").as_bytes()).await.unwrap();
        // When that has come, it is behind no longer.
        assert_eq!(path(&mut stream).await, "/late");
        let answering = async {
            assert_eq!(path(&mut stream).await, "/now");
            stream.write_all(held("now").as_bytes()).await.unwrap();
        };
        let asking = async {
            loop {
                if let Ok(body) = asked(&links, &peer, "/now").await {
                    return body;
                }
                tokio::task::yield_now().await;
            }
        };
        let (now, ()) = tokio::join!(asking, answering);
        assert_eq!(now, Some("now".into()));
    }

    #[tokio::test]
    async fn who_has_not_been_asked_for_is_let_go_too() {
        let (listener, peer) = listening().await;
        let links = links(Duration::from_millis(20));
        let all = futures_util::future::join_all((0..3 * OUT).map(|i| {
            let (links, peer) = (&links, &peer);
            async move { asked(links, peer, &format!("/{i}")).await }
        }));
        let (answers, stream) = tokio::join!(tokio::time::timeout(LONG / 2, all), listener.accept());
        assert!(answers.expect("they wait for the end of the link").iter().all(Result::is_err));
        drop(stream);
    }

    #[tokio::test]
    async fn a_link_that_has_ended_is_followed_by_another_after_a_while() {
        let (listener, peer) = listening().await;
        let links = links(LONG);
        let closing = async { drop(listener.accept().await.unwrap()) };
        let (lost, ()) = tokio::join!(asked(&links, &peer, "/a"), closing);
        assert_eq!(lost, Err(()));
        assert_eq!(asked(&links, &peer, "/a").await, Err(()), "it is too soon");
        tokio::time::pause();
        tokio::time::advance(PAUSE).await;
        tokio::time::resume();
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            path(&mut stream).await;
            stream.write_all(held("b").as_bytes()).await.unwrap();
            stream
        };
        let (found, mut stream) = tokio::join!(asked(&links, &peer, "/b"), answering);
        assert_eq!(found, Ok(Some("b".into())));
        // One that nobody asks by ends.
        tokio::time::pause();
        tokio::time::advance(REST).await;
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_peer_that_falls_silent_in_the_middle_holds_nobody() {
        let (listener, peer) = listening().await;
        let links = Pipelines::new(Waits { peer_timeout: Duration::from_millis(60), quiet: Duration::from_millis(20) });
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nbo").await.unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await
        };
        let (nothing, closed) = tokio::join!(asked(&links, &peer, "/a"), answering);
        assert_eq!(nothing, Err(()));
        assert!(closed.is_ok(), "the link is closed");
    }
}
