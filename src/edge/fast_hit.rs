//! The fast path of a hit: a plain GET for a fresh stored response.
//!
//! Most requests are of this kind. They need neither a header map nor a future. This file takes the
//! same decisions as [`Edge::respond`], in the same order and with the same functions. A request for
//! which anything else matters is left to `respond`.

use std::net::IpAddr;
use std::time::SystemTime;

use http::{Method, StatusCode};

use super::forwarding::{Believed, Remote};
use super::parts::Edge;
use super::policies::Addressed;
use super::respond::hit;
use crate::body::Body;
use crate::key::AssetKey;
use crate::observe::access::{Record, ServedFrom};
use crate::observe::metrics::Source;
use crate::semantics::authority;
use crate::semantics::cache_control::RequestControl;
use crate::semantics::cache_status::{CacheStatus, Handled};
use crate::semantics::forwarded::ForwardedHeaders;
use crate::semantics::freshness::{self, Reuse};
use crate::semantics::vary::Accepted;
use crate::store::entry::Stored;
use crate::store::headers::PerResponse;

/// A [plain](crate::edge::request_class::RequestClass::Plain) GET over HTTP/1.1, without connection
/// options.
pub(crate) struct FastRequest<'a> {
    /// The request target in origin form.
    pub(crate) target: &'a str,
    pub(crate) host: &'a [u8],
    pub(crate) told: ForwardedHeaders<'a>,
    /// The site that a peer names.
    pub(crate) site: Option<&'a [u8]>,
    /// For the access log.
    pub(crate) user_agent: Option<&'a [u8]>,
    /// For the access log.
    pub(crate) request_id: Option<&'a [u8]>,
    /// The size of the headers in bytes, counted as in `respond`.
    pub(crate) size: usize,
    /// The longest body that the fast path can send, in bytes.
    pub(crate) most: u64,
    pub(crate) accepted: Accepted,
}

/// The reason why a plain request is not answered on the fast path.
pub(crate) enum NotFastHit {
    /// Nothing is stored under the key. The address is the client's.
    Missing(AssetKey, IpAddr),
    /// The request needs `respond`.
    Involved,
}

impl Edge {
    /// Answers a plain GET if a fresh 200 is stored: appends its header lines to `head`, and returns
    /// the body, the log record and the address of the client. Otherwise `head` is unchanged.
    /// `remote` is the other end of the connection, which may be a trusted proxy.
    pub(crate) fn answer_fast(
        &self,
        source: Source,
        remote: Remote,
        request: &FastRequest<'_>,
        head: &mut Vec<u8>,
    ) -> Result<(Body, Record, IpAddr), NotFastHit> {
        let (key, client) = self.plain_key(source, remote, request).ok_or(NotFastHit::Involved)?;
        let Some((tier, stored)) = self.cache.store.get(&key) else {
            return Err(NotFastHit::Missing(key, client));
        };
        if !self.append_hit(&stored, request.most, head) {
            return Err(NotFastHit::Involved);
        }
        let len = stored.len();
        let body = Body::stored(stored, 0, len);
        let (served, from) = (hit(tier), ServedFrom::Store);
        let record = Record { source, method: Method::GET, key: Ok(key), served, from, reason: None, error: None };
        Ok((body, record, client))
    }

    /// Returns the key of the target and the client's address, if no unlisted variant changes the
    /// answer.
    fn plain_key(&self, source: Source, remote: Remote, request: &FastRequest<'_>) -> Option<(AssetKey, IpAddr)> {
        if request.size > self.settings.limits.header || !authority::is_host(request.host) {
            return None;
        }
        let policies = self.settings.policies.load();
        let Believed { client, scheme, host } = policies.forwarding.plain(source, remote, request.told);
        let (stated_host, own_host) = (host.as_ref(), Some(request.host));
        let addressed = Addressed { source, scheme, stated_host, own_host, site: request.site };
        let site = policies.site(&addressed).ok()?;
        let limit = self.settings.limits.uri;
        let key = addressed.key(site, |scope| AssetKey::of_target(scope, request.target, limit)).ok()?;
        let key = site.policy.trim(key);
        let key = if self.cache.store.varies(&key) {
            self.cache.store.select_by_codings(&key, request.accepted)?
        } else {
            key
        };
        Some((key, client))
    }

    /// Appends the header lines to `head` if the entry is a fresh 200 that is not too long. Returns
    /// true if it did.
    fn append_hit(&self, stored: &Stored, most: u64, head: &mut Vec<u8>) -> bool {
        let (fields, now) = (stored.fields(), SystemTime::now());
        let facts = fields.facts();
        let age = facts.age(now);
        let reuse = freshness::reuse(facts.lifetime, age, &RequestControl::default());
        if facts.status != StatusCode::OK || reuse != Reuse::Fresh || stored.len() > most {
            return false;
        }
        stored.uses.increment();
        let status = CacheStatus { handled: Handled::Hit, ttl: facts.ttl(age), ..CacheStatus::default() };
        fields.write(&PerResponse { age: age.as_secs(), status, name: &self.settings.name }, head);
        true
    }
}
