//! The requests of one connection, and the edge that answers them.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures_util::future::BoxFuture;
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};
use tokio::sync::watch;

use crate::body::Body;
use crate::body::informational::Informational;
use crate::config::LimitsConfig;
use crate::conn::Splicers;
use crate::edge::{Edge, FastRequest, NotFastHit, Peeked};
use crate::error::Error;
use crate::key::AssetKey;
use crate::observe::access::{Access, Details, Record, Watched};
use crate::observe::activity::{ActiveRequest, Activity, Stream, Way};
use crate::observe::metrics::Source;
use crate::upstream::tunnel::Tunnel;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Serving,
    Draining,
}

/// Resolves when the server drains, or is gone.
pub(crate) async fn draining(phase: &mut watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase == Phase::Draining).await;
}

/// The parts that all connections of one listener share.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) edge: Arc<Edge>,
    pub(crate) access: Arc<Access>,
    pub(crate) limits: Arc<LimitsConfig>,
    pub(crate) lender: Arc<Splicers>,
    pub(crate) source: Source,
    pub(crate) phase: watch::Receiver<Phase>,
}

/// What the requests of one connection share.
pub(crate) struct Client {
    pub(crate) address: IpAddr,
    /// What it is sent before final responses.
    pub(crate) informational: Informational,
    pub(crate) requests: Activity,
    /// Where the connection leads once it is HTTP no more; the request that led there
    /// goes on for as long.
    tunnel: Mutex<Option<(Tunnel, ActiveRequest)>>,
    source: Source,
    multiplexed: AtomicBool,
    /// Whether a request has led it to a tunnel: what comes from then on is no HTTP.
    led_elsewhere: AtomicBool,
}

impl Client {
    pub(crate) fn new(address: IpAddr, source: Source, informational: Informational) -> Self {
        Self {
            address,
            informational,
            requests: Activity::default(),
            tunnel: Mutex::default(),
            source,
            multiplexed: AtomicBool::new(false),
            led_elsewhere: AtomicBool::new(false),
        }
    }

    fn speaks(&self, version: Version) {
        if version == Version::HTTP_2 {
            self.multiplexed.store(true, Ordering::Relaxed);
        }
    }

    /// Whether closing the connection while it is idle could cross a request. HTTP/2
    /// says first which requests it has not seen, and peers ask again.
    pub(crate) fn lingers(&self) -> bool {
        self.source == Source::Client && !self.multiplexed.load(Ordering::Relaxed)
    }

    fn lead_to(&self, tunnel: Tunnel) {
        self.led_elsewhere.store(true, Ordering::Relaxed);
        *self.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some((tunnel, self.requests.begin()));
    }

    pub(crate) fn take_tunnel(&self) -> Option<(Tunnel, ActiveRequest)> {
        self.tunnel.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The answer that an owner may have at hand: the lines of its fields, and its body.
pub(crate) type Peek = BoxFuture<'static, Option<(Vec<u8>, Watched)>>;

/// What serves one connection.
pub(crate) struct Serving {
    pub(crate) context: Context,
    pub(crate) client: Client,
}

impl Serving {
    pub(crate) fn requests(&self) -> &Activity {
        &self.client.requests
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.context.phase.borrow() == Phase::Draining
    }

    /// Returns true if the connection is a tunnel, or about to be one.
    pub(crate) fn leads_elsewhere(&self) -> bool {
        self.client.led_elsewhere.load(Ordering::Relaxed)
    }

    /// Whether peers ask here, who may peek.
    pub(crate) fn answers_peeks(&self) -> bool {
        self.context.source == Source::Peer
    }

    /// See [`Edge::answer_fast`].
    pub(crate) fn answer_fast(&self, ask: &FastRequest<'_>, head: &mut Vec<u8>) -> Result<Watched, NotFastHit> {
        let began = Instant::now();
        let (source, connection) = (self.context.source, self.client.address);
        let (body, record, client) = self.context.edge.answer_fast(source, connection, ask, head)?;
        let details = self.details(ask);
        Ok(self.watch(client, (record, details), body, began, Way::connection(self.client.requests.begin())))
    }

    /// See [`Edge::peek_fast`].
    pub(crate) fn peek(this: &Arc<Self>, key: AssetKey, client: IpAddr, ask: &FastRequest<'_>) -> Option<Peek> {
        if this.context.source == Source::Peer {
            return None;
        }
        let began = Instant::now();
        let peeked = this.context.edge.peek_fast(key, ask.accepted)?;
        let (serving, under_way, details) = (Arc::clone(this), this.client.requests.begin(), this.details(ask));
        Some(Box::pin(async move {
            let Peeked { lines, body, record } = peeked.await?;
            Some((lines, serving.watch(client, (record, details), body, began, Way::connection(under_way))))
        }))
    }

    fn watch(
        &self,
        client: IpAddr,
        record: (Record, Option<Box<Details>>),
        body: Body,
        began: Instant,
        way: Way,
    ) -> Watched {
        self.context.access.watch_body(client, record, StatusCode::OK, body, began, way)
    }

    /// The parts of a plain request that its line tells, if lines are written.
    fn details(&self, ask: &FastRequest<'_>) -> Option<Box<Details>> {
        self.context.access.lines.as_ref()?;
        Some(Box::new(Details::new(Version::HTTP_11, [Some(ask.host), ask.user_agent, ask.request_id])))
    }

    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Result<Response<Watched>, Infallible> {
        let Self { context, client } = self;
        let (began, under_way) = (Instant::now(), client.requests.begin());
        let requester = context.edge.requester(context.source, client.address, request.headers());
        let address = requester.client;
        let unanswered = context.access.expect(address, context.source, &request, began);
        let version = request.version();
        client.speaks(version);
        let has_content = !request.body().is_end_stream();
        let (patience, rate) = (context.limits.body_timeout.0, context.limits.body_rate.0);
        let request = request.map(|body| Body::received(body, Some(patience), Error::ClientBroke).no_slower_than(rate));
        let request = if has_content { request.map(|body| self.count_content(body)) } else { request };
        // HTTP/1.0 knows no interim responses, and over HTTP/2 there is no way for them.
        let relay = (version == Version::HTTP_11).then(|| client.informational.open());
        let mut answer = context.edge.respond(context.source, requester, relay.clone(), request).await;
        if let Some(relay) = relay {
            relay.close().await;
        }
        if has_content {
            // If nobody has read it, hyper has a look: it reads away what is there, or says
            // with the answer that the connection ends.
            tokio::task::yield_now().await;
        }
        if let Some(tunnel) = answer.tunnel.take() {
            client.lead_to(tunnel);
        }
        let switches = answer.response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if version != Version::HTTP_2 && !switches && self.is_draining() {
            answer.response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let may_be_unframed = version == Version::HTTP_10 || answer.response.version() == Version::HTTP_10;
        if may_be_unframed && version != Version::HTTP_2 && is_of_unknown_length(&answer.response) {
            client.requests.end_with_connection();
        }
        let details = unanswered.answered();
        let way = if version == Version::HTTP_2 {
            let stream = Stream::new(under_way);
            client.requests.watch(&stream);
            Way::Stream(stream)
        } else {
            Way::connection(under_way)
        };
        Ok(context.access.watch(address, (answer.record, details), answer.response, began, way))
    }
}

impl Serving {
    fn count_content(&self, content: Body) -> Body {
        let (metrics, source) = (Arc::clone(&self.context.access.metrics), self.context.source);
        content.counted(move |bytes| metrics.received(source, bytes))
    }
}

fn is_of_unknown_length(response: &Response<Body>) -> bool {
    !response.headers().contains_key(CONTENT_LENGTH) && response.body().size_hint().exact().is_none()
}
