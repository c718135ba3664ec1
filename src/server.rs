//! Listeners and connections: an [`Edge`] as a server.

use std::convert::Infallible;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};
use tracing_appender::non_blocking::NonBlocking;

use crate::access::{Access, Format, Handed, Watched};
use crate::admin::{self, Readiness};
use crate::body::{Body, describe};
use crate::cluster::discovery::{Discovery, Finding, Settings};
use crate::cluster::membership::{Membership, State};
use crate::cluster::peer::Peers;
use crate::config::{ClusterConfig, Config, LimitsConfig, Size};
use crate::edge::{Edge, Limits, Parts, Policy};
use crate::error::{Error, StartError};
use crate::gossip::{Ear, Gossip, Intent};
use crate::interim::Interim;
use crate::metrics::{Fetched, Metrics, Source};
use crate::origin::http_origin::HttpOrigin;
use crate::origin::{Bounded, Origin};
use crate::outgoing::Patience;
use crate::tunnel::Tunnel;

mod interspersed;
mod listening;
mod patient;

use interspersed::Interspersed;
use listening::{Inherited, Listener};
use patient::Patient;

/// How long an idle connection over HTTP/1 is still open when the edge drains: a
/// request that is on its way then is answered, with the word that it is the last.
const LINGER: Duration = Duration::from_secs(1);

/// An edge that has its listeners, and serves as soon as it is [run](Server::run).
pub struct Server {
    edge: Arc<Edge>,
    access: Arc<Access>,
    config: Config,
    clients: Listener,
    peers: Option<Listener>,
    gossip: Option<(Gossip, Ear)>,
    discovery: Option<Discovery>,
    admin: Listener,
    addresses: Addresses,
    start: Start,
}

/// How an edge starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// Ready as soon as it has met its peers.
    Cold,
    /// Ready when it has what is wanted most.
    Warm,
}

/// Where a [`Server`] listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// For clients.
    pub clients: SocketAddr,
    /// For peers.
    pub peers: Option<SocketAddr>,
    /// For operators.
    pub admin: SocketAddr,
}

impl Server {
    /// An edge in front of the HTTP origin that `config` names.
    ///
    /// # Errors
    /// [`StartError`], with the key that is to blame.
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        Self::bind_on(config, Vec::new()).await
    }

    /// As [`bind`](Self::bind), with listening sockets that are open already: each
    /// takes the place of the one that the configuration has at its address. What
    /// connects to them while no edge runs waits, and edges that overlap share them,
    /// so that a restart refuses nobody.
    ///
    /// # Errors
    /// [`StartError`]; also for a socket at an address where this edge does not listen.
    pub async fn bind_on(config: Config, sockets: Vec<std::net::TcpListener>) -> Result<Self, StartError> {
        let origin = http_origin(&config)?;
        Self::assemble(config, Box::new(origin), Inherited::new(sockets)).await
    }

    /// An edge in front of any [`Origin`], such as a closure. Of `[origin]`, the
    /// `first_byte_timeout` and the number of `requests` hold for it too.
    ///
    /// # Errors
    /// [`StartError`], with the key that is to blame.
    pub async fn bind_with(config: Config, origin: impl Origin) -> Result<Self, StartError> {
        let bounded = Bounded::new(origin, config.origin.first_byte_timeout.0, config.origin.requests);
        Self::assemble(config, Box::new(bounded), Inherited::default()).await
    }

    async fn assemble(config: Config, origin: Box<dyn Origin>, mut inherited: Inherited) -> Result<Self, StartError> {
        config.check().map_err(StartError::Config)?;
        let clients = inherited.listen("edge.listen", config.edge.listen).await?;
        let (peers, ear) = match &config.cluster {
            Some(cluster) => {
                let (listener, ear) = inherited.listen_to_peers(cluster).await?;
                (Some(listener), ear)
            }
            None => (None, None),
        };
        // The last of them: who reaches it may take the others for listening.
        let admin = inherited.listen("admin.listen", config.admin.listen).await?;
        inherited.check_nothing_is_left()?;
        let addresses = Addresses {
            clients: clients.address,
            admin: admin.address,
            peers: peers.as_ref().map(|listener| listener.address),
        };
        let membership = Arc::new(membership(&config, addresses.peers));
        let metrics = Arc::new(Metrics::default());
        let gossip = ear.zip(config.cluster.as_ref()).map(|(ear, cluster)| {
            let (membership, metrics) = (Arc::clone(&membership), Arc::clone(&metrics));
            (Gossip::new(cluster, &config.edge.name, random(), membership, metrics), ear)
        });
        let discovery = discovery(&config, membership.own())?;
        let edge = Edge::new(Parts {
            name: config.edge.name.clone(),
            limits: Limits {
                uri: bytes(config.limits.uri),
                header: bytes(config.limits.header),
                body: config.limits.body.0,
            },
            loop_id: loop_id(),
            plan: config.plan(),
            policy: policy(&config)?,
            origin,
            peers: peers_client(&config),
            attempts: config.cluster.as_ref().map_or(1, |cluster| cluster.attempts),
            warm_keys: config.cluster.as_ref().map_or(0, |cluster| cluster.warm_keys),
            membership: Arc::clone(&membership),
            metrics: Arc::clone(&metrics),
        });
        let access = Access { edge: config.edge.name.clone(), membership, metrics, lines: None };
        Ok(Self {
            edge,
            access: Arc::new(access),
            config,
            clients,
            peers,
            gossip,
            discovery,
            admin,
            addresses,
            start: Start::Cold,
        })
    }

    /// Writes a line for each request.
    pub(crate) fn log_to(&mut self, format: Format, out: NonBlocking) {
        let Access { edge, membership, metrics, .. } = &*self.access;
        metrics.count_lost_lines(out.error_counter());
        self.access = Arc::new(Access {
            edge: edge.clone(),
            membership: Arc::clone(membership),
            metrics: Arc::clone(metrics),
            lines: Some((format, out)),
        });
    }

    /// Before it reports ready, the edge pulls what it owns, and peers hold, the
    /// most wanted first: `cluster.warm_keys` of them in `cluster.warm_time`.
    pub fn start_warm(&mut self) {
        self.start = Start::Warm;
    }

    /// Where it listens; the ports are known even if the configuration says 0.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The edge itself.
    pub fn edge(&self) -> &Arc<Edge> {
        &self.edge
    }

    /// A handle by which the configuration is changed while the edge runs.
    pub fn reloading(&self) -> Reloading {
        Reloading { edge: Arc::clone(&self.edge), running: self.config.clone() }
    }

    /// Serves until `shutdown` resolves, then lets what is under way end, for
    /// `edge.drain` at most. Returns how many connections it had to cut short.
    ///
    /// That it drains it tells its peers first. They can go on asking it until
    /// they have heard, and nobody's request is under way any more.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> usize {
        let Self { edge, access, config, clients, peers, gossip, discovery, admin, start, .. } = self;
        let limits = Arc::new(config.limits.clone());
        let accept = |listener, source| {
            let (edge, access, limits) = (Arc::clone(&edge), Arc::clone(&access), Arc::clone(&limits));
            let (phase, watched) = watch::channel(Phase::Serving);
            let serve = Serve { edge, access, limits, source, phase: watched };
            Accepting { phase, task: tokio::spawn(serve.accept(listener)) }
        };
        let clients = accept(clients, Source::Client);
        let peers = peers.map(|listener| accept(listener, Source::Peer));
        let (intent, intended) = watch::channel(Intent::Serve);
        let discovery = discovery.map(|discovery| {
            let tell = follow_finding(&access, config.cluster.as_ref());
            tokio::spawn(discovery.run(tell, leaving(intended.clone())))
        });
        let gossip = gossip.map(|(gossip, ear)| tokio::spawn(gossip.run(ear, intended)));
        let readiness = Arc::new(Readiness::default());
        let care = tokio::spawn(Arc::clone(&edge).look_after_peers());
        if start == Start::Warm {
            let patience = config.cluster.as_ref().map_or(Duration::ZERO, |cluster| cluster.warm_time.0);
            let (edge, readiness) = (Arc::clone(&edge), Arc::clone(&readiness));
            readiness.begin_warming();
            tokio::spawn(async move {
                edge.warm_up(patience).await;
                readiness.end_warming();
            });
        }
        let shared = admin.is_shared();
        let operators = tokio::spawn(admin::serve(admin.into_socket(), Arc::clone(&edge), Arc::clone(&readiness)));
        shutdown.await;
        let deadline = tokio::time::Instant::now() + config.edge.drain.0;
        intent.send_replace(Intent::Drain);
        readiness.drain();
        if shared {
            // Whoever takes over speaks for itself.
            operators.abort();
        }
        let mut open = vec![clients.drain().await];
        let _ = tokio::time::timeout_at(deadline, all_end(&mut open)).await;
        if let Some(peers) = peers {
            let told = told_within(&config, edge.membership());
            let _ = tokio::time::timeout_at(deadline, tokio::time::sleep(told)).await;
            open.push(peers.drain().await);
            // Those that are idle end at once; they are not to be cut short
            // because clients took all of the time.
            let deadline = deadline.max(tokio::time::Instant::now() + told);
            let _ = tokio::time::timeout_at(deadline, all_end(&mut open)).await;
        }
        intent.send_replace(Intent::Leave);
        for task in gossip.into_iter().chain(discovery) {
            let _ = task.await;
        }
        operators.abort();
        care.abort();
        // What is left is cut short when the sets are dropped.
        open.iter().map(JoinSet::len).sum()
    }
}

/// A listener at work.
struct Accepting {
    phase: watch::Sender<Phase>,
    task: JoinHandle<JoinSet<()>>,
}

impl Accepting {
    /// Lets nobody new in; returns who is in.
    async fn drain(self) -> JoinSet<()> {
        self.phase.send_replace(Phase::Draining);
        // It ends at once: it is told by that.
        self.task.await.unwrap_or_default()
    }
}

async fn all_end(open: &mut [JoinSet<()>]) {
    for connections in open {
        while connections.join_next().await.is_some() {}
    }
}

/// How long it takes until all have heard that this edge drains, if there is
/// anybody to hear it: it is told several times meanwhile.
fn told_within(config: &Config, membership: &Membership) -> Duration {
    let own = membership.own();
    let others = membership.view().members().iter().any(|member| member.address != *own && member.state != State::Down);
    let told = config.cluster.as_ref().filter(|cluster| cluster.gossip && others);
    told.map_or(Duration::ZERO, |cluster| cluster.probe_interval.0)
}

/// Changes what can change without a restart.
pub struct Reloading {
    edge: Arc<Edge>,
    running: Config,
}

impl Reloading {
    /// Takes over the origin, the peers, the rules and the cache's times from
    /// `config`. Returns the keys whose change needs a restart.
    ///
    /// # Errors
    /// [`StartError`]; the edge then goes on as it was.
    pub fn reload(&mut self, config: Config) -> Result<Vec<&'static str>, StartError> {
        config.check().map_err(StartError::Config)?;
        let policy = policy(&config)?;
        if config.origin != self.running.origin {
            self.edge.set_origin(Box::new(http_origin(&config)?));
        }
        self.edge.set_policy(policy);
        let (old, new) = (&self.running, &config);
        let discovers = |config: &Config| config.cluster.as_ref().is_some_and(|cluster| cluster.discover.is_some());
        // What was found stays, and what is to be found is after a restart.
        if let Some(cluster) = new.cluster.as_ref().filter(|_| !discovers(old) && !discovers(new)) {
            self.edge.membership().replace(cluster.peers.iter().map(String::as_str));
        }
        let listener = |config: &Config| {
            config.cluster.as_ref().map(|cluster| {
                let waits = (cluster.connect_timeout, cluster.first_byte_timeout, cluster.idle_timeout);
                let gossip = (cluster.gossip, cluster.secret.clone());
                let probes = (cluster.probe_interval, cluster.probe_timeout, cluster.suspicion);
                let found = (cluster.discover.clone(), cluster.refresh, cluster.nameserver.clone(), cluster.lease);
                let warm = (cluster.warm_window, cluster.warm_time, cluster.warm_keys);
                (cluster.listen, cluster.advertise.clone(), cluster.attempts, waits, gossip, probes, warm, found)
            })
        };
        let sizes = |config: &Config| {
            let cache = &config.cache;
            (cache.memory, cache.hot_share, cache.flight_share, cache.max_object)
        };
        let changed = [
            ("[edge]", old.edge != new.edge),
            ("[cluster]", listener(old) != listener(new)),
            ("[admin]", old.admin != new.admin),
            ("[limits]", old.limits != new.limits),
            ("[log]", old.log != new.log),
            ("[cache] sizes", sizes(old) != sizes(new)),
        ];
        let restart = changed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect();
        // The rest is what the process was started with, until it is restarted.
        self.running.origin = config.origin;
        Ok(restart)
    }
}

fn policy(config: &Config) -> Result<Policy, StartError> {
    Ok(Policy {
        rules: config.rules().map_err(StartError::Config)?,
        queries: config.queries().map_err(StartError::Config)?,
        heuristic: config.cache.heuristic.0,
        verify_first: config.cache.verify_first.0,
        wrong: config.cache.wrong.0,
        negative: config.cache.negative.0,
        hit_for_miss: config.cache.hit_for_miss.0,
        fill_alone: config.cache.fill_alone.0,
        variants: config.cache.variants,
    })
}

fn http_origin(config: &Config) -> Result<HttpOrigin, StartError> {
    let origin = &config.origin;
    let patience = Patience { connect: origin.connect_timeout.0, idle: origin.idle_timeout.0 };
    HttpOrigin::new(&origin.url, patience, origin.first_byte_timeout.0, origin.requests)
        .map_err(|error| StartError::Config(format!("origin.url: {error}")))
}

fn peers_client(config: &Config) -> Peers {
    let cluster = config.cluster.clone().unwrap_or_default();
    if config.cluster.is_some() && cluster.first_byte_timeout.0 <= config.origin.first_byte_timeout.0 {
        tracing::warn!(
            "cluster.first_byte_timeout is not above origin.first_byte_timeout: a slow origin will pass for a dead peer"
        );
    }
    let patience = Patience { connect: cluster.connect_timeout.0, idle: cluster.idle_timeout.0 };
    Peers::new(patience, cluster.first_byte_timeout.0)
}

/// A name for CDN-Loop that no other process has.
fn loop_id() -> HeaderValue {
    HeaderValue::try_from(format!("peerage-{:016x}", random())).unwrap_or_else(|_| HeaderValue::from_static("peerage"))
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn membership(config: &Config, listening: Option<SocketAddr>) -> Membership {
    let (Some(cluster), Some(listening)) = (&config.cluster, listening) else {
        return Membership::alone();
    };
    let own = cluster.own(listening);
    if cluster.discover.is_some() {
        return Membership::seeking(&own).remembering(cluster.warm_window.0);
    }
    warn_if_guest(cluster, &own, &cluster.peers);
    Membership::new(&own, cluster.peers.iter().map(String::as_str)).remembering(cluster.warm_window.0)
}

fn warn_if_guest(cluster: &ClusterConfig, own: &str, list: &[String]) {
    let joins = cluster.gossip && cluster.secret.is_some();
    if !list.is_empty() && !list.iter().any(|name| name == own) && !joins {
        tracing::warn!(%own, "this edge is not on the list of members: it answers peers, but owns nothing");
    }
}

/// What follows `cluster.discover`, if that is set.
pub(crate) fn discovery(config: &Config, own: &str) -> Result<Option<Discovery>, StartError> {
    let Some(cluster) = &config.cluster else {
        return Ok(None);
    };
    let source = cluster.source().map_err(StartError::Config)?;
    let nameserver = cluster.nameserver().map_err(StartError::Config)?;
    let settings = Settings {
        refresh: cluster.refresh.0,
        nameserver,
        lease: cluster.lease.0,
        connect: cluster.connect_timeout.0,
        own: own.into(),
        edge: config.edge.name.clone(),
    };
    Ok(source.map(|source| Discovery::new(source, settings)))
}

/// Has a finding counted, and a list taken.
fn follow_finding(access: &Access, cluster: Option<&ClusterConfig>) -> impl FnMut(Finding<'_>) + Send + use<> {
    let (membership, metrics) = (Arc::clone(&access.membership), Arc::clone(&access.metrics));
    let cluster = cluster.cloned().unwrap_or_default();
    move |finding| match finding {
        Finding::Changed(list) => {
            metrics.discovery(Fetched::Ok);
            warn_if_guest(&cluster, membership.own(), list);
            membership.replace(list.iter().map(String::as_str));
        }
        Finding::Same => metrics.discovery(Fetched::Ok),
        Finding::Failed => {
            metrics.discovery(Fetched::Error);
            membership.make_do();
        }
    }
}

/// Resolves when the edge leaves, or whoever would say so is gone.
async fn leaving(mut intended: watch::Receiver<Intent>) {
    let _ = intended.wait_for(|intent| *intent == Intent::Leave).await;
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
    /// Told when one of its streams is not taken.
    stalled: Arc<Notify>,
    /// Where the connection leads once it is HTTP no more.
    tunnel: Mutex<Option<Tunnel>>,
    source: Source,
    multiplexed: AtomicBool,
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
        *self.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(tunnel);
    }

    fn take_tunnel(&self) -> Option<Tunnel> {
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
}

impl Serve {
    /// Accepts until the server drains; returns what is open then.
    async fn accept(mut self, listener: Listener) -> JoinSet<()> {
        let mut open = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = open.join_next() => continue,
                () = draining(&mut self.phase) => break,
            };
            match accepted {
                Ok((stream, client)) => self.admit(&mut open, stream, client.ip()),
                Err(error) => {
                    // Out of file handles, or the like: what is open goes on,
                    // and a pause keeps this loop from spinning.
                    tracing::error!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        for (stream, client) in listener.close().await {
            self.admit(&mut open, stream, client.ip());
        }
        open
    }

    fn admit(&self, open: &mut JoinSet<()>, stream: TcpStream, client: IpAddr) {
        if open.len() >= self.limits.connections {
            return self.access.metrics.refused_connection();
        }
        open.spawn(self.clone().connection(stream, client));
    }

    /// Serves one connection to its end, which may be that of a tunnel: what
    /// holds for connections (their number, the drain) holds for it too.
    async fn connection(self, stream: TcpStream, address: IpAddr) {
        // A hit is one write; waiting to fill a segment would only delay it.
        let _ = stream.set_nodelay(true);
        let interim = Interim::new(self.edge.via().clone());
        let client = Arc::new(Client {
            address,
            interim,
            stalled: Arc::default(),
            tunnel: Mutex::default(),
            source: self.source,
            multiplexed: AtomicBool::new(false),
        });
        let tunnel_timeout = self.limits.tunnel_timeout.0;
        let ended = match (self.speak_http(stream, &client).await, client.take_tunnel()) {
            (Ok(()), Some(tunnel)) => tunnel.carry(tunnel_timeout).await,
            (ended, _) => ended,
        };
        if let Err(error) = ended {
            tracing::debug!(client = %address, %error, "a connection ended badly");
        }
    }

    async fn speak_http(self, stream: TcpStream, client: &Arc<Client>) -> Result<(), String> {
        let io = TokioIo::new(Interspersed::new(Patient::new(stream, &self.limits), client.interim.clone()));
        let builder = builder(&self.limits);
        let (mut phase, access) = (self.phase.clone(), Arc::clone(&self.access));
        let serve = Arc::new((self, Arc::clone(client)));
        let service = service_fn(move |request| {
            let serve = Arc::clone(&serve);
            async move { serve.0.answer(request, &serve.1).await }
        });
        let mut connection = std::pin::pin!(builder.serve_connection_with_upgrades(io, service));
        let stalled = async {
            client.stalled.notified().await;
            Err("the client took nothing of what it asked for".to_owned())
        };
        let ended = async {
            tokio::select! {
                ended = connection.as_mut() => return ended,
                () = draining(&mut phase) => {}
            }
            if client.lingers() {
                tokio::select! {
                    ended = connection.as_mut() => return ended,
                    () = tokio::time::sleep(LINGER) => {}
                }
            }
            connection.as_mut().graceful_shutdown();
            connection.await
        };
        tokio::select! {
            ended = ended => ended.map_err(|error| {
                let text = describe(&*error);
                // It has been answered with 400, 414 or 431, before it was a request.
                if error.downcast_ref().is_some_and(hyper::Error::is_parse) {
                    access.metrics.malformed_request();
                    tracing::info!(client = %client.address, error = %text, "what is not HTTP was refused");
                }
                text
            }),
            stalled = stalled => stalled,
        }
    }

    async fn answer(&self, request: Request<Incoming>, client: &Client) -> Result<Response<Watched>, Infallible> {
        let began = Instant::now();
        let version = request.version();
        client.speaks(version);
        let patience = self.limits.body_timeout.0;
        let request = request.map(|body| Body::received(body, Some(patience), Error::ClientBroke));
        // HTTP/1.0 knows no interim responses, and over HTTP/2 there is no way for them.
        let relay = (version == Version::HTTP_11).then(|| client.interim.open());
        let mut answer = self.edge.respond(self.source, client.address, relay.clone(), request).await;
        if let Some(relay) = relay {
            relay.close().await;
        }
        if let Some(tunnel) = answer.response.extensions_mut().remove::<Tunnel>() {
            client.lead_to(tunnel);
        }
        let switches = answer.response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if version != Version::HTTP_2 && !switches && *self.phase.borrow() == Phase::Draining {
            answer.response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let mut response = self.access.watch(answer.record, answer.response, began);
        // Over HTTP/1 a stalled client is a stalled write. Over HTTP/2 it may
        // just open no window for one of its streams.
        if version == Version::HTTP_2 && response.body().may_stall() {
            let handed = response.body_mut().hand_over();
            tokio::spawn(watch_stream(handed, self.limits.send_timeout.0, Arc::clone(&client.stalled)));
        }
        Ok(response)
    }
}

/// Ends the connection when a frame of this stream is not taken for the time of
/// `patience`.
async fn watch_stream(handed: Weak<Handed>, patience: Duration, stalled: Arc<Notify>) {
    loop {
        tokio::time::sleep(patience / 2).await;
        match handed.upgrade() {
            None => return,
            Some(handed) if handed.waits_for() > patience => return stalled.notify_one(),
            Some(_) => {}
        }
    }
}

fn bytes(size: Size) -> usize {
    usize::try_from(size.0).unwrap_or(usize::MAX)
}

fn builder(limits: &LimitsConfig) -> auto::Builder<TokioExecutor> {
    // Somewhat above the limits themselves: the edge's own words about a request
    // that is beyond them say more than hyper's.
    let header = bytes(limits.header).saturating_mul(2).saturating_add(bytes(limits.uri));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout.0)
        .max_buf_size(header)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(header).unwrap_or(u32::MAX))
        .max_send_buf_size(256 * 1024)
        .keep_alive_interval(limits.header_timeout.0)
        .keep_alive_timeout(limits.send_timeout.0);
    builder
}
