//! [`HostResolver`]: the addresses of peers that are listed by host name.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// The interval of lookups of one name, since its address may change.
const LOOKUP: Duration = Duration::from_secs(2);

/// Resolves the names of peers. Most peers are listed by IP address. Other names are looked up
/// by a separate task; datagrams to a name without a known address are dropped meanwhile.
pub(super) struct HostResolver {
    /// The last known address of each name, and the time of the last lookup.
    known: HashMap<Arc<str>, (Option<SocketAddr>, Instant)>,
    results: mpsc::Receiver<(Arc<str>, SocketAddr)>,
    result: mpsc::Sender<(Arc<str>, SocketAddr)>,
}

impl HostResolver {
    pub(super) fn new() -> Self {
        let (result, results) = mpsc::channel(64);
        Self { known: HashMap::new(), results, result }
    }

    /// Returns the last known address of `name`, and looks it up again if that was long ago.
    pub(super) fn find(&mut self, name: &Arc<str>, socket: &UdpSocket) -> Option<SocketAddr> {
        if let Ok(address) = name.parse() {
            return Some(address);
        }
        while let Ok((name, address)) = self.results.try_recv() {
            self.known.insert(name, (Some(address), Instant::now()));
        }
        let known = self.known.get(name).copied();
        if known.is_none_or(|(_, looked_up)| looked_up.elapsed() > LOOKUP) {
            self.known.insert(Arc::clone(name), (known.and_then(|(address, _)| address), Instant::now()));
            let (name, result) = (Arc::clone(name), self.result.clone());
            // An IPv4 socket cannot send to an IPv6 address, nor the other way round.
            let over_ipv4 = socket.local_addr().is_ok_and(|own| own.is_ipv4());
            let is_first = known.is_none();
            tokio::spawn(async move {
                let found = tokio::net::lookup_host(&*name).await;
                let found = found.ok().and_then(|mut all| all.find(|address| address.is_ipv4() == over_ipv4));
                match found {
                    Some(address) => drop(result.send((name, address)).await),
                    None if is_first => tracing::warn!(
                        peer = %name,
                        "no address for gossip: the peer's name does not resolve to the address family (IPv4 or IPv6) of cluster.listen"
                    ),
                    None => {}
                }
            });
        }
        known.and_then(|(address, _)| address)
    }
}
