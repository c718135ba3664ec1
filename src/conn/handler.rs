//! [`Handler`]: passes the requests of one connection to the edge, and logs the responses.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST};
use http::uri::Authority;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};
use tokio::sync::watch;

use crate::body::informational::Informational;
use crate::body::{Body, ReceivedFrom};
use crate::config::LimitsConfig;
use crate::conn::https::{HttpsPolicy, Redirect};
use crate::conn::ticket_exchange;
use crate::conn::zero_copy::Splicers;
use crate::edge::{Answer, Edge, FastRequest, NotFastHit, Peeked, Remote, Requester};
use crate::key::AssetKey;
use crate::observe::access::{Access, Details, LoggedBody, Record};
use crate::observe::activity::{ActiveRequest, Activity, Delivery, StreamProgress};
use crate::observe::metrics::Source;
use crate::peer::ticket_exchange::is_exchange;
use crate::semantics::authority::{is_host, split_port};
use crate::semantics::scheme::Scheme;
use crate::tls::{PeerTls, Selection, Session, TicketSecrets, TlsAcceptor};
use crate::upstream::tunnel::Tunnel;

/// The time for which an idle HTTP/1 connection of a client stays open when the edge drains.
/// A request that the client sends meanwhile gets a response with `Connection: close`.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

/// The phase of a listener and its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Serving,
    Draining,
}

/// Resolves when the server drains, or was dropped.
pub(crate) async fn draining(phase: &mut watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase == Phase::Draining).await;
}

/// The state that all connections of one listener share.
#[derive(Clone)]
pub(crate) struct ListenerContext {
    pub(crate) edge: Arc<Edge>,
    pub(crate) access: Arc<Access>,
    pub(crate) limits: Arc<LimitsConfig>,
    pub(crate) splicers: Arc<Splicers>,
    pub(crate) source: Source,
    /// The configuration key of the listener.
    pub(crate) listener: &'static str,
    pub(crate) tls: ListenerTls,
    pub(crate) https: Arc<HttpsPolicy>,
    pub(crate) phase: watch::Receiver<Phase>,
}

/// The TLS of a listener.
#[derive(Clone)]
pub(crate) enum ListenerTls {
    /// The listener takes cleartext.
    None,
    Clients(Arc<TlsAcceptor>),
    /// TLS with other edges, and the secrets of session tickets that are shared with them.
    Peers(Arc<PeerTls>, Option<Arc<TicketSecrets>>),
}

/// The state that the requests of one connection share.
pub(crate) struct ConnectionState {
    /// The address at the other end.
    pub(crate) address: IpAddr,
    /// Informational responses to send before the final response.
    pub(crate) informational: Informational,
    pub(crate) requests: Activity,
    /// The scheme of the requests.
    scheme: Scheme,
    tls: Option<(Session, Option<Selection>)>,
    /// The tunnel that replaces HTTP after an upgrade. Its request stays active until the
    /// tunnel ends.
    tunnel: Mutex<Option<(Tunnel, ActiveRequest)>>,
    source: Source,
    is_http2: AtomicBool,
    /// True once a request is answered with an upgrade: the bytes that follow are not HTTP.
    is_upgraded: AtomicBool,
}

impl ConnectionState {
    pub(crate) fn new(
        address: IpAddr,
        source: Source,
        (scheme, tls): (Scheme, Option<(Session, Option<Selection>)>),
        informational: Informational,
    ) -> Self {
        Self {
            address,
            informational,
            requests: Activity::default(),
            scheme,
            tls,
            tunnel: Mutex::default(),
            source,
            is_http2: AtomicBool::new(false),
            is_upgraded: AtomicBool::new(false),
        }
    }

    fn remote(&self) -> Remote {
        Remote { address: self.address, scheme: self.scheme }
    }

    /// Returns the result of the TLS handshake.
    fn session(&self) -> Option<Session> {
        self.tls.as_ref().map(|(session, _)| *session)
    }

    /// Returns true if the TLS handshake would have selected another certificate for `authority`.
    fn misdirects(&self, authority: &str) -> bool {
        let Some((_, Some(selection))) = &self.tls else { return false };
        let host = split_port(authority).0;
        !selection.serves(host.strip_suffix('.').unwrap_or(host))
    }

    fn note_version(&self, version: Version) {
        if version == Version::HTTP_2 {
            self.is_http2.store(true, Ordering::Relaxed);
        }
    }

    /// Returns true if closing the idle connection could lose a request that the client has
    /// just sent. Over HTTP/2, GOAWAY names the requests that were not processed, and peers
    /// retry.
    pub(crate) fn lingers(&self) -> bool {
        self.source == Source::Client && !self.is_http2.load(Ordering::Relaxed)
    }

    fn upgrade(&self, tunnel: Tunnel) {
        self.is_upgraded.store(true, Ordering::Relaxed);
        *self.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some((tunnel, self.requests.begin()));
    }

    /// Returns the tunnel after an upgrade, and its active request.
    pub(crate) fn take_tunnel(&self) -> Option<(Tunnel, ActiveRequest)> {
        self.tunnel.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A pending peek at the owner of a key. Resolves to the header lines and the body of the
/// response; to `None` if the owner has none in memory.
pub(crate) type PeekFuture = BoxFuture<'static, Option<(Vec<u8>, LoggedBody)>>;

/// The handler of one connection's requests.
pub(crate) struct Handler {
    pub(crate) context: ListenerContext,
    pub(crate) connection: ConnectionState,
}

impl Handler {
    pub(crate) fn requests(&self) -> &Activity {
        &self.connection.requests
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.context.phase.borrow() == Phase::Draining
    }

    /// Returns true if the connection is a tunnel, or is about to become one.
    pub(crate) fn is_upgraded(&self) -> bool {
        self.connection.is_upgraded.load(Ordering::Relaxed)
    }

    /// Returns true if the connection may send peeks: it is on the listener for peers.
    pub(crate) fn answers_peeks(&self) -> bool {
        self.context.source == Source::Peer
    }

    /// Responds to a plain request with a hit; see [`Edge::answer_fast`].
    pub(crate) fn answer_fast(&self, request: &FastRequest<'_>, head: &mut Vec<u8>) -> Result<LoggedBody, NotFastHit> {
        let began = Instant::now();
        if self.may_not_serve(request.host) {
            return Err(NotFastHit::Involved);
        }
        let (source, remote) = (self.context.source, self.connection.remote());
        let (body, record, client) = self.context.edge.answer_fast(source, remote, request, head)?;
        self.context.https.append_hsts(self.connection.scheme, head);
        let details = self.details(request);
        let delivery = Delivery::connection(self.connection.requests.begin());
        Ok(self.log_body(client, (record, details), body, began, delivery))
    }

    /// Begins a peek at the owner of `key`; see [`Edge::peek_fast`]. Returns `None` if the
    /// owner is not to be asked, as for a request from a peer.
    pub(crate) fn peek(
        this: &Arc<Self>,
        key: AssetKey,
        client: IpAddr,
        request: &FastRequest<'_>,
    ) -> Option<PeekFuture> {
        if this.context.source == Source::Peer {
            return None;
        }
        let began = Instant::now();
        let peek = this.context.edge.peek_fast(key, request.accepted)?;
        let (handler, active, details) = (Arc::clone(this), this.connection.requests.begin(), this.details(request));
        Some(Box::pin(async move {
            let Peeked { mut lines, body, record } = peek.await?;
            handler.context.https.append_hsts(handler.connection.scheme, &mut lines);
            Some((lines, handler.log_body(client, (record, details), body, began, Delivery::connection(active))))
        }))
    }

    fn log_body(
        &self,
        client: IpAddr,
        record: (Record, Option<Box<Details>>),
        body: Body,
        began: Instant,
        delivery: Delivery,
    ) -> LoggedBody {
        self.context.access.log_body(client, record, StatusCode::OK, body, began, delivery)
    }

    /// Returns the details of a plain request for its log line; `None` if no lines are written.
    fn details(&self, request: &FastRequest<'_>) -> Option<Box<Details>> {
        self.context.access.lines.as_ref()?;
        Some(Box::new(Details::new(
            Version::HTTP_11,
            self.connection.session(),
            [Some(request.host), request.user_agent, request.request_id],
        )))
    }

    /// Responds to a request that hyper has parsed.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Result<Response<LoggedBody>, Infallible> {
        let Self { context, connection } = self;
        let (began, active) = (Instant::now(), connection.requests.begin());
        let requester = context.edge.requester(context.source, connection.remote(), request.headers());
        let client = requester.client;
        let pending = context.access.begin_request(client, context.source, &request, connection.session(), began);
        let early = self.answer_elsewhere(&requester, &request);
        let version = request.version();
        connection.note_version(version);
        let has_content = !request.body().is_end_stream();
        let mut request = request.map(|body| context.edge.receive(context.source, ReceivedFrom::http(version, body)));
        let ticket_secrets = self.exchange_ticket_secrets(&mut request).await;
        // HTTP/1.0 has no informational responses, and hyper's HTTP/2 server cannot send them.
        let relay = (version == Version::HTTP_11).then(|| connection.informational.open());
        let mut answer = match early {
            Some(answer) => answer,
            None => context.edge.respond(context.source, requester, relay.clone(), request).await,
        };
        if let Some(relay) = relay {
            relay.close().await;
        }
        if let Some(message) = ticket_secrets {
            answer.response.headers_mut().insert(CONTENT_LENGTH, message.len().into());
            *answer.response.body_mut() = Bytes::from(message).into();
        }
        if has_content {
            // Lets hyper handle a request body that was not read: hyper discards the rest if
            // it has arrived, or adds `Connection: close` to the response.
            tokio::task::yield_now().await;
        }
        if let Some(tunnel) = answer.tunnel.take() {
            connection.upgrade(tunnel);
        }
        let switches = answer.response.status() == StatusCode::SWITCHING_PROTOCOLS;
        context.https.add_hsts(connection.scheme, answer.response.headers_mut());
        if version != Version::HTTP_2 && !switches && self.is_draining() {
            answer.response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let may_be_unframed = version == Version::HTTP_10 || answer.response.version() == Version::HTTP_10;
        if may_be_unframed && version != Version::HTTP_2 && has_unknown_length(&answer.response) {
            connection.requests.mark_unframed();
        }
        let details = pending.answered();
        let delivery = if version == Version::HTTP_2 {
            let stream = StreamProgress::new(active);
            connection.requests.track(&stream);
            Delivery::Stream(stream)
        } else {
            Delivery::connection(active)
        };
        Ok(context.access.log_response(client, (answer.record, details), answer.response, began, delivery))
    }

    /// Takes the session ticket secrets of a peer from its request. Returns those of this edge for
    /// the response. They are exchanged over mutually authenticated TLS only.
    async fn exchange_ticket_secrets(&self, request: &mut Request<Body>) -> Option<Vec<u8>> {
        let ListenerTls::Peers(_, Some(secrets)) = &self.context.tls else { return None };
        if self.connection.scheme != Scheme::Https || !is_exchange(request) {
            return None;
        }
        let body = std::mem::take(request.body_mut());
        ticket_exchange::answer(secrets, body, self.connection.address).await
    }

    /// Returns true if a plain request for `host` may have to be redirected, or rejected because
    /// its host has another certificate.
    fn may_not_serve(&self, host: &[u8]) -> bool {
        let is_redirected = self.connection.scheme == Scheme::Http && self.context.https.redirect != Redirect::Off;
        is_redirected
            || self.connection.tls.is_some() && str::from_utf8(host).is_ok_and(|host| self.connection.misdirects(host))
    }

    /// Returns the answer to a request that is not served on this connection.
    fn answer_elsewhere<B>(&self, requester: &Requester, request: &Request<B>) -> Option<Answer> {
        let Self { context, connection } = self;
        let authority = request.uri().authority().map(Authority::as_str);
        let host = authority.or_else(|| request.headers().get(HOST)?.to_str().ok())?;
        if !is_host(host.as_bytes()) {
            return None;
        }
        if connection.misdirects(host) {
            return Some(context.edge.refuse_misdirected(request.method().clone(), request.uri()));
        }
        if connection.scheme == Scheme::Https || requester.is_secure() {
            return None;
        }
        let location = HeaderValue::try_from(context.https.redirect.target(host, request.uri())?).ok()?;
        Some(context.edge.redirect(request.method().clone(), request.uri(), location))
    }
}

fn has_unknown_length(response: &Response<Body>) -> bool {
    !response.headers().contains_key(CONTENT_LENGTH) && response.body().size_hint().exact().is_none()
}
