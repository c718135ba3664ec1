//! [`Settings`]: the name, the limits and the policy of an edge.

use arc_swap::ArcSwap;
use http::{HeaderValue, Version};

use super::policy::{Limits, Policy};
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::{combined, forward};

const NAME_IS_A_TOKEN: &str = "the configuration's check accepts tokens alone as edge.name";

/// The settings that all parts of an edge share.
pub(super) struct Settings {
    pub(super) name: String,
    /// The member that this edge adds to the Via of a response.
    pub(super) via: HeaderValue,
    /// The identifier of this process in CDN-Loop. No other edge has the same.
    pub(super) loop_id: HeaderValue,
    pub(super) limits: Limits,
    pub(super) policy: ArcSwap<Policy>,
}

impl Settings {
    pub(super) fn new(name: String, loop_id: HeaderValue, limits: Limits, policy: Policy) -> Self {
        let via = forward::via(Version::HTTP_11, &name).expect(NAME_IS_A_TOKEN);
        Self { name, via, loop_id, limits, policy: ArcSwap::from_pointee(policy) }
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
