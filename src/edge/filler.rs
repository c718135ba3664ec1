//! [`Filler`]: the parts of an edge that a fill uses.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::fetch::Fetcher;
use super::invalidate::Invalidator;
use super::memory::Memory;
use super::peering::Peering;
use super::settings::Settings;
use crate::observe::metrics::Metrics;

/// Fills flights from peers and the origin.
pub(super) struct Filler {
    pub(super) settings: Arc<Settings>,
    pub(super) cache: Arc<Memory>,
    pub(super) peering: Arc<Peering>,
    pub(super) fetcher: Arc<Fetcher>,
    pub(super) invalidator: Invalidator,
    /// One permit for each fill that may wait for a head without any reader.
    pub(super) detached_fills: Semaphore,
    pub(super) metrics: Arc<Metrics>,
}
