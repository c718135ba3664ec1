//! Connections: what comes in by a listener, until it drains.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustix::net::sockopt::set_socket_send_buffer_size;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::bytes;
use super::fast_path::FastPath;
use super::interspersed::Interspersed;
use super::lasting::Watch;
use super::listening::Listener;
use crate::accepting::{Spell, accepted};
use crate::access::{Access, Details, Record, Watched};
use crate::body::{Body, describe};
use crate::clients::{Clients, Counted};
use crate::config::LimitsConfig;
use crate::edge::{Edge, NotAtOnce, Peeked, Plainly};
use crate::error::Error;
use crate::interim::Interim;
use crate::key::AssetKey;
use crate::metrics::Source;
use crate::patient::Patient;
use crate::requests::{News, Requests, Stream, UnderWay, Way};
use crate::semantics::forward::{ADDED_FIELDS, MOST_FIELDS};
use crate::tunnel::Tunnel;

/// How long an idle connection over HTTP/1 is still open when the edge drains: a
/// request that is on its way then is answered, with the word that it is the last.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// A listener at work.
pub(super) struct Accepting {
    phase: watch::Sender<Phase>,
    open: Arc<Open>,
    pub(super) task: JoinHandle<()>,
}

impl Accepting {
    /// Begins to accept.
    pub(super) fn begin(
        listener: Listener,
        source: Source,
        edge: &Arc<Edge>,
        access: &Arc<Access>,
        limits: &Arc<LimitsConfig>,
        tasks: &Watch,
    ) -> Self {
        let (edge, access, limits) = (Arc::clone(edge), Arc::clone(access), Arc::clone(limits));
        let (phase, watched) = watch::channel(Phase::Serving);
        let serve = Serve { edge, access, limits, source, phase: watched, clients: Clients::default() };
        let open = Arc::new(Open::default());
        let task = tokio::spawn(tasks.over(source.listener(), serve.accept(listener, Arc::clone(&open))));
        Self { phase, open, task }
    }

    /// Lets nobody new in; returns who is in.
    pub(super) async fn drain(self) -> JoinSet<()> {
        self.phase.send_replace(Phase::Draining);
        // It ends at once: it is told by that, or has ended before.
        let _ = self.task.await;
        std::mem::take(&mut *self.open.lock())
    }
}

/// The connections that are open. They do not end with the task that accepts them.
#[derive(Default)]
struct Open(Mutex<JoinSet<()>>);

impl Open {
    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when one has ended, to `None` if there is none.
    async fn next_to_end(&self) -> Option<()> {
        poll_fn(|cx| self.lock().poll_join_next(cx)).await.map(drop)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    Draining,
}

/// Resolves when the server drains, or is gone.
async fn draining(phase: &mut watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase == Phase::Draining).await;
}

/// What the requests of one connection share.
struct Client {
    address: IpAddr,
    /// What it is sent before final responses.
    interim: Interim,
    requests: Requests,
    /// Where the connection leads once it is HTTP no more; the request that led there
    /// goes on for as long.
    tunnel: Mutex<Option<(Tunnel, UnderWay)>>,
    source: Source,
    multiplexed: AtomicBool,
    /// Whether a request has led it to a tunnel: what comes from then on is no HTTP.
    led_elsewhere: AtomicBool,
}

impl Client {
    fn speaks(&self, version: Version) {
        if version == Version::HTTP_2 {
            self.multiplexed.store(true, Ordering::Relaxed);
        }
    }

    /// Whether closing the connection while it is idle could cross a request. HTTP/2
    /// says first which requests it has not seen, and peers ask again.
    fn lingers(&self) -> bool {
        self.source == Source::Client && !self.multiplexed.load(Ordering::Relaxed)
    }

    fn lead_to(&self, tunnel: Tunnel) {
        self.led_elsewhere.store(true, Ordering::Relaxed);
        *self.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some((tunnel, self.requests.begin()));
    }

    fn take_tunnel(&self) -> Option<(Tunnel, UnderWay)> {
        self.tunnel.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// One listener's loop, and what its connections need.
#[derive(Clone)]
struct Serve {
    edge: Arc<Edge>,
    access: Arc<Access>,
    limits: Arc<LimitsConfig>,
    source: Source,
    phase: watch::Receiver<Phase>,
    clients: Clients,
}

/// A connection that may be served.
enum Admitted {
    /// It counts for its client.
    Counted { _until_dropped: Counted },
    /// It is a peer's, or a proxy's that speaks for many clients.
    Uncounted,
}

impl Serve {
    /// Accepts until the server drains.
    async fn accept(mut self, listener: Listener, open: Arc<Open>) {
        let (mut failing, mut full) = (Spell::default(), Spell::default());
        loop {
            let came = tokio::select! {
                came = listener.accept() => came,
                Some(()) = open.next_to_end() => continue,
                () = draining(&mut self.phase) => break,
            };
            if let Some((stream, client)) = accepted(self.source.listener(), came, &mut failing).await {
                self.admit(&mut open.lock(), &mut full, stream, client.ip());
            }
        }
        for (stream, client) in listener.close(self.limits.connections) {
            self.admit(&mut open.lock(), &mut full, stream, client.ip());
        }
    }

    fn admit(&self, open: &mut JoinSet<()>, full: &mut Spell, stream: TcpStream, client: IpAddr) {
        // A listener on `[::]` has IPv4 addresses mapped into IPv6.
        let client = client.to_canonical();
        let (listener, most) = (self.source.listener(), self.limits.connections);
        if open.len() >= most {
            if full.begins() {
                tracing::warn!(listener, connections = most, "limits.connections reached, rejecting connections");
            }
            return self.access.metrics.refused_connection();
        }
        // Where one goes and the next takes its place, it is not over.
        if open.len() < most - most / 16 && full.ends() {
            tracing::info!(listener, "below limits.connections again, accepting connections");
        }
        let Some(admitted) = self.admit_of(client) else {
            let limit = self.limits.most_per_client();
            tracing::warn!(listener, %client, limit, "connection limit of one client reached, rejecting its connections");
            return self.access.metrics.refused_client_connection();
        };
        let connection = self.clone().connection(stream, client);
        open.spawn(async move {
            connection.await;
            drop(admitted);
        });
    }

    /// Decides whether a connection from `address` counts for its client, and whether it
    /// may be one more; `None` if not. The one place for exceptions.
    fn admit_of(&self, address: IpAddr) -> Option<Admitted> {
        let client = match self.source {
            Source::Peer => None,
            Source::Client => self.edge.counted_client(address),
        };
        let Some(client) = client else {
            return Some(Admitted::Uncounted);
        };
        let counted = self.clients.count(client, self.limits.most_per_client())?;
        Some(Admitted::Counted { _until_dropped: counted })
    }

    /// Serves one connection to its end, which may be that of a tunnel: what
    /// holds for connections (their number, the drain) holds for it too.
    async fn connection(self, stream: TcpStream, address: IpAddr) {
        let _open = self.access.metrics.connected(self.source);
        // A hit is one write; waiting to fill a segment would only delay it.
        let _ = stream.set_nodelay(true);
        if self.limits.send_buffer.0 > 0 {
            // Without it, the system's own size holds.
            let _ = set_socket_send_buffer_size(&stream, bytes(self.limits.send_buffer));
        }
        let interim = Interim::new(self.edge.via().clone());
        let client = Client {
            address,
            interim,
            requests: Requests::default(),
            tunnel: Mutex::default(),
            source: self.source,
            multiplexed: AtomicBool::new(false),
            led_elsewhere: AtomicBool::new(false),
        };
        let serving = Arc::new(Serving { serve: self, client });
        let tunnel_timeout = serving.serve.limits.tunnel_timeout.0;
        let ended = match (speak_http(stream, &serving).await, serving.client.take_tunnel()) {
            (Ok(()), Some((tunnel, _under_way))) => tunnel.carry(tunnel_timeout).await,
            (ended, _) => ended,
        };
        if serving.client.requests.have_stalled() {
            serving.serve.access.metrics.stalled_connection();
        }
        if serving.client.requests.have_flooded() {
            let (listener, limit) = (serving.serve.source.listener(), serving.serve.limits.control_frames);
            tracing::warn!(listener, client = %address, limit, "HTTP/2 control frame limit reached, closing the connection");
            serving.serve.access.metrics.flooded_connection();
        }
        if let Err(error) = ended {
            tracing::debug!(client = %address, %error, "connection failed");
        }
    }
}

/// The answer that an owner may have at hand: the lines of its fields, and its body.
pub(super) type Peek = BoxFuture<'static, Option<(Vec<u8>, Watched)>>;

/// What serves one connection.
pub(super) struct Serving {
    serve: Serve,
    client: Client,
}

impl Serving {
    pub(super) fn requests(&self) -> &Requests {
        &self.client.requests
    }

    pub(super) fn is_draining(&self) -> bool {
        *self.serve.phase.borrow() == Phase::Draining
    }

    /// Returns true if the connection is a tunnel, or about to be one.
    pub(super) fn leads_elsewhere(&self) -> bool {
        self.client.led_elsewhere.load(Ordering::Relaxed)
    }

    /// Whether peers ask here, who may peek.
    pub(super) fn answers_peeks(&self) -> bool {
        self.serve.source == Source::Peer
    }

    /// See [`Edge::answer_at_once`].
    pub(super) fn answer_at_once(&self, ask: &Plainly<'_>, head: &mut Vec<u8>) -> Result<Watched, NotAtOnce> {
        let began = Instant::now();
        let (source, connection) = (self.serve.source, self.client.address);
        let (body, record, client) = self.serve.edge.answer_at_once(source, connection, ask, head)?;
        let details = self.details(ask);
        Ok(self.watch(client, (record, details), body, began, Way::connection(self.client.requests.begin())))
    }

    /// See [`Edge::peek_plainly`].
    pub(super) fn peek(this: &Arc<Self>, key: AssetKey, client: IpAddr, ask: &Plainly<'_>) -> Option<Peek> {
        if this.serve.source == Source::Peer {
            return None;
        }
        let began = Instant::now();
        let peeked = this.serve.edge.peek_plainly(key, ask.accepted)?;
        let (serving, under_way, details) = (Arc::clone(this), this.client.requests.begin(), this.details(ask));
        Some(Box::pin(async move {
            let Peeked { lines, body, record } = peeked.await?;
            Some((lines, serving.watch(client, (record, details), body, began, Way::connection(under_way))))
        }))
    }

    fn watch(
        &self,
        client: IpAddr,
        record: (Record, Option<Box<Details>>),
        body: Body,
        began: Instant,
        way: Way,
    ) -> Watched {
        self.serve.access.watch_body(client, record, StatusCode::OK, body, began, way)
    }

    /// The parts of a plain request that its line tells, if lines are written.
    fn details(&self, ask: &Plainly<'_>) -> Option<Box<Details>> {
        self.serve.access.lines.as_ref()?;
        Some(Box::new(Details::new(Version::HTTP_11, [Some(ask.host), ask.user_agent, ask.request_id])))
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Watched>, Infallible> {
        let Self { serve, client } = self;
        let (began, under_way) = (Instant::now(), client.requests.begin());
        let requester = serve.edge.requester(serve.source, client.address, request.headers());
        let address = requester.client;
        let unanswered = serve.access.expect(address, serve.source, &request, began);
        let version = request.version();
        client.speaks(version);
        let has_content = !request.body().is_end_stream();
        let (patience, rate) = (serve.limits.body_timeout.0, serve.limits.body_rate.0);
        let request = request.map(|body| Body::received(body, Some(patience), Error::ClientBroke).no_slower_than(rate));
        let request = if has_content { request.map(|body| self.count_content(body)) } else { request };
        // HTTP/1.0 knows no interim responses, and over HTTP/2 there is no way for them.
        let relay = (version == Version::HTTP_11).then(|| client.interim.open());
        let mut answer = serve.edge.respond(serve.source, requester, relay.clone(), request).await;
        if let Some(relay) = relay {
            relay.close().await;
        }
        if has_content {
            // If nobody has read it, hyper has a look: it reads away what is there, or says
            // with the answer that the connection ends.
            tokio::task::yield_now().await;
        }
        if let Some(tunnel) = answer.response.extensions_mut().remove::<Tunnel>() {
            client.lead_to(tunnel);
        }
        let switches = answer.response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if version != Version::HTTP_2 && !switches && self.is_draining() {
            answer.response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let may_be_unframed = version == Version::HTTP_10 || answer.response.version() == Version::HTTP_10;
        if may_be_unframed && version != Version::HTTP_2 && is_of_unknown_length(&answer.response) {
            client.requests.end_with_connection();
        }
        let details = unanswered.answered();
        let way = if version == Version::HTTP_2 {
            let stream = Stream::new(under_way);
            client.requests.watch(&stream);
            Way::Stream(stream)
        } else {
            Way::connection(under_way)
        };
        Ok(serve.access.watch(address, (answer.record, details), answer.response, began, way))
    }
}

impl Serving {
    fn count_content(&self, content: Body) -> Body {
        let (metrics, source) = (Arc::clone(&self.serve.access.metrics), self.serve.source);
        content.counted(move |bytes| metrics.received(source, bytes))
    }
}

/// Speaks HTTP until the connection ends, or leads elsewhere.
async fn speak_http(stream: TcpStream, serving: &Arc<Serving>) -> Result<(), String> {
    let Serving { serve, client } = &**serving;
    let (mut phase, access) = (serve.phase.clone(), &serve.access);
    let patient = Patient::new(stream, &serve.limits, client.requests.clone(), serve.edge.splicing());
    let mut fast = FastPath::new(patient, Arc::clone(serving));
    // Most connections never need more.
    tokio::select! {
        biased;
        hits = poll_fn(|cx| fast.poll_hits(cx)) => {
            hits.map_err(|error| describe(&error))?;
            if fast.is_empty() {
                return Ok(());
            }
            if fast.has_tls_handshake() {
                let listener = serve.source.listener();
                tracing::warn!(listener, client = %client.address, "TLS spoken to the cleartext port");
            }
        }
        () = draining(&mut phase) => poll_fn(|cx| fast.poll_answer(cx)).await.map_err(|error| describe(&error))?,
    }
    let io = TokioIo::new(Interspersed::new(fast, client.interim.clone()));
    let builder = builder(&serve.limits, serve.source);
    let service = {
        let serving = Arc::clone(serving);
        service_fn(move |request| {
            let serving = Arc::clone(&serving);
            async move { serving.answer(request).await }
        })
    };
    let mut connection = std::pin::pin!(builder.serve_connection_with_upgrades(io, service));
    let ended = |ended: Result<(), Box<dyn StdError + Send + Sync>>| {
        ended.map_err(|error| {
            let text = describe(&*error);
            // It has been answered with 400, 414 or 431, before it was a request.
            if error.downcast_ref().is_some_and(hyper::Error::is_parse) {
                access.metrics.malformed_request();
                tracing::debug!(client = %client.address, error = %text, "malformed request rejected");
            }
            text
        })
    };
    let patience = serve.limits.send_timeout.0;
    let in_time = || tokio::time::Instant::now() + patience;
    // In this order, and not in one that is drawn each time: a hit is worth it.
    let (lingers, mut last) = tokio::select! {
        biased;
        end = connection.as_mut() => return ended(end),
        () = draining(&mut phase) => (client.lingers(), None),
        news = client.requests.news(patience) => match news {
            News::Stalled => return stalled(client),
            News::Stalls => (false, Some(in_time())),
            News::Idle => (false, None),
        },
    };
    if lingers {
        tokio::select! {
            end = connection.as_mut() => return ended(end),
            () = tokio::time::sleep(LINGER) => {}
        }
    }
    connection.as_mut().graceful_shutdown();
    loop {
        tokio::select! {
            end = connection.as_mut() => return ended(end),
            news = client.requests.news(patience) => match news {
                News::Stalled => return stalled(client),
                // The others have as long to be taken as one that is not.
                News::Stalls if last.is_some_and(|last| last < tokio::time::Instant::now()) => return stalled(client),
                News::Stalls => last = last.or_else(|| Some(in_time())),
                News::Idle => {}
            },
        }
    }
}

fn is_of_unknown_length(response: &Response<Body>) -> bool {
    !response.headers().contains_key(CONTENT_LENGTH) && response.body().size_hint().exact().is_none()
}

fn stalled(client: &Client) -> Result<(), String> {
    client.requests.stall();
    Err("the client took nothing of what it asked for".to_owned())
}

fn builder(limits: &LimitsConfig, source: Source) -> auto::Builder<TokioExecutor> {
    // Somewhat above the limits themselves: the edge's own words about a request
    // that is beyond them say more than hyper's.
    let header = bytes(limits.header).saturating_mul(2).saturating_add(bytes(limits.uri));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        // Patient has an eye on it: hyper would set a timer for each request.
        .header_read_timeout(None)
        .max_buf_size(header)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(header).unwrap_or(u32::MAX))
        .max_send_buf_size(256 * 1024)
        .keep_alive_interval(limits.header_timeout.0)
        .keep_alive_timeout(limits.send_timeout.0);
    // Clients may send as many as hyper takes by default.
    if source == Source::Peer {
        builder.http1().max_headers(MOST_FIELDS + ADDED_FIELDS);
    }
    builder
}
