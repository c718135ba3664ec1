//! The listening sockets of an edge: its own, or inherited from the process that started it.
//!
//! An inherited socket outlives the process. Connections wait in it between two processes, and
//! overlapping processes share it, so a restart rejects no connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

use super::gossip::GossipSocket;
use crate::config::{ClusterConfig, Config};
use crate::error::StartError;
use crate::tls::TlsAcceptor;

/// The maximum number of attempts to find a port that is free for both TCP and UDP.
const ATTEMPTS: usize = 16;

/// The configuration keys of the listeners.
const KEYS: &str = "edge.listen, tls.listen, cluster.listen or admin.listen";

/// The maximum number of connections that wait to be accepted; the system may limit it further
/// (`net.core.somaxconn`). Beyond it, the system drops connection attempts, and the client
/// retries after a second.
const BACKLOG: u32 = 4096;

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The origin of a listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SocketOrigin {
    /// This process opened it.
    Own,
    /// It was open before this process; other processes may accept from it, too.
    Inherited,
}

/// A socket that accepts connections.
#[derive(Debug)]
pub(super) struct Listener {
    socket: TcpListener,
    origin: SocketOrigin,
    pub(super) address: SocketAddr,
    /// Its configuration key.
    pub(super) key: &'static str,
}

/// A listener for clients. Without an acceptor it takes cleartext connections.
pub(super) type ClientListener = (Listener, Option<Arc<TlsAcceptor>>);

impl Listener {
    /// Returns the next connection, and the address of its client.
    pub(super) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.socket.accept().await
    }

    /// Returns true if another process may accept the connections that wait in this socket.
    pub(super) fn is_shared(&self) -> bool {
        self.origin == SocketOrigin::Inherited
    }

    /// Returns the socket, for an accept loop of its own.
    pub(super) fn into_socket(self) -> TcpListener {
        self.socket
    }

    /// Closes the socket. Returns at most `limit` waiting connections, which the system would
    /// reset. The connections in a shared socket are left to the other process.
    pub(super) fn close(self, limit: usize) -> Vec<(TcpStream, SocketAddr)> {
        let mut waiting = Vec::new();
        if self.is_shared() {
            return waiting;
        }
        // The runtime accepts only after a notification, so the system is asked directly.
        let Ok(socket) = self.socket.into_std() else {
            return waiting;
        };
        while waiting.len() < limit {
            match socket.accept() {
                Ok((stream, client)) => {
                    let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
                    waiting.extend(stream.ok().map(|stream| (stream, client)));
                }
                // The client has closed this connection already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => break,
            }
        }
        waiting
    }
}

/// Listening sockets that this process inherited and has not used yet.
#[derive(Debug, Default)]
pub(super) struct InheritedSockets(Vec<std::net::TcpListener>);

impl InheritedSockets {
    pub(super) fn new(sockets: Vec<std::net::TcpListener>) -> Self {
        Self(sockets)
    }

    /// Returns the inherited socket at `address`, or binds a new one.
    pub(super) fn listen(&mut self, key: &'static str, address: SocketAddr) -> Result<Listener, StartError> {
        let failed = |source| StartError::Listen { key, addr: address.to_string(), source };
        let is_at_address = |socket: &std::net::TcpListener| socket.local_addr().is_ok_and(|at| at == address);
        let (socket, origin) = match self.0.iter().position(is_at_address) {
            Some(index) => {
                let socket = self.0.swap_remove(index);
                socket.set_nonblocking(true).map_err(failed)?;
                (TcpListener::from_std(socket).map_err(failed)?, SocketOrigin::Inherited)
            }
            None => (open(address).map_err(failed)?, SocketOrigin::Own),
        };
        let address = socket.local_addr().map_err(failed)?;
        Ok(Listener { socket, origin, address, key })
    }

    /// Binds the addresses for clients: those in cleartext, then those with `tls`.
    pub(super) fn listen_to_clients(
        &mut self,
        config: &Config,
        tls: Option<&Arc<TlsAcceptor>>,
    ) -> Result<Vec<ClientListener>, StartError> {
        let cleartext = config.edge.listen.iter().map(|address| ("edge.listen", address, None));
        let encrypted = config.tls.listen.iter().map(|address| ("tls.listen", address, tls.cloned()));
        cleartext.chain(encrypted).map(|(key, address, tls)| Ok((self.listen(key, *address)?, tls))).collect()
    }

    /// Binds the port for peers: TCP for requests, and UDP for gossip if that is enabled.
    pub(super) async fn listen_to_peers(
        &mut self,
        cluster: &ClusterConfig,
    ) -> Result<(Listener, Option<GossipSocket>), StartError> {
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
                    if !cluster.has_secret() && !address.ip().is_loopback() {
                        tracing::warn!(%address, "no cluster.secret: any host that reaches this UDP port can forge gossip about members"
                        );
                    }
                    return Ok((listener, Some(GossipSocket::Bound(socket))));
                }
                // The previous process still holds the UDP port.
                Err(error) if listener.is_shared() && error.kind() == io::ErrorKind::AddrInUse => {
                    tracing::info!(%address, "gossip port in use, waiting for the previous process to end");
                    return Ok((listener, Some(GossipSocket::InUse(address))));
                }
                // The system chose a port that is free for TCP only; another one may be free for both.
                Err(_) if cluster.listen.port() == 0 && attempts < ATTEMPTS => attempts += 1,
                Err(source) => return Err(StartError::Listen { key, addr: format!("{address} (UDP)"), source }),
            }
        }
    }

    /// Fails if an inherited socket is not used.
    pub(super) fn check_all_used(&self) -> Result<(), StartError> {
        let Some(socket) = self.0.first() else {
            return Ok(());
        };
        let at = socket.local_addr().map_or_else(|error| error.to_string(), |at| at.to_string());
        Err(StartError::Config(format!(
            "LISTEN_FDS: the inherited socket at {at} matches no listener; set {KEYS} to its address, or do not pass it"
        )))
    }
}
