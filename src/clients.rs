//! Counts per client with a limit, of connections and of requests at the origin.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts per client. Clients without a count are not in the map.
#[derive(Clone, Default)]
pub(crate) struct Clients(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One unit of a client's count, until it is dropped.
pub(crate) struct Counted {
    clients: Clients,
    client: IpAddr,
}

impl Clients {
    /// Counts one more for the client at `address`. Returns `None` at the limit, `most`.
    pub(crate) fn count(&self, address: IpAddr, most: usize) -> Option<Counted> {
        let client = client_of(address);
        let mut clients = self.lock();
        let count = clients.entry(client).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        drop(clients);
        Some(Counted { clients: self.clone(), client })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // No critical section can panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut clients = self.clients.lock();
        if let Some(count) = clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

/// Returns the address that identifies a client: the /64 network of an IPv6 address, since one
/// host may have all of that network.
fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_client_has_its_own_limit_and_idle_clients_are_removed() {
        let clients = Clients::default();
        let first = [(); 3].map(|()| clients.count(address("192.0.2.1"), 3));
        assert!(first.iter().all(Option::is_some));
        assert!(clients.count(address("192.0.2.1"), 3).is_none());
        let second = clients.count(address("192.0.2.2"), 3);
        assert!(second.is_some());
        drop((first, second));
        assert!(clients.lock().is_empty());
    }

    #[test]
    fn ipv6_is_counted_by_network_and_mapped_ipv4_as_ipv4() {
        for (one, other, same) in [
            ("2001:db8::1", "2001:db8::ffff:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.2", false),
        ] {
            assert_eq!(client_of(address(one)) == client_of(address(other)), same, "{one} and {other}");
        }
    }
}
