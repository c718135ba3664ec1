//! Edges in this process, on ports that the system chooses.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use peerage::config::ClusterConfig;
use peerage::{AssetKey, Config, Edge, Origin as _Origin, RunError, Server};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::client::{FullResponse, RequestBuilder, request};
use crate::origin::Origin;

/// A running edge.
pub struct TestEdge {
    pub clients: SocketAddr,
    pub peers: Option<SocketAddr>,
    pub admin: SocketAddr,
    pub tls: Option<SocketAddr>,
    pub edge: Arc<Edge>,
    stop: Option<oneshot::Sender<()>>,
    ended: Option<JoinHandle<Result<usize, RunError>>>,
}

impl TestEdge {
    pub fn get(&self, target: &str) -> RequestBuilder {
        request(self.clients, Method::GET, target)
    }

    pub fn request(&self, method: Method, target: &str) -> RequestBuilder {
        request(self.clients, method, target)
    }

    /// Returns a GET as another edge sends it.
    pub fn get_as_peer(&self, target: &str) -> RequestBuilder {
        request(self.peers.expect("it is in a cluster"), Method::GET, target)
    }

    pub fn name(&self) -> String {
        self.peers.expect("it is in a cluster").to_string()
    }

    /// Returns a value of `/metrics`, such as `peerage_flights`. Without its last labels, returns the
    /// sum over the series with the given ones.
    pub async fn metric(&self, name: &str) -> f64 {
        let page = request(self.admin, Method::GET, "/metrics").send().await;
        let begun = name.strip_suffix('}').map(|begun| format!("{begun},"));
        let is_meant = |line: &&str| begun.as_ref().is_some_and(|begun| line.starts_with(begun));
        let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
        let exact = page.text().lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        let found: Vec<_> = exact.map_or_else(|| page.text().lines().filter(is_meant).collect(), |line| vec![line]);
        assert!(!found.is_empty(), "no {name} in\n{}", page.text());
        found.into_iter().map(value).sum()
    }

    /// Waits until a metric has this value.
    pub async fn metric_becomes(&self, name: &str, value: f64) {
        let reached = async {
            while (self.metric(name).await - value).abs() > f64::EPSILON {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(std::time::Duration::from_secs(20), reached).await;
        assert!(waited.is_ok(), "{name} is {}, not {value}", self.metric(name).await);
    }

    /// Drains the edge. Returns the number of connections that were cut.
    pub async fn drain(&mut self) -> usize {
        self.begin_drain();
        self.drained().await
    }

    /// Waits until the edge has drained. Returns the number of connections that were cut.
    pub async fn drained(&mut self) -> usize {
        self.ended.take().unwrap().await.unwrap().unwrap()
    }

    /// Begins to drain, and does not wait.
    pub fn begin_drain(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Returns a configuration with ports that the system chooses.
pub fn config(name: &str) -> Config {
    let mut config = Config::default();
    config.edge.name = name.to_owned();
    config.edge.listen = loopback().into();
    config.admin.listen = loopback();
    config
}

/// Returns the `[cluster]` of an edge on a port that the system chooses.
pub fn cluster_of(peers: Vec<String>) -> ClusterConfig {
    let mut cluster = ClusterConfig::default();
    (cluster.listen, cluster.peers) = (loopback(), peers);
    cluster
}

pub fn run(server: Server) -> TestEdge {
    let addresses = server.addresses();
    let edge = Arc::clone(server.edge());
    let (stop, stopped) = oneshot::channel::<()>();
    let ended = tokio::spawn(server.run(async {
        // Ends when the sender sends, or is dropped with the test.
        let _ = stopped.await;
    }));
    TestEdge {
        clients: addresses.clients,
        peers: addresses.peers,
        admin: addresses.admin,
        tls: addresses.tls,
        edge,
        stop: Some(stop),
        ended: Some(ended),
    }
}

/// Starts a single edge in front of `origin`.
pub async fn single_edge(origin: &Origin, change: impl FnOnce(&mut Config)) -> TestEdge {
    let mut config = config("edge-1");
    config.origin.url = origin.url();
    change(&mut config);
    run(Server::bind(config).await.unwrap())
}

/// Starts a single edge in front of an embedded origin.
pub async fn embedded(origin: impl _Origin) -> TestEdge {
    run(Server::bind_with(config("edge-1"), origin).await.unwrap())
}

/// Edges that form a cluster.
pub struct Cluster {
    pub edges: Vec<TestEdge>,
}

impl Cluster {
    pub async fn start(count: usize, origin: &Origin, change: impl Fn(&mut Config)) -> Self {
        Self::in_front_of(count, &origin.url(), change).await
    }

    /// Like [`start`](Self::start), in front of an origin that is not scripted.
    pub async fn in_front_of(count: usize, origin: &http::Uri, change: impl Fn(&mut Config)) -> Self {
        let mut edges = Vec::new();
        for number in 1..=count {
            let mut config = config(&format!("edge-{number}"));
            config.origin.url = origin.clone();
            config.cluster = Some(cluster_of(Vec::new()));
            change(&mut config);
            edges.push(run(Server::bind(config).await.unwrap()));
        }
        let cluster = Self { edges };
        let names = cluster.names();
        for edge in &cluster.edges {
            edge.edge.membership().replace(names.iter().map(String::as_str));
        }
        cluster
    }

    pub fn names(&self) -> Vec<String> {
        self.edges.iter().map(TestEdge::name).collect()
    }

    /// Returns the positions of the edges in the rank order of a path.
    pub fn rank(&self, path: &str) -> Vec<usize> {
        let key = AssetKey::parse(path, usize::MAX).unwrap();
        let view = self.edges[0].edge.membership().view();
        let position = |name: &str| self.edges.iter().position(|edge| edge.name() == name).unwrap();
        view.ring.rank(key.hash()).iter().map(|member| position(member.name())).collect()
    }

    /// Returns a path that the edge at `owner` owns. Each `seed` gives another path.
    pub fn path_owned_by(&self, owner: usize, seed: usize) -> String {
        (0..100_000)
            .map(|i| format!("/asset-{:016x}.bin", seed * 1_000_000 + i))
            .find(|path| self.rank(path)[0] == owner)
            .unwrap()
    }
}

/// Returns `len` bytes of a pattern that shows a byte in the wrong place.
pub fn pattern(len: usize) -> Bytes {
    (0..len).map(|i| u8::try_from((i / 7 + i * 31) % 251).unwrap()).collect()
}

/// Fails if `future` takes so many seconds that it must be hanging.
pub async fn within<T>(seconds: u64, future: impl Future<Output = T>) -> T {
    let limit = std::time::Duration::from_secs(seconds);
    tokio::time::timeout(limit, future).await.expect("the operation takes too long")
}

/// Runs `futures` concurrently, and returns their results in order.
pub async fn join_all<T: Send + 'static>(
    futures: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let tasks: Vec<_> = futures.into_iter().map(tokio::spawn).collect();
    let mut results = Vec::with_capacity(tasks.len());
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

pub fn assert_same(got: &FullResponse, body: &Bytes) {
    assert_eq!(got.status, 200);
    assert!(got.complete);
    assert!(got.body == *body, "{} of {} bytes, or wrong bytes", got.body.len(), body.len());
}
