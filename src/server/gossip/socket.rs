//! [`GossipSocket`]: the UDP socket for gossip, which a previous process may still hold.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::Instant;

/// The pause between two attempts to bind a port that another process holds.
const RETRY: Duration = Duration::from_millis(50);
/// The interval of warnings about a port that stays in use.
const WARNING: Duration = Duration::from_mins(1);

/// The socket for gossip.
#[derive(Debug)]
pub(crate) enum GossipSocket {
    Bound(UdpSocket),
    /// Another process holds the port at this address.
    InUse(SocketAddr),
}

impl GossipSocket {
    /// Returns the socket, once the port is free.
    pub(crate) async fn bind(self) -> UdpSocket {
        let address = match self {
            Self::Bound(socket) => return socket,
            Self::InUse(address) => address,
        };
        let mut warned = Instant::now();
        loop {
            tokio::time::sleep(RETRY).await;
            match UdpSocket::bind(address).await {
                Ok(socket) => return socket,
                Err(error) if warned.elapsed() > WARNING => {
                    tracing::warn!(%address, %error, "gossip port still in use, is the previous process stuck?");
                    warned = Instant::now();
                }
                Err(_) => {}
            }
        }
    }
}
