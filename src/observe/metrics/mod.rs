//! The metrics of an edge, and their exposition for Prometheus.

mod counters;
mod encoding;
mod exposition;
mod labels;
mod process;
mod registry;

pub(crate) use exposition::{Gauges, OPEN_METRICS, PLAIN, exposition, plain};
pub(crate) use labels::PeerLookup;
pub use labels::{Asked, Fetched, Refused, Served, Source};
pub(crate) use registry::Metrics;
