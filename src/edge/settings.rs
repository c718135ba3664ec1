//! [`Settings`]: the name, the limits and the policies of an edge.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use http::{HeaderValue, Version};

use super::policies::Policies;
use crate::key::{AssetKey, SiteRef};
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::request_headers::Underscores;
use crate::semantics::{combined, forward};
use crate::site::policy::Policy;

const NAME_IS_A_TOKEN: &str = "the configuration's check accepts tokens alone as edge.name";

/// The settings that all parts of an edge share.
pub(super) struct Settings {
    pub(super) name: String,
    /// The member that this edge adds to the Via of a response.
    pub(super) via: HeaderValue,
    /// The identifier of this process in CDN-Loop. No other edge has the same.
    pub(super) loop_id: HeaderValue,
    pub(super) limits: Limits,
    pub(super) policies: ArcSwap<Policies>,
}

/// The limits of a request, in bytes unless stated otherwise.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The length of its target.
    pub(crate) uri: usize,
    /// The size of its headers.
    pub(crate) header: usize,
    /// The length of its body.
    pub(crate) body: u64,
    /// The longest wait for a part of its body.
    pub(crate) body_timeout: Duration,
    /// The lowest average rate of its body, in bytes a second.
    pub(crate) body_rate: u64,
    /// The treatment of headers with `_` in their names.
    pub(crate) underscores: Underscores,
}

/// The policy of one site.
pub(super) struct SitePolicy {
    policies: Guard<Arc<Policies>>,
    site: SiteRef,
}

impl Deref for SitePolicy {
    type Target = Policy;

    fn deref(&self) -> &Policy {
        &self.policies.sites.of(self.site).policy
    }
}

impl Settings {
    pub(super) fn new(name: String, loop_id: HeaderValue, limits: Limits, policies: Policies) -> Self {
        let via = forward::via(Version::HTTP_11, &name).expect(NAME_IS_A_TOKEN);
        Self { name, via, loop_id, limits, policies: ArcSwap::from_pointee(policies) }
    }

    /// Returns the policy of the site of `key`.
    pub(super) fn policy(&self, key: &AssetKey) -> SitePolicy {
        SitePolicy { policies: self.policies.load(), site: key.site() }
    }

    /// Returns the Via member for a message that came in `version`.
    pub(super) fn via_for(&self, version: Version) -> HeaderValue {
        if version == Version::HTTP_11 {
            return self.via.clone();
        }
        forward::via(version, &self.name).expect(NAME_IS_A_TOKEN)
    }

    /// Returns the Cache-Status member of this edge.
    pub(super) fn status(&self, status: &CacheStatus) -> HeaderValue {
        status.value(&self.name)
    }

    /// Returns the members of the caches before, followed by this edge's: in Cache-Status, the
    /// cache nearest to the origin comes first (RFC 9211 §2).
    pub(super) fn status_behind(&self, before: Option<&HeaderValue>, status: &CacheStatus) -> HeaderValue {
        let own = self.status(status);
        combined(before.into_iter().chain([&own])).expect("header values joined by commas are one")
    }
}
