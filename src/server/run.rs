//! [`Running`]: the tasks of a running edge, and its drain.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::acceptor::{RunningListener, SharedContext};
use super::bind::{Server, StartMode};
use super::certificates;
use super::gossip::Intent;
use super::listeners::ClientListener;
use super::parts::{follow_finding, https_policy};
use super::supervisor::Supervisor;
use super::ticket_sharing::TicketSharing;
use crate::admin::{self, Readiness};
use crate::clients::Clients;
use crate::cluster::membership::Membership;
use crate::cluster::view::State;
use crate::config::Config;
use crate::conn::Splicers;
use crate::conn::handler::ListenerTls;
use crate::edge::Edge;
use crate::error::RunError;
use crate::observe::access::Access;
use crate::observe::metrics::Source;
use crate::peer::ticket_exchange::TicketExchange;
use crate::tls::{PeerTls, TlsAcceptor};

impl Server {
    /// Serves until `shutdown` resolves, then drains: lets active requests end, for at most
    /// `edge.drain`. Returns the number of connections that were cut short.
    ///
    /// The edge announces the drain to its peers first. Peers may send requests until they
    /// have received that, so the listener for peers closes last.
    ///
    /// # Errors
    /// [`RunError`] if a task that must last as long as the edge has ended, for instance by a panic.
    /// The edge has drained in this case, too: without the task it would be up but not
    /// respond to clients or learn of peers.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<usize, RunError> {
        Running::begin(self).until(shutdown).await
    }
}

/// The tasks of a running edge. They end when this is dropped.
pub(super) struct Running {
    edge: Arc<Edge>,
    config: Config,
    clients: Vec<RunningListener>,
    peers: Option<RunningListener>,
    intent: watch::Sender<Intent>,
    gossip: Option<JoinHandle<()>>,
    discovery: Option<JoinHandle<()>>,
    readiness: Arc<Readiness>,
    /// Health checks of peers, the admin listener, and the warm-up.
    background: JoinSet<()>,
    supervisor: Supervisor,
}

impl Running {
    pub(super) fn begin(server: Server) -> Self {
        let addresses = server.addresses();
        let Server {
            edge, access, config, clients, tls, peers, peer_tls, gossip, discovery, admin, start_mode, ..
        } = server;
        let supervisor = Supervisor::new();
        let shared = SharedContext {
            edge: Arc::clone(&edge),
            access: Arc::clone(&access),
            limits: Arc::new(config.limits.clone()),
            splicers: Arc::new(Splicers::new(Arc::clone(edge.arena()), config.edge.zero_copy)),
            https: Arc::new(https_policy(&config, addresses.tls)),
            clients: Clients::default(),
        };
        let accept = |listener, source| RunningListener::begin(listener, source, &shared, &supervisor);
        let for_clients = |(listener, tls): ClientListener| {
            accept((listener, tls.map_or(ListenerTls::None, ListenerTls::Clients)), Source::Client)
        };
        let clients = clients.into_iter().map(for_clients).collect();
        let sharing = ticket_sharing(&config, &access, tls.as_ref(), peer_tls.as_ref());
        let tickets = sharing.as_ref().map(|sharing| Arc::clone(&sharing.secrets));
        let for_peers = peer_tls.clone().map_or(ListenerTls::None, |tls| ListenerTls::Peers(tls, tickets));
        let peers = peers.map(|listener| accept((listener, for_peers), Source::Peer));
        let (intent, intents) = watch::channel(Intent::Serve);
        let discovery = discovery.map(|discovery| {
            let follow = follow_finding(&access, config.cluster.as_ref());
            tokio::spawn(supervisor.watch("cluster.discover", discovery.run(follow, leaving(intents.clone()))))
        });
        let gossip =
            gossip.map(|(gossip, socket)| tokio::spawn(supervisor.watch("gossip", gossip.run(socket, intents))));
        let readiness = Arc::new(Readiness::default());
        let mut background = JoinSet::new();
        background.spawn(supervisor.watch("probes", Arc::clone(&edge).look_after_peers()));
        if let Some(tls) = tls {
            let follow = certificates::follow(tls, Arc::clone(&access.metrics), config.tls.refresh.0);
            background.spawn(supervisor.watch("tls.refresh", follow));
        }
        if let Some(tls) = peer_tls {
            let period = config.tls.refresh.0;
            let follow = certificates::follow_for_peers(Arc::downgrade(&edge), Arc::downgrade(&tls), period);
            background.spawn(supervisor.watch("cluster.tls", follow));
        }
        if let Some(sharing) = sharing {
            background.spawn(supervisor.watch("session tickets", sharing.run(readiness.begin_warm_up())));
        }
        let operators =
            admin::serve(admin.into_socket(), Arc::clone(&edge), Arc::clone(&readiness), config.limits.clone());
        background.spawn(supervisor.watch("admin.listen", operators));
        if start_mode == StartMode::Warm {
            let time = config.cluster.as_ref().map_or(Duration::ZERO, |cluster| cluster.warm_time.0);
            let (edge, guard) = (Arc::clone(&edge), readiness.begin_warm_up());
            background.spawn(async move {
                edge.warm_up(time).await;
                drop(guard);
            });
        }
        Self { edge, config, clients, peers, intent, gossip, discovery, readiness, background, supervisor }
    }

    /// Serves until `shutdown` resolves; see [`Server::run`].
    pub(super) async fn until(mut self, shutdown: impl Future<Output = ()>) -> Result<usize, RunError> {
        let fault = tokio::select! {
            () = shutdown => None,
            fault = self.supervisor.fault() => Some(fault),
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

    /// Lets active requests end, for at most `edge.drain`. Returns the number of connections
    /// that were cut short.
    async fn drain(self) -> usize {
        let Self {
            edge, config, clients, peers, intent, gossip, discovery, readiness, background: _background, ..
        } = self;
        let deadline = tokio::time::Instant::now() + config.edge.drain.0;
        intent.send_replace(Intent::Drain);
        readiness.drain();
        let mut open = Vec::new();
        for listener in clients {
            open.push(listener.drain().await);
        }
        let _ = tokio::time::timeout_at(deadline, all_end(&mut open)).await;
        if let Some(peers) = peers {
            let notice = notice_time(&config, edge.membership());
            let _ = tokio::time::timeout_at(deadline, tokio::time::sleep(notice)).await;
            open.push(peers.drain().await);
            // Idle connections of peers end at once. They get this time even if clients'
            // requests have used all of the drain time.
            let deadline = deadline.max(tokio::time::Instant::now() + notice);
            let _ = tokio::time::timeout_at(deadline, all_end(&mut open)).await;
        }
        intent.send_replace(Intent::Leave);
        for task in gossip.into_iter().chain(discovery) {
            let _ = task.await;
        }
        let cut = open.iter().map(JoinSet::len).sum();
        for mut connections in open {
            // The requests of cut connections are logged before this returns.
            connections.shutdown().await;
        }
        cut
    }
}

/// Returns the task that shares the secrets of session tickets, if there are clients over TLS and
/// authenticated connections to peers.
fn ticket_sharing(
    config: &Config,
    access: &Access,
    tls: Option<&Arc<TlsAcceptor>>,
    peer_tls: Option<&Arc<PeerTls>>,
) -> Option<TicketSharing> {
    let (tls, peer_tls, cluster) = (tls?, peer_tls?, config.cluster.as_ref()?);
    Some(TicketSharing {
        secrets: Arc::clone(tls.ticket_secrets()),
        exchange: TicketExchange::new(Arc::clone(peer_tls), cluster.connect_timeout.0),
        membership: Arc::clone(&access.membership),
        metrics: Arc::clone(&access.metrics),
    })
}

async fn all_end(open: &mut [JoinSet<()>]) {
    for connections in open {
        while connections.join_next().await.is_some() {}
    }
}

/// Returns the time within which all peers learn that this edge drains: gossip announces it
/// several times in one probe interval. Zero without gossip, or without another live member.
fn notice_time(config: &Config, membership: &Membership) -> Duration {
    let own = membership.own();
    let others = membership.view().members().iter().any(|member| member.address != *own && member.state != State::Down);
    let gossiping = config.cluster.as_ref().filter(|cluster| cluster.gossip && others);
    gossiping.map_or(Duration::ZERO, |cluster| cluster.probe_interval.0)
}

/// Resolves when the intent is to leave, or its sender was dropped.
async fn leaving(mut intents: watch::Receiver<Intent>) {
    let _ = intents.wait_for(|intent| *intent == Intent::Leave).await;
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
        (config.edge.listen, config.admin.listen) = (any.into(), any);
        let discover = Some("file:/nowhere/peers".to_owned());
        config.cluster = Some(ClusterConfig { listen: any, discover, ..ClusterConfig::default() });
        config
    }

    #[tokio::test]
    async fn an_edge_drains_when_a_task_ends_and_names_the_task() {
        type Kill = fn(&mut Running);
        let tasks: [(Kill, &[&str]); 5] = [
            (|running| running.clients[0].task.abort(), &["edge.listen"]),
            (|running| running.peers.as_ref().unwrap().task.abort(), &["cluster.listen"]),
            (|running| running.gossip.as_ref().unwrap().abort(), &["gossip"]),
            (|running| running.discovery.as_ref().unwrap().abort(), &["cluster.discover"]),
            (|running| running.background.abort_all(), &["probes", "admin.listen"]),
        ];
        for (kill, names) in tasks {
            let mut running = Running::begin(Server::bind(config()).await.unwrap());
            kill(&mut running);
            let RunError { task } = running.until(pending()).await.unwrap_err();
            assert!(names.contains(&task), "{task}, not one of {names:?}");
        }
    }

    #[tokio::test]
    async fn active_requests_complete_after_the_accept_task_has_ended() {
        let (requested, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (requesting, gated) = (Arc::clone(&requested), Arc::clone(&gate));
        let origin = move |_: AssetKey| {
            let gate = Arc::clone(&gated);
            requesting.add_permits(1);
            async move {
                let _open = gate.acquire().await.unwrap();
                Ok::<_, std::io::Error>(Some("all of it".into()))
            }
        };
        let server = Server::bind_with(config(), origin).await.unwrap();
        let mut client = TcpStream::connect(server.addresses().clients).await.unwrap();
        let running = Running::begin(server);
        client.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let _requested = requested.acquire().await.unwrap();

        running.clients[0].task.abort();
        let ended = tokio::spawn(running.until(pending()));
        gate.add_permits(1);
        let mut response = String::new();
        client.read_to_string(&mut response).await.unwrap();
        assert!(response.ends_with("all of it"), "{response}");

        assert_eq!(ended.await.unwrap(), Err(RunError { task: "edge.listen" }));
    }
}
