//! Clients: so many requests a second, whatever becomes of those before.

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
use crate::origin::telling;

/// Requests in a second.
const RATE: u32 = 200;
/// A request that takes longer hangs. Requests that wait for one another would end by
/// `cluster.first_byte_timeout`, after 35 s.
const HANGS: Duration = Duration::from_secs(30);
/// Fetches beyond the first of a key that the design allows an edge: it saves up so many
/// doubts of peers (`edge/hedge.rs`), each of which sends one request past an owner that
/// is only slow. On a busy machine a live owner may miss `probe_timeout`.
const DOUBTS: usize = 64;
/// Requests at a time, where it is not for how long they take.
const AT_A_TIME: usize = 100;

/// How a request went.
pub struct Asked {
    edge: SocketAddr,
    key: usize,
    /// When it was due, which is when it began unless this process was late.
    pub began: Instant,
    pub took: Duration,
    /// What was wrong with the answer.
    pub fault: Option<String>,
}

/// A client with connections that are used again.
#[derive(Clone)]
struct Asker(Client<HttpConnector, Empty<Bytes>>);

impl Asker {
    fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self(Client::builder(TokioExecutor::new()).build(connector))
    }

    async fn ask(&self, edge: SocketAddr, key: usize, began: Instant) -> Asked {
        let answer = tokio::time::timeout(HANGS, self.check(edge, &path(key))).await;
        let fault = answer.unwrap_or_else(|_| Err("it hangs".to_owned())).err();
        Asked { edge, key, began, took: began.elapsed(), fault }
    }

    /// Whether the answer is right, to the last byte.
    async fn check(&self, edge: SocketAddr, path: &str) -> Result<(), String> {
        let answer = self.0.get(format!("http://{edge}{path}").parse().unwrap()).await;
        let (head, body) = answer.map_err(|error| format!("{error:?}"))?.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        match head.status {
            StatusCode::OK if body == telling(path) => Ok(()),
            StatusCode::OK => Err(format!("another body: {body:?}")),
            status => Err(format!("{status}, {:?}", head.headers.get("cache-status"))),
        }
    }
}

/// An edge that may be asked, and how many requests are under way there.
type Asking = (SocketAddr, Arc<watch::Sender<usize>>);
type Live = Arc<Mutex<Vec<Asking>>>;

/// Load that lasts until it is ended.
pub struct Load {
    live: Live,
    end: mpsc::Sender<()>,
    running: JoinHandle<Vec<Asked>>,
}

impl Load {
    /// Over all names, again and again. Two ask for the same one at a time, at
    /// different edges.
    pub fn over_all<'a>(edges: impl IntoIterator<Item = &'a Edge>) -> Self {
        // Not in order, and in no step with the edges.
        Self::begin(edges, |request| request / 2 * 617 % KEYS)
    }

    /// The request of each number asks for the name of the number that `key` says.
    pub fn begin<'a>(edges: impl IntoIterator<Item = &'a Edge>, key: impl Fn(usize) -> usize + Send + 'static) -> Self {
        // All of them before the first request, which comes at once.
        let live: Live = Arc::new(Mutex::new(edges.into_iter().map(asking).collect()));
        let (end, ended) = mpsc::channel(1);
        let running = tokio::spawn(run(Arc::clone(&live), key, ended));
        Self { live, end, running }
    }

    /// From now on `edge` is asked, too.
    pub fn join(&self, edge: &Edge) {
        self.live.lock().unwrap().push(asking(edge));
    }

    /// From now on `edge` is not asked, as a load balancer would have it; waits
    /// until its clients have their answers.
    pub async fn leave(&self, edge: &Edge) {
        let under_way = {
            let mut live = self.live.lock().unwrap();
            let at = live.iter().position(|(address, _)| *address == edge.place.clients).unwrap();
            live.remove(at).1
        };
        under_way.subscribe().wait_for(|count| *count == 0).await.unwrap();
    }

    /// How all of it went.
    pub async fn end(self) -> Report {
        drop(self.end);
        Report(self.running.await.unwrap())
    }
}

fn asking(edge: &Edge) -> Asking {
    (edge.place.clients, Arc::default())
}

async fn run(live: Live, key: impl Fn(usize) -> usize, mut ended: mpsc::Receiver<()>) -> Vec<Asked> {
    let asker = Asker::new();
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
            let asked = asker.ask(edge, key, due).await;
            under_way.send_modify(|count| *count -= 1);
            asked
        });
    }
    requests.join_all().await
}

/// Asks for each of `keys` at each of `edges`.
pub async fn sweep<'a>(
    edges: impl IntoIterator<Item = &'a Edge> + Clone,
    keys: impl IntoIterator<Item = usize>,
) -> Report {
    let asker = Asker::new();
    let (mut requests, mut asked) = (JoinSet::new(), Vec::new());
    for key in keys {
        for edge in edges.clone() {
            if requests.len() == AT_A_TIME {
                asked.push(requests.join_next().await.unwrap().unwrap());
            }
            let (asker, edge) = (asker.clone(), edge.place.clients);
            requests.spawn(async move { asker.ask(edge, key, Instant::now()).await });
        }
    }
    asked.extend(requests.join_all().await);
    Report(asked)
}

/// Has each of `keys` brought in, by edges in turn.
pub async fn warm(edges: &[Edge], keys: impl IntoIterator<Item = usize> + Clone) {
    for (i, edge) in edges.iter().enumerate() {
        let own = keys.clone().into_iter().filter(|key| key / 2 % edges.len() == i);
        sweep([edge], own).await.assert_well();
    }
}

/// How requests went.
pub struct Report(pub Vec<Asked>);

impl Report {
    pub fn failed(&self) -> usize {
        self.0.iter().filter(|asked| asked.fault.is_some()).count()
    }

    pub fn slowest(&self) -> Duration {
        self.slowest_after(None)
    }

    /// Among those that began no earlier.
    pub fn slowest_after(&self, moment: Option<Instant>) -> Duration {
        let after = self.0.iter().filter(|asked| Some(asked.began) >= moment);
        after.map(|asked| asked.took).max().unwrap_or_default()
    }

    /// None failed.
    pub fn assert_well(&self) {
        self.assert_none("failed", |asked| asked.fault.is_some());
    }

    fn assert_none(&self, what: &str, is_so: impl Fn(&Asked) -> bool) {
        let so: Vec<_> = self.0.iter().filter(|asked| is_so(asked)).map(Asked::to_string).collect();
        assert!(so.is_empty(), "{} of {} {what}, as {:#?}", so.len(), self.0.len(), &so[..so.len().min(5)]);
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = self.fault.as_deref().unwrap_or("well");
        write!(f, "{} of {} in {:.2?}: {fault}", path(self.key), self.edge, self.took)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests, {} failed, slowest {:.2?}", self.0.len(), self.failed(), self.slowest())
    }
}

/// Checks the fetches of `edges`, none of which has lost its memory meanwhile: no edge
/// fetches a key twice, and only doubts have a key fetched by more than `owners` of them
/// (the number of edges that have owned it). Returns how many fetches were due to doubts.
pub fn assert_coalesced(seen: &[crate::origin::Seen], edges: usize, owners: impl Fn(&str) -> usize) -> usize {
    let mut by_each: HashMap<_, usize> = HashMap::new();
    for seen in seen {
        *by_each.entry((&*seen.target, seen.by())).or_default() += 1;
    }
    let twice: Vec<_> = by_each.iter().filter(|(_, count)| **count > 1).take(5).collect();
    assert!(twice.is_empty(), "an edge fetched a key twice, as {twice:?}");
    let extra = fetches(seen, |_, _| true).into_iter().map(|(key, count)| count.saturating_sub(owners(key))).sum();
    assert_doubts(extra, edges);
    extra
}

/// Checks that `edges` may have made so many fetches on doubts.
pub fn assert_doubts(fetches: usize, edges: usize) {
    let allowed = DOUBTS * edges;
    assert!(fetches <= allowed, "{fetches} fetches that only a doubt explains; {edges} edges may make {allowed}");
}

/// How often each name was fetched from the origin, as far as `count` says so of
/// the name and the edge that fetched it.
pub fn fetches(seen: &[crate::origin::Seen], count: impl Fn(&str, &str) -> bool) -> HashMap<&str, usize> {
    let mut fetches = HashMap::new();
    for seen in seen.iter().filter(|seen| count(&seen.target, seen.by())) {
        *fetches.entry(&*seen.target).or_default() += 1;
    }
    fetches
}
