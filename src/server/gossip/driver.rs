//! [`Gossip`]: the task that passes datagrams, time and doubts to [`Swim`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::Instant;

use super::hosts::HostResolver;
use super::rejection_log::RejectionLog;
use super::socket::GossipSocket;
use crate::cluster::membership::{Admission, GossipInputs, List, Membership};
use crate::cluster::seal::{Seal, SealError};
use crate::cluster::swim::wire::{PROTOCOL, Rejection};
use crate::cluster::swim::{Parameters, Swim};
use crate::config::{ClusterConfig, Secret};
use crate::observe::metrics::{Metrics, Refused};
use crate::random::random;

/// The size of the receive buffer, in bytes; greater than any datagram of this protocol.
const BUFFER: usize = 2048;
/// The maximum number of datagrams to read before other events are handled.
const BATCH: usize = 64;
/// The longest sleep if `Swim` has no timer.
const MAX_SLEEP: Duration = Duration::from_mins(1);

/// The state that this edge announces to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    Serve,
    /// The edge is going to leave, and owns no keys from now on.
    Drain,
    Leave,
}

/// The gossip of this edge.
pub(crate) struct Gossip {
    seal: Seal,
    /// The secrets of the running configuration.
    secrets: watch::Receiver<Vec<Secret>>,
    swim: Swim,
    began: Instant,
    membership: Arc<Membership>,
    following: GossipInputs,
    list: List,
    metrics: Arc<Metrics>,
    hosts: HostResolver,
    rejection_log: RejectionLog,
}

impl Gossip {
    /// Creates the gossip of the edge named `edge`, as `config` says. `secrets` are the secrets that
    /// it follows. `seed` seeds the random choices, such as the members to probe.
    pub(crate) fn new(
        config: &ClusterConfig,
        edge: &str,
        seed: u64,
        secrets: watch::Receiver<Vec<Secret>>,
        membership: Arc<Membership>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let admission = if config.has_secret() { Admission::Authenticated } else { Admission::Listed };
        let parameters = Parameters {
            probe_interval: config.probe_interval.0,
            probe_timeout: config.probe_timeout.0,
            suspicion: config.suspicion.0,
            admission,
        };
        let now = wall_time();
        let started = u64::try_from(now.as_millis()).unwrap_or_default();
        Self {
            seal: Seal::new(config.secrets().map(|secret| &*secret.0), random(), config.replay_window.0, now),
            secrets,
            swim: Swim::new(parameters, membership.own(), edge, started, seed),
            began: Instant::now(),
            following: membership.follow(admission, config.suspicion.0),
            list: List::default(),
            membership,
            metrics,
            hosts: HostResolver::new(),
            rejection_log: RejectionLog::default(),
        }
    }

    /// Runs until the intent is to leave, or its sender is dropped.
    pub(crate) async fn run(mut self, socket: GossipSocket, mut intent: watch::Receiver<Intent>) {
        let socket = tokio::select! {
            socket = socket.bind() => socket,
            // No member knows of this edge yet, so there is no leave to announce.
            _ = intent.changed() => return,
        };
        self.take_list();
        self.settle(&socket).await;
        loop {
            let wakes_at = self.swim.wakes_at().unwrap_or_else(|| self.now() + MAX_SLEEP);
            tokio::select! {
                readable = socket.readable() => match readable {
                    Ok(()) => self.read(&socket),
                    Err(error) => tracing::debug!(%error, "gossip receive failed"),
                },
                () = tokio::time::sleep_until(self.began + wakes_at) => self.swim.wake(self.now()),
                Ok(()) = self.following.listed.changed() => self.take_list(),
                Ok(()) = self.secrets.changed() => self.take_secrets(),
                Some(peer) = self.following.doubts.recv() => self.swim.doubt(self.now(), &peer),
                changed = intent.changed() => {
                    let intent = if changed.is_ok() { *intent.borrow_and_update() } else { Intent::Leave };
                    match intent {
                        Intent::Serve => {}
                        Intent::Drain => self.swim.drain(self.now()),
                        Intent::Leave => break,
                    }
                }
            }
            self.membership.note_awake(Instant::now().into_std());
            self.settle(&socket).await;
        }
        self.swim.leave(self.now());
        self.send(&socket).await;
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn take_list(&mut self) {
        self.list = Arc::clone(&self.following.listed.borrow_and_update());
        self.swim.list(self.now(), self.list.iter().cloned());
    }

    fn take_secrets(&mut self) {
        let secrets = self.secrets.borrow_and_update();
        self.seal.replace_secrets(secrets.iter().map(|secret| &*secret.0));
    }

    /// Publishes the news of `Swim`, then sends its datagrams. In this order, the edge acts on
    /// its announcements before other members receive them.
    async fn settle(&mut self, socket: &UdpSocket) {
        if self.swim.take_returned() {
            self.membership.came_back(Instant::now().into_std());
        }
        if let Some(known) = self.swim.take_news() {
            self.membership.learn(&self.list, known, Instant::now().into_std());
        }
        if !self.membership.has_joined() && self.swim.has_joined() {
            self.membership.set_joined(&self.list);
        }
        self.send(socket).await;
    }

    async fn send(&mut self, socket: &UdpSocket) {
        let outgoing: Vec<_> = self.swim.take_outgoing().collect();
        for datagram in outgoing {
            let Some(to) = self.hosts.find(&datagram.to, socket) else {
                continue;
            };
            if let Err(error) = socket.send_to(&self.seal.close(datagram.bytes, wall_time()), to).await {
                tracing::debug!(peer = %datagram.to, %error, "gossip send failed");
            }
        }
    }

    fn read(&mut self, socket: &UdpSocket) {
        let mut buffer = [0; BUFFER];
        for _ in 0..BATCH {
            let Ok((length, from)) = socket.try_recv_from(&mut buffer) else {
                return;
            };
            if let Err(rejection) = self.receive(&mut buffer[..length]) {
                self.metrics.refused_datagram(reason(&rejection));
                self.log_rejection(from, &rejection);
            }
        }
    }

    fn receive(&mut self, received: &mut [u8]) -> Result<(), Rejection> {
        let now = self.now();
        let opened = self.seal.open(received, wall_time()).map_err(Rejection::Seal)?;
        if let Some(position) = opened.secret {
            self.metrics.opened_datagram(position);
        }
        self.swim.receive(now, opened.datagram)
    }

    /// Logs a rejection, but not for each datagram of a sender.
    fn log_rejection(&mut self, from: SocketAddr, rejection: &Rejection) {
        if !self.rejection_log.admit(self.now(), from) {
            return;
        }
        match rejection {
            Rejection::Seal(error) => log_seal_error(from, *error),
            Rejection::Version { protocol, placement } => tracing::error!(
                %from, protocol, placement, own_protocol = PROTOCOL,
                "gossip rejected: the protocol or placement version of this peer is incompatible; it is not a member"
            ),
            Rejection::Stranger(peer) => tracing::warn!(
                %from, %peer,
                "gossip rejected: this peer is not listed in cluster.peers or by cluster.discover, which is required without a cluster.secret"
            ),
            Rejection::Guest => tracing::warn!(
                %from, own = %self.membership.own(),
                "gossip rejected: other members list this edge but its own list does not; to make it a member, add its cluster.advertise (or cluster.listen) address to cluster.peers or to the source of cluster.discover"
            ),
            Rejection::Garbage => tracing::warn!(
                %from,
                "gossip rejected: malformed datagram; a cluster.secret that is set on one side only causes this, too"
            ),
        }
    }
}

fn log_seal_error(from: SocketAddr, error: SealError) {
    match error {
        SealError::Unsealed => tracing::warn!(
            %from, "gossip rejected: not encrypted; the sender has no cluster.secret, or is an edge of an earlier version"
        ),
        SealError::Forged => {
            tracing::warn!(%from, "gossip rejected: the sender has no cluster.secret, or a different one");
        }
        SealError::Replayed => tracing::warn!(%from, "gossip rejected: replayed datagram"),
        SealError::Early => tracing::info!(
            %from, "gossip rejected: sent before this edge started; a replay, or the sender's clock is behind"
        ),
        SealError::Clock(difference) => tracing::warn!(
            %from, ?difference,
            "gossip rejected: the time of this datagram is not near this edge's (cluster.replay_window); check the clocks of both edges"
        ),
    }
}

/// Returns the time since 1970.
fn wall_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Returns the label of a rejection in the metrics.
fn reason(rejection: &Rejection) -> Refused {
    match rejection {
        Rejection::Seal(SealError::Unsealed | SealError::Forged) => Refused::Seal,
        Rejection::Seal(SealError::Replayed | SealError::Early) => Refused::Replay,
        Rejection::Seal(SealError::Clock(_)) => Refused::Time,
        Rejection::Version { .. } => Refused::Version,
        Rejection::Stranger(_) => Refused::Stranger,
        Rejection::Guest => Refused::Guest,
        Rejection::Garbage => Refused::Garbage,
    }
}
