//! The classes of a request, by its headers: which of them a fill sends, and how its response is
//! judged.

use http::header::COOKIE;
use http::{HeaderMap, HeaderName};

use super::request::Inbound;
use super::settings::Settings;
use crate::observe::metrics::Source;
use crate::semantics::cache_control::CacheControl;
use crate::semantics::freshness;
use crate::semantics::request_headers::{ExtraHeaders, HeaderClass, RequestKind};
use crate::semantics::storing::{Case, Credentials, Personal};
use crate::store::entry::Stored;
use crate::store::tiers::Store;

/// Returns the case by which the response to `inbound` is judged.
pub(super) fn case(settings: &Settings, store: &Store, inbound: &Inbound) -> Case {
    let policy = settings.policy(&inbound.key);
    let is_personal = inbound.headers.contains_key(COOKIE) || kind(settings, store, inbound) == RequestKind::Unknown;
    let personal = if is_personal { Personal::Sent } else { Personal::Absent };
    policy.case(policy.name(&inbound.key), Credentials::of(&inbound.headers), personal)
}

/// Returns the kind of a request, by its headers and the known Vary of its asset.
pub(super) fn kind(settings: &Settings, store: &Store, inbound: &Inbound) -> RequestKind {
    let vary = known_vary(store, inbound);
    RequestKind::of(&inbound.headers, &ExtraHeaders { forward: &settings.policy(&inbound.key).forward, vary: &vary })
}

/// Returns the request headers that the Vary of an asset is known to name, here or at the
/// requesting peer: of the headers that fills usually drop, a peer sends only those.
pub(super) fn known_vary(store: &Store, inbound: &Inbound) -> Vec<HeaderName> {
    let known = store.varies_by(&inbound.key);
    let known = known.as_deref().unwrap_or_default();
    let sorted = |name: &&HeaderName| matches!(HeaderClass::of(name), HeaderClass::Inert | HeaderClass::Unknown);
    let sent = inbound.headers.keys().filter(|_| inbound.source == Source::Peer).filter(sorted);
    known.iter().chain(sent).cloned().collect()
}

/// Returns true for a stored error or redirect to which the origin gave no lifetime.
pub(super) fn is_silent_error(stored: &Stored) -> bool {
    !stored.facts().status.is_success() && states_no_lifetime(&stored.fields().unpack())
}

pub(super) fn states_no_lifetime(headers: &HeaderMap) -> bool {
    freshness::explicit_lifetime(headers, CacheControl::of(headers)).is_none()
}
