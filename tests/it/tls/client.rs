//! A TLS client with versions, names and certificates that a test sets.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::version::TLS13;
use rustls::{
    DigitallySignedStruct, HandshakeKind, RootCertStore, SignatureScheme, SupportedCipherSuite,
    SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::pki::{Ca, Pair};
use crate::harness::within;

/// A client that trusts one authority. It resumes its sessions.
#[derive(Clone)]
pub struct Client(Arc<ClientConfig>);

/// The identity of a client, if it has one.
pub type Identity<'a> = Option<&'a Pair>;

impl Client {
    pub fn new(ca: &Ca) -> Self {
        Self::with(ca, None, rustls::ALL_VERSIONS)
    }

    pub fn with(ca: &Ca, identity: Identity<'_>, versions: &[&'static SupportedProtocolVersion]) -> Self {
        Self::with_provider(default_provider(), ca, identity, versions)
    }

    /// Makes a client of TLS 1.3 with these ciphers, in order.
    pub fn with_ciphers(ca: &Ca, cipher_suites: Vec<SupportedCipherSuite>) -> Self {
        Self::with_provider(CryptoProvider { cipher_suites, ..default_provider() }, ca, None, &[&TLS13])
    }

    fn with_provider(
        provider: CryptoProvider,
        ca: &Ca,
        identity: Identity<'_>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let provider = Arc::new(provider);
        let mut roots = RootCertStore::empty();
        roots.add(ca.der()).unwrap();
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let config = config.dangerous().with_custom_certificate_verifier(Arc::new(AnyName(verifier)));
        Self(Arc::new(match identity {
            None => config.with_no_client_auth(),
            Some(pair) => {
                let key = PrivatePkcs8KeyDer::from(pair.key.serialize_der());
                config.with_client_auth_cert(vec![pair.certificate.der().clone()], key.into()).unwrap()
            }
        }))
    }

    /// Connects with `name` in SNI; an address sends none.
    pub async fn connect(&self, edge: SocketAddr, name: &str) -> io::Result<Connection> {
        self.handshake(TcpStream::connect(edge).await?, name).await
    }

    pub async fn handshake(&self, stream: TcpStream, name: &str) -> io::Result<Connection> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        within(20, TlsConnector::from(Arc::clone(&self.0)).connect(name, stream)).await.map(Connection)
    }

    /// Returns the certificate that the edge shows for `name`.
    pub async fn certificate(&self, edge: SocketAddr, name: &str) -> CertificateDer<'static> {
        self.connect(edge, name).await.unwrap().0.get_ref().1.peer_certificates().unwrap()[0].clone()
    }
}

/// Verifies chains, but no names: tests look at the certificate.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use rustls::CertificateError::{NotValidForName, NotValidForNameContext};
        match self.0.verify_server_cert(leaf, issuers, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => {
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// A connection after its handshake.
pub struct Connection(pub TlsStream<TcpStream>);

impl Connection {
    pub fn kind(&self) -> HandshakeKind {
        self.0.get_ref().1.handshake_kind().unwrap()
    }

    pub async fn write(&mut self, text: &str) {
        within(20, self.0.write_all(text.as_bytes())).await.unwrap();
    }

    /// Requests `path` of `host`. Returns the head, and the body by its Content-Length.
    pub async fn get(&mut self, host: &str, path: &str) -> io::Result<(String, Vec<u8>)> {
        self.0.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
        self.response().await
    }

    /// Reads a response with a Content-Length.
    pub async fn response(&mut self) -> io::Result<(String, Vec<u8>)> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within(20, self.0.read_u8()).await?);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        within(20, self.0.read_exact(&mut body)).await?;
        Ok((head, body))
    }

    /// Reads to the end. An end without `close_notify` is an error.
    pub async fn rest(&mut self) -> (Vec<u8>, io::Result<usize>) {
        let mut rest = Vec::new();
        let end = within(20, self.0.read_to_end(&mut rest)).await;
        (rest, end)
    }
}
