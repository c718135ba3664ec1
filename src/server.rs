//! Listeners and connections: an [`Edge`] as a server.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Sleep;
use tracing_appender::non_blocking::NonBlocking;

use crate::access::{Access, Format};
use crate::admin::{self, Readiness};
use crate::body::Body;
use crate::cluster::membership::Membership;
use crate::cluster::peer::Peers;
use crate::config::{Config, LimitsConfig};
use crate::edge::{Edge, Parts, Policy};
use crate::error::{Error, StartError};
use crate::metrics::{Metrics, Source};
use crate::origin::Origin;
use crate::origin::http_origin::HttpOrigin;
use crate::outgoing::Patience;

/// An edge that has its listeners, and serves as soon as it is [run](Server::run).
pub struct Server {
    edge: Arc<Edge>,
    access: Arc<Access>,
    config: Config,
    clients: TcpListener,
    peers: Option<TcpListener>,
    admin: TcpListener,
    addresses: Addresses,
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
        let origin = http_origin(&config)?;
        Self::bind_with(config, origin).await
    }

    /// An edge in front of any [`Origin`], such as a closure.
    ///
    /// # Errors
    /// [`StartError`], with the key that is to blame.
    pub async fn bind_with(config: Config, origin: impl Origin) -> Result<Self, StartError> {
        config.check().map_err(StartError::Config)?;
        let clients = listen("edge.listen", config.edge.listen).await?;
        let admin = listen("admin.listen", config.admin.listen).await?;
        let peers = match &config.cluster {
            Some(cluster) => Some(listen("cluster.listen", cluster.listen).await?),
            None => None,
        };
        let address = |listener: &TcpListener, configured: SocketAddr| listener.local_addr().unwrap_or(configured);
        let addresses = Addresses {
            clients: address(&clients, config.edge.listen),
            admin: address(&admin, config.admin.listen),
            peers: peers
                .as_ref()
                .zip(config.cluster.as_ref())
                .map(|(listener, cluster)| address(listener, cluster.listen)),
        };
        let membership = Arc::new(membership(&config, addresses.peers));
        let metrics = Arc::new(Metrics::default());
        let edge = Edge::new(Parts {
            name: config.edge.name.clone(),
            plan: config.plan(),
            policy: policy(&config)?,
            origin: Box::new(origin),
            peers: Peers::new(peer_patience(&config)),
            attempts: config.cluster.as_ref().map_or(1, |cluster| cluster.attempts),
            membership: Arc::clone(&membership),
            metrics: Arc::clone(&metrics),
        });
        let access = Access { edge: config.edge.name.clone(), membership, metrics, lines: None };
        Ok(Self { edge, access: Arc::new(access), config, clients, peers, admin, addresses })
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
    /// `edge.drain` at most. Says how many connections it had to cut short.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> usize {
        let Self { edge, access, config, clients, peers, admin, .. } = self;
        let limits = Arc::new(config.limits.clone());
        let (draining, drain) = watch::channel(Phase::Serving);
        let (open, mut closed) = mpsc::channel::<Infallible>(1);
        let accept = |listener, source| {
            let serve = Serve {
                edge: Arc::clone(&edge),
                access: Arc::clone(&access),
                limits: Arc::clone(&limits),
                source,
                phase: drain.clone(),
                _open: open.clone(),
            };
            tokio::spawn(serve.accept(listener))
        };
        let mut listeners = vec![accept(clients, Source::Client)];
        listeners.extend(peers.map(|listener| accept(listener, Source::Peer)));
        let readiness = Arc::new(Readiness::default());
        let operators = tokio::spawn(admin::serve(admin, Arc::clone(&edge), Arc::clone(&readiness)));
        shutdown.await;
        readiness.drain();
        draining.send_replace(Phase::Draining);
        drop((open, drain));
        for listener in listeners {
            // It ends by itself, at once: it is told by the same watch.
            let _ = listener.await;
        }
        let cut = tokio::time::timeout(config.edge.drain.0, closed.recv()).await.is_err();
        operators.abort();
        if cut { draining.receiver_count() } else { 0 }
    }
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
        if let Some(cluster) = &config.cluster {
            self.edge.membership().replace(cluster.peers.iter().map(String::as_str));
        }
        let (old, new) = (&self.running, &config);
        let listener = |config: &Config| {
            config.cluster.as_ref().map(|cluster| {
                let waits = (cluster.connect_timeout, cluster.first_byte_timeout, cluster.idle_timeout);
                (cluster.listen, cluster.advertise.clone(), cluster.attempts, waits)
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
        self.running = config;
        Ok(restart)
    }
}

fn policy(config: &Config) -> Result<Policy, StartError> {
    Ok(Policy {
        rules: config.rules().map_err(StartError::Config)?,
        negative: config.cache.negative.0,
        hit_for_miss: config.cache.hit_for_miss.0,
        fill_alone: config.cache.fill_alone.0,
        uri_limit: usize::try_from(config.limits.uri.0).unwrap_or(usize::MAX),
    })
}

fn http_origin(config: &Config) -> Result<HttpOrigin, StartError> {
    let origin = &config.origin;
    let patience = Patience {
        connect: origin.connect_timeout.0,
        first_byte: origin.first_byte_timeout.0,
        idle: origin.idle_timeout.0,
    };
    HttpOrigin::new(&origin.url, patience, origin.requests)
        .map_err(|error| StartError::Config(format!("origin.url: {error}")))
}

fn peer_patience(config: &Config) -> Patience {
    let cluster = config.cluster.clone().unwrap_or_default();
    Patience {
        connect: cluster.connect_timeout.0,
        first_byte: cluster.first_byte_timeout.0,
        idle: cluster.idle_timeout.0,
    }
}

fn membership(config: &Config, listening: Option<SocketAddr>) -> Membership {
    let (Some(cluster), Some(listening)) = (&config.cluster, listening) else {
        return Membership::alone();
    };
    let own = cluster.own(listening);
    if !cluster.peers.contains(&own) {
        tracing::warn!(%own, "this edge is not among cluster.peers: it answers peers, but owns nothing");
    }
    Membership::new(&own, cluster.peers.iter().map(String::as_str))
}

async fn listen(key: &'static str, addr: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(addr).await.map_err(|source| StartError::Listen { key, addr: addr.to_string(), source })
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

/// One listener's loop, and what its connections need.
#[derive(Clone)]
struct Serve {
    edge: Arc<Edge>,
    access: Arc<Access>,
    limits: Arc<LimitsConfig>,
    source: Source,
    phase: watch::Receiver<Phase>,
    /// Held, not used: it closes when the last connection has ended.
    _open: mpsc::Sender<Infallible>,
}

impl Serve {
    async fn accept(mut self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(self.limits.connections));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = draining(&mut self.phase) => return,
            };
            let (stream, client) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file handles, or the like: what is open goes on,
                    // and a pause keeps this loop from spinning.
                    tracing::error!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                self.access.metrics.refused_connection();
                continue;
            };
            let connection = self.clone().connection(stream, client.ip());
            tokio::spawn(async move {
                connection.await;
                drop(place);
            });
        }
    }

    async fn connection(mut self, stream: TcpStream, client: IpAddr) {
        // A hit is one write; waiting to fill a segment would only delay it.
        let _ = stream.set_nodelay(true);
        let io = TokioIo::new(Patient::new(stream, self.limits.send_timeout.0));
        let (edge, access, source) = (Arc::clone(&self.edge), Arc::clone(&self.access), self.source);
        let body_timeout = self.limits.body_timeout.0;
        let service = service_fn(move |request: Request<Incoming>| {
            let (edge, access) = (Arc::clone(&edge), Arc::clone(&access));
            async move {
                let began = Instant::now();
                let request = request.map(|body| Body::received(body, Some(body_timeout), Error::ClientBroke));
                let answer = edge.respond(source, client, request).await;
                Ok::<_, Infallible>(access.watch(answer.record, answer.response, began))
            }
        });
        let builder = builder(&self.limits);
        let mut connection = std::pin::pin!(builder.serve_connection(io, service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = draining(&mut self.phase) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%client, %error, "a connection ended badly");
        }
    }
}

fn builder(limits: &LimitsConfig) -> auto::Builder<TokioExecutor> {
    let header = usize::try_from(limits.header.0).unwrap_or(usize::MAX);
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

/// A connection whose other end must take what it is sent: a write that makes
/// no progress for the time of `patience` fails.
struct Patient {
    stream: TcpStream,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream, patience: Duration) -> Self {
        Self { stream, patience, stalled: None }
    }

    fn guard<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.guard(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.guard(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
