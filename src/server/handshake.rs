//! The TLS handshake of an accepted connection: its timeout, its log lines, its metrics.

use std::net::IpAddr;
use std::time::Instant;

use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::conn::Io;
use crate::conn::handler::{LINGER, ListenerContext, draining};
use crate::observe::metrics::Handshake;
use crate::tls::{HandshakeError, Resumption, Selection, Session, TlsAcceptor};

/// Accepts a handshake within `limits.header_timeout`. Returns `None` if it fails; the client then
/// has received an alert, if it is one that speaks TLS.
pub(super) async fn accept(
    tls: &TlsAcceptor,
    context: &ListenerContext,
    stream: TcpStream,
    client: IpAddr,
) -> Option<(Io, (Session, Selection))> {
    let (began, listener) = (Instant::now(), context.listener);
    let accepted = tokio::select! {
        accepted = tls.accept(stream) => accepted,
        () = timeout(context) => Err(HandshakeError::Timeout),
    };
    let outcome = match &accepted {
        Ok((session, ..)) => match session.resumption {
            Resumption::Full => Handshake::Full,
            Resumption::Resumed => Handshake::Resumed,
        },
        Err(HandshakeError::Timeout) => Handshake::Timeout,
        Err(HandshakeError::Closed) => Handshake::Closed,
        Err(HandshakeError::NotTls) => Handshake::NotTls,
        Err(HandshakeError::UnknownName(_)) => Handshake::UnknownName,
        Err(HandshakeError::ClientCertificate(_)) => Handshake::ClientCertificate,
        Err(HandshakeError::Failed(_)) => Handshake::Failed,
    };
    context.access.metrics.handshake(outcome, began.elapsed());
    match accepted {
        Ok((session, selection, stream)) => return Some((Io::Tls(stream), (session, selection))),
        // Port scans and health checks connect and leave.
        Err(HandshakeError::Closed) => tracing::debug!(listener, %client, "client left before the TLS handshake"),
        Err(HandshakeError::NotTls) => tracing::warn!(listener, %client, "cleartext request on a TLS port"),
        Err(HandshakeError::UnknownName(name)) => {
            tracing::info!(listener, %client, name, "TLS handshake rejected: no certificate for this name");
        }
        Err(error) => tracing::info!(listener, %client, %error, "TLS handshake failed"),
    }
    None
}

/// Resolves after `limits.header_timeout`, or soon after the server begins to drain.
async fn timeout(context: &ListenerContext) {
    let mut phase = context.phase.clone();
    tokio::select! {
        () = sleep(context.limits.header_timeout.0) => {}
        () = draining(&mut phase) => sleep(LINGER).await,
    }
}
