//! [`Edge`]: the only place that decides what becomes of a request.
//!
//! `respond` reads as the request's way: memory, flight, pass. [`fill`] asks for
//! an asset, [`intake`] takes it in, [`answer`] gives it out, and [`mod@pass`]
//! hands on what is for one client alone.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE, HOST};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version};
use hyper::upgrade::OnUpgrade;
use tokio::sync::{Semaphore, oneshot};

use crate::access::{From, Record};
use crate::body::Body;
use crate::body::growing::Reader;
use crate::budget::Budget;
use crate::cluster::membership::Membership;
use crate::cluster::peer::Peers;
use crate::error::Error;
use crate::flight::{Extent, Flights, Joining, Lead, Outcome, Provider, Reach, Selected, Streaming, Why};
use crate::interim::Relay;
use crate::key::AssetKey;
use crate::memory::{Found, Memory, Plan, Tier};
use crate::metrics::{Gauges, Metrics, Served, Source};
use crate::origin::Origin;
use crate::semantics::cache_control::RequestControl;
use crate::semantics::cache_status::{CacheStatus, Handled};
use crate::semantics::forward::{self, Faithful};
use crate::semantics::freshness::{self, Case, Credentials, Name, Reuse};
use crate::semantics::vary;
use crate::stored::Stored;

mod answer;
mod fill;
mod hedge;
mod intake;
mod invalidate;
mod pass;
mod policy;
mod probe;
mod resume;
mod takeover;
mod upgrade;
mod validate;
mod verify;
mod warm;

use fill::{First, Order};
use hedge::Hedges;
pub(crate) use policy::{Limits, Policy};
use warm::WANTED;

/// What an edge is made of.
pub(crate) struct Parts {
    pub(crate) name: String,
    pub(crate) limits: Limits,
    /// What this process adds to CDN-Loop: the same for no other edge.
    pub(crate) loop_id: HeaderValue,
    pub(crate) plan: Plan,
    pub(crate) policy: Policy,
    pub(crate) origin: Box<dyn Origin>,
    pub(crate) peers: Peers,
    /// How many peers are asked before the origin is.
    pub(crate) attempts: usize,
    /// How long a peer may take that has to ask nobody else,
    pub(crate) promptly: Duration,
    /// and a request for it, before it is asked whether it is there still.
    pub(crate) quiet: Duration,
    /// How many keys it pulls, or lists for others to pull.
    pub(crate) warm_keys: usize,
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
    policy: ArcSwap<Policy>,
    origin: ArcSwap<Box<dyn Origin>>,
    peers: Peers,
    attempts: usize,
    promptly: Duration,
    quiet: Duration,
    warm_keys: usize,
    /// Held while what is stored is listed.
    listing: Semaphore,
    hedges: Hedges,
    memory: Memory,
    budget: Arc<Budget>,
    flights: Arc<Flights>,
    membership: Arc<Membership>,
    metrics: Arc<Metrics>,
}

/// A request as the edge sees it: its target is a key, and the fields of its
/// connection are gone.
struct Ask {
    source: Source,
    /// Who is at the other end of the connection.
    client: IpAddr,
    method: Method,
    version: Version,
    /// That of the target, if it has one.
    authority: Option<Authority>,
    key: AssetKey,
    headers: HeaderMap,
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
    /// Which site the client means (RFC 9110 §7.2): told to the origin, and of no
    /// other consequence. HTTP/2 has it in the target, and an absolute target
    /// goes before the field.
    fn host(&self) -> Option<HeaderValue> {
        match &self.authority {
            Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
            None => self.headers.get(HOST).cloned(),
        }
    }
}

/// An answer, and what to write down of it.
pub(crate) struct Answer {
    pub(crate) response: Response<Body>,
    pub(crate) record: Record,
}

/// What a client's part in a flight is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Leader,
    Follower,
}

impl Edge {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let via =
            forward::via(Version::HTTP_11, &parts.name).unwrap_or_else(|| HeaderValue::from_static("1.1 peerage"));
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
            promptly: parts.promptly,
            quiet: parts.quiet,
            warm_keys: parts.warm_keys,
            listing: Semaphore::new(1),
            hedges: Hedges::new(),
            memory: Memory::new(&parts.plan),
            budget: Budget::new(parts.plan.memory),
            flights: Flights::new(),
            membership: parts.membership,
            metrics: parts.metrics,
        })
    }

    /// The cluster as this edge knows it.
    pub fn membership(&self) -> &Arc<Membership> {
        &self.membership
    }

    /// From now on, `policy` holds; what is stored stays.
    pub(crate) fn set_policy(&self, policy: Policy) {
        self.policy.store(Arc::new(policy));
    }

    /// From now on, assets come from `origin`.
    pub(crate) fn set_origin(&self, origin: Box<dyn Origin>) {
        self.origin.store(Arc::new(origin));
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
            let (bytes, objects, evictions) = self.memory.figures(tier);
            (tier.name(), bytes, objects, evictions)
        };
        let view = self.membership.view();
        Gauges {
            flights: self.flights.under_way(),
            tiers: Tier::ALL.map(tier).to_vec(),
            memory_used: self.budget.used(),
            peers: view.peers().iter().map(|peer| (Arc::clone(&peer.name), peer.is_up())).collect(),
        }
    }

    /// Answers one request that came in by `source` from `client`.
    /// Interim responses to it go by `relay`.
    pub(crate) async fn respond(
        self: &Arc<Self>,
        source: Source,
        client: IpAddr,
        relay: Option<Relay>,
        request: Request<Body>,
    ) -> Answer {
        let (mut parts, body) = request.into_parts();
        let key = match self.check(source, &parts) {
            Ok(()) if Self::is_for_this_hop(&parts) => return self.answer_for_this_hop(source, &parts).await,
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
        let ask = Ask { source, client, method, version, authority, key, headers, body, upgrade, relay, now, tries: 2 };
        if ask.upgrade.is_some() {
            self.pass(ask, Handled::Request).await
        } else if matches!(ask.method, Method::GET | Method::HEAD) {
            self.look_up(ask).await
        } else if Self::is_purge(&ask) {
            self.answer_purge(&ask)
        } else {
            self.pass(ask, Handled::Method).await
        }
    }

    /// Whether a request can be served at all, whatever its target.
    fn check(&self, source: Source, request: &http::request::Parts) -> Result<(), Error> {
        if matches!(request.method, Method::CONNECT | Method::TRACE) {
            return Err(Error::MethodNotAllowed);
        }
        let mut hosts = request.headers.get_all(HOST).iter();
        let (host, more) = (hosts.next(), hosts.next());
        if request.version == Version::HTTP_11 && host.is_none() || more.is_some() {
            return Err(Error::BadHost);
        }
        if request.headers.get_all(forward::CDN_LOOP).iter().any(|id| forward::lists(id, &self.loop_id)) {
            return Err(Error::Loop);
        }
        match source {
            Source::Client => self.check_size(&request.headers),
            // It was within the limits of the edge that its client asked, and has
            // grown by what an edge adds.
            Source::Peer => Ok(()),
        }
    }

    fn check_size(&self, headers: &HeaderMap) -> Result<(), Error> {
        let field = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
        if headers.iter().map(field).sum::<usize>() > self.limits.header {
            return Err(Error::HeaderTooLarge);
        }
        if forward::expects_the_unknown(headers) {
            return Err(Error::Expectation);
        }
        let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
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

    /// A peer may also ask what is here.
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

    async fn look_up(self: &Arc<Self>, mut ask: Ask) -> Answer {
        if let Some(variant) = self.memory.select(&ask.key, &ask.headers) {
            ask.key = variant;
        }
        let wish = RequestControl::of(&ask.headers);
        let (handled, stale) = match self.memory.find(&ask.key, ask.now) {
            Found::Here(tier, stored) => {
                match freshness::reuse(stored.head.lifetime, stored.head.age(ask.now), &wish) {
                    Reuse::Fresh => return self.answer_stored(&ask, tier, &stored),
                    Reuse::Stale => return self.answer_stale(&ask, &stored),
                    Reuse::WhileRevalidate => {
                        self.validate_behind(&ask, &stored);
                        return self.answer_stale(&ask, &stored);
                    }
                    Reuse::Validate if stored.head.is_fresh(ask.now) => (Handled::Request, Some(stored)),
                    Reuse::Validate => (Handled::Stale, Some(stored)),
                }
            }
            Found::Marked => (Handled::Bypass, None),
            Found::Wrong => {
                let error = Error::OriginWrong("a moment ago".to_owned());
                return self.refuse(ask.source, ask.method, Ok(ask.key), error);
            }
            Found::Nothing => (Handled::UriMiss, None),
        };
        if wish.only_if_cached {
            return self.answer_held(&ask).unwrap_or_else(|| self.answer_not_cached(ask));
        }
        if handled == Handled::Bypass {
            return self.pass(ask, handled).await;
        }
        // Nothing is kept of a request that says so, and content in a GET has no
        // meaning that a key could hold (RFC 9110 §9.3.1).
        if wish.no_store || !http_body::Body::is_end_stream(&ask.body) {
            return self.pass(ask, Handled::Request).await;
        }
        // What a name holds for good will be wanted; of another, only the head
        // was. And what credentials bring is rarely shared: a part of it, or its
        // head, would cost the origin all of it each time.
        let head = ask.method == Method::HEAD;
        let credentials = Credentials::of(&ask.headers) != Credentials::None;
        if head && self.policy.load().name(&ask.key) == Name::Plain
            || credentials && (head || forward::is_selective(&ask.headers))
        {
            return self.pass(ask, handled).await;
        }
        self.share(ask, handled, stale).await
    }

    /// Validates a response in the background: one flight at a time for a key.
    fn validate_behind(self: &Arc<Self>, ask: &Ask, stored: &Arc<Stored>) {
        // What is served to all meanwhile is validated once for all.
        if let Joining::Lead(lead) = self.join(ask, Credentials::None) {
            let mut headers = ask.headers.clone();
            forward::strip_hop_by_hop(&mut headers);
            headers.remove(AUTHORIZATION);
            // Nobody waits for what might be a leader's alone.
            drop(self.depart(lead, Arc::new(self.order(ask, &headers, Some(Arc::clone(stored))))));
        }
    }

    /// Leads or follows the flight of the asset, and answers from it; `stale` is
    /// what is stored, and has to be validated.
    async fn share(self: &Arc<Self>, mut ask: Ask, handled: Handled, stale: Option<Arc<Stored>>) -> Answer {
        forward::strip_hop_by_hop(&mut ask.headers);
        let order = Arc::new(Order { relay: ask.relay.clone(), ..self.order(&ask, &ask.headers, stale) });
        let joining = self.join(&ask, order.credentials);
        let mut flight = match &joining {
            Joining::Follow(flight) => Arc::clone(flight),
            Joining::Lead(lead) => Arc::clone(lead.flight()),
        };
        // It counts as a reader from here on, while it waits for the head.
        let mut reader = Reader::new(Arc::clone(&flight.body));
        let (part, mut first) = match joining {
            Joining::Follow(_) => (Part::Follower, None),
            Joining::Lead(lead) => (Part::Leader, Some(self.depart(lead, Arc::clone(&order)))),
        };
        loop {
            match flight.outcome().await {
                Outcome::Streaming(streaming) if !Self::selects(&streaming, &order) => {
                    // It is another variant. That it varies is known by now, so
                    // the next look finds this request's own, or leads to it.
                    return match ask.tries.checked_sub(1) {
                        Some(tries) => Box::pin(self.look_up(Ask { key: ask.key.asset(), tries, ..ask })).await,
                        None => self.pass(ask, handled).await,
                    };
                }
                // Of what only streams by, a part is not waited for.
                Outcome::Streaming(streaming)
                    if streaming.extent == Extent::Window && forward::is_selective(&ask.headers) =>
                {
                    return self.pass(ask, handled).await;
                }
                Outcome::Streaming(streaming) => {
                    let own = own_fields(first.take());
                    // It came stale, or is to be validated each time: then it
                    // answers the leader's request alone (RFC 9111 §4).
                    if own.is_none() && streaming.head.must_be_validated(SystemTime::now()) {
                        return match ask.tries.checked_sub(1) {
                            // It is so slow that its freshness ran out: who comes
                            // now shares another.
                            Some(tries) if !streaming.head.must_be_validated(streaming.came) => {
                                self.flights.retire(&flight);
                                Box::pin(self.look_up(Ask { key: ask.key.asset(), tries, ..ask })).await
                            }
                            _ => self.pass(ask, handled).await,
                        };
                    }
                    let own = own.unwrap_or_default();
                    return self.answer_flight(&ask, handled, part, Shared { reader, streaming, order, own });
                }
                Outcome::Joined(other) => {
                    reader = Reader::new(Arc::clone(&other.body));
                    flight = other;
                }
                Outcome::Reused(reused) => {
                    // As above: what must be validated for each request was so
                    // for the leader's.
                    let each = reused.stored.head.must_be_validated(SystemTime::now());
                    if each && matches!(reused.why, Why::Validated(_)) && own_fields(first.take()).is_none() {
                        return self.pass(ask, handled).await;
                    }
                    return self.answer_reused(&ask, handled, part, &reused);
                }
                Outcome::Landed => match self.memory.find(&ask.key, ask.now) {
                    Found::Here(tier, stored) => return self.answer_stored(&ask, tier, &stored),
                    // It landed, and was evicted already: no use in queueing again.
                    _ => return self.pass(ask, handled).await,
                },
                Outcome::Pass(refusal) => {
                    let first = match first.take() {
                        Some(first) => first.await.ok(),
                        None => None,
                    };
                    return match first {
                        Some(First::Response { provider, response }) if Self::answers(&ask, order.name) => {
                            self.answer_first(&ask, handled, &provider, response, refusal)
                        }
                        _ => self.pass(ask, handled).await,
                    };
                }
                Outcome::Failed(error) => return self.refuse(ask.source, ask.method, Ok(ask.key), error),
                Outcome::Pending => unreachable!("an outcome is waited for until it is there"),
            }
        }
    }

    /// Whether what a flight brings is the variant that `order` asks for.
    fn selects(streaming: &Streaming, order: &Order) -> bool {
        let same = |selected: &Selected| *vary::selected_by(&selected.fields, &order.headers) == *selected.text;
        streaming.selected.as_ref().is_none_or(same)
    }

    /// A flight to peers is for clients alone, and for keys that another owns.
    /// Who has `credentials` of his own shares none with others.
    fn join(&self, ask: &Ask, credentials: Credentials) -> Joining {
        let view = self.membership.view();
        let owner = view.ring.owner(ask.key.hash());
        let own = owner.is_none_or(|owner| owner.name() == self.membership.own());
        if own || ask.source == Source::Peer {
            return self.flights.join(&ask.key, Reach::Origin, credentials);
        }
        match self.flights.to_origin(&ask.key, credentials) {
            Some(flight) => Joining::Follow(flight),
            None => self.flights.join(&ask.key, Reach::Peers, credentials),
        }
    }

    /// Sends the flight on its way, in a task of its own: no client's leaving
    /// ends it. What comes back is the response, if it is the leader's alone.
    fn depart(self: &Arc<Self>, lead: Lead, order: Arc<Order>) -> oneshot::Receiver<First> {
        let (first, receiver) = oneshot::channel();
        tokio::spawn(Arc::clone(self).fill(lead, order, first));
        receiver
    }

    /// What a fill for `ask` asks for; `headers` are the request's, without its
    /// connection's own.
    fn order(&self, ask: &Ask, headers: &HeaderMap, stale: Option<Arc<Stored>>) -> Order {
        let credentials = Credentials::of(headers);
        let name = self.policy.load().name(&ask.key);
        let faithful = match name {
            Name::Immutable => Faithful::NameOnly,
            Name::Plain => Faithful::Whole,
        };
        let headers = forward::upstream_fields(headers, faithful, &self.request_via(ask));
        Order { name, credentials, headers, stale, relay: None }
    }

    /// Whether the answer to a fill is also the answer to the request that
    /// began it: only if the fill asked for the same.
    fn answers(ask: &Ask, name: Name) -> bool {
        !forward::is_selective(&ask.headers) && (name == Name::Plain || !ask.headers.contains_key(COOKIE))
    }

    /// What the response to `ask` is judged by.
    fn case(&self, ask: &Ask) -> Case {
        let policy = self.policy.load();
        policy.case(policy.name(&ask.key), Credentials::of(&ask.headers))
    }

    /// What this edge adds to the Via of a request: the version that it came in.
    fn request_via(&self, ask: &Ask) -> HeaderValue {
        forward::via(ask.version, &self.name).unwrap_or_else(|| self.via.clone())
    }

    fn record(ask: &Ask, served: Served, from: From) -> Record {
        Record { source: ask.source, method: ask.method.clone(), key: Ok(ask.key.clone()), served, from, error: None }
    }

    fn status(&self, status: &CacheStatus) -> HeaderValue {
        status.value(&self.name)
    }
}

impl std::convert::From<&Provider> for From {
    fn from(provider: &Provider) -> Self {
        match provider {
            Provider::Origin => Self::Origin,
            Provider::Peer(name) => Self::Peer(Arc::clone(name)),
        }
    }
}

/// What a flight's clients are told they share.
fn served(part: Part) -> Served {
    match part {
        Part::Leader => Served::Miss,
        Part::Follower => Served::Collapsed,
    }
}

/// A flight's head, and a reader of its body.
struct Shared {
    reader: Reader,
    streaming: Streaming,
    order: Arc<Order>,
    /// The fields that this request's client alone may have.
    own: HeaderMap,
}

/// The fields that are the leader's alone, of a response that others share;
/// `None` for who does not lead.
fn own_fields(first: Option<oneshot::Receiver<First>>) -> Option<HeaderMap> {
    match first?.try_recv() {
        Ok(First::Fields(own)) => Some(own),
        _ => None,
    }
}

/// What of a target goes into the log when it names no asset.
fn target(request: &http::request::Parts) -> Box<str> {
    let target = request.uri.path_and_query().map_or("-", |target| target.as_str());
    target.chars().take(200).collect()
}
