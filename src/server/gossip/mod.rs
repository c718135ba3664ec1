//! Gossip on a socket: what drives [`Swim`], and publishes what it finds out.
//!
//! Datagrams go over UDP to the same port that peers' requests go to over TCP,
//! so that there is nothing more to configure.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::cluster::membership::{Admission, GossipInputs, List, Membership};
use crate::cluster::seal::Seal;
use crate::cluster::swim::wire::{PROTOCOL, Rejection};
use crate::cluster::swim::{Parameters, Swim};
use crate::config::ClusterConfig;
use crate::observe::metrics::{Metrics, Refused};

mod complaints;

use complaints::Complaints;

/// Larger than any datagram of ours.
const LARGEST: usize = 2048;
/// How many datagrams are taken before something else has its turn.
const IN_A_ROW: usize = 64;
/// The longest sleep where nothing else wakes it, and between two warnings about the port.
const QUIET: Duration = Duration::from_mins(1);
/// Between two looks whether the process before this one has let go of the port.
const FREED: Duration = Duration::from_millis(50);
/// For so long a host's name is not looked up again: it may have moved.
const LOOKUP: Duration = Duration::from_secs(2);

/// What this edge is up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    /// It serves.
    Serve,
    /// It is going to leave: it owns nothing from now on.
    Drain,
    /// It leaves.
    Leave,
}

/// This edge's part in gossip.
pub(crate) struct Gossip {
    seal: Seal,
    swim: Swim,
    began: Instant,
    membership: Arc<Membership>,
    following: GossipInputs,
    list: List,
    metrics: Arc<Metrics>,
    hosts: Hosts,
    complaints: Complaints,
}

impl Gossip {
    /// Takes part as `config` says; `edge` is this edge's name and
    /// `seed` makes its choices its own.
    pub(crate) fn new(
        config: &ClusterConfig,
        edge: &str,
        seed: u64,
        membership: Arc<Membership>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let secret = config.secret.as_ref().map(|secret| secret.0.as_str());
        let admission = if secret.is_some() { Admission::Authenticated } else { Admission::Listed };
        let parameters = Parameters {
            probe_interval: config.probe_interval.0,
            probe_timeout: config.probe_timeout.0,
            suspicion: config.suspicion.0,
            admission,
        };
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let started = u64::try_from(started).unwrap_or_default();
        Self {
            seal: Seal::new(secret),
            swim: Swim::new(parameters, membership.own(), edge, started, seed),
            began: Instant::now(),
            following: membership.follow(admission, config.suspicion.0),
            list: List::default(),
            membership,
            metrics,
            hosts: Hosts::new(),
            complaints: Complaints::default(),
        }
    }

    /// Takes part, by the socket that `ear` is going to be, until it is told to leave,
    /// or whoever would tell it is gone.
    pub(crate) async fn run(mut self, ear: Ear, mut intent: watch::Receiver<Intent>) {
        let socket = tokio::select! {
            socket = ear.open() => socket,
            // Nobody has heard of it yet.
            _ = intent.changed() => return,
        };
        self.take_list();
        self.settle(&socket).await;
        loop {
            let wakes_at = self.swim.wakes_at().unwrap_or_else(|| self.now() + QUIET);
            tokio::select! {
                readable = socket.readable() => match readable {
                    Ok(()) => self.read(&socket),
                    Err(error) => tracing::debug!(%error, "gossip socket cannot be read"),
                },
                () = tokio::time::sleep_until(self.began + wakes_at) => self.swim.wake(self.now()),
                Ok(()) = self.following.listed.changed() => self.take_list(),
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

    /// Publishes what is new, and then sends what is to be sent: who hears of
    /// this edge finds it acting on what it says.
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
            if let Err(error) = socket.send_to(&self.seal.close(datagram.bytes), to).await {
                tracing::debug!(peer = %datagram.to, %error, "gossip datagram could not be sent");
            }
        }
    }

    fn read(&mut self, socket: &UdpSocket) {
        let mut buffer = [0; LARGEST];
        for _ in 0..IN_A_ROW {
            let Ok((length, from)) = socket.try_recv_from(&mut buffer) else {
                return;
            };
            let now = self.now();
            let taken = match self.seal.open(&buffer[..length]) {
                Some(datagram) => self.swim.receive(now, datagram),
                None => Err(Rejection::Seal),
            };
            if let Err(rejection) = taken {
                self.metrics.refused_datagram(reason(&rejection));
                self.complain(from, &rejection);
            }
        }
    }

    /// Says what is wrong with a sender, but not for each datagram of it.
    fn complain(&mut self, from: SocketAddr, rejection: &Rejection) {
        if !self.complaints.admit(self.now(), from) {
            return;
        }
        match rejection {
            Rejection::Seal => tracing::warn!(%from, "gossip refused: the sender has another cluster.secret, or none"),
            Rejection::Version { protocol, placement } => tracing::error!(
                %from, protocol, placement, own_protocol = PROTOCOL,
                "gossip refused: this peer runs a version that cannot be in one cluster with this edge; it stays out"
            ),
            Rejection::Stranger(peer) => tracing::warn!(
                %from, %peer,
                "gossip refused: this peer is not listed, and without a cluster.secret only those in cluster.peers, or found by cluster.discover, are members"
            ),
            Rejection::Guest => tracing::warn!(
                %from, own = %self.membership.own(),
                "gossip refused: others list this edge, and its own list does not; it is no member before cluster.peers, or what cluster.discover finds, names it as cluster.advertise (or cluster.listen) does"
            ),
            Rejection::Garbage => tracing::warn!(
                %from,
                "gossip refused: malformed datagram; a cluster.secret that is set on one side only gives this too"
            ),
        }
    }
}

fn reason(rejection: &Rejection) -> Refused {
    match rejection {
        Rejection::Seal => Refused::Seal,
        Rejection::Version { .. } => Refused::Version,
        Rejection::Stranger(_) => Refused::Stranger,
        Rejection::Guest => Refused::Guest,
        Rejection::Garbage => Refused::Garbage,
    }
}

/// The socket for gossip.
#[derive(Debug)]
pub(crate) enum Ear {
    Open(UdpSocket),
    /// Another process has the port still.
    Awaited(SocketAddr),
}

impl Ear {
    /// The socket, as soon as it can be had.
    pub(crate) async fn open(self) -> UdpSocket {
        let address = match self {
            Self::Open(socket) => return socket,
            Self::Awaited(address) => address,
        };
        let mut told = Instant::now();
        loop {
            tokio::time::sleep(FREED).await;
            match UdpSocket::bind(address).await {
                Ok(socket) => return socket,
                Err(error) if told.elapsed() > QUIET => {
                    tracing::warn!(%address, %error, "gossip still waits for its port; is the process before this one stuck?");
                    told = Instant::now();
                }
                Err(_) => {}
            }
        }
    }
}

/// Where peers are: most are named by their IP address; other names are looked
/// up behind, and what is to be sent meanwhile is lost, as datagrams may be.
struct Hosts {
    found: HashMap<Arc<str>, (Option<SocketAddr>, Instant)>,
    answers: mpsc::Receiver<(Arc<str>, SocketAddr)>,
    answer: mpsc::Sender<(Arc<str>, SocketAddr)>,
}

impl Hosts {
    fn new() -> Self {
        let (answer, answers) = mpsc::channel(64);
        Self { found: HashMap::new(), answers, answer }
    }

    fn find(&mut self, name: &Arc<str>, socket: &UdpSocket) -> Option<SocketAddr> {
        if let Ok(address) = name.parse() {
            return Some(address);
        }
        while let Ok((name, address)) = self.answers.try_recv() {
            self.found.insert(name, (Some(address), Instant::now()));
        }
        let known = self.found.get(name).copied();
        if known.is_none_or(|(_, asked)| asked.elapsed() > LOOKUP) {
            self.found.insert(Arc::clone(name), (known.and_then(|(address, _)| address), Instant::now()));
            let (name, answer) = (Arc::clone(name), self.answer.clone());
            // An IPv4 socket reaches no IPv6 address, and the other way round.
            let over_ipv4 = socket.local_addr().is_ok_and(|own| own.is_ipv4());
            let first = known.is_none();
            tokio::spawn(async move {
                let found = tokio::net::lookup_host(&*name).await;
                let found = found.ok().and_then(|mut all| all.find(|address| address.is_ipv4() == over_ipv4));
                match found {
                    Some(address) => drop(answer.send((name, address)).await),
                    None if first => tracing::warn!(
                        peer = %name,
                        "no address for gossip: the name has none, or none of the same family (IPv4, IPv6) as cluster.listen"
                    ),
                    None => {}
                }
            });
        }
        known.and_then(|(address, _)| address)
    }
}
