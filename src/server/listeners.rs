//! The sockets of an edge: its own, or those that whoever started it has opened.
//!
//! A socket that is handed in outlives the process. What connects between two
//! processes waits in it, and two of them that overlap share it, so a restart
//! refuses nobody.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

use crate::config::ClusterConfig;
use crate::error::StartError;
use crate::server::gossip::Ear;

/// How often a port is sought that is free for TCP and UDP.
const ATTEMPTS: usize = 16;

/// The keys of the addresses to listen at.
const KEYS: &str = "edge.listen, cluster.listen or admin.listen";

/// How many connections may wait to be accepted, as far as the system allows it
/// (`net.core.somaxconn`): what comes while it is full is dropped, and tries again after
/// a second.
const BACKLOG: u32 = 4096;

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Who opened a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opened {
    Here,
    /// Before this process: others may accept from it too.
    Before,
}

/// A socket on which connections are accepted.
#[derive(Debug)]
pub(super) struct Listener {
    socket: TcpListener,
    opened: Opened,
    pub(super) address: SocketAddr,
}

impl Listener {
    pub(super) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.socket.accept().await
    }

    /// Whether another process may accept what this one does not.
    pub(super) fn is_shared(&self) -> bool {
        self.opened == Opened::Before
    }

    /// For whoever accepts by other rules.
    pub(super) fn into_socket(self) -> TcpListener {
        self.socket
    }

    /// Closes it; returns the connections that would be reset with it, `most` at the
    /// most. What waits in one that is shared is left to whoever shares it.
    pub(super) fn close(self, most: usize) -> Vec<(TcpStream, SocketAddr)> {
        let mut waiting = Vec::new();
        if self.is_shared() {
            return waiting;
        }
        // This asks the system, for the runtime looks only when it has been notified.
        let Ok(socket) = self.socket.into_std() else {
            return waiting;
        };
        while waiting.len() < most {
            match socket.accept() {
                Ok((stream, client)) => {
                    let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
                    waiting.extend(stream.ok().map(|stream| (stream, client)));
                }
                // That client has gone already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => break,
            }
        }
        waiting
    }
}

/// Listeners that were handed to this process.
#[derive(Debug, Default)]
pub(super) struct Inherited(Vec<std::net::TcpListener>);

impl Inherited {
    pub(super) fn new(sockets: Vec<std::net::TcpListener>) -> Self {
        Self(sockets)
    }

    /// The one at `address`, or a new one.
    pub(super) fn listen(&mut self, key: &'static str, address: SocketAddr) -> Result<Listener, StartError> {
        let failed = |source| StartError::Listen { key, addr: address.to_string(), source };
        let (socket, opened) = match self.0.iter().position(|socket| socket.local_addr().is_ok_and(|at| at == address))
        {
            Some(at) => {
                let socket = self.0.swap_remove(at);
                socket.set_nonblocking(true).map_err(failed)?;
                (TcpListener::from_std(socket).map_err(failed)?, Opened::Before)
            }
            None => (open(address).map_err(failed)?, Opened::Here),
        };
        let address = socket.local_addr().map_err(failed)?;
        Ok(Listener { socket, opened, address })
    }

    /// Where peers' requests come in, and gossip: one port, over TCP and over UDP.
    pub(super) async fn listen_to_peers(
        &mut self,
        cluster: &ClusterConfig,
    ) -> Result<(Listener, Option<Ear>), StartError> {
        let key = "cluster.listen";
        let mut attempts = 1;
        loop {
            let listener = self.listen(key, cluster.listen)?;
            if !cluster.gossip {
                return Ok((listener, None));
            }
            let address = listener.address;
            match UdpSocket::bind(address).await {
                Ok(socket) => {
                    if cluster.secret.is_none() && !address.ip().is_loopback() {
                        tracing::warn!(%address, "no cluster.secret: whoever reaches this port over UDP is believed about who is alive");
                    }
                    return Ok((listener, Some(Ear::Open(socket))));
                }
                // The process that this one follows still has it.
                Err(error) if listener.is_shared() && error.kind() == io::ErrorKind::AddrInUse => {
                    tracing::info!(%address, "gossip port in use, waiting for the previous process to end");
                    return Ok((listener, Some(Ear::Awaited(address))));
                }
                // The system chose a port that is free for TCP only; it may do better.
                Err(_) if cluster.listen.port() == 0 && attempts < ATTEMPTS => attempts += 1,
                Err(source) => return Err(StartError::Listen { key, addr: format!("{address} (UDP)"), source }),
            }
        }
    }

    /// Nobody listens to what is left.
    pub(super) fn check_nothing_is_left(&self) -> Result<(), StartError> {
        let Some(socket) = self.0.first() else {
            return Ok(());
        };
        let at = socket.local_addr().map_or_else(|error| error.to_string(), |at| at.to_string());
        Err(StartError::Config(format!(
            "LISTEN_FDS: a socket at {at} was handed in, where this edge does not listen; set {KEYS} to it, or do not open it"
        )))
    }
}
