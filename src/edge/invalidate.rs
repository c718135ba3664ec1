//! Forgetting what a write has changed, here and at every peer.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::join_all;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use tokio::task::JoinHandle;

use super::{Answer, Ask, Edge};
use crate::access::From;
use crate::body::Body;
use crate::cluster::view::State;
use crate::error::Error;
use crate::key::AssetKey;
use crate::metrics::{Served, Source};
use crate::semantics::invalidation;

/// What one edge says to another, on its peer listener: forget this target.
const PURGE: &[u8] = b"PURGE";

impl Edge {
    /// Whether this is a peer that wants something forgotten. A client's PURGE
    /// is the origin's business.
    pub(super) fn is_purge(ask: &Ask) -> bool {
        ask.source == Source::Peer && ask.method.as_str().as_bytes() == PURGE
    }

    pub(super) fn answer_purge(&self, ask: &Ask) -> Answer {
        self.forget(&self.policy.load().trim(ask.key.clone()));
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        Answer { response, record: Self::record(ask, Served::Pass, From::Nobody) }
    }

    /// Keeps nothing under `key`, nor what is coming in under it.
    fn forget(&self, key: &AssetKey) {
        // Before any flight can begin that asks others for it.
        self.memory.note_changed(key, SystemTime::now(), self.membership.memory());
        self.flights.overtake(key);
        self.memory.forget(key);
    }

    /// Asks the origin for what may change it, and has every edge forget what was
    /// changed, before the client hears of that: what it asks for next is new, whichever
    /// edge it asks. In a task of its own: what is changed is changed, whether or not the
    /// client waits to hear of it.
    pub(super) fn write(
        self: &Arc<Self>,
        ask: &Ask,
        request: Request<Body>,
    ) -> JoinHandle<Result<Response<Body>, Error>> {
        let (edge, method, key, host) = (Arc::clone(self), ask.method.clone(), ask.key.clone(), ask.host());
        tokio::spawn(async move {
            let answer = edge.ask_origin(request).await?;
            if invalidation::invalidates(&method, answer.status()) {
                edge.forget_everywhere(edge.changed(&key, host.as_ref(), answer.headers())).await;
            }
            Ok(answer)
        })
    }

    /// What a write to `key` has made invalid (RFC 9111 §4.4).
    fn changed(&self, key: &AssetKey, host: Option<&HeaderValue>, answer: &HeaderMap) -> Vec<AssetKey> {
        let named = invalidation::named(host, key.path(), answer);
        let named = named.filter_map(|target| AssetKey::from_uri(&target, self.limits.uri).ok());
        let policy = self.policy.load();
        std::iter::once(key.clone()).chain(named).map(|key| policy.trim(key)).collect()
    }

    async fn forget_everywhere(&self, keys: Vec<AssetKey>) {
        // Owners first: whoever asks one after this has what is new, and so keeps
        // nothing old that would outlive the next round.
        let owner = |key: &AssetKey| self.membership.view().ring.owner(key.hash()).map(|it| Arc::clone(it.name()));
        let owners = keys.iter().filter_map(|key| Some((key, owner(key)?)));
        let owners: Vec<_> = owners.filter(|(_, owner)| owner != self.membership.own()).collect();
        join_all(owners.iter().map(|(key, owner)| self.purge(owner, key))).await;
        for key in &keys {
            self.forget(key);
        }
        let peers: Vec<Arc<str>> = {
            let view = self.membership.view();
            let down = |name: &str| view.member(name).is_some_and(|member| member.state == State::Down);
            view.peers().iter().map(|peer| Arc::clone(&peer.name)).filter(|name| !down(name)).collect()
        };
        let others = peers.iter().flat_map(|peer| keys.iter().map(move |key| (key, peer)));
        let others = others.filter(|(key, peer)| !owners.iter().any(|(owned, owner)| owned == key && owner == *peer));
        join_all(others.map(|(key, peer)| self.purge(peer, key))).await;
    }

    pub(super) async fn purge(&self, peer: &str, key: &AssetKey) {
        let mut request = Request::new(Body::empty());
        if let Ok(method) = Method::from_bytes(PURGE) {
            *request.method_mut() = method;
        }
        *request.uri_mut() = key.target().into();
        // One that is silent for longer may serve what it has for as long as that
        // is fresh.
        let asked = tokio::time::timeout(self.promptly, self.peers.ask(peer, request)).await;
        if let Err(error) = asked.unwrap_or(Err(Error::PeerTimeout)) {
            self.hears_part(peer);
            tracing::warn!(%peer, path = %key, %error, "a peer may not have heard that this has changed");
        }
    }
}
