//! [`TlsConnector`]: makes the TLS handshake of a connection to a server.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs::default_provider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::failure;
use super::files;
use super::settings::{Alpn, ClientSettings, LoadError, Verification};

/// A connection to a server after its handshake.
pub(crate) type ClientStream = TlsStream<TcpStream>;

/// Returns true if the server selected HTTP/2. A server that selects no protocol speaks HTTP/1.1, and
/// one that selects a protocol which was not offered fails the handshake.
pub(crate) fn selected_http2(stream: &ClientStream) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(HTTP2)
}

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Makes TLS handshakes with the servers of one configuration.
#[derive(Clone)]
pub(crate) struct TlsConnector {
    /// Offers HTTP/1.1 only.
    http1: Arc<ClientConfig>,
    /// Offers HTTP/2 and HTTP/1.1.
    http2: Arc<ClientConfig>,
    alpn: Alpn,
    server_name: Option<ServerName<'static>>,
}

impl TlsConnector {
    /// Reads the trusted issuers and the client certificate.
    ///
    /// # Errors
    /// The file that cannot be used, or a name that no certificate can have.
    pub(crate) fn load(settings: &ClientSettings) -> Result<Self, LoadError> {
        let provider = Arc::new(default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for these versions");
        let builder = match settings.verification {
            Verification::Required => builder.with_root_certificates(roots(settings.ca.as_deref())?),
            Verification::Off => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            }
        };
        let mut config = match &settings.pair {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let (chain, key) = (files::certificates(&pair.chain)?, files::private_key(&pair.key)?);
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    LoadError::new(&pair.key, format_args!("unusable key for {}: {error}", pair.chain.display()))
                })?
            }
        };
        config.alpn_protocols = vec![HTTP1.to_vec()];
        let mut http2 = config.clone();
        http2.alpn_protocols.insert(0, HTTP2.to_vec());
        let server_name = settings.server_name.as_deref().map(server_name).transpose();
        Ok(Self {
            http1: Arc::new(config),
            http2: Arc::new(http2),
            alpn: settings.alpn,
            server_name: server_name.map_err(|error| LoadError::new("server_name", error))?,
        })
    }

    /// Returns the protocols that the settings allow.
    pub(crate) fn alpn(&self) -> Alpn {
        self.alpn
    }

    /// Makes the handshake with the server at `host`, and offers the protocols of `alpn`.
    ///
    /// # Errors
    /// The cause, such as an expired certificate.
    pub(crate) async fn connect(&self, host: &str, tcp: TcpStream, alpn: Alpn) -> Result<Box<ClientStream>, String> {
        let name = self.server_name.clone().map_or_else(|| server_name(host), Ok)?;
        let config = match alpn {
            Alpn::Http1 => &self.http1,
            Alpn::Http2OrHttp1 => &self.http2,
        };
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
        connector.connect(name, tcp).await.map(Box::new).map_err(|error| failure(&error))
    }
}

pub(super) fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let name = ServerName::try_from(bare.to_owned());
    name.map_err(|_| format!("{host:?} is neither a host name nor an address, so no certificate can name it"))
}

/// Returns the issuers in a PEM file, or those that the system trusts.
fn roots(ca: Option<&Path>) -> Result<RootCertStore, LoadError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca {
        for issuer in files::certificates(path)? {
            roots.add(issuer).map_err(|error| LoadError::new(path, format_args!("unusable issuer: {error}")))?;
        }
        return Ok(roots);
    }
    // Unusable certificates among the system's are skipped, as other programs do.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        let problem = "no trusted issuers on this system; install the package ca-certificates, or set the ca key";
        return Err(LoadError::new("system roots", problem));
    }
    Ok(roots)
}

/// Returns the cause of a failed handshake.
fn failure(error: &io::Error) -> String {
    let Some(inner) = failure::tls_error(error) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => "the server closed the connection during the TLS handshake".to_owned(),
            _ => format!("TLS handshake: {error}"),
        };
    };
    match inner {
        rustls::Error::InvalidCertificate(error) => failure::of_certificate("server", error),
        rustls::Error::InvalidMessage(_) => "the server does not speak TLS on this port".to_owned(),
        rustls::Error::AlertReceived(alert) => format!("the server ended the TLS handshake with the alert {alert:?}"),
        error => format!("TLS handshake: {error}"),
    }
}

/// Accepts every certificate. The signature of the handshake is verified, so the server has the key
/// of the certificate that it sends.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
