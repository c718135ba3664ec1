//! TLS without the feature `tls`: no value of these types exists, since the configuration that
//! needs one is rejected.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::settings::{
    Alpn, ClientSettings, DialError, DialOutcome, HandshakeError, LoadError, MalformedSecrets, MemberAddresses,
    PeerMode, PeerSettings, Report, Session, Settings, TicketScope,
};

pub(crate) enum TlsAcceptor {}

impl TlsAcceptor {
    pub(crate) fn load(settings: Settings, _: TicketScope) -> Result<Self, LoadError> {
        let path = settings.pairs.into_iter().map(|pair| pair.chain).chain(settings.directory).next();
        Err(LoadError::new(path.unwrap_or_default(), "this build has no TLS (feature `tls`)"))
    }

    pub(crate) fn reload(&self, _: Settings) -> Result<(), LoadError> {
        match *self {}
    }

    pub(crate) fn follow_files(&self) {
        match *self {}
    }

    pub(crate) fn check_keys(&self) {
        match *self {}
    }

    pub(crate) fn ticket_secrets(&self) -> &Arc<TicketSecrets> {
        match *self {}
    }

    pub(crate) fn report(&self) -> Report {
        match *self {}
    }

    pub(crate) fn warn_of_expiry(&self, _: SystemTime) {
        match *self {}
    }

    #[allow(clippy::unused_async)] // as with the feature
    pub(crate) async fn accept(&self, _: TcpStream) -> Result<(Session, Selection, Box<TlsStream>), HandshakeError> {
        match *self {}
    }
}

#[derive(Clone)]
pub(crate) enum TlsConnector {}

impl TlsConnector {
    pub(crate) fn load(_: &ClientSettings) -> Result<Self, LoadError> {
        Err(LoadError::new("", "this build has no TLS (feature `tls`)"))
    }

    pub(crate) fn alpn(&self) -> Alpn {
        match *self {}
    }

    #[allow(clippy::unused_async)] // as with the feature
    pub(crate) async fn connect(&self, _: &str, _: TcpStream, _: Alpn) -> Result<Box<ClientStream>, String> {
        match *self {}
    }
}

pub(crate) enum PeerTls {}

pub(crate) enum PeerConnection {
    #[allow(dead_code)] // made with the feature
    Tls(Session, Box<TlsStream>),
    #[allow(dead_code)] // made with the feature
    Cleartext(TcpStream),
}

impl PeerTls {
    pub(crate) fn load(settings: PeerSettings, _: MemberAddresses) -> Result<Self, LoadError> {
        Err(LoadError::new(settings.pair.chain, "this build has no TLS (feature `tls`)"))
    }

    pub(crate) fn reload(&self, _: PeerSettings) {
        match *self {}
    }

    pub(crate) fn follow_files(&self) {
        match *self {}
    }

    pub(crate) fn report(&self) -> Report {
        match *self {}
    }

    pub(crate) fn warn_of_expiry(&self, _: SystemTime) {
        match *self {}
    }

    pub(crate) fn dials(&self, _: DialOutcome) -> u64 {
        match *self {}
    }

    pub(crate) fn mode(&self) -> PeerMode {
        match *self {}
    }

    #[allow(clippy::unused_async)] // as with the feature
    pub(crate) async fn accept(&self, _: TcpStream) -> Result<PeerConnection, HandshakeError> {
        match *self {}
    }

    #[allow(clippy::unused_async)] // as with the feature
    pub(crate) async fn connect(&self, _: &str, _: TcpStream) -> Result<Box<ClientStream>, DialError> {
        match *self {}
    }
}

pub(crate) enum TicketSecrets {}

impl TicketSecrets {
    pub(crate) fn version(&self) -> u64 {
        match *self {}
    }

    pub(crate) fn fill(&self, _: SystemTime, _: Duration) {
        match *self {}
    }

    pub(crate) fn adopt(&self, _: SystemTime) {
        match *self {}
    }

    pub(crate) fn encode(&self, _: SystemTime) -> Vec<u8> {
        match *self {}
    }

    pub(crate) fn merge(&self, _: &[u8], _: SystemTime) -> Result<(), MalformedSecrets> {
        match *self {}
    }
}

pub(crate) type ClientStream = TlsStream;

pub(crate) fn selected_http2(stream: &ClientStream) -> bool {
    match *stream {}
}

pub(crate) enum Selection {}

impl Selection {
    pub(crate) fn serves(&self, _: &str) -> bool {
        match *self {}
    }
}

pub(crate) enum TlsStream {}

impl TlsStream {
    pub(crate) fn tcp(&self) -> &TcpStream {
        match *self {}
    }

    pub(crate) fn try_write(&mut self, _: &[u8]) -> io::Result<usize> {
        match *self {}
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        match *self {}
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }
}
