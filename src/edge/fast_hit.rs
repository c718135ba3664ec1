//! The short way: what is here and fresh, for who asks for it by its name alone.
//!
//! Most requests are of this kind. They need no map of fields, neither to be understood
//! nor to be answered, and no future: what they need of the [long way](super) is done
//! here in the same order by the same functions. Where anything else could matter, they
//! are not answered here.

use std::net::IpAddr;
use std::time::SystemTime;

use http::{Method, StatusCode};

use super::Edge;
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

/// A GET over HTTP/1.1 that asks [plainly](crate::edge::request_class::RequestClass::Plain), and
/// wants nothing of the connection.
pub(crate) struct FastRequest<'a> {
    /// In origin form.
    pub(crate) target: &'a str,
    pub(crate) host: &'a [u8],
    pub(crate) told: ForwardedHeaders<'a>,
    /// For the access line.
    pub(crate) user_agent: Option<&'a [u8]>,
    /// For the access line.
    pub(crate) request_id: Option<&'a [u8]>,
    /// What its fields take, in bytes, as the long way counts them.
    pub(crate) size: usize,
    /// The longest body that is of use, in bytes.
    pub(crate) most: u64,
    pub(crate) accepted: Accepted,
}

/// Why a plain request is not answered at once.
pub(crate) enum NotFastHit {
    /// There is nothing under its key here. The address is the client's.
    Missing(AssetKey, IpAddr),
    /// It needs the long way.
    Involved,
}

impl Edge {
    /// Answers with a 200 if it can be done at once: appends the lines of its fields to
    /// `head`. Returns the client's address, too; the request came from `connection`.
    pub(crate) fn answer_fast(
        &self,
        source: Source,
        connection: IpAddr,
        ask: &FastRequest<'_>,
        head: &mut Vec<u8>,
    ) -> Result<(Body, Record, IpAddr), NotFastHit> {
        let (key, client) = self.plain_key(source, connection, ask).ok_or(NotFastHit::Involved)?;
        let Some((tier, stored)) = self.store.get(&key) else {
            return Err(NotFastHit::Missing(key, client));
        };
        if !self.append_hit(&stored, ask.most, head) {
            return Err(NotFastHit::Involved);
        }
        let len = stored.len();
        let body = Body::stored(stored, 0, len);
        let (served, from) = (hit(tier), ServedFrom::Store);
        let record = Record { source, method: Method::GET, key: Ok(key), served, from, reason: None, error: None };
        Ok((body, record, client))
    }

    /// The key of what is asked for, if nothing else tells what is meant, and the client's address.
    fn plain_key(&self, source: Source, connection: IpAddr, ask: &FastRequest<'_>) -> Option<(AssetKey, IpAddr)> {
        if ask.size > self.limits.header || !authority::is_host(ask.host) {
            return None;
        }
        let policy = self.policy.load();
        let client = policy.forwarding.sharing_client(source, connection, ask.told, ask.host)?;
        let key = policy.trim(AssetKey::from_target(ask.target, self.limits.uri).ok()?);
        let key = if self.store.varies(&key) { self.store.select_by_codings(&key, ask.accepted)? } else { key };
        Some((key, client))
    }

    /// Appends the fields of an answer to `head`, if what is stored is one.
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
        fields.write(&PerResponse { age: age.as_secs(), status, name: &self.name }, head);
        true
    }
}
