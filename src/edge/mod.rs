//! [`Edge`]: the only place that decides what becomes of a request.
//!
//! `respond` reads as the request's way: memory, flight, pass. [`fill`] brings
//! an asset in, [`answer`] gives one out.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use http::header::{AUTHORIZATION, COOKIE, HOST};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use tokio::sync::oneshot;

use crate::access::{From, Record};
use crate::body::Body;
use crate::body::growing::Reader;
use crate::budget::Budget;
use crate::cluster::membership::Membership;
use crate::cluster::peer::Peers;
use crate::error::Error;
use crate::flight::{Flights, Joining, Lead, Outcome, Provider, Reach, Selected, Streaming};
use crate::key::AssetKey;
use crate::memory::{Found, Memory, Plan, Tier};
use crate::metrics::{Gauges, Metrics, Served, Source};
use crate::naming::Rule;
use crate::origin::Origin;
use crate::semantics::cache_control::RequestControl;
use crate::semantics::cache_status::{CacheStatus, Handled};
use crate::semantics::forward::{self, Faithful};
use crate::semantics::freshness::{self, Name, Reuse};
use crate::semantics::vary;
use crate::stored::Stored;

mod answer;
mod fill;
mod invalidate;
mod resume;

use fill::{First, Order};

/// What can change while the edge runs.
pub(crate) struct Policy {
    pub(crate) rules: Vec<Rule>,
    pub(crate) negative: Duration,
    pub(crate) hit_for_miss: Duration,
    pub(crate) fill_alone: Duration,
    /// How many variants of one asset are stored.
    pub(crate) variants: usize,
}

impl Policy {
    fn name(&self, key: &AssetKey) -> Name {
        if self.rules.iter().any(|rule| rule.hash_in(key.path()).is_some()) { Name::Immutable } else { Name::Plain }
    }
}

/// What an edge is made of.
pub(crate) struct Parts {
    pub(crate) name: String,
    /// The greatest length of a request target, in bytes.
    pub(crate) uri_limit: usize,
    /// What this process adds to CDN-Loop: the same for no other edge.
    pub(crate) loop_id: HeaderValue,
    pub(crate) plan: Plan,
    pub(crate) policy: Policy,
    pub(crate) origin: Box<dyn Origin>,
    pub(crate) peers: Peers,
    /// How many peers are asked before the origin is.
    pub(crate) attempts: usize,
    pub(crate) membership: Arc<Membership>,
    pub(crate) metrics: Arc<Metrics>,
}

/// One edge: it answers requests, and gets what it has not through its peers
/// or from the origin.
pub struct Edge {
    name: String,
    via: HeaderValue,
    uri_limit: usize,
    loop_id: HeaderValue,
    plan: Plan,
    policy: ArcSwap<Policy>,
    origin: ArcSwap<Box<dyn Origin>>,
    peers: Peers,
    attempts: usize,
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
            uri_limit: parts.uri_limit,
            loop_id: parts.loop_id,
            plan: parts.plan,
            policy: ArcSwap::from_pointee(parts.policy),
            origin: ArcSwap::from_pointee(parts.origin),
            peers: parts.peers,
            attempts: parts.attempts,
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
    pub(crate) async fn respond(self: &Arc<Self>, source: Source, client: IpAddr, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let key = match self.check(&parts) {
            Ok(key) => key,
            Err(error) => {
                let target = parts.uri.path_and_query().map_or("-", |target| target.as_str());
                return self.refuse(source, parts.method, Err(target.chars().take(200).collect()), error);
            }
        };
        let (method, version, headers) = (parts.method, parts.version, parts.headers);
        let authority = parts.uri.into_parts().authority;
        let ask =
            Ask { source, client, method, version, authority, key, headers, body, now: SystemTime::now(), tries: 2 };
        if matches!(ask.method, Method::GET | Method::HEAD) {
            self.look_up(ask).await
        } else if Self::is_purge(&ask) {
            self.answer_purge(&ask)
        } else {
            self.pass(ask, Handled::Method).await
        }
    }

    /// The key of a request that can be served at all.
    fn check(&self, request: &http::request::Parts) -> Result<AssetKey, Error> {
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
        AssetKey::from_uri(&request.uri, self.uri_limit)
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
            Found::Nothing => (Handled::UriMiss, None),
        };
        if wish.only_if_cached {
            return self.refuse(ask.source, ask.method, Ok(ask.key), Error::NotCached);
        }
        if handled == Handled::Bypass {
            return self.pass(ask, handled).await;
        }
        // An answer to credentials is nobody else's (RFC 9111 §3.5), nothing is
        // kept of a request that says so, and content in a GET has no meaning
        // that a key could hold (RFC 9110 §9.3.1).
        if ask.headers.contains_key(AUTHORIZATION) || wish.no_store || !http_body::Body::is_end_stream(&ask.body) {
            return self.pass(ask, Handled::Request).await;
        }
        self.share(ask, handled, stale).await
    }

    /// Validates a response in the background: one flight at a time for a key.
    fn validate_behind(self: &Arc<Self>, ask: &Ask, stored: &Arc<Stored>) {
        if let Joining::Lead(lead) = self.join(ask) {
            let mut headers = ask.headers.clone();
            forward::strip_hop_by_hop(&mut headers);
            // Nobody waits for what might be a leader's alone.
            drop(self.depart(lead, Arc::new(self.order(ask, &headers, Some(Arc::clone(stored))))));
        }
    }

    /// Leads or follows the flight of the asset, and answers from it; `stale` is
    /// what is stored, and has to be validated.
    async fn share(self: &Arc<Self>, mut ask: Ask, handled: Handled, stale: Option<Arc<Stored>>) -> Answer {
        forward::strip_hop_by_hop(&mut ask.headers);
        let order = Arc::new(self.order(&ask, &ask.headers, stale));
        let joining = self.join(&ask);
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
                Outcome::Streaming(streaming) => {
                    return self.answer_flight(&ask, handled, part, Shared { reader, streaming, order });
                }
                Outcome::Joined(other) => {
                    reader = Reader::new(Arc::clone(&other.body));
                    flight = other;
                }
                Outcome::Reused(reused) => return self.answer_reused(&ask, handled, part, &reused),
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
                        Some(First { provider, response }) if Self::answers(&ask, order.name) => {
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
    fn join(&self, ask: &Ask) -> Joining {
        let view = self.membership.view();
        let owner = view.ring.owner(ask.key.hash());
        let own = owner.is_none_or(|owner| owner.name() == self.membership.own());
        if own || ask.source == Source::Peer {
            return self.flights.join(&ask.key, Reach::Origin);
        }
        match self.flights.to_origin(&ask.key) {
            Some(flight) => Joining::Follow(flight),
            None => self.flights.join(&ask.key, Reach::Peers),
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
        let name = self.policy.load().name(&ask.key);
        let faithful = match name {
            Name::Immutable => Faithful::NameOnly,
            Name::Plain => Faithful::Whole,
        };
        let headers = forward::upstream_fields(headers, faithful, &self.request_via(ask));
        Order { name, headers, stale }
    }

    /// Whether the answer to a fill is also the answer to the request that
    /// began it: only if the fill asked for the same.
    fn answers(ask: &Ask, name: Name) -> bool {
        !forward::is_selective(&ask.headers) && (name == Name::Plain || !ask.headers.contains_key(COOKIE))
    }

    /// Forwards a request to the origin, both bodies streamed; nothing is kept.
    async fn pass(self: &Arc<Self>, mut ask: Ask, handled: Handled) -> Answer {
        forward::strip_hop_by_hop(&mut ask.headers);
        let mut request = Request::new(std::mem::take(&mut ask.body));
        *request.method_mut() = ask.method.clone();
        *request.uri_mut() = ask.key.target().into();
        *request.headers_mut() = forward::upstream_fields(&ask.headers, Faithful::Verbatim, &self.request_via(&ask));
        Self::introduce(&ask, request.headers_mut());
        let began = Instant::now();
        match self.ask_origin(request).await {
            Ok(response) => {
                self.forget_everywhere(self.changed(&ask, response.status(), response.headers())).await;
                self.answer_pass(&ask, handled, began, response)
            }
            Err(error) => self.refuse(ask.source, ask.method, Ok(ask.key), error),
        }
    }

    /// Tells the origin who asks; a peer has told already.
    fn introduce(ask: &Ask, headers: &mut HeaderMap) {
        if ask.source == Source::Client {
            forward::add_forwarded(headers, ask.client, ask.host().as_ref(), "http");
        }
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
}
