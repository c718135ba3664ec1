//! The TLS handshake of an accepted connection: its timeout, its log lines, its metrics.

use std::net::IpAddr;
use std::time::Instant;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::conn::Io;
use crate::conn::handler::ListenerContext;
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
    let accepted = timeout(context.limits.header_timeout.0, tls.accept(stream)).await;
    let outcome = match &accepted {
        Ok(Ok((session, ..))) => match session.resumption {
            Resumption::Full => Handshake::Full,
            Resumption::Resumed => Handshake::Resumed,
        },
        Err(_) => Handshake::Timeout,
        Ok(Err(HandshakeError::Closed)) => Handshake::Closed,
        Ok(Err(HandshakeError::NotTls)) => Handshake::NotTls,
        Ok(Err(HandshakeError::UnknownName(_))) => Handshake::UnknownName,
        Ok(Err(HandshakeError::ClientCertificate(_))) => Handshake::ClientCertificate,
        Ok(Err(HandshakeError::Failed(_))) => Handshake::Failed,
    };
    context.access.metrics.handshake(outcome, began.elapsed());
    match accepted {
        Ok(Ok((session, selection, stream))) => return Some((Io::Tls(stream), (session, selection))),
        // Port scans and health checks connect and leave.
        Ok(Err(HandshakeError::Closed)) => tracing::debug!(listener, %client, "client left before the TLS handshake"),
        Ok(Err(HandshakeError::NotTls)) => {
            tracing::warn!(listener, %client, "cleartext request on a TLS port");
        }
        Ok(Err(HandshakeError::UnknownName(name))) => {
            tracing::info!(listener, %client, name, "TLS handshake rejected: no certificate for this name");
        }
        Ok(Err(error)) => tracing::info!(listener, %client, %error, "TLS handshake failed"),
        Err(_) => tracing::info!(listener, %client, "TLS handshake timeout"),
    }
    None
}
