//! [`Order`]: the parameters of a fill, and [`Leading`]: the task to carry it out.

use std::time::SystemTime;

use http::HeaderMap;
use tokio::sync::oneshot;

use super::classify::known_vary;
use super::request::Inbound;
use super::settings::Settings;
use crate::body::informational::Relay;
use crate::flight::{Lead, Provider, Reach};
use crate::semantics::forward;
use crate::semantics::freshness::Lifetime;
use crate::semantics::request_headers::{Coding, ExtraHeaders, PersonalHeaders};
use crate::semantics::storing::{Credentials, Name, Personal};
use crate::store::entry::Stored;
use crate::store::tiers::{Store, Tier};
use crate::upstream::Reply;

/// The parameters of a fill.
pub(super) struct Order {
    pub(super) name: Name,
    pub(super) credentials: Credentials,
    pub(super) personal: Personal,
    /// The headers that go upstream.
    pub(super) headers: HeaderMap,
    /// The stored response that must be validated.
    pub(super) stale: Option<Stored>,
    /// Relays informational responses to the leader's client.
    pub(super) relay: Option<Relay>,
}

impl Order {
    /// Returns the order of a fill for `inbound`. `headers` are those of the request without hop-by-hop
    /// headers.
    pub(super) fn new(
        settings: &Settings,
        store: &Store,
        inbound: &Inbound,
        headers: &HeaderMap,
        stale: Option<Stored>,
    ) -> Self {
        let policy = settings.policy(&inbound.key);
        let name = policy.name(&inbound.key);
        let (own, coding) = match name {
            Name::Proven => (PersonalHeaders::Authorization, Coding::Identity),
            Name::Hinted(_) => (PersonalHeaders::None, Coding::Accepted),
            Name::Plain => (PersonalHeaders::All, Coding::Accepted),
        };
        let also = ExtraHeaders { forward: &policy.forward, vary: &known_vary(store, inbound) };
        let mut sent = forward::of_fill(headers, &also, own, coding, &settings.via_for(inbound.version));
        inbound.requester.introduce_leader(inbound.source, headers, &mut sent);
        let (credentials, personal) = (Credentials::of(&sent), Personal::of_fill(&sent, &policy.forward));
        Self { name, credentials, personal, headers: sent, stale, relay: None }
    }

    /// Returns an order that belongs to no client.
    pub(super) fn of_this_edge(name: Name) -> Self {
        let (credentials, personal) = (Credentials::None, Personal::Absent);
        Self { name, credentials, personal, headers: HeaderMap::new(), stale: None, relay: None }
    }

    /// Returns true if `stored` satisfies this order: it is fresh, and not the response that must
    /// be validated.
    pub(super) fn is_met_by(&self, stored: &Stored) -> bool {
        let same = self.stale.as_ref().is_some_and(|stale| stale.is_same(stored));
        !same && stored.facts().is_fresh(SystemTime::now())
    }

    /// Returns the stored response if it may be served stale after an error.
    pub(super) fn fallback(&self) -> Option<&Stored> {
        let serves = |stored: &&Stored| match stored.facts().lifetime {
            Lifetime::For(terms) => terms.serves_on_error(stored.facts().age(SystemTime::now())),
            Lifetime::UntilEvicted { .. } => true,
        };
        self.stale.as_ref().filter(serves)
    }
}

/// The part of a fill's result that belongs to the leader's client alone.
pub(super) enum LeaderOnly {
    /// The whole response.
    Response { provider: Provider, reply: Reply },
    /// The headers that only that client may have, of a response that others share.
    Headers(HeaderMap),
}

/// The lead of a flight, and the channel to the leader's request.
pub(super) struct Leading {
    pub(super) lead: Lead,
    pub(super) leader: oneshot::Sender<LeaderOnly>,
}

/// Returns the tier that a fill goes to. Flights to the origin fill the main tier, even if a peer
/// supplied the copy; so do handoffs.
pub(super) fn tier(lead: &Lead) -> Tier {
    match lead.reach() {
        Reach::Origin | Reach::Handoff => Tier::Main,
        Reach::Peers => Tier::Hot,
    }
}
