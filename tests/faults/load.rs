//! Load at a constant rate of requests, however long the responses take.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use crate::cluster::{Edge, KEYS, path};
use crate::origin::body_per_target;

/// Requests per second.
const RATE: u32 = 200;
/// Time limit of a request. Requests that waited for one another would end with
/// `cluster.first_byte_timeout`, after 35 s.
const HANGS: Duration = Duration::from_secs(30);
/// Duplicate fetches that the design allows an edge: it saves up this many doubts of peers
/// (`edge/hedge.rs`), and each of them sends one request past an owner that is only slow. On a
/// busy machine a live owner may miss `probe_timeout`.
const DOUBTS: usize = 64;
/// Concurrent requests of a sweep, which does not measure latency.
const AT_A_TIME: usize = 100;

/// The outcome of a request.
pub struct Outcome {
    edge: SocketAddr,
    key: usize,
    /// The scheduled start. The request began then, unless this process was late.
    pub began: Instant,
    pub took: Duration,
    /// The error, or the difference from the expected response.
    pub fault: Option<String>,
}

/// A client that reuses its connections.
#[derive(Clone)]
struct PooledClient(Client<HttpConnector, Empty<Bytes>>);

impl PooledClient {
    fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self(Client::builder(TokioExecutor::new()).build(connector))
    }

    async fn request(&self, edge: SocketAddr, key: usize, began: Instant) -> Outcome {
        let answer = tokio::time::timeout(HANGS, self.check(edge, &path(key))).await;
        let fault = answer.unwrap_or_else(|_| Err("it hangs".to_owned())).err();
        Outcome { edge, key, began, took: began.elapsed(), fault }
    }

    /// Checks the response to the last byte.
    async fn check(&self, edge: SocketAddr, path: &str) -> Result<(), String> {
        let answer = self.0.get(format!("http://{edge}{path}").parse().unwrap()).await;
        let (head, body) = answer.map_err(|error| format!("{error:?}"))?.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        match head.status {
            StatusCode::OK if body == body_per_target(path) => Ok(()),
            StatusCode::OK => Err(format!("another body: {body:?}")),
            status => Err(format!("{status}, {:?}", head.headers.get("cache-status"))),
        }
    }
}

/// An edge under load, with its number of requests in flight.
type LoadedEdge = (SocketAddr, Arc<watch::Sender<usize>>);
type Live = Arc<Mutex<Vec<LoadedEdge>>>;

/// Load that runs until [`end`](Self::end).
pub struct Load {
    live: Live,
    end: mpsc::Sender<()>,
    running: JoinHandle<Vec<Outcome>>,
}

impl Load {
    /// Requests all keys repeatedly. Each key is requested at two edges at the same time.
    pub fn over_all<'a>(edges: impl IntoIterator<Item = &'a Edge>) -> Self {
        // 617 and KEYS have no common factor: the keys come out of order, and out of step with
        // the edges.
        Self::begin(edges, |request| request / 2 * 617 % KEYS)
    }

    /// Request number `n` asks for key number `key(n)`.
    pub fn begin<'a>(edges: impl IntoIterator<Item = &'a Edge>, key: impl Fn(usize) -> usize + Send + 'static) -> Self {
        // All edges are registered before the first request, which is sent at once.
        let live: Live = Arc::new(Mutex::new(edges.into_iter().map(asking).collect()));
        let (end, ended) = mpsc::channel(1);
        let running = tokio::spawn(run(Arc::clone(&live), key, ended));
        Self { live, end, running }
    }

    /// Adds `edge` to the load.
    pub fn join(&self, edge: &Edge) {
        self.live.lock().unwrap().push(asking(edge));
    }

    /// Removes `edge` from the load, as a load balancer would, and waits for its responses in
    /// flight.
    pub async fn leave(&self, edge: &Edge) {
        let under_way = {
            let mut live = self.live.lock().unwrap();
            let at = live.iter().position(|(address, _)| *address == edge.addresses.clients).unwrap();
            live.remove(at).1
        };
        under_way.subscribe().wait_for(|count| *count == 0).await.unwrap();
    }

    /// Ends the load and returns its report.
    pub async fn end(self) -> Report {
        drop(self.end);
        Report(self.running.await.unwrap())
    }
}

fn asking(edge: &Edge) -> LoadedEdge {
    (edge.addresses.clients, Arc::default())
}

async fn run(live: Live, key: impl Fn(usize) -> usize, mut ended: mpsc::Receiver<()>) -> Vec<Outcome> {
    let asker = PooledClient::new();
    let mut requests = JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0.. {
        let due = tokio::select! {
            due = ticks.tick() => due.into_std(),
            _ = ended.recv() => break,
        };
        let (edge, under_way) = {
            let live = live.lock().unwrap();
            let (edge, under_way) = &live[number % live.len()];
            under_way.send_modify(|count| *count += 1);
            (*edge, Arc::clone(under_way))
        };
        let (asker, key) = (asker.clone(), key(number));
        requests.spawn(async move {
            let asked = asker.request(edge, key, due).await;
            under_way.send_modify(|count| *count -= 1);
            asked
        });
    }
    requests.join_all().await
}

/// Requests each of `keys` at each of `edges`.
pub async fn sweep<'a>(
    edges: impl IntoIterator<Item = &'a Edge> + Clone,
    keys: impl IntoIterator<Item = usize>,
) -> Report {
    let asker = PooledClient::new();
    let (mut requests, mut asked) = (JoinSet::new(), Vec::new());
    for key in keys {
        for edge in edges.clone() {
            if requests.len() == AT_A_TIME {
                asked.push(requests.join_next().await.unwrap().unwrap());
            }
            let (asker, edge) = (asker.clone(), edge.addresses.clients);
            requests.spawn(async move { asker.request(edge, key, Instant::now()).await });
        }
    }
    asked.extend(requests.join_all().await);
    Report(asked)
}

/// Has each of `keys` fetched, through `edges` in turn.
pub async fn warm(edges: &[Edge], keys: impl IntoIterator<Item = usize> + Clone) {
    for (i, edge) in edges.iter().enumerate() {
        let own = keys.clone().into_iter().filter(|key| key / 2 % edges.len() == i);
        sweep([edge], own).await.assert_well();
    }
}

/// The outcomes of a series of requests.
pub struct Report(pub Vec<Outcome>);

impl Report {
    pub fn failed(&self) -> usize {
        self.0.iter().filter(|asked| asked.fault.is_some()).count()
    }

    pub fn slowest(&self) -> Duration {
        self.slowest_after(None)
    }

    /// Returns the longest time among requests that began at or after `moment`.
    pub fn slowest_after(&self, moment: Option<Instant>) -> Duration {
        let after = self.0.iter().filter(|asked| Some(asked.began) >= moment);
        after.map(|asked| asked.took).max().unwrap_or_default()
    }

    /// Checks that no request failed.
    pub fn assert_well(&self) {
        self.assert_none("failed", |asked| asked.fault.is_some());
    }

    fn assert_none(&self, description: &str, is_so: impl Fn(&Outcome) -> bool) {
        let so: Vec<_> = self.0.iter().filter(|asked| is_so(asked)).map(Outcome::to_string).collect();
        assert!(
            so.is_empty(),
            "{} of {} {description}, for example {:#?}",
            so.len(),
            self.0.len(),
            &so[..so.len().min(5)]
        );
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = self.fault.as_deref().unwrap_or("ok");
        write!(f, "{} of {} in {:.2?}: {fault}", path(self.key), self.edge, self.took)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests, {} failed, slowest {:.2?}", self.0.len(), self.failed(), self.slowest())
    }
}

/// Checks the fetches of `edges`, none of which lost its memory meanwhile. No edge fetches a key
/// twice, and only doubts have a key fetched by more than `owners` edges (the number of edges
/// that have owned the key). Returns the number of fetches due to doubts.
pub fn assert_coalesced(seen: &[crate::origin::Seen], edges: usize, owners: impl Fn(&str) -> usize) -> usize {
    let mut by_each: HashMap<_, usize> = HashMap::new();
    for seen in seen {
        *by_each.entry((&*seen.target, seen.via())).or_default() += 1;
    }
    let twice: Vec<_> = by_each.iter().filter(|(_, count)| **count > 1).take(5).collect();
    assert!(twice.is_empty(), "an edge fetched a key twice: {twice:?}");
    let extra = fetches(seen, |_, _| true).into_iter().map(|(key, count)| count.saturating_sub(owners(key))).sum();
    assert_doubts(extra, edges);
    extra
}

/// Checks that doubts of `edges` can account for `fetches`.
pub fn assert_doubts(fetches: usize, edges: usize) {
    let allowed = DOUBTS * edges;
    assert!(fetches <= allowed, "{fetches} fetches due to doubts; {edges} edges may make {allowed}");
}

/// Counts the origin fetches of each path. `count` selects them by path and edge.
pub fn fetches(seen: &[crate::origin::Seen], count: impl Fn(&str, &str) -> bool) -> HashMap<&str, usize> {
    let mut fetches = HashMap::new();
    for seen in seen.iter().filter(|seen| count(&seen.target, seen.via())) {
        *fetches.entry(&*seen.target).or_default() += 1;
    }
    fetches
}
