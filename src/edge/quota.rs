//! The number of requests that one client may have at the origin (`limits.requests_per_client`).
//!
//! A pass and a fill count for the client that caused them, at the edge that the client is
//! connected to: a peer's request has been counted there. Hits and followers of a flight count for
//! no client, because they cause no request to the origin.

use std::net::IpAddr;
use std::sync::Arc;

use super::request::Inbound;
use super::settings::Settings;
use crate::clients::{Clients, Counted};
use crate::error::Error;
use crate::observe::metrics::{Metrics, Source};

/// A request at the origin, counted for its client until this is dropped; `None` if it counts for
/// no client.
pub(super) type Quota = Option<Counted>;

/// The requests at the origin, by client.
pub(super) struct Quotas {
    clients: Clients,
    settings: Arc<Settings>,
    metrics: Arc<Metrics>,
}

impl Quotas {
    pub(super) fn new(settings: Arc<Settings>, metrics: Arc<Metrics>) -> Self {
        Self { clients: Clients::default(), settings, metrics }
    }

    /// Returns the client that `inbound` counts for; `None` for a request of a peer or of the
    /// program, and for a request of a trusted proxy that names no other client.
    pub(super) fn client_of(&self, inbound: &Inbound) -> Option<IpAddr> {
        match inbound.source {
            Source::Client => self.settings.policies.load().forwarding.counted(inbound.requester.client),
            Source::Peer | Source::Program => None,
        }
    }

    /// Counts one more request at the origin for `client`.
    ///
    /// # Errors
    /// [`Error::ClientLimit`] if the client has reached `limits.requests_per_client`.
    pub(super) fn take(&self, client: Option<IpAddr>) -> Result<Quota, Error> {
        let Some(client) = client else {
            return Ok(None);
        };
        let limit = self.settings.policies.load().requests_per_client;
        let counted = self.clients.count(client, limit);
        if counted.is_none() {
            tracing::warn!(%client, limit, "request limit of one client reached, rejecting its requests to the origin");
            self.metrics.refused_client_request();
        }
        counted.map(Some).ok_or(Error::ClientLimit)
    }
}
