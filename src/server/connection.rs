//! One connection to its end: HTTP by the fast path and hyper, then a tunnel if it leads to one.

use std::error::Error as StdError;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustix::net::sockopt::set_socket_send_buffer_size;
use tokio::net::TcpStream;

use super::bytes;
use crate::body::describe;
use crate::body::informational::Informational;
use crate::config::LimitsConfig;
use crate::conn::TimeoutIo;
use crate::conn::serving::{Client, Context, Serving, draining};
use crate::http1::fast_path::FastPath;
use crate::http1::informational::InformationalWriter;
use crate::observe::activity::News;
use crate::observe::metrics::Source;
use crate::semantics::forward::{MAX_ADDED_HEADERS, MAX_HEADERS};

/// How long an idle connection over HTTP/1 is still open when the edge drains: a
/// request that is on its way then is answered, with the word that it is the last.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// Serves one connection to its end, which may be that of a tunnel: what
/// holds for connections (their number, the drain) holds for it too.
pub(super) async fn serve(context: Context, stream: TcpStream, address: IpAddr) {
    let _open = context.access.metrics.connected(context.source);
    // A hit is one write; waiting to fill a segment would only delay it.
    let _ = stream.set_nodelay(true);
    if context.limits.send_buffer.0 > 0 {
        // Without it, the system's own size holds.
        let _ = set_socket_send_buffer_size(&stream, bytes(context.limits.send_buffer));
    }
    let informational = Informational::new(context.edge.via().clone());
    let client = Client::new(address, context.source, informational);
    let serving = Arc::new(Serving { context, client });
    let tunnel_timeout = serving.context.limits.tunnel_timeout.0;
    let ended = match (speak_http(stream, &serving).await, serving.client.take_tunnel()) {
        (Ok(()), Some((tunnel, _under_way))) => tunnel.carry(tunnel_timeout).await,
        (ended, _) => ended,
    };
    if serving.client.requests.have_stalled() {
        serving.context.access.metrics.stalled_connection();
    }
    if serving.client.requests.have_flooded() {
        let (listener, limit) = (serving.context.source.listener(), serving.context.limits.control_frames);
        tracing::warn!(listener, client = %address, limit, "HTTP/2 control frame limit reached, closing the connection");
        serving.context.access.metrics.flooded_connection();
    }
    if let Err(error) = ended {
        tracing::debug!(client = %address, %error, "connection failed");
    }
}

/// Speaks HTTP until the connection ends, or leads elsewhere.
async fn speak_http(stream: TcpStream, serving: &Arc<Serving>) -> Result<(), String> {
    let Serving { context, client } = &**serving;
    let (mut phase, access) = (context.phase.clone(), &context.access);
    let timeout_io = TimeoutIo::new(stream, &context.limits, client.requests.clone(), context.lender.splicing());
    let mut fast = FastPath::new(timeout_io, Arc::clone(serving));
    // Most connections never need more.
    tokio::select! {
        biased;
        hits = poll_fn(|cx| fast.poll_hits(cx)) => {
            hits.map_err(|error| describe(&error))?;
            if fast.is_empty() {
                return Ok(());
            }
            if fast.has_tls_handshake() {
                let listener = context.source.listener();
                tracing::warn!(listener, client = %client.address, "TLS spoken to the cleartext port");
            }
        }
        () = draining(&mut phase) => poll_fn(|cx| fast.poll_answer(cx)).await.map_err(|error| describe(&error))?,
    }
    let io = TokioIo::new(InformationalWriter::new(fast, client.informational.clone()));
    let builder = builder(&context.limits, context.source);
    let service = {
        let serving = Arc::clone(serving);
        service_fn(move |request| {
            let serving = Arc::clone(&serving);
            async move { serving.answer(request).await }
        })
    };
    let mut connection = std::pin::pin!(builder.serve_connection_with_upgrades(io, service));
    let ended = |ended: Result<(), Box<dyn StdError + Send + Sync>>| {
        ended.map_err(|error| {
            let text = describe(&*error);
            // It has been answered with 400, 414 or 431, before it was a request.
            if error.downcast_ref().is_some_and(hyper::Error::is_parse) {
                access.metrics.malformed_request();
                tracing::debug!(client = %client.address, error = %text, "malformed request rejected");
            }
            text
        })
    };
    let patience = context.limits.send_timeout.0;
    let in_time = || tokio::time::Instant::now() + patience;
    // In this order, and not in one that is drawn each time: a hit is worth it.
    let (lingers, mut last) = tokio::select! {
        biased;
        end = connection.as_mut() => return ended(end),
        () = draining(&mut phase) => (client.lingers(), None),
        news = client.requests.news(patience) => match news {
            News::Stalled => return stalled(client),
            News::Stalls => (false, Some(in_time())),
            News::Idle => (false, None),
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
            news = client.requests.news(patience) => match news {
                News::Stalled => return stalled(client),
                // The others have as long to be taken as one that is not.
                News::Stalls if last.is_some_and(|last| last < tokio::time::Instant::now()) => return stalled(client),
                News::Stalls => last = last.or_else(|| Some(in_time())),
                News::Idle => {}
            },
        }
    }
}

fn stalled(client: &Client) -> Result<(), String> {
    client.requests.stall();
    Err("the client took nothing of what it asked for".to_owned())
}

fn builder(limits: &LimitsConfig, source: Source) -> auto::Builder<TokioExecutor> {
    // Somewhat above the limits themselves: the edge's own words about a request
    // that is beyond them say more than hyper's.
    let header = bytes(limits.header).saturating_mul(2).saturating_add(bytes(limits.uri));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        // TimeoutIo has an eye on it: hyper would set a timer for each request.
        .header_read_timeout(None)
        .max_buf_size(header)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(header).unwrap_or(u32::MAX))
        .max_send_buf_size(256 * 1024)
        .keep_alive_interval(limits.header_timeout.0)
        .keep_alive_timeout(limits.send_timeout.0);
    // Clients may send as many as hyper takes by default.
    if source == Source::Peer {
        builder.http1().max_headers(MAX_HEADERS + MAX_ADDED_HEADERS);
    }
    builder
}
