//! [`PeerVerifier`]: verifies the certificates of other edges, as a server and as a client.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::connector::server_name;
use super::settings::{MemberAddresses, PeerIdentity};

/// Verifies the issuer, the validity and the identity of a peer's certificate.
pub(super) struct PeerVerifier {
    roots: Arc<RootCertStore>,
    /// Verifies all but the identity of a peer that connects.
    clients: Arc<dyn ClientCertVerifier>,
    identity: PeerIdentity,
    members: MemberAddresses,
    provider: Arc<CryptoProvider>,
}

/// The reason for which a certificate that is otherwise valid is not a peer's.
#[derive(Debug, thiserror::Error)]
enum NotAPeer {
    #[error(
        "names no member of the cluster; it needs the host of its edge's address in the member list as DNS name or IP address, unless cluster.tls.identity is set"
    )]
    Host,
    #[error("has no URI of cluster.tls.identity")]
    Uri,
}

impl From<NotAPeer> for rustls::Error {
    fn from(reason: NotAPeer) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(reason))))
    }
}

impl PeerVerifier {
    pub(super) fn new(
        roots: RootCertStore,
        identity: PeerIdentity,
        members: MemberAddresses,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, VerifierBuilderError> {
        let (roots, provider) = (Arc::new(roots), Arc::clone(provider));
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build()?;
        Ok(Self { roots, clients, identity, members, provider })
    }

    /// Verifies that peers will accept `chain` as the one of the edge at the address `own`.
    pub(super) fn verify_own(
        &self,
        chain: &[CertificateDer<'_>],
        own: &str,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let (leaf, issuers) = chain.split_first().ok_or(CertificateError::BadEncoding)?;
        self.verify_chain(&ParsedCertificate::try_from(leaf)?, issuers, now)?;
        self.clients.verify_client_cert(leaf, issuers, now)?;
        match (&self.identity, server_name(host(own))) {
            (PeerIdentity::Uri(_), _) => self.verify_uri(leaf),
            (PeerIdentity::Host, Ok(name)) => verify_server_name(&ParsedCertificate::try_from(leaf)?, &name),
            // An edge without an address is not dialled.
            (PeerIdentity::Host, Err(_)) => Ok(()),
        }
    }

    fn verify_chain(
        &self,
        leaf: &ParsedCertificate<'_>,
        issuers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(leaf, &self.roots, issuers, now, algorithms)
    }

    fn verify_uri(&self, leaf: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let certificate = x509_cert::Certificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding)?;
        let names = certificate.tbs_certificate().get_extension::<SubjectAltName>();
        let names = names.map_err(|_| CertificateError::BadEncoding)?;
        let is_peer = |name: &GeneralName| match name {
            GeneralName::UniformResourceIdentifier(uri) => self.identity.accepts_uri(uri.as_str()),
            _ => false,
        };
        let is_peer = names.is_some_and(|(_, names)| names.0.iter().any(is_peer));
        if is_peer { Ok(()) } else { Err(NotAPeer::Uri.into()) }
    }

    /// Verifies that a certificate names the host of any member.
    fn verify_membership(&self, leaf: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let leaf = ParsedCertificate::try_from(leaf)?;
        let names =
            |address: &Arc<str>| server_name(host(address)).is_ok_and(|name| verify_server_name(&leaf, &name).is_ok());
        if (self.members)().iter().any(names) { Ok(()) } else { Err(NotAPeer::Host.into()) }
    }
}

/// Returns the host of `host:port`.
fn host(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.clients.verify_client_cert(leaf, issuers, now)?;
        match self.identity {
            PeerIdentity::Host => self.verify_membership(leaf)?,
            PeerIdentity::Uri(_) => self.verify_uri(leaf)?,
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.clients.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.clients.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.clients.supported_verify_schemes()
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        dialled: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        self.verify_chain(&parsed, issuers, now)?;
        match self.identity {
            PeerIdentity::Host => verify_server_name(&parsed, dialled)?,
            PeerIdentity::Uri(_) => self.verify_uri(leaf)?,
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.clients.supported_verify_schemes()
    }
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerVerifier").field("identity", &self.identity).finish_non_exhaustive()
    }
}
