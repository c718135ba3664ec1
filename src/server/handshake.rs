//! The TLS handshake of an accepted connection: its timeout, its log lines, its metrics.

use std::net::IpAddr;
use std::time::Instant;

use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::conn::Io;
use crate::conn::handler::{LINGER, ListenerContext, ListenerTls, draining};
use crate::observe::metrics::{Handshake, Source};
use crate::tls::{HandshakeError, PeerConnection, PeerTls, Resumption, Selection, Session, TlsAcceptor};

/// A connection that can be served, and the result of its handshake if it is over TLS.
type Accepted = (Io, Option<(Session, Option<Selection>)>);

/// Accepts the handshake that the listener requires, within `limits.header_timeout`. Returns `None`
/// if it fails; the client then has received an alert, if it is one that speaks TLS.
pub(super) async fn accept(context: &ListenerContext, stream: TcpStream, client: IpAddr) -> Option<Accepted> {
    let began = Instant::now();
    let accepted = match &context.tls {
        ListenerTls::None => return Some((Io::Tcp(stream), None)),
        ListenerTls::Clients(tls) => in_time(context, accept_client(tls, stream)).await,
        ListenerTls::Peers(tls, _) => in_time(context, accept_peer(tls, stream)).await,
    };
    context.access.metrics.handshake(context.source, outcome(&accepted), began.elapsed());
    accepted.map_err(|error| log(context, client, error)).ok()
}

async fn accept_client(tls: &TlsAcceptor, stream: TcpStream) -> Result<Accepted, HandshakeError> {
    let (session, selection, stream) = tls.accept(stream).await?;
    Ok((Io::Tls(stream), Some((session, Some(selection)))))
}

async fn accept_peer(tls: &PeerTls, stream: TcpStream) -> Result<Accepted, HandshakeError> {
    Ok(match tls.accept(stream).await? {
        PeerConnection::Tls(session, stream) => (Io::Tls(stream), Some((session, None))),
        PeerConnection::Cleartext(stream) => (Io::Tcp(stream), None),
    })
}

fn outcome(accepted: &Result<Accepted, HandshakeError>) -> Handshake {
    match accepted {
        Ok((_, None)) => Handshake::Cleartext,
        Ok((_, Some((session, _)))) => match session.resumption {
            Resumption::Full => Handshake::Full,
            Resumption::Resumed => Handshake::Resumed,
        },
        Err(HandshakeError::Timeout) => Handshake::Timeout,
        Err(HandshakeError::Closed) => Handshake::Closed,
        Err(HandshakeError::NotTls) => Handshake::NotTls,
        Err(HandshakeError::UnknownName(_)) => Handshake::UnknownName,
        Err(HandshakeError::ClientCertificate(_)) => Handshake::ClientCertificate,
        Err(HandshakeError::Failed(_)) => Handshake::Failed,
    }
}

fn log(context: &ListenerContext, client: IpAddr, error: HandshakeError) {
    let listener = context.listener;
    match (context.source, error) {
        // Port scans and health checks connect and leave.
        (_, HandshakeError::Closed) => tracing::debug!(listener, %client, "client left before the TLS handshake"),
        (Source::Peer, HandshakeError::NotTls) => tracing::warn!(
            listener, %client,
            "cleartext request on the TLS port for peers; set [cluster.tls] on that edge, or cluster.tls.mode = \"accept\" here until every edge has it"
        ),
        (Source::Peer, error) => tracing::warn!(listener, %client, %error, "peer rejected, TLS handshake failed"),
        (_, HandshakeError::NotTls) => tracing::warn!(listener, %client, "cleartext request on a TLS port"),
        (_, HandshakeError::UnknownName(name)) => {
            tracing::info!(listener, %client, name, "TLS handshake rejected: no certificate for this name");
        }
        (_, error) => tracing::info!(listener, %client, %error, "TLS handshake failed"),
    }
}

/// Ends a handshake after `limits.header_timeout`, or soon after the server begins to drain.
async fn in_time(
    context: &ListenerContext,
    handshake: impl Future<Output = Result<Accepted, HandshakeError>>,
) -> Result<Accepted, HandshakeError> {
    let mut phase = context.phase.clone();
    let timeout = async {
        tokio::select! {
            () = sleep(context.limits.header_timeout.0) => {}
            () = draining(&mut phase) => sleep(LINGER).await,
        }
    };
    tokio::select! {
        accepted = handshake => accepted,
        () = timeout => Err(HandshakeError::Timeout),
    }
}
