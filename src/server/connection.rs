//! Serves one connection: HTTP by the fast path and hyper, then a tunnel after an upgrade.

use std::error::Error as StdError;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustix::net::sockopt::set_socket_send_buffer_size;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::handshake;
use super::parts::bytes;
use crate::body::describe;
use crate::body::informational::Informational;
use crate::config::LimitsConfig;
use crate::conn::handler::{ConnectionState, Handler, LINGER, ListenerContext, ListenerTls, draining};
use crate::conn::{Io, TimeoutIo};
use crate::http1::fast_path::FastPath;
use crate::http1::informational::InformationalWriter;
use crate::observe::activity::ActivityEvent;
use crate::observe::metrics::Source;
use crate::semantics::forward::{MAX_ADDED_HEADERS, MAX_HEADERS};

/// Serves one connection to its end. A tunnel is a part of it, so that the connection limit
/// and the drain apply to tunnels, too.
pub(super) async fn serve(context: ListenerContext, stream: TcpStream, address: IpAddr) {
    let _open = context.access.metrics.connected(context.source);
    // A hit is one write, which Nagle's algorithm could only delay.
    let _ = stream.set_nodelay(true);
    if context.limits.send_buffer.0 > 0 {
        // If that fails, the system's default size applies.
        let _ = set_socket_send_buffer_size(&stream, bytes(context.limits.send_buffer));
    }
    let accepted = match &context.tls {
        ListenerTls::None => Some((Io::Tcp(stream), None)),
        // Boxed, so that the state of a handshake takes no memory after it.
        _ => Box::pin(handshake::accept(&context, stream, address)).await,
    };
    let Some((io, tls)) = accepted else { return };
    let informational = Informational::new(context.edge.via().clone());
    let connection = ConnectionState::new(address, context.source, (io.scheme(), tls), informational);
    let handler = Arc::new(Handler { context, connection });
    let tunnel_timeout = handler.context.limits.tunnel_timeout.0;
    let ended = match (serve_http(io, &handler).await, handler.connection.take_tunnel()) {
        (Ok(()), Some((tunnel, _active))) => tunnel.carry(tunnel_timeout).await,
        (ended, _) => ended,
    };
    if handler.requests().is_stalled() {
        handler.context.access.metrics.stalled_connection();
    }
    if handler.requests().is_flooded() {
        let (listener, limit) = (handler.context.listener, handler.context.limits.control_frames);
        tracing::warn!(listener, client = %address, limit, "HTTP/2 control frame limit reached, closing the connection");
        handler.context.access.metrics.flooded_connection();
    }
    if let Err(error) = ended {
        tracing::debug!(client = %address, %error, "connection failed");
    }
}

/// Serves HTTP requests until the connection ends or is upgraded.
async fn serve_http(io: Io, handler: &Arc<Handler>) -> Result<(), String> {
    let Handler { context, connection: state } = &**handler;
    let mut phase = context.phase.clone();
    let timeout_io = TimeoutIo::new(io, &context.limits, state.requests.clone(), context.splicers.splicer());
    let mut fast = FastPath::new(timeout_io, Arc::clone(handler));
    tokio::select! {
        biased;
        hits = poll_fn(|cx| fast.poll_hits(cx)) => {
            hits.map_err(|error| describe(&error))?;
            if fast.is_empty() {
                return fast.shutdown().await.map_err(|error| describe(&error));
            }
            if fast.has_tls_handshake() {
                warn_of_tls(context, state);
            }
        }
        () = draining(&mut phase) => poll_fn(|cx| fast.poll_idle(cx)).await.map_err(|error| describe(&error))?,
    }
    // Boxed, so that the task of a connection that needs only hits has no space for hyper's state.
    Box::pin(serve_by_hyper(fast, handler)).await
}

/// Serves the requests that the fast path leaves to hyper.
async fn serve_by_hyper(fast: FastPath, handler: &Arc<Handler>) -> Result<(), String> {
    let Handler { context, connection: state } = &**handler;
    let (mut phase, access) = (context.phase.clone(), &context.access);
    let io = TokioIo::new(InformationalWriter::new(fast, state.informational.clone()));
    let builder = builder(&context.limits, context.source);
    let service = {
        let handler = Arc::clone(handler);
        service_fn(move |request| {
            let handler = Arc::clone(&handler);
            async move { handler.answer(request).await }
        })
    };
    let mut connection = std::pin::pin!(builder.serve_connection_with_upgrades(io, service));
    let ended = |ended: Result<(), Box<dyn StdError + Send + Sync>>| {
        ended.map_err(|error| {
            let text = describe(&*error);
            // hyper has responded with 400, 414 or 431 before the request reached the handler.
            if error.downcast_ref().is_some_and(hyper::Error::is_parse) {
                access.metrics.malformed_request();
                tracing::debug!(client = %state.address, error = %text, "malformed request rejected");
            }
            text
        })
    };
    let timeout = context.limits.send_timeout.0;
    let deadline = || tokio::time::Instant::now() + timeout;
    // `biased` saves a hit the cost of a random order.
    let (lingers, mut last) = tokio::select! {
        biased;
        end = connection.as_mut() => return ended(end),
        () = draining(&mut phase) => (state.lingers(), None),
        event = state.requests.next_event(timeout) => match event {
            ActivityEvent::AllStalled => return stalled(state),
            ActivityEvent::SomeStalled => (false, Some(deadline())),
            ActivityEvent::Idle => (false, None),
        },
    };
    if lingers {
        tokio::select! {
            end = connection.as_mut() => return ended(end),
            () = tokio::time::sleep(LINGER) => {}
        }
    }
    connection.as_mut().graceful_shutdown();
    loop {
        tokio::select! {
            end = connection.as_mut() => return ended(end),
            event = state.requests.next_event(timeout) => match event {
                ActivityEvent::AllStalled => return stalled(state),
                // After the first stall, the other responses have `timeout` to end.
                ActivityEvent::SomeStalled if last.is_some_and(|last| last < tokio::time::Instant::now()) => {
                    return stalled(state);
                }
                ActivityEvent::SomeStalled => last = last.or_else(|| Some(deadline())),
                ActivityEvent::Idle => {}
            },
        }
    }
}

/// Logs that a client began a TLS handshake on a cleartext port.
fn warn_of_tls(context: &ListenerContext, state: &ConnectionState) {
    let (listener, client) = (context.listener, state.address);
    if context.source == Source::Peer {
        tracing::warn!(
            listener, %client,
            "TLS handshake on the cleartext port for peers; set [cluster.tls] here too, with cluster.tls.mode = \"accept\" on every edge until all have it"
        );
    } else {
        tracing::warn!(listener, %client, "TLS handshake on a cleartext port");
    }
}

fn stalled(state: &ConnectionState) -> Result<(), String> {
    state.requests.mark_stalled();
    Err("send timeout: the client does not read its responses".to_owned())
}

/// Returns hyper's settings for a connection.
fn builder(limits: &LimitsConfig, source: Source) -> auto::Builder<TokioExecutor> {
    // Greater than the edge's own limits, so that the edge rejects most requests that exceed
    // them: its error responses say more than hyper's.
    let header = bytes(limits.header).saturating_mul(2).saturating_add(bytes(limits.uri));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        // TimeoutIo enforces it; hyper would set a timer for each request.
        .header_read_timeout(None)
        .max_buf_size(header)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(header).unwrap_or(u32::MAX))
        .max_send_buf_size(256 * 1024)
        .keep_alive_interval(limits.header_timeout.0)
        .keep_alive_timeout(limits.send_timeout.0);
    // hyper's default limit applies to clients.
    if source == Source::Peer {
        builder.http1().max_headers(MAX_HEADERS + MAX_ADDED_HEADERS);
    }
    builder
}
