//! The metrics of an edge, and their exposition for Prometheus.

mod counters;
#[cfg(feature = "observe")]
mod encoding;
#[cfg(feature = "observe")]
mod exposition;
mod labels;
#[cfg(feature = "observe")]
mod process;
mod registry;

#[cfg(feature = "observe")]
pub(crate) use exposition::{Gauges, OPEN_METRICS, PLAIN, exposition, plain};
#[cfg(feature = "gossip")]
pub use labels::Refused;
pub use labels::{Asked, Fetched, Served, Source};
pub(crate) use labels::{Handshake, PeerLookup};
pub(crate) use registry::Metrics;
