//! [`PeerTls`]: mutually authenticated TLS between edges, under a certificate that can change.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs::default_provider};
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, InvalidMessage, RootCertStore};
use rustls_pki_types::UnixTime;
use tokio::net::TcpStream;

use super::certificate::Certificate;
use super::connector::{ClientStream, server_name};
use super::failure;
use super::files::{self, Stamp};
use super::inventory::Trigger;
use super::peer_verifier::PeerVerifier;
use super::settings::{
    DialError, DialOutcome, HandshakeError, LoadError, MemberAddresses, PeerMode, PeerSettings, Report, Session,
};
use super::stream::TlsStream;

/// The first byte of a TLS handshake (RFC 8446 §5.1). No HTTP request begins with it.
const HANDSHAKE: u8 = 22;

/// A connection that a peer has opened.
pub(crate) enum PeerConnection {
    Tls(Session, Box<TlsStream>),
    /// A connection in cleartext, in [`PeerMode::Accept`].
    Cleartext(TcpStream),
}

/// TLS 1.3 with other edges, in both directions. Sessions are not resumed, so each connection is
/// made under the certificates of its time.
pub(crate) struct PeerTls {
    provider: Arc<CryptoProvider>,
    members: MemberAddresses,
    /// Locked during a load.
    loaded: Mutex<Loaded>,
    generation: ArcSwap<Generation>,
    /// By outcome.
    dials: [AtomicU64; DialOutcome::ALL.len()],
}

/// The result of the last load.
struct Loaded {
    settings: PeerSettings,
    stamps: [Stamp; 3],
    /// The certificate in use: of the present files, or of earlier ones if those were rejected.
    certificate: Certificate,
    verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Accepted,
    Rejected,
}

/// The part of a load that handshakes need.
struct Generation {
    mode: PeerMode,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl PeerTls {
    /// Reads the certificate of this edge and the issuers of all edges. `members` returns the
    /// addresses of the members of the cluster.
    ///
    /// # Errors
    /// The file that cannot be used. An edge starts with a certificate that has expired: it serves
    /// clients, but not peers.
    pub(crate) fn load(settings: PeerSettings, members: MemberAddresses) -> Result<Self, LoadError> {
        let provider = Arc::new(default_provider());
        let stamps = stamps(&settings);
        let (certificate, generation) = read(&settings, &members, &provider, Trigger::Start)?;
        let loaded = Loaded { settings, stamps, certificate, verdict: Verdict::Accepted };
        Ok(Self {
            provider,
            members,
            loaded: Mutex::new(loaded),
            generation: ArcSwap::from_pointee(generation),
            dials: Default::default(),
        })
    }

    /// Reads the files again, under new settings. Files that cannot be used are logged, and the
    /// previous certificate stays.
    pub(crate) fn reload(&self, settings: PeerSettings) {
        self.replace(&mut self.loaded(), settings, Trigger::Operator);
    }

    /// Reads the files again if they have changed. Blocks on the file system.
    pub(crate) fn follow_files(&self) {
        let mut loaded = self.loaded();
        if loaded.stamps != stamps(&loaded.settings) {
            let settings = loaded.settings.clone();
            self.replace(&mut loaded, settings, Trigger::Files);
        }
    }

    fn replace(&self, loaded: &mut Loaded, settings: PeerSettings, trigger: Trigger) {
        let stamps = stamps(&settings);
        let is_same = (&settings, stamps) == (&loaded.settings, loaded.stamps);
        if is_same && loaded.verdict == Verdict::Accepted {
            return;
        }
        (loaded.settings, loaded.stamps) = (settings, stamps);
        match read(&loaded.settings, &self.members, &self.provider, trigger) {
            Ok((certificate, generation)) => {
                self.generation.store(Arc::new(generation));
                (loaded.certificate, loaded.verdict) = (certificate, Verdict::Accepted);
                tracing::info!("certificate for peers loaded");
            }
            Err(error) => {
                loaded.verdict = Verdict::Rejected;
                tracing::error!(%error, used = "the previous certificate", "certificate for peers rejected");
            }
        }
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        // A load replaces the value in one step.
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn report(&self) -> Report {
        let loaded = self.loaded();
        Report {
            usable: 1,
            rejected: usize::from(loaded.verdict == Verdict::Rejected),
            expiries: vec![(loaded.certificate.name(), loaded.certificate.not_after)],
        }
    }

    /// Logs that the certificate should have been renewed by `now`.
    pub(crate) fn warn_of_expiry(&self, now: SystemTime) {
        let loaded = self.loaded();
        if loaded.certificate.warn_after <= now {
            loaded.certificate.warn_of_expiry(1, now);
        }
    }

    /// Returns the number of handshakes with peers that this edge dialled.
    pub(crate) fn dials(&self, outcome: DialOutcome) -> u64 {
        self.dials[outcome as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn mode(&self) -> PeerMode {
        self.generation.load().mode
    }

    /// Accepts the connection of a peer.
    pub(crate) async fn accept(&self, tcp: TcpStream) -> Result<PeerConnection, HandshakeError> {
        let generation = self.generation.load_full();
        let of_io = |error: io::Error| failure::of_accepted("peer", &error);
        if generation.mode == PeerMode::Accept {
            let mut first = [0];
            match tcp.peek(&mut first).await.map_err(of_io)? {
                0 => return Err(HandshakeError::Closed),
                _ if first != [HANDSHAKE] => return Ok(PeerConnection::Cleartext(tcp)),
                _ => {}
            }
        }
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&generation.server));
        let stream = TlsStream::new(acceptor.accept(tcp).await.map_err(of_io)?);
        Ok(PeerConnection::Tls(stream.session(), stream))
    }

    /// Makes the handshake with the peer at `host`.
    pub(crate) async fn connect(&self, host: &str, tcp: TcpStream) -> Result<Box<ClientStream>, DialError> {
        let mut dial = Dial { dials: &self.dials, outcome: DialOutcome::Timeout };
        let client = Arc::clone(&self.generation.load().client);
        let connected = match server_name(host) {
            Ok(name) => {
                tokio_rustls::TlsConnector::from(client).connect(name, tcp).await.map_err(|error| cause(&error))
            }
            Err(error) => Err((DialOutcome::Failed, DialError::Failed(error))),
        };
        dial.outcome = connected.as_ref().map_or_else(|(outcome, _)| *outcome, |_| DialOutcome::Ok);
        connected.map(Box::new).map_err(|(_, error)| error)
    }
}

/// Counts a dialled handshake when it is dropped. If the dialler stops waiting, that is a timeout.
struct Dial<'a> {
    dials: &'a [AtomicU64; DialOutcome::ALL.len()],
    outcome: DialOutcome,
}

impl Drop for Dial<'_> {
    fn drop(&mut self) {
        self.dials[self.outcome as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Returns the cause of a failed handshake that this edge began.
fn cause(error: &io::Error) -> (DialOutcome, DialError) {
    let failed = |outcome, text| (outcome, DialError::Failed(text));
    match failure::tls_error(error) {
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            (DialOutcome::NotTls, DialError::NotTls)
        }
        Some(rustls::Error::InvalidCertificate(error)) => {
            failed(DialOutcome::Certificate, failure::of_certificate("peer", error))
        }
        Some(rustls::Error::AlertReceived(alert)) => {
            failed(DialOutcome::Failed, format!("the peer ended the TLS handshake with the alert {alert:?}"))
        }
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            failed(DialOutcome::Failed, "the peer closed the connection during the TLS handshake".to_owned())
        }
        _ => failed(DialOutcome::Failed, format!("TLS handshake: {error}")),
    }
}

fn stamps(settings: &PeerSettings) -> [Stamp; 3] {
    [&settings.pair.chain, &settings.pair.key, &settings.ca].map(|path| Stamp::of(path))
}

/// Reads the files, and verifies that peers with the same issuers will accept the certificate.
fn read(
    settings: &PeerSettings,
    members: &MemberAddresses,
    provider: &Arc<CryptoProvider>,
    trigger: Trigger,
) -> Result<(Certificate, Generation), LoadError> {
    let certificate = Certificate::read(&settings.pair)?;
    certificate.check(provider)?;
    let key = Arc::clone(certificate.certified_key(provider).expect("the key was checked"));
    let mut roots = RootCertStore::empty();
    let unusable = |error: &dyn std::fmt::Display| {
        LoadError::new(
            &settings.ca,
            format_args!("unusable issuer of peers' certificates: {error}; check cluster.tls.ca"),
        )
    };
    for issuer in files::certificates(&settings.ca)? {
        roots.add(issuer).map_err(|error| unusable(&error))?;
    }
    let verifier = PeerVerifier::new(roots, settings.identity.clone(), Arc::clone(members), provider);
    let verifier = Arc::new(verifier.map_err(|error| unusable(&error))?);
    match verifier.verify_own(&key.cert, &settings.own, UnixTime::now()) {
        Err(error) if trigger == Trigger::Start && has_expired(&error) => {}
        verified => verified.map_err(|error| {
            let error = match &error {
                rustls::Error::InvalidCertificate(error) => failure::of_certificate("edge", error),
                error => error.to_string(),
            };
            LoadError::new(&settings.pair.chain, format_args!("peers would reject this certificate: {error}"))
        })?,
    }
    let key = Arc::new(SingleCertAndKey::from(key));
    let mut server = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites for this version")
        .with_client_cert_verifier(Arc::<PeerVerifier>::clone(&verifier))
        .with_cert_resolver(Arc::<SingleCertAndKey>::clone(&key));
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut client = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites for this version")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(key);
    client.resumption = Resumption::disabled();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    let generation = Generation { mode: settings.mode, server: Arc::new(server), client: Arc::new(client) };
    Ok((certificate, generation))
}

fn has_expired(error: &rustls::Error) -> bool {
    use CertificateError::{Expired, ExpiredContext};
    matches!(error, rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. }))
}
