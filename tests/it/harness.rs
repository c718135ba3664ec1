//! Edges in this process, on ports of their own.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use peerage::config::ClusterConfig;
use peerage::{AssetKey, Config, Edge, Origin as _Origin, RunError, Server};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::client::{Ask, Got, ask};
use crate::origin::Origin;

/// A running edge.
pub struct Running {
    pub clients: SocketAddr,
    pub peers: Option<SocketAddr>,
    pub admin: SocketAddr,
    pub edge: Arc<Edge>,
    stop: Option<oneshot::Sender<()>>,
    ended: Option<JoinHandle<Result<usize, RunError>>>,
}

impl Running {
    pub fn get(&self, target: &str) -> Ask {
        ask(self.clients, Method::GET, target)
    }

    pub fn ask(&self, method: Method, target: &str) -> Ask {
        ask(self.clients, method, target)
    }

    /// As another edge would ask.
    pub fn get_as_peer(&self, target: &str) -> Ask {
        ask(self.peers.expect("it is in a cluster"), Method::GET, target)
    }

    pub fn name(&self) -> String {
        self.peers.expect("it is in a cluster").to_string()
    }

    /// A figure of `/metrics`, such as `peerage_flights`; the sum of a family's, if its
    /// last labels are left out.
    pub async fn metric(&self, name: &str) -> f64 {
        let page = ask(self.admin, Method::GET, "/metrics").get().await;
        let begun = name.strip_suffix('}').map(|begun| format!("{begun},"));
        let is_meant = |line: &&str| begun.as_ref().is_some_and(|begun| line.starts_with(begun));
        let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
        let exact = page.text().lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        let found: Vec<_> = exact.map_or_else(|| page.text().lines().filter(is_meant).collect(), |line| vec![line]);
        assert!(!found.is_empty(), "no {name} in\n{}", page.text());
        found.into_iter().map(value).sum()
    }

    /// Waits until a figure is what it should be.
    pub async fn metric_becomes(&self, name: &str, value: f64) {
        let reached = async {
            while (self.metric(name).await - value).abs() > f64::EPSILON {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(std::time::Duration::from_secs(20), reached).await;
        assert!(waited.is_ok(), "{name} is {}, not {value}", self.metric(name).await);
    }

    /// Drains; how many connections it had to cut.
    pub async fn stop(&mut self) -> usize {
        self.begin_stop();
        self.ended().await
    }

    /// Waits until it has drained; how many connections it had to cut.
    pub async fn ended(&mut self) -> usize {
        self.ended.take().unwrap().await.unwrap().unwrap()
    }

    /// Tells it to drain, and does not wait.
    pub fn begin_stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Everything on ports that the system chooses.
pub fn config(name: &str) -> Config {
    let mut config = Config::default();
    config.edge.name = name.to_owned();
    config.edge.listen = loopback();
    config.admin.listen = loopback();
    config
}

/// The `[cluster]` of an edge on a port that the system chooses.
pub fn cluster_of(peers: Vec<String>) -> ClusterConfig {
    let mut cluster = ClusterConfig::default();
    (cluster.listen, cluster.peers) = (loopback(), peers);
    cluster
}

pub fn run(server: Server) -> Running {
    let addresses = server.addresses();
    let edge = Arc::clone(server.edge());
    let (stop, stopped) = oneshot::channel::<()>();
    let ended = tokio::spawn(server.run(async {
        // Dropped with the test, or told.
        let _ = stopped.await;
    }));
    Running {
        clients: addresses.clients,
        peers: addresses.peers,
        admin: addresses.admin,
        edge,
        stop: Some(stop),
        ended: Some(ended),
    }
}

/// An edge alone, in front of `origin`.
pub async fn alone(origin: &Origin, change: impl FnOnce(&mut Config)) -> Running {
    let mut config = config("edge-1");
    config.origin.url = origin.url();
    change(&mut config);
    run(Server::bind(config).await.unwrap())
}

/// An edge alone, in front of an embedded origin.
pub async fn embedded(origin: impl _Origin) -> Running {
    run(Server::bind_with(config("edge-1"), origin).await.unwrap())
}

/// Edges that act as one cache.
pub struct Cluster {
    pub edges: Vec<Running>,
}

impl Cluster {
    pub async fn start(count: usize, origin: &Origin, change: impl Fn(&mut Config)) -> Self {
        Self::before(count, &origin.url(), change).await
    }

    /// As [`start`](Self::start), in front of an origin that is not scripted.
    pub async fn before(count: usize, origin: &http::Uri, change: impl Fn(&mut Config)) -> Self {
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
        self.edges.iter().map(Running::name).collect()
    }

    /// The positions of the edges in rank for a path.
    pub fn rank(&self, path: &str) -> Vec<usize> {
        let key = AssetKey::parse(path, usize::MAX).unwrap();
        let view = self.edges[0].edge.membership().view();
        let position = |name: &str| self.edges.iter().position(|edge| edge.name() == name).unwrap();
        view.ring.rank(key.hash()).iter().map(|member| position(member.name())).collect()
    }

    /// A path, distinct by `seed`, that the edge at `owner` owns.
    pub fn path_owned_by(&self, owner: usize, seed: usize) -> String {
        (0..100_000)
            .map(|i| format!("/asset-{:016x}.bin", seed * 1_000_000 + i))
            .find(|path| self.rank(path)[0] == owner)
            .unwrap()
    }
}

/// `len` bytes that tell when one of them is in the wrong place.
pub fn pattern(len: usize) -> Bytes {
    (0..len).map(|i| u8::try_from((i / 7 + i * 31) % 251).unwrap()).collect()
}

/// Fails when `future` takes so long that it must be hanging.
pub async fn within<T>(seconds: u64, future: impl Future<Output = T>) -> T {
    let limit = std::time::Duration::from_secs(seconds);
    tokio::time::timeout(limit, future).await.expect("it hangs")
}

/// All of `futures`, side by side.
pub async fn all<T: Send + 'static>(
    futures: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let tasks: Vec<_> = futures.into_iter().map(tokio::spawn).collect();
    let mut results = Vec::with_capacity(tasks.len());
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

pub fn assert_same(got: &Got, body: &Bytes) {
    assert_eq!(got.status, 200);
    assert!(got.complete);
    assert!(got.body == *body, "{} of {} bytes, or wrong ones", got.body.len(), body.len());
}
