//! The number of requests that one client may have at the origin (`limits.requests_per_client`).
//!
//! A pass and a fill count for the client that caused them, at the edge that the client is
//! connected to: a peer's request has been counted there. Hits and followers of a flight count for
//! no client, because they cause no request to the origin.

use std::net::IpAddr;

use super::{Ask, Edge};
use crate::clients::Counted;
use crate::error::Error;
use crate::flight::Joining;
use crate::observe::metrics::Source;
use crate::semantics::storing::Credentials;

/// A request at the origin, counted for its client until this is dropped; `None` if it counts for
/// no client.
pub(super) type Quota = Option<Counted>;

impl Edge {
    /// Returns the client that `address` counts for; `None` for a trusted proxy.
    pub(crate) fn counted_client(&self, address: IpAddr) -> Option<IpAddr> {
        self.policy.load().forwarding.counted(address)
    }

    /// Returns the client that `ask` counts for; `None` for a peer's request, and for a request of
    /// a trusted proxy that names no other client.
    pub(super) fn client_of(&self, ask: &Ask) -> Option<IpAddr> {
        match ask.source {
            Source::Client => self.counted_client(ask.requester.client),
            Source::Peer => None,
        }
    }

    /// Counts one more request at the origin for `client`.
    ///
    /// # Errors
    /// [`Error::ClientLimit`] if the client has reached `limits.requests_per_client`.
    pub(super) fn take_quota(&self, client: Option<IpAddr>) -> Result<Quota, Error> {
        let Some(client) = client else {
            return Ok(None);
        };
        let limit = self.policy.load().requests_per_client;
        let counted = self.requests.count(client, limit);
        if counted.is_none() {
            tracing::warn!(%client, limit, "request limit of one client reached, rejecting its requests to the origin");
            self.metrics.refused_client_request();
        }
        counted.map(Some).ok_or(Error::ClientLimit)
    }

    /// Joins a flight like [`join`](Self::join). A lead counts for the client of `ask` until its
    /// flight has an outcome.
    ///
    /// # Errors
    /// [`Error::ClientLimit`], as in [`take_quota`](Self::take_quota). Requests that have followed
    /// the lead meanwhile try again.
    pub(super) fn join_counted(&self, ask: &Ask, credentials: Credentials) -> Result<Joining, Error> {
        match self.join(ask, credentials) {
            Joining::Lead(mut lead) => match self.take_quota(self.client_of(ask)) {
                Ok(quota) => {
                    lead.quota = quota;
                    Ok(Joining::Lead(lead))
                }
                Err(error) => {
                    lead.fail(error.clone());
                    Err(error)
                }
            },
            Joining::Follow(flight) => Ok(Joining::Follow(flight)),
        }
    }
}
