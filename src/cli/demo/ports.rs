//! [`Ports`]: the ports of the demo's processes on loopback.

/// Number of edges.
pub(super) const EDGES: u16 = 3;

/// The ports, each with the number of `--shift` added.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) shift: u16,
}

impl Ports {
    pub(super) fn origin(self) -> u16 {
        9000 + self.shift
    }

    /// Returns the port of an edge for clients, without TLS.
    pub(super) fn http(self, edge: u16) -> u16 {
        8000 + edge + self.shift
    }

    /// Returns the port of an edge for clients, with TLS.
    pub(super) fn https(self, edge: u16) -> u16 {
        8500 + edge + self.shift
    }

    pub(super) fn peers(self, edge: u16) -> u16 {
        7000 + edge + self.shift
    }

    pub(super) fn admin(self, edge: u16) -> u16 {
        9900 + edge + self.shift
    }
}
