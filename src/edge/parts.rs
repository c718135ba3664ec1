//! [`Edge`], and the parts that it is made of.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::fetch::Fetcher;
use super::filler::Filler;
use super::forwarding::{Remote, Requester};
use super::hedge_budget::HedgeBudget;
use super::invalidate::Invalidator;
use super::key_list::KeyList;
use super::memory::Memory;
use super::missed_purges::MissedPurges;
use super::peering::Peering;
use super::policies::Policies;
use super::quota::Quotas;
use super::settings::{Limits, Settings};
use crate::body::zero_copy::Arena;
use crate::body::{Body, ReceivedFrom};
use crate::cluster::membership::Membership;
use crate::error::Error;
use crate::key::split_scope;
#[cfg(feature = "observe")]
use crate::observe::metrics::Gauges;
use crate::observe::metrics::{Metrics, Source};
use crate::origin::Origin;
use crate::peer::client::Peers;
use crate::semantics::scheme::Scheme;
use crate::store::tiers::Plan;

/// The parts of an edge.
pub(crate) struct Parts {
    pub(crate) name: String,
    pub(crate) limits: Limits,
    /// The identifier of this process in CDN-Loop. No other edge has the same.
    pub(crate) loop_id: HeaderValue,
    pub(crate) plan: Plan,
    /// The memory for the large chunks of bodies.
    pub(crate) arena: Arc<Arena>,
    pub(crate) policies: Policies,
    pub(crate) origin: Box<dyn Origin>,
    pub(crate) peers: Peers,
    /// The number of peers that are asked before the origin.
    pub(crate) attempts: usize,
    /// The time limit of a peer that answers from its own store.
    pub(crate) peer_timeout: Duration,
    /// The time that a request waits before its peer is pinged.
    pub(crate) probe_interval: Duration,
    /// The number of keys that a warm-up pulls, or lists for another edge.
    pub(crate) warm_keys: usize,
    /// The number of fills that may wait for a head without any reader.
    pub(crate) max_detached_fills: usize,
    pub(crate) membership: Arc<Membership>,
    pub(crate) metrics: Arc<Metrics>,
}

/// One edge: it answers requests, and fetches missing assets from its peers or the origin.
pub struct Edge {
    pub(super) settings: Arc<Settings>,
    pub(super) cache: Arc<Memory>,
    pub(super) peering: Arc<Peering>,
    pub(super) fetcher: Arc<Fetcher>,
    pub(super) filler: Arc<Filler>,
    pub(super) invalidator: Invalidator,
    pub(super) key_list: KeyList,
    pub(super) metrics: Arc<Metrics>,
    /// The probes of an edge without a server. They end with the edge.
    probes: OnceLock<JoinSet<()>>,
}

impl Edge {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let metrics = parts.metrics;
        let settings = Arc::new(Settings::new(parts.name, parts.loop_id, parts.limits, parts.policies));
        let cache = Arc::new(Memory::new(parts.plan, parts.arena));
        let peering = Arc::new(Peering {
            client: parts.peers,
            membership: parts.membership,
            missed_purges: MissedPurges::default(),
            hedge_budget: HedgeBudget::new(),
            attempts: parts.attempts,
            peer_timeout: parts.peer_timeout,
            probe_interval: parts.probe_interval,
            metrics: Arc::clone(&metrics),
        });
        let fetcher = Arc::new(Fetcher {
            peering: Arc::clone(&peering),
            origin: ArcSwap::from_pointee(parts.origin),
            quotas: Quotas::new(Arc::clone(&settings), Arc::clone(&metrics)),
            settings: Arc::clone(&settings),
            metrics: Arc::clone(&metrics),
        });
        let invalidator =
            Invalidator { settings: Arc::clone(&settings), cache: Arc::clone(&cache), peering: Arc::clone(&peering) };
        let filler = Arc::new(Filler {
            settings: Arc::clone(&settings),
            cache: Arc::clone(&cache),
            peering: Arc::clone(&peering),
            fetcher: Arc::clone(&fetcher),
            invalidator: invalidator.clone(),
            detached_fills: Semaphore::new(parts.max_detached_fills),
            metrics: Arc::clone(&metrics),
        });
        let key_list = KeyList::new(Arc::clone(&settings), Arc::clone(&cache), Arc::clone(&peering), parts.warm_keys);
        let probes = OnceLock::new();
        Arc::new(Self { settings, cache, peering, fetcher, filler, invalidator, key_list, metrics, probes })
    }

    /// Returns the membership of the cluster.
    pub fn membership(&self) -> &Arc<Membership> {
        &self.peering.membership
    }

    /// Replaces the policies. If the rules for names differ, the responses that they judge
    /// differently are removed, flights store nothing, and all marks are dropped. If requests have
    /// other keys now, responses that no name proves are removed: writes have other keys, too, and
    /// would not invalidate them.
    pub(crate) fn set_policies(&self, policies: Policies) {
        let policies = Arc::new(policies);
        let before = self.settings.policies.swap(Arc::clone(&policies));
        let has_same_scopes =
            policies.forwarding.has_same_scopes(&before.forwarding) && policies.sites.have_same_scopes(&before.sites);
        if !has_same_scopes {
            self.cache.purge_unproven(self.peering.membership.memory());
        }
        let (sites, before) = (&policies.sites, &before.sites);
        if !sites.have_same_rules(before) {
            self.cache.flights.invalidate_all();
            self.cache.store.retain(|text| {
                let (site, .., name) = split_scope(text);
                sites.at(site).policy.judges_alike(&before.at(site).policy, name)
            });
            self.cache.store.unmark_all();
        }
    }

    /// Replaces the origin.
    pub(crate) fn set_origin(&self, origin: Box<dyn Origin>) {
        self.fetcher.origin.store(Arc::new(origin));
    }

    /// Returns the memory for the large chunks of bodies.
    pub(crate) fn arena(&self) -> &Arc<Arena> {
        &self.cache.arena
    }

    /// Returns the member that this edge adds to the Via of a response.
    pub(crate) fn via(&self) -> &HeaderValue {
        &self.settings.via
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    #[cfg(feature = "observe")]
    pub(crate) fn gauges(&self) -> Gauges {
        use crate::store::tiers::Tier;
        let tier = |tier: Tier| {
            let (bytes, objects, evictions) = self.cache.store.figures(tier);
            (tier.name(), bytes, objects, evictions)
        };
        let view = self.peering.membership.view();
        Gauges {
            flights: self.cache.flights.under_way(),
            readers: self.cache.flights.readers(),
            tiers: Tier::ALL.map(tier).to_vec(),
            memory_used: self.cache.budget.used(),
            lent: self.cache.arena.spliced(),
            peers: view.peers().iter().map(|peer| (Arc::clone(&peer.name), peer.is_up())).collect(),
        }
    }

    /// Returns the name of this edge.
    pub(crate) fn name(&self) -> &str {
        &self.settings.name
    }

    /// Returns the body of a request, which is counted and must arrive in time.
    pub(crate) fn receive(&self, source: Source, body: impl Into<ReceivedFrom>) -> Body {
        let (limits, metrics) = (&self.settings.limits, Arc::clone(&self.metrics));
        Body::received(body, Some(limits.body_timeout), Error::ClientBroke)
            .no_slower_than(limits.body_rate)
            .counted(move |bytes| metrics.received(source, bytes))
    }

    /// Returns the program itself as the client of a request for `scheme`, or for `edge.scheme`.
    pub(crate) fn program(&self, scheme: Option<Scheme>) -> Requester {
        self.settings.policies.load().forwarding.program(scheme)
    }

    /// Returns the client of a request with `headers` on a connection from `remote`.
    pub(crate) fn requester(&self, source: Source, remote: Remote, headers: &HeaderMap) -> Requester {
        self.settings.policies.load().forwarding.requester(source, remote, headers)
    }

    /// Returns the client that `address` counts for; `None` for a trusted proxy.
    pub(crate) fn counted_client(&self, address: IpAddr) -> Option<IpAddr> {
        self.settings.policies.load().forwarding.counted(address)
    }

    /// Probes the peers that do not answer, forever.
    pub(crate) async fn look_after_peers(self: Arc<Self>) {
        self.peering.probe_silent_peers().await;
    }

    /// Begins to probe the peers that do not answer, until the edge is dropped.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub(crate) fn begin_probes(&self) {
        self.probes.get_or_init(|| {
            let peering = Arc::clone(&self.peering);
            let mut probes = JoinSet::new();
            probes.spawn(async move { peering.probe_silent_peers().await });
            probes
        });
    }
}
