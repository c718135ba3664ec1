//! An edge at work: its tasks, and how it drains.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::acceptor::{Accepting, Shared};
use super::supervisor::Watch;
use super::{Server, Start, follow_finding};
use crate::admin::{self, Readiness};
use crate::cluster::membership::Membership;
use crate::cluster::view::State;
use crate::config::Config;
use crate::conn::Splicers;
use crate::edge::Edge;
use crate::error::RunError;
use crate::observe::metrics::Source;
use crate::server::gossip::Intent;

/// The tasks of an edge. They end with this, however it ends.
pub(super) struct Running {
    edge: Arc<Edge>,
    config: Config,
    clients: Accepting,
    peers: Option<Accepting>,
    intent: watch::Sender<Intent>,
    gossip: Option<JoinHandle<()>>,
    discovery: Option<JoinHandle<()>>,
    readiness: Arc<Readiness>,
    behind: JoinSet<()>,
    watch: Watch,
}

impl Running {
    pub(super) fn begin(server: Server) -> Self {
        let Server { edge, access, config, clients, peers, gossip, discovery, admin, start, .. } = server;
        let watch = Watch::new();
        let shared = Shared {
            edge: Arc::clone(&edge),
            access: Arc::clone(&access),
            limits: Arc::new(config.limits.clone()),
            lender: Arc::new(Splicers::new(Arc::clone(edge.arena()), config.edge.zero_copy)),
        };
        let accept = |listener, source| Accepting::begin(listener, source, &shared, &watch);
        let clients = accept(clients, Source::Client);
        let peers = peers.map(|listener| accept(listener, Source::Peer));
        let (intent, intended) = watch::channel(Intent::Serve);
        let discovery = discovery.map(|discovery| {
            let tell = follow_finding(&access, config.cluster.as_ref());
            tokio::spawn(watch.over("cluster.discover", discovery.run(tell, leaving(intended.clone()))))
        });
        let gossip = gossip.map(|(gossip, ear)| tokio::spawn(watch.over("gossip", gossip.run(ear, intended))));
        let readiness = Arc::new(Readiness::default());
        let mut behind = JoinSet::new();
        behind.spawn(watch.over("probes", Arc::clone(&edge).look_after_peers()));
        let operators =
            admin::serve(admin.into_socket(), Arc::clone(&edge), Arc::clone(&readiness), config.limits.clone());
        behind.spawn(watch.over("admin.listen", operators));
        if start == Start::Warm {
            let patience = config.cluster.as_ref().map_or(Duration::ZERO, |cluster| cluster.warm_time.0);
            let (edge, warming) = (Arc::clone(&edge), readiness.warming());
            behind.spawn(async move {
                edge.warm_up(patience).await;
                drop(warming);
            });
        }
        Self { edge, config, clients, peers, intent, gossip, discovery, readiness, behind, watch }
    }

    /// See [`Server::run`].
    pub(super) async fn until(mut self, shutdown: impl Future<Output = ()>) -> Result<usize, RunError> {
        let fault = tokio::select! {
            () = shutdown => None,
            fault = self.watch.fault() => Some(fault),
        };
        if let Some(RunError { task }) = fault {
            tracing::error!(task, "background task ended unexpectedly, draining");
        }
        let cut = self.drain().await;
        if cut > 0 {
            tracing::warn!(connections = cut, "drain timeout reached, closing connections");
        }
        fault.map_or(Ok(cut), Err)
    }

    /// Lets what is under way end, for `edge.drain` at most. Returns how many
    /// connections had to be cut short.
    async fn drain(self) -> usize {
        let Self { edge, config, clients, peers, intent, gossip, discovery, readiness, behind: _behind, .. } = self;
        let deadline = tokio::time::Instant::now() + config.edge.drain.0;
        intent.send_replace(Intent::Drain);
        readiness.drain();
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
        let cut = open.iter().map(JoinSet::len).sum();
        for mut connections in open {
            // Each has its line written before this returns.
            connections.shutdown().await;
        }
        cut
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

/// Resolves when the edge leaves, or whoever would say so is gone.
async fn leaving(mut intended: watch::Receiver<Intent>) {
    let _ = intended.wait_for(|intent| *intent == Intent::Leave).await;
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::config::ClusterConfig;
    use crate::key::AssetKey;

    fn config() -> Config {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut config = Config::default();
        (config.edge.listen, config.admin.listen) = (any, any);
        let discover = Some("file:/nowhere/peers".to_owned());
        config.cluster = Some(ClusterConfig { listen: any, discover, ..ClusterConfig::default() });
        config
    }

    #[tokio::test]
    async fn an_edge_without_one_of_its_tasks_ends_and_says_which() {
        type Kill = fn(&mut Running);
        let tasks: [(Kill, &[&str]); 5] = [
            (|running| running.clients.task.abort(), &["edge.listen"]),
            (|running| running.peers.as_ref().unwrap().task.abort(), &["cluster.listen"]),
            (|running| running.gossip.as_ref().unwrap().abort(), &["gossip"]),
            (|running| running.discovery.as_ref().unwrap().abort(), &["cluster.discover"]),
            (|running| running.behind.abort_all(), &["probes", "admin.listen"]),
        ];
        for (kill, names) in tasks {
            let mut running = Running::begin(Server::bind(config()).await.unwrap());
            kill(&mut running);
            let RunError { task } = running.until(pending()).await.unwrap_err();
            assert!(names.contains(&task), "{task}, not one of {names:?}");
        }
    }

    #[tokio::test]
    async fn requests_end_although_nobody_accepts_any_more() {
        let (asked, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (asking, gated) = (Arc::clone(&asked), Arc::clone(&gate));
        let origin = move |_: AssetKey| {
            let gate = Arc::clone(&gated);
            asking.add_permits(1);
            async move {
                let _open = gate.acquire().await.unwrap();
                Ok::<_, std::io::Error>(Some("all of it".into()))
            }
        };
        let server = Server::bind_with(config(), origin).await.unwrap();
        let mut client = TcpStream::connect(server.addresses().clients).await.unwrap();
        let running = Running::begin(server);
        client.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let _asked = asked.acquire().await.unwrap();

        running.clients.task.abort();
        let ended = tokio::spawn(running.until(pending()));
        gate.add_permits(1);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("all of it"), "{answer}");
        assert_eq!(ended.await.unwrap(), Err(RunError { task: "edge.listen" }));
    }
}
