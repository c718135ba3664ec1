//! [`Edge`]: the only place that decides what becomes of a request.
//!
//! `respond` reads as the request's way: memory, flight, pass. [`coalesce`] leads or
//! follows a flight, [`fill`] brings an asset in: [`fetch`] asks for it, [`admission`]
//! decides by the head of what comes, [`ingest`] takes it in. [`mod@respond`] gives it out,
//! and [`mod@pass`] hands on what is for one client alone. [`fast_hit`] is a short cut to
//! what `respond` would have answered from memory, and [`peek`] looks into the owner's.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use http::header::{CONTENT_LENGTH, COOKIE, HOST};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::upgrade::OnUpgrade;
use tokio::sync::Semaphore;

use crate::body::Body;
use crate::body::informational::Relay;
use crate::body::zero_copy::Arena;
use crate::clients::Clients;
use crate::cluster::membership::Membership;
use crate::edge::request_class::RequestClass;
use crate::error::Error;
use crate::flight::{Flights, Provider};
use crate::key::AssetKey;
use crate::observe::access::{Record, ServedFrom};
use crate::observe::metrics::{Gauges, Metrics, Served, Source};
use crate::origin::Origin;
use crate::peer::client::Peers;
use crate::semantics::cache_control::{CacheControl, RequestControl};
use crate::semantics::cache_status::{CacheStatus, Handled};
use crate::semantics::content_length;
use crate::semantics::forward::{self, MOST_FIELDS};
use crate::semantics::freshness::{self, Reuse};
use crate::semantics::methods::Refused;
use crate::semantics::request_fields::{Also, Class, Kind};
use crate::semantics::storing::{Case, Credentials, Name, Personal};
use crate::store::budget::Budget;
use crate::store::entry::Stored;
use crate::store::tiers::{Found, Plan, Store, Tier};
use crate::upstream::tunnel::Tunnel;

mod admission;
mod coalesce;
mod fast_hit;
mod fetch;
mod fill;
mod forwarding;
mod handoff;
mod hedge;
mod ingest;
mod invalidate;
mod multipart;
mod pass;
mod peek;
mod policy;
mod probe;
mod probe_length;
mod quota;
pub(crate) mod request_class;
mod respond;
mod resume;
mod revalidate;
mod select;
mod upgrade;
mod verify;
mod warm;

pub(crate) use fast_hit::{FastRequest, NotFastHit};
pub(crate) use forwarding::{Forwarding, Requester};
use hedge::Hedges;
use invalidate::Unheard;
pub(crate) use peek::Peeked;
pub(crate) use policy::{Limits, Policy, Writes};
use warm::WANTED;

/// What an edge is made of.
pub(crate) struct Parts {
    pub(crate) name: String,
    pub(crate) limits: Limits,
    /// What this process adds to CDN-Loop: the same for no other edge.
    pub(crate) loop_id: HeaderValue,
    pub(crate) plan: Plan,
    /// Where large pieces of bodies are held.
    pub(crate) arena: Arc<Arena>,
    pub(crate) policy: Policy,
    pub(crate) origin: Box<dyn Origin>,
    pub(crate) peers: Peers,
    /// How many peers are asked before the origin is.
    pub(crate) attempts: usize,
    /// How long a peer may take that answers from its own memory.
    pub(crate) peer_timeout: Duration,
    /// How long a request waits before the peer is asked whether it is still there.
    pub(crate) probe_interval: Duration,
    /// How many keys it pulls, or lists for others to pull.
    pub(crate) warm_keys: usize,
    /// How many fills go on without anyone who waits for their head.
    pub(crate) max_detached_fills: usize,
    pub(crate) membership: Arc<Membership>,
    pub(crate) metrics: Arc<Metrics>,
}

/// One edge: it answers requests, and gets what it has not through its peers
/// or from the origin.
pub struct Edge {
    name: String,
    via: HeaderValue,
    limits: Limits,
    loop_id: HeaderValue,
    plan: Plan,
    arena: Arc<Arena>,
    policy: ArcSwap<Policy>,
    origin: ArcSwap<Box<dyn Origin>>,
    peers: Peers,
    attempts: usize,
    peer_timeout: Duration,
    probe_interval: Duration,
    warm_keys: usize,
    detached_fills: Semaphore,
    /// Chunks while what is stored is listed.
    listing: Semaphore,
    hedges: Hedges,
    unheard: Unheard,
    store: Store,
    budget: Arc<Budget>,
    flights: Arc<Flights>,
    /// Requests at the origin, for the clients that are counted.
    requests: Clients,
    membership: Arc<Membership>,
    metrics: Arc<Metrics>,
}

/// A request as the edge sees it: its target is a key, and the fields of its
/// connection are gone.
struct Ask {
    source: Source,
    requester: Requester,
    method: Method,
    version: Version,
    /// The authority that the target names, if it names one.
    authority: Option<Authority>,
    key: AssetKey,
    headers: HeaderMap,
    class: RequestClass,
    /// Known once it has missed.
    kind: Kind,
    body: Body,
    /// The client's end of the connection, if it wants to change the protocol.
    upgrade: Option<OnUpgrade>,
    /// The client's way to interim responses.
    relay: Option<Relay>,
    now: SystemTime,
    /// How often it may look again for its variant.
    tries: u8,
}

impl Ask {
    /// Tells a peer that its request has begun to be answered, which may take as long as
    /// the origin does: without that, the peer asks elsewhere.
    fn acknowledge(&self) {
        if let Some(relay) = self.relay.as_ref().filter(|_| self.source == Source::Peer) {
            relay.offer(StatusCode::PROCESSING, &HeaderMap::new());
        }
    }

    /// Which site the client means (RFC 9110 §7.2): told to the origin, and of no
    /// other consequence. HTTP/2 has it in the target, and an absolute target
    /// goes before the field.
    fn host(&self) -> Option<HeaderValue> {
        self.requester.host().cloned().or_else(|| self.own_host())
    }

    /// As [`host`](Self::host), by the request itself: a proxy may have put another there.
    fn own_host(&self) -> Option<HeaderValue> {
        match &self.authority {
            Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
            None => self.headers.get(HOST).cloned(),
        }
    }
}

/// An answer, and what to write down of it.
pub(crate) struct Answer {
    pub(crate) response: Response<Body>,
    /// The tunnel to the origin after a 101 (Switching Protocols).
    pub(crate) tunnel: Option<Tunnel>,
    pub(crate) record: Record,
}

/// A head above this size, in bytes, counts in `cache.memory` while its request waits.
const LARGE_HEAD: usize = 4 * 1024;
/// The connection and the map of headers hold a head about once each.
const COPIES_OF_HEAD: u64 = 2;

/// Returns the size of headers as HTTP/1.1 writes them, in bytes.
fn head_size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// The way of a request that memory does not answer.
enum Onward {
    /// To the asset's flight, with what is stored and has to be validated.
    Share(Handled, Option<Stored>),
    Pass(Handled),
}

impl Edge {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let via =
            forward::via(Version::HTTP_11, &parts.name).unwrap_or_else(|| HeaderValue::from_static("1.1 peerage"));
        let budget = Budget::new(parts.plan.bodies());
        Arc::new(Self {
            name: parts.name,
            via,
            limits: parts.limits,
            loop_id: parts.loop_id,
            plan: parts.plan,
            policy: ArcSwap::from_pointee(parts.policy),
            origin: ArcSwap::from_pointee(parts.origin),
            peers: parts.peers,
            attempts: parts.attempts,
            peer_timeout: parts.peer_timeout,
            probe_interval: parts.probe_interval,
            warm_keys: parts.warm_keys,
            detached_fills: Semaphore::new(parts.max_detached_fills),
            listing: Semaphore::new(1),
            hedges: Hedges::new(),
            unheard: Unheard::default(),
            store: Store::new(&parts.plan, Arc::clone(&budget)),
            budget,
            flights: Flights::new(Arc::clone(&parts.arena)),
            requests: Clients::default(),
            arena: parts.arena,
            membership: parts.membership,
            metrics: parts.metrics,
        })
    }

    /// The cluster as this edge knows it.
    pub fn membership(&self) -> &Arc<Membership> {
        &self.membership
    }

    /// Replaces the policy. If it has other rules for names, the responses whose names it
    /// judges otherwise are no longer stored, those under way are not kept, and all marks
    /// are dropped.
    pub(crate) fn set_policy(&self, policy: Policy) {
        let policy = Arc::new(policy);
        let before = self.policy.swap(Arc::clone(&policy));
        if !policy.names_as(&before) {
            self.flights.overtake_all();
            self.store.retain(|asset| policy.judges_as(&before, asset));
            self.store.unmark_all();
        }
    }

    /// From now on, assets come from `origin`.
    pub(crate) fn set_origin(&self, origin: Box<dyn Origin>) {
        self.origin.store(Arc::new(origin));
    }

    /// Returns the memory that holds large pieces of bodies.
    pub(crate) fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// What this edge adds to the Via of a response.
    pub(crate) fn via(&self) -> &HeaderValue {
        &self.via
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    pub(crate) fn gauges(&self) -> Gauges {
        let tier = |tier: Tier| {
            let (bytes, objects, evictions) = self.store.figures(tier);
            (tier.name(), bytes, objects, evictions)
        };
        let view = self.membership.view();
        Gauges {
            flights: self.flights.under_way(),
            readers: self.flights.readers(),
            tiers: Tier::ALL.map(tier).to_vec(),
            memory_used: self.budget.used(),
            lent: self.arena.lent(),
            peers: view.peers().iter().map(|peer| (Arc::clone(&peer.name), peer.is_up())).collect(),
        }
    }

    /// The client of a request with `headers` on a connection from `connection`.
    pub(crate) fn requester(&self, source: Source, connection: IpAddr, headers: &HeaderMap) -> Requester {
        self.policy.load().forwarding.requester(source, connection, headers)
    }

    /// Answers one request that came in by `source` from `requester`.
    /// Informational responses to it go by `relay`.
    pub(crate) async fn respond(
        self: &Arc<Self>,
        source: Source,
        requester: Requester,
        relay: Option<Relay>,
        request: Request<Body>,
    ) -> Answer {
        let (mut parts, body) = request.into_parts();
        forward::drop_ambiguous(&mut parts.headers, self.limits.underscores);
        if parts.version == Version::HTTP_2 {
            forward::join_cookies(&mut parts.headers);
        }
        let class = RequestClass::of(&parts.headers);
        let key = match self.check(source, class, &parts) {
            Ok(()) if Self::is_for_this_hop(&parts) => {
                return Box::pin(self.answer_for_this_hop(source, &parts)).await;
            }
            Ok(()) if Self::is_purge_of_everything(source, &parts) => {
                return self.answer_purge_of_everything(source, parts.method);
            }
            Ok(()) => AssetKey::from_uri(&parts.uri, self.limits.uri),
            Err(error) => Err(error),
        };
        let body = body.at_most(self.limits.body);
        let upgrade = upgrade::wanted(source, &mut parts, &body);
        let key = match key {
            Ok(key) if upgrade.is_none() && matches!(parts.method, Method::GET | Method::HEAD) => {
                self.policy.load().trim(key)
            }
            Ok(key) => key,
            Err(error) => return self.refuse(source, parts.method.clone(), Err(target(&parts)), error),
        };
        let (method, version, headers) = (parts.method, parts.version, parts.headers);
        let authority = parts.uri.into_parts().authority;
        let now = SystemTime::now();
        let ask = Ask {
            source,
            requester,
            method,
            version,
            authority,
            key,
            headers,
            class,
            kind: Kind::Common,
            body,
            upgrade,
            relay,
            now,
            tries: 2,
        };
        if ask.upgrade.is_some() {
            Box::pin(self.go_onward(ask, Onward::Pass(Handled::Request))).await
        } else if matches!(ask.method, Method::GET | Method::HEAD) {
            self.get(ask).await
        } else if Self::is_purge(&ask) {
            self.answer_purge(&ask)
        } else {
            Box::pin(self.go_onward(ask, Onward::Pass(Handled::Method))).await
        }
    }

    /// Whether a request can be served at all, whatever its target.
    fn check(&self, source: Source, class: RequestClass, request: &http::request::Parts) -> Result<(), Error> {
        if matches!(request.method, Method::CONNECT | Method::TRACE) {
            return Err(Error::MethodNotAllowed);
        }
        let mut hosts = request.headers.get_all(HOST).iter();
        let (host, more) = (hosts.next(), hosts.next());
        let is_good = |host: &HeaderValue| forward::is_host(host.as_bytes());
        let named = request.uri.authority().is_none_or(|authority| forward::is_host(authority.as_str().as_bytes()));
        // RFC 9113 §8.3.1. Over HTTP/1.1 an absolute target replaces Host (RFC 9112 §3.2.2).
        let contradicts = |host: &HeaderValue| {
            let authority = request.uri.authority().filter(|_| request.version == Version::HTTP_2);
            authority.is_some_and(|authority| !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()))
        };
        if request.version == Version::HTTP_11 && host.is_none()
            || more.is_some()
            || !host.is_none_or(is_good)
            || host.is_some_and(contradicts)
            || !named
        {
            return Err(Error::BadHost);
        }
        if class == RequestClass::Particular {
            self.check_particulars(&request.headers)?;
        }
        match source {
            Source::Client => {
                self.policy.load().methods.admit(&request.method).map_err(|refused| match refused {
                    Refused::NotAllowed => Error::MethodNotAllowed,
                    Refused::NotImplemented => Error::MethodNotImplemented,
                })?;
                self.check_size(&request.headers)
            }
            // It was within the limits of the edge that its client asked, and has
            // grown by what an edge adds.
            Source::Peer => Ok(()),
        }
    }

    fn check_size(&self, headers: &HeaderMap) -> Result<(), Error> {
        if headers.len() > MOST_FIELDS || head_size(headers) > self.limits.header {
            return Err(Error::HeaderTooLarge);
        }
        Ok(())
    }

    fn check_particulars(&self, headers: &HeaderMap) -> Result<(), Error> {
        if headers.get_all(forward::CDN_LOOP).iter().any(|id| forward::lists(id, &self.loop_id)) {
            return Err(Error::Loop);
        }
        if forward::expects_the_unknown(headers) {
            return Err(Error::Expectation);
        }
        if !forward::is_coded_at_most_once(headers) {
            return Err(Error::TransferCoding);
        }
        let length = content_length::of_request(headers).map_err(|content_length::Invalid| Error::BadLength)?;
        if length.is_some_and(|length| length > self.limits.body) {
            return Err(Error::ContentTooLarge);
        }
        Ok(())
    }

    /// Whether a request asks what this edge can do: OPTIONS for no asset, or
    /// for this hop (RFC 9110 §9.3.7, §7.6.2).
    fn is_for_this_hop(request: &http::request::Parts) -> bool {
        request.method == Method::OPTIONS
            && (request.uri.path() == "*" || forward::max_forwards(&request.headers) == Some(0))
    }

    /// Answers a request for this hop. A peer may also ask in it what is stored here.
    async fn answer_for_this_hop(self: &Arc<Self>, source: Source, request: &http::request::Parts) -> Answer {
        let mut answer = self.answer_options(source, target(request));
        if let Some(address) = request.headers.get(WANTED).filter(|_| source == Source::Peer)
            && let Some(list) = self.list_wanted(address).await
        {
            answer.response.headers_mut().insert(CONTENT_LENGTH, list.len().into());
            *answer.response.body_mut() = list.into();
        }
        answer
    }

    /// Answers a GET or HEAD: from memory, or by a longer way. Those are boxed: the
    /// state of a request that takes none of them is small, and moved for less.
    async fn get(self: &Arc<Self>, mut ask: Ask) -> Answer {
        match self.look_up(&mut ask) {
            Ok(answer) => answer,
            Err(onward) => Box::pin(self.go_onward(ask, onward)).await,
        }
    }

    /// Answers a request by a peer or the origin. A large head counts in `cache.memory`
    /// until the response begins: requests that wait are as many as clients want.
    async fn go_onward(self: &Arc<Self>, ask: Ask, onward: Onward) -> Answer {
        let size = head_size(&ask.headers);
        let charged = if size > LARGE_HEAD { COPIES_OF_HEAD * size as u64 } else { 0 };
        let Some(_until_dropped) = self.budget.charge(charged) else {
            return self.refuse(ask.source, ask.method, Ok(ask.key), Error::Overloaded);
        };
        match onward {
            Onward::Share(handled, stale) => self.share(ask, handled, stale).await,
            Onward::Pass(handled) => self.pass(ask, handled).await,
        }
    }

    /// Looks into memory, and says which way the request goes from there.
    fn look_up(self: &Arc<Self>, ask: &mut Ask) -> Result<Answer, Onward> {
        if !self.policy.load().forwarding.shares(ask) {
            return self.look_elsewhere(ask);
        }
        if self.store.has_variants() {
            // Fields of the connection alone select no variant.
            if forward::nominates(&ask.headers) {
                forward::strip_hop_by_hop(&mut ask.headers);
            }
            if let Some(variant) = self.store.select(&ask.key, &ask.headers) {
                ask.key = variant;
            }
        }
        let wish = match ask.class {
            RequestClass::Plain => RequestControl::default(),
            RequestClass::Particular => RequestControl::of(&ask.headers),
        };
        let (handled, stale) = match self.store.find(&ask.key) {
            Found::Here(tier, stored) => {
                let facts = stored.facts();
                match freshness::reuse(facts.lifetime, facts.age(ask.now), &wish) {
                    // It says nothing of a client that it was not requested for.
                    Reuse::Fresh if is_silent_error(&stored) && self.kind(ask) != Kind::Common => {
                        return Err(Onward::Pass(Handled::Request));
                    }
                    Reuse::Fresh => return Ok(self.answer_stored(ask, tier, &stored)),
                    Reuse::Stale => return Ok(self.answer_stale(ask, &stored)),
                    Reuse::WhileRevalidate => {
                        self.validate_behind(ask, &stored);
                        return Ok(self.answer_stale(ask, &stored));
                    }
                    Reuse::Validate if facts.is_fresh(ask.now) => (Handled::Request, Some(stored)),
                    Reuse::Validate => (Handled::Stale, Some(stored)),
                }
            }
            Found::Marked => (Handled::Bypass, None),
            Found::Wrong => {
                let error = Error::OriginWrong("a moment ago".to_owned());
                return Ok(self.refuse(ask.source, ask.method.clone(), Ok(ask.key.clone()), error));
            }
            Found::Nothing if ask.key.variant().is_some() => (Handled::VaryMiss, None),
            Found::Nothing => (Handled::UriMiss, None),
        };
        if wish.only_if_cached {
            return Ok(self.answer_held(ask).unwrap_or_else(|| self.answer_not_cached(ask)));
        }
        ask.kind = self.kind(ask);
        let alone = match ask.kind {
            Kind::Common => false,
            Kind::Own => stale.is_none() && self.store.is_marked_own(&ask.key),
            Kind::Unknown => true,
        };
        if alone || handled == Handled::Bypass {
            return Err(Onward::Pass(handled));
        }
        // A request with `no-store` wants nothing kept, and content in a GET has no
        // meaning that a key could hold (RFC 9110 §9.3.1).
        if wish.no_store || !http_body::Body::is_end_stream(&ask.body) {
            return Err(Onward::Pass(handled));
        }
        // HEAD fetches the body only for names that prove it, which will be wanted.
        // With credentials, HEAD, ranges and conditions pass, for filling would cost
        // a whole fetch each time: what credentials bring is rarely shared.
        let head = ask.method == Method::HEAD;
        let credentials = Credentials::of(&ask.headers) != Credentials::None;
        if head && self.policy.load().name(&ask.key) != Name::Proven
            || credentials && (head || forward::is_selective(&ask.headers))
        {
            return Err(Onward::Pass(handled));
        }
        Err(Onward::Share(handled, stale))
    }

    /// The way of a request that shares no response (see [`forwarding`]).
    fn look_elsewhere(&self, ask: &Ask) -> Result<Answer, Onward> {
        if RequestControl::of(&ask.headers).only_if_cached {
            return Ok(self.answer_not_cached(ask));
        }
        Err(Onward::Pass(Handled::OtherSite))
    }

    /// Returns the case by which the response to `ask` is judged.
    fn case(&self, ask: &Ask) -> Case {
        let policy = self.policy.load();
        let is_personal = ask.headers.contains_key(COOKIE) || self.kind(ask) == Kind::Unknown;
        let personal = if is_personal { Personal::Sent } else { Personal::Absent };
        policy.case(policy.name(&ask.key), Credentials::of(&ask.headers), personal)
    }

    /// Returns the kind of a request, by its headers and the known Vary of its asset.
    fn kind(&self, ask: &Ask) -> Kind {
        let vary = self.known_vary(ask);
        Kind::of(&ask.headers, &Also { forward: &self.policy.load().forward, vary: &vary })
    }

    /// Returns the request headers that the Vary of an asset is known to name, here or at
    /// the peer that asks: a peer sends no other header of the classes that stay behind.
    fn known_vary(&self, ask: &Ask) -> Vec<HeaderName> {
        let known = self.store.varies_by(&ask.key);
        let known = known.as_deref().unwrap_or_default();
        let sorted = |name: &&HeaderName| matches!(Class::of(name), Class::Inert | Class::Unknown);
        let sent = ask.headers.keys().filter(|_| ask.source == Source::Peer).filter(sorted);
        known.iter().chain(sent).cloned().collect()
    }

    /// What this edge adds to the Via of a message, by the version that it came in.
    fn via_for(&self, version: Version) -> HeaderValue {
        let other = (version != Version::HTTP_11).then(|| forward::via(version, &self.name)).flatten();
        other.unwrap_or_else(|| self.via.clone())
    }

    fn record(ask: &Ask, served: Served, from: ServedFrom) -> Record {
        Record {
            source: ask.source,
            method: ask.method.clone(),
            key: Ok(ask.key.clone()),
            served,
            from,
            reason: None,
            error: None,
        }
    }

    fn status(&self, status: &CacheStatus) -> HeaderValue {
        status.value(&self.name)
    }
}

impl From<&Provider> for ServedFrom {
    fn from(provider: &Provider) -> Self {
        match provider {
            Provider::Origin => Self::Origin,
            Provider::Peer(name) => Self::Peer(Arc::clone(name)),
        }
    }
}

/// Returns true for a stored error or redirect to which the origin gave no lifetime.
fn is_silent_error(stored: &Stored) -> bool {
    !stored.facts().status.is_success() && states_no_lifetime(&stored.fields().unpack())
}

fn states_no_lifetime(headers: &HeaderMap) -> bool {
    freshness::explicit_lifetime(headers, CacheControl::of(headers)).is_none()
}

/// A target that names no asset, as the log shows it: nothing in it can pass for
/// something else, such as another line.
fn target(request: &http::request::Parts) -> Box<str> {
    let target = request.uri.path_and_query().map_or("-", |target| target.as_str());
    let plain = |char: char| if char.is_ascii_graphic() { char } else { '?' };
    target.chars().take(200).map(plain).collect()
}
