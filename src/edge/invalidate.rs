//! Purges: an asset that a write has changed is removed here and at every peer.

use std::future::Future;
use std::sync::Arc;

use futures_util::future::join_all;
use http::{HeaderValue, Method, Request, Response, StatusCode, request};

use super::fetch::Fetcher;
use super::forwarding::told_host;
use super::memory::Memory;
use super::peering::{EVERYTHING, PURGE, Peering};
use super::quota::Quota;
use super::request::{Answer, Inbound};
use super::settings::Settings;
use crate::body::Body;
use crate::cluster::view::State;
use crate::error::Error;
use crate::key::AssetKey;
use crate::observe::access::{Record, ServedFrom};
use crate::observe::metrics::{Served, Source};
use crate::origin::Call;
use crate::origin::permits::ClientPresence;
use crate::semantics::invalidation;
use crate::site::policy::Writes;
use crate::upstream::{BaseUrl, Reply};

/// Purges assets here and at every peer.
#[derive(Clone)]
pub(super) struct Invalidator {
    pub(super) settings: Arc<Settings>,
    pub(super) cache: Arc<Memory>,
    pub(super) peering: Arc<Peering>,
}

impl Invalidator {
    pub(super) fn answer_purge(&self, inbound: &Inbound) -> Answer {
        self.purge(&self.settings.policy(&inbound.key).trim(inbound.key.clone()));
        Answer { response: purged(), tunnel: None, record: inbound.record(Served::Pass, ServedFrom::Edge) }
    }

    pub(super) fn answer_purge_of_everything(&self, source: Source, method: Method) -> Answer {
        tracing::warn!(
            "invalidations were lost while this edge was away, dropping responses without a verified digest"
        );
        self.cache.purge_unproven(self.peering.membership.memory());
        let (key, served, from) = (Err(EVERYTHING.into()), Served::Pass, ServedFrom::Edge);
        Answer {
            response: purged(),
            tunnel: None,
            record: Record { source, method, key, served, from, reason: None, error: None },
        }
    }

    /// Removes the responses of `key` here, under every scheme, and lets no flight store one.
    fn purge(&self, key: &AssetKey) {
        self.cache.purge(key, self.peering.membership.memory());
    }

    /// Returns the keys that a write to `key` has made invalid (RFC 9111 §4.4), in the scope of `key`.
    /// The host of the key, or else the client's `host`, stands for that scope, and so does the
    /// origin's own name.
    fn changed(&self, key: &AssetKey, host: Option<HeaderValue>, answer: &Reply) -> Vec<AssetKey> {
        let (headers, host) = (answer.response.headers(), told_host(key).or(host));
        let upstream =
            |base: &Arc<BaseUrl>| invalidation::named_upstream(&base.host, &base.prefix, key.path(), headers);
        let upstream = answer.base.as_ref().map(upstream).unwrap_or_default();
        let named = invalidation::named(host.as_ref(), key.path(), headers).chain(upstream);
        let named = named.filter_map(|target| AssetKey::of_uri(&key.scope(), &target, self.settings.limits.uri).ok());
        let policy = self.settings.policy(key);
        let mut changed: Vec<_> = std::iter::once(key.clone()).chain(named).map(|key| policy.trim(key)).collect();
        changed.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        changed.dedup();
        changed
    }

    /// Purges `keys` at every edge, and lets no flight store them.
    pub(super) async fn purge_everywhere(&self, keys: Vec<AssetKey>) {
        self.peering.missed_purges.retain_members(self.peering.membership.view().peers());
        // Owners first: an edge that asks one after this gets the new version, and stores no old
        // one that would outlive the next round.
        let owner =
            |key: &AssetKey| self.peering.membership.view().ring.owner(key.hash()).map(|it| Arc::clone(it.name()));
        let owners = keys.iter().filter_map(|key| Some((key, owner(key)?)));
        let owners: Vec<_> = owners.filter(|(_, owner)| owner != self.peering.membership.own()).collect();
        join_all(owners.iter().map(|(key, owner)| self.send_or_record(owner, key))).await;
        for key in &keys {
            self.purge(key);
        }
        let peers: Vec<Arc<str>> =
            self.peering.membership.view().peers().iter().map(|peer| Arc::clone(&peer.name)).collect();
        let others = peers.iter().flat_map(|peer| keys.iter().map(move |key| (key, peer)));
        let others = others.filter(|(key, peer)| !owners.iter().any(|(owned, owner)| owned == key && owner == *peer));
        join_all(others.map(|(key, peer)| self.send_or_record(peer, key))).await;
    }

    /// Sends `peer` the purge of `key`; records it for later if the peer cannot be reached.
    async fn send_or_record(&self, peer: &Arc<str>, key: &AssetKey) {
        let down = self.peering.membership.view().member(peer).is_some_and(|member| member.state == State::Down);
        if down {
            self.peering.note_missed_purge(peer, key);
        } else if let Err(error) = self.peering.purge(peer, key).await {
            tracing::warn!(%peer, path = %key, %error, "invalidation not delivered, retried when the peer answers");
            self.peering.note_missed_purge(peer, key);
            self.peering.note_broken_response(peer);
        }
    }
}

/// Sends a request to the origin that may change an asset, and purges the changed keys at every
/// edge before the client gets the response: its next request gets the new version, from any
/// edge.
///
/// This runs in its own task, because the origin has changed the asset whether or not the
/// client waits. A write that has not been sent when its client leaves is dropped, so that
/// clients cannot queue writes by leaving. A write that has been sent counts for its client
/// (`quota`) until the origin answers.
pub(super) fn write(
    fetcher: &Arc<Fetcher>,
    invalidator: &Invalidator,
    inbound: &Inbound,
    request: Request<Body>,
    quota: Quota,
) -> impl Future<Output = Result<(Reply, Quota), Error>> + use<> {
    let (fetcher, invalidator) = (Arc::clone(fetcher), invalidator.clone());
    let (method, key, host) = (inbound.method.clone(), inbound.key.clone(), inbound.host());
    let (here, presence) = ClientPresence::new();
    let call = Call { client: Some(presence), ..request.into() };
    let written = tokio::spawn(async move {
        let answer = fetcher.ask_origin(call).await.inspect_err(|error| {
            if *error == Error::ClientLeft {
                tracing::debug!(%method, path = %key, "write not sent, the client left before it reached the origin");
            }
        })?;
        let invalidates = invalidator.settings.policy(&key).writes == Writes::Invalidate;
        if invalidates && invalidation::invalidates(&method, answer.response.status()) {
            invalidator.purge_everywhere(invalidator.changed(&key, host, &answer)).await;
        }
        Ok((answer, quota))
    });
    async move {
        let written = written.await;
        drop(here);
        written.unwrap_or(Err(Error::Panicked))
    }
}

/// Returns true if a peer asks for a purge. A client's PURGE goes to the origin.
pub(super) fn is_purge(inbound: &Inbound) -> bool {
    inbound.source == Source::Peer && inbound.method.as_str().as_bytes() == PURGE
}

/// Returns true if a peer asks for a purge of all responses that no name proves.
pub(super) fn is_purge_of_everything(source: Source, request: &request::Parts) -> bool {
    source == Source::Peer && request.method.as_str().as_bytes() == PURGE && request.uri.path() == EVERYTHING
}

fn purged() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
