//! Verification of contents against the digest in the name and the digests in the headers.

use std::sync::Arc;

use http::header::ETAG;
use http::{HeaderMap, HeaderValue, StatusCode};
use hyper::body::Body as _;

use super::fetch::{Fetcher, asked};
use super::memory::Memory;
use crate::body::Body;
use crate::body::proven::{self, Proof};
use crate::error::{Error, Fault};
use crate::flight::{Lead, Provider};
use crate::key::AssetKey;
use crate::semantics::digest_fields::{self, REPR_DIGEST};
use crate::semantics::storing::Credentials;
use crate::semantics::vary::is_coded;
use crate::site::policy::Policy;

/// Verifies a body that will not be stored: a short one before it is sent, if the budget has
/// room to hold it until then, and a long one while it is sent. Bodies of up to `first` bytes are
/// short.
pub(super) async fn prove_unkept(cache: &Memory, first: u64, body: Body, proof: Option<Proof>) -> Result<Body, Error> {
    let Some(proof) = proof else {
        return Ok(body);
    };
    match body.size_hint().exact().filter(|length| *length <= first).and_then(|len| cache.budget.charge(len)) {
        Some(room) => Ok(Body::charged(proven::prove(body, proof, first).await?, room)),
        None => proven::prove(body, proof, 0).await,
    }
}

/// Returns the verification of the body of a response to GET: the digest in its name, and those
/// in its headers.
pub(super) fn proof_for(
    policy: &Policy,
    key: &AssetKey,
    provider: &Provider,
    status: StatusCode,
    headers: &HeaderMap,
) -> Option<Proof> {
    let blame = match provider {
        Provider::Origin => Error::OriginWrong,
        Provider::Peer(_) => Error::PeerWrong,
    };
    let mut expected = digest_fields::expected(status, headers);
    // The name holds the digest of the uncoded file.
    if has_whole_contents(status) && !is_coded(headers) {
        expected.extend(policy.expected(key));
    }
    Proof::of(expected, blame)
}

/// Adds the hash in the name as entity tag if there is none, and as Repr-Digest if the name holds the
/// whole digest.
pub(super) fn name_by_hash(policy: &Policy, key: &AssetKey, headers: &mut HeaderMap) {
    let Some(expected) = policy.expected(key).filter(|_| !is_coded(headers)) else {
        return;
    };
    if !headers.contains_key(ETAG) {
        let tag = HeaderValue::try_from(format!("\"{}\"", expected.text)).expect("a hash is ASCII");
        headers.insert(ETAG, tag);
    }
    let digest = expected.whole().and_then(|digest| digest_fields::repr_digest(expected.algorithm, &digest));
    if let (false, Some(digest)) = (headers.contains_key(REPR_DIGEST), digest) {
        headers.insert(REPR_DIGEST, digest);
    }
}

/// Marks a key that had wrong contents at the origin: it is not fetched again for
/// `cache.wrong_content_ttl`. A flight that a purge or new rules have overtaken leaves no mark.
pub(super) fn mark_wrong(policy: &Policy, cache: &Memory, lead: &Lead) {
    if lead.credentials() != Credentials::None {
        return;
    }
    cache.store.mark_wrong(lead.key(), policy.wrong_content_ttl);
    // Checked after the mark is set: a purge and a reload overtake flights before they remove
    // marks.
    if lead.is_invalidated() {
        cache.store.unmark_wrong(lead.key());
    }
}

/// Handles a copy that failed. A peer that sent it is skipped for this key for a while. Wrong
/// contents are counted and logged, and the peer is told to drop its copy.
pub(super) fn distrust(fetcher: &Fetcher, cache: &Memory, provider: &Provider, key: &AssetKey, error: &Error) {
    let wrong = error.is_of_contents();
    if wrong {
        fetcher.metrics.wrong_content(asked(provider));
        tracing::error!(path = %key, from = provider.name(), %error, "content digest mismatch, response discarded");
    }
    let Provider::Peer(peer) = provider else {
        return;
    };
    if matches!(error.fault(), Fault::Peer | Fault::Origin) {
        cache.store.doubt(peer, key, fetcher.settings.policy(key).wrong_content_ttl);
    }
    if wrong {
        let (peering, peer, key) = (Arc::clone(&fetcher.peering), Arc::clone(peer), key.asset());
        tokio::spawn(async move {
            if let Err(error) = peering.purge(&peer, &key).await {
                tracing::warn!(%peer, path = %key, %error, "purge of a wrong copy not delivered");
            }
        });
    } else if error.fault() == Fault::Peer {
        fetcher.peering.note_broken_response(peer);
    }
}

/// Returns true if a response to GET with this status has the whole contents of the asset: any
/// success but a part (206), and those without content (204, 205; RFC 9110 §15.3).
fn has_whole_contents(status: StatusCode) -> bool {
    let other = matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::PARTIAL_CONTENT);
    status.is_success() && !other
}
