//! The conditions under which the outcome of a flight answers one of its requests.

use std::time::SystemTime;

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName};

use super::order::Order;
use super::request::Inbound;
use super::request_class::RequestClass;
use crate::flight::{Provider, ReuseReason, Reused, Selected, Streaming};
use crate::semantics::cache_control::RequestControl;
use crate::semantics::freshness::{self, Reuse};
use crate::semantics::vary::{self, Variant, Varies};
use crate::semantics::{cache_status, forward};
use crate::store::metadata::Metadata;

/// Returns true if a stored response that was to be validated answers a request that followed.
/// A response that must be validated each time was validated for the leader alone.
pub(super) fn reused_answers(inbound: &Inbound, reused: &Reused) -> bool {
    let facts = reused.stored.facts();
    let validated = matches!(reused.reason, ReuseReason::Validated(_));
    !validated || !facts.must_be_validated(SystemTime::now()) && is_new_enough(inbound, facts)
}

/// Returns true if a request with these headers selects the variant that a flight brings.
pub(super) fn selects(streaming: &Streaming, headers: &HeaderMap) -> bool {
    let same = |selected: &Selected| Variant::of(&selected.fields, headers) == selected.variant;
    streaming.selected.as_ref().is_none_or(same)
}

/// Returns true if the response of a flight is as new as a request that joined later demands.
pub(super) fn is_recent_enough(streaming: &Streaming, inbound: &Inbound) -> bool {
    let from_origin = || match &streaming.provider {
        Provider::Origin => true,
        Provider::Peer(_) => !streaming.head.upstream_status.as_ref().is_some_and(cache_status::ends_with_a_hit),
    };
    if inbound.class == RequestClass::Plain || streaming.came >= inbound.now && from_origin() {
        return true;
    }
    is_new_enough(inbound, streaming.head.facts)
}

/// Returns true if the request would have been answered with this response from the store.
fn is_new_enough(inbound: &Inbound, facts: Metadata) -> bool {
    let directives = RequestControl::of(&inbound.headers);
    freshness::reuse(facts.lifetime, facts.age(SystemTime::now()), &directives) != Reuse::Validate
}

/// Returns true if a response that is the leader's alone answers this request: the fill sent
/// all of the request's headers that count.
pub(super) fn leaders_response_answers(inbound: &Inbound, order: &Order, response: &HeaderMap) -> bool {
    let sent = |name: &HeaderName| inbound.headers.get_all(name).iter().eq(order.headers.get_all(name).iter());
    let selected_alike = match vary::varies(response) {
        Varies::By(fields) => {
            let fields: Vec<_> = fields.into_iter().filter(forward::may_select).collect();
            Variant::of(&fields, &inbound.headers) == Variant::of(&fields, &order.headers)
        }
        Varies::Not | Varies::Uncacheable => true,
    };
    !forward::is_partial(&inbound.headers) && sent(&COOKIE) && sent(&AUTHORIZATION) && selected_alike
}
