//! The short way: what is here and fresh, for who asks for it by its name alone.
//!
//! Most requests are of this kind. They need no map of fields, neither to be understood
//! nor to be answered, and no future: what they need of the [long way](super) is done
//! here in the same order by the same functions. Where anything else could matter, they
//! are not answered here.

use std::time::SystemTime;

use http::{Method, StatusCode};

use super::Edge;
use super::answer::hit;
use crate::access::{From, Record};
use crate::body::Body;
use crate::fields::Anew;
use crate::key::AssetKey;
use crate::metrics::Source;
use crate::semantics::cache_control::RequestControl;
use crate::semantics::cache_status::{CacheStatus, Handled};
use crate::semantics::forward;
use crate::semantics::freshness::{self, Reuse};
use crate::stored::Stored;

/// A GET over HTTP/1.1 that asks [plainly](crate::semantics::manner::Manner::Plain), and
/// wants nothing of the connection.
pub(crate) struct Plainly<'a> {
    /// In origin form.
    pub(crate) target: &'a str,
    pub(crate) host: &'a [u8],
    /// For the access line.
    pub(crate) user_agent: Option<&'a [u8]>,
    /// For the access line.
    pub(crate) request_id: Option<&'a [u8]>,
    /// What its fields take, in bytes, as the long way counts them.
    pub(crate) size: usize,
    /// The longest body that is of use, in bytes.
    pub(crate) most: u64,
}

/// Why a plain request is not answered at once.
pub(crate) enum NotAtOnce {
    /// There is nothing under its key here.
    Missing(AssetKey),
    /// It needs the long way.
    Involved,
}

impl Edge {
    /// Answers with a 200 if it can be done at once: appends the lines of its fields to
    /// `head`.
    pub(crate) fn answer_at_once(
        &self,
        source: Source,
        ask: &Plainly<'_>,
        head: &mut Vec<u8>,
    ) -> Result<(Body, Record), NotAtOnce> {
        let key = self.plain_key(ask).ok_or(NotAtOnce::Involved)?;
        let Some((tier, stored)) = self.memory.held(&key) else {
            return Err(NotAtOnce::Missing(key));
        };
        if !self.append_hit(&stored, ask.most, head) {
            return Err(NotAtOnce::Involved);
        }
        let len = stored.len();
        let body = Body::stored(stored, 0, len);
        let (served, from) = (hit(tier), From::Memory);
        Ok((body, Record { source, method: Method::GET, key: Ok(key), served, from, reason: None, error: None }))
    }

    /// The key of what is asked for, if nothing else tells what is meant.
    fn plain_key(&self, ask: &Plainly<'_>) -> Option<AssetKey> {
        if ask.size > self.limits.header || !forward::is_host(ask.host) {
            return None;
        }
        let key = self.policy.load().trim(AssetKey::from_target(ask.target, self.limits.uri).ok()?);
        (!self.memory.varies(&key)).then_some(key)
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
        stored.uses.one_more();
        let status = CacheStatus { handled: Handled::Hit, ttl: facts.ttl(age), ..CacheStatus::default() };
        fields.write(&Anew { age: age.as_secs(), status, name: &self.name }, head);
        true
    }
}
