//! Forgetting what a write has changed, here and at every peer.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode, request};

use super::quota::Quota;
use super::{Answer, Ask, Edge, Writes};
use crate::body::Body;
use crate::cluster::health::Health;
use crate::cluster::view::State;
use crate::error::Error;
use crate::key::AssetKey;
use crate::observe::access::{Record, ServedFrom};
use crate::observe::metrics::{Served, Source};
use crate::origin::Call;
use crate::origin::permits::ClientPresence;
use crate::semantics::invalidation;
use crate::upstream::{BaseUrl, Reply};

/// What one edge says to another, on its peer listener: forget this target.
const PURGE: &[u8] = b"PURGE";

/// The target of a PURGE of all that no name proves. No key is called that.
const EVERYTHING: &str = "*";

impl Edge {
    /// Whether this is a peer that wants something forgotten. A client's PURGE
    /// is the origin's business.
    pub(super) fn is_purge(ask: &Ask) -> bool {
        ask.source == Source::Peer && ask.method.as_str().as_bytes() == PURGE
    }

    pub(super) fn answer_purge(&self, ask: &Ask) -> Answer {
        self.forget(&self.policy.load().trim(ask.key.clone()));
        Answer { response: purged(), tunnel: None, record: Self::record(ask, Served::Pass, ServedFrom::Edge) }
    }

    /// Returns true if a peer wants all forgotten that no name proves.
    pub(super) fn is_purge_of_everything(source: Source, request: &request::Parts) -> bool {
        source == Source::Peer && request.method.as_str().as_bytes() == PURGE && request.uri.path() == EVERYTHING
    }

    pub(super) fn answer_purge_of_everything(&self, source: Source, method: Method) -> Answer {
        tracing::warn!(
            "invalidations were lost while this edge was away, dropping responses without a verified digest"
        );
        self.forget_unproven();
        let (key, served, from) = (Err(EVERYTHING.into()), Served::Pass, ServedFrom::Edge);
        Answer {
            response: purged(),
            tunnel: None,
            record: Record { source, method, key, served, from, reason: None, error: None },
        }
    }

    /// Keeps no response that its name does not prove, nor one that is coming in.
    fn forget_unproven(&self) {
        // In the order of `forget`.
        self.store.note_all_changed(self.membership.memory());
        self.flights.overtake_all();
        self.store.forget_unproven();
    }

    /// Keeps nothing under `key`, nor what is coming in under it.
    fn forget(&self, key: &AssetKey) {
        // Before any flight can begin that asks others for it.
        self.store.note_changed(key, self.membership.memory());
        self.flights.overtake(key);
        self.store.forget(key);
    }

    /// Asks the origin for what may change it, and has every edge forget what was
    /// changed, before the client hears of that: what it asks for next is new, whichever
    /// edge it asks. In a task of its own: what is changed is changed, whether or not the
    /// client waits to hear of it. What has no place at the origin when the client leaves
    /// is not sent, so that nobody can queue writes by leaving; what is sent counts for its
    /// client (`quota`) until it is answered.
    pub(super) fn write(
        self: &Arc<Self>,
        ask: &Ask,
        request: Request<Body>,
        quota: Quota,
    ) -> impl Future<Output = Result<(Reply, Quota), Error>> + use<> {
        let (edge, method, key, host) = (Arc::clone(self), ask.method.clone(), ask.key.clone(), ask.host());
        let (here, presence) = ClientPresence::new();
        let call = Call { client: Some(presence), ..request.into() };
        let written = tokio::spawn(async move {
            let answer = edge.ask_origin(call).await.inspect_err(|error| {
                if *error == Error::ClientLeft {
                    tracing::debug!(%method, path = %key, "write not sent, the client left before it reached the origin");
                }
            })?;
            let invalidates = edge.policy.load().writes == Writes::Invalidate;
            if invalidates && invalidation::invalidates(&method, answer.response.status()) {
                edge.forget_everywhere(edge.changed(&key, host.as_ref(), &answer)).await;
            }
            Ok((answer, quota))
        });
        async move {
            let written = written.await;
            drop(here);
            written.unwrap_or(Err(Error::Panicked))
        }
    }

    /// What a write to `key` has made invalid (RFC 9111 §4.4). What the client calls
    /// `host`, and the origin by its own name, is one site: names here have no host.
    fn changed(&self, key: &AssetKey, host: Option<&HeaderValue>, answer: &Reply) -> Vec<AssetKey> {
        let headers = answer.response.headers();
        let upstream =
            |base: &Arc<BaseUrl>| invalidation::named_upstream(&base.host, &base.prefix, key.path(), headers);
        let upstream = answer.base.as_ref().map(upstream).unwrap_or_default();
        let named = invalidation::named(host, key.path(), headers).chain(upstream);
        let named = named.filter_map(|target| AssetKey::from_uri(&target, self.limits.uri).ok());
        let policy = self.policy.load();
        let mut changed: Vec<_> = std::iter::once(key.clone()).chain(named).map(|key| policy.trim(key)).collect();
        changed.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        changed.dedup();
        changed
    }

    /// Has every edge forget `keys`, and store nothing that is coming in under them.
    pub(super) async fn forget_everywhere(self: &Arc<Self>, keys: Vec<AssetKey>) {
        self.unheard.forget_strangers(self.membership.view().peers());
        // Owners first: whoever asks one after this has what is new, and so keeps
        // nothing old that would outlive the next round.
        let owner = |key: &AssetKey| self.membership.view().ring.owner(key.hash()).map(|it| Arc::clone(it.name()));
        let owners = keys.iter().filter_map(|key| Some((key, owner(key)?)));
        let owners: Vec<_> = owners.filter(|(_, owner)| owner != self.membership.own()).collect();
        join_all(owners.iter().map(|(key, owner)| self.tell(owner, key))).await;
        for key in &keys {
            self.forget(key);
        }
        let peers: Vec<Arc<str>> = self.membership.view().peers().iter().map(|peer| Arc::clone(&peer.name)).collect();
        let others = peers.iter().flat_map(|peer| keys.iter().map(move |key| (key, peer)));
        let others = others.filter(|(key, peer)| !owners.iter().any(|(owned, owner)| owned == key && owner == *peer));
        join_all(others.map(|(key, peer)| self.tell(peer, key))).await;
    }

    /// Tells `peer` that `key` has changed: now, or when it is back.
    async fn tell(self: &Arc<Self>, peer: &Arc<str>, key: &AssetKey) {
        let down = self.membership.view().member(peer).is_some_and(|member| member.state == State::Down);
        if down {
            self.note_unheard(peer, key);
        } else if let Err(error) = self.purge(peer, key).await {
            tracing::warn!(%peer, path = %key, %error, "invalidation not delivered, retried when the peer answers");
            self.note_unheard(peer, key);
            self.hears_part(peer);
        }
    }

    fn note_unheard(&self, peer: &Arc<str>, key: &AssetKey) {
        if self.unheard.note(peer, key) == Noted::Overflowed {
            self.metrics.overflowed_invalidations();
            tracing::warn!(%peer, limit = UNHEARD, "invalidation list of an unreachable peer is full; it will be told to drop every response without a verified digest");
        }
    }

    /// Tells a peer that answers again what it has not heard meanwhile.
    pub(super) fn tell_unheard(self: &Arc<Self>, peer: &Arc<str>) {
        let Some(missed) = self.unheard.take(peer) else {
            return;
        };
        let (edge, peer) = (Arc::clone(self), Arc::clone(peer));
        tokio::spawn(async move {
            let told = match missed {
                Missed::Keys(keys) => edge.tell_keys(&peer, keys).await,
                Missed::Everything => edge.tell_everything(&peer).await,
            };
            if let Err(error) = told {
                // It is asked for nothing, and told again, when it answers once more.
                edge.misses(&peer, &error);
            }
        });
    }

    async fn tell_keys(&self, peer: &Arc<str>, keys: HashSet<AssetKey>) -> Result<(), Error> {
        tracing::info!(%peer, keys = keys.len(), "delivering missed invalidations to a peer");
        let mut keys = keys.into_iter();
        while let Some(key) = keys.next() {
            if let Err(error) = self.purge(peer, &key).await {
                std::iter::once(key).chain(keys).for_each(|key| self.note_unheard(peer, &key));
                return Err(error);
            }
        }
        Ok(())
    }

    async fn tell_everything(&self, peer: &Arc<str>) -> Result<(), Error> {
        tracing::info!(%peer, "telling a peer to drop every response without a verified digest");
        let told = self.send_purge(peer, PathAndQuery::from_static(EVERYTHING)).await;
        let told = told.and_then(|status| match status {
            StatusCode::NO_CONTENT => Ok(()),
            other => Err(Error::PeerBroke(format!("it answered PURGE {EVERYTHING} with {other}"))),
        });
        told.inspect_err(|_| self.unheard.note_everything(peer))
    }

    /// Has `peer` forget `key`.
    pub(super) async fn purge(&self, peer: &str, key: &AssetKey) -> Result<(), Error> {
        self.send_purge(peer, key.target()).await.map(drop)
    }

    async fn send_purge(&self, peer: &str, target: PathAndQuery) -> Result<StatusCode, Error> {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = Method::from_bytes(PURGE).expect("PURGE is a token");
        *request.uri_mut() = target.into();
        // One that is silent for longer may serve what it has for as long as that
        // is fresh.
        let asked = tokio::time::timeout(self.peer_timeout, self.peers.ask(peer, request)).await;
        asked.unwrap_or(Err(Error::PeerTimeout)).map(|answer| answer.response.status())
    }
}

fn purged() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// How many changes are kept for a peer that is away.
const UNHEARD: usize = 1024;

/// The invalidations that a peer has missed.
enum Missed {
    /// Of these keys, [`UNHEARD`] at most.
    Keys(HashSet<AssetKey>),
    /// Of more keys than are kept: of any.
    Everything,
}

/// The effect of noting a key.
#[derive(Debug, PartialEq, Eq)]
enum Noted {
    /// The peer will be told.
    Kept,
    /// It was one too many: from now on the peer will be told that all may have changed.
    Overflowed,
}

/// What peers have not heard of changes, each for itself.
#[derive(Default)]
pub(super) struct Unheard(Mutex<HashMap<Arc<str>, Missed>>);

impl Unheard {
    fn peers(&self) -> MutexGuard<'_, HashMap<Arc<str>, Missed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who is no member any more will not ask what has changed.
    fn forget_strangers(&self, members: &[Arc<Health>]) {
        self.peers().retain(|peer, _| members.iter().any(|member| member.name == *peer));
    }

    fn note(&self, peer: &Arc<str>, key: &AssetKey) -> Noted {
        let mut peers = self.peers();
        let missed = peers.entry(Arc::clone(peer)).or_insert_with(|| Missed::Keys(HashSet::new()));
        if let Missed::Keys(keys) = missed {
            keys.insert(key.asset());
            if keys.len() > UNHEARD {
                *missed = Missed::Everything;
                return Noted::Overflowed;
            }
        }
        Noted::Kept
    }

    fn note_everything(&self, peer: &Arc<str>) {
        self.peers().insert(Arc::clone(peer), Missed::Everything);
    }

    fn take(&self, peer: &str) -> Option<Missed> {
        self.peers().remove(peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_list_of_missed_invalidations_becomes_an_invalidation_of_everything() {
        let (unheard, peer) = (Unheard::default(), Arc::from("b:1"));
        let key = |number: usize| AssetKey::parse(&format!("/{number}"), 100).unwrap();
        for number in (0..UNHEARD).chain(0..UNHEARD) {
            assert_eq!(unheard.note(&peer, &key(number)), Noted::Kept);
        }
        assert!(matches!(unheard.take(&peer), Some(Missed::Keys(keys)) if keys.len() == UNHEARD));
        for number in 0..UNHEARD {
            unheard.note(&peer, &key(number));
        }
        assert_eq!(unheard.note(&peer, &key(UNHEARD)), Noted::Overflowed);
        assert_eq!(unheard.note(&peer, &key(0)), Noted::Kept);
        assert!(matches!(unheard.take(&peer), Some(Missed::Everything)));
        assert!(unheard.take(&peer).is_none());
        unheard.note(&peer, &key(0));
        unheard.note_everything(&peer);
        assert!(matches!(unheard.take(&peer), Some(Missed::Everything)));
    }
}
