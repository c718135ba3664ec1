//! [`TlsAcceptor`]: accepts the TLS handshakes of a listener, under certificates that can change.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{DEFAULT_CIPHER_SUITES, default_provider};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerConfig, ServerConnection};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, HandshakeKind, SupportedProtocolVersion};
use rustls_pki_types::UnixTime;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;

use super::client_policy::ClientPolicy;
use super::failure;
use super::files::Stamp;
use super::inventory::{Changes, Inventory, Trigger};
use super::names::Names;
use super::resolver::Resolver;
use super::selection::Selection;
use super::settings::{HandshakeError, LoadError, Report, Session, Settings, TicketScope, TlsVersion};
use super::stream::TlsStream;
use super::ticket_secrets::TicketSecrets;
use super::tickets::Ticketer;

/// A fatal alert `unrecognized_name` in a record of its own (RFC 8446 §6, RFC 6066 §3).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// A connection after its handshake.
pub(crate) type Accepted = (Session, Selection, Box<TlsStream>);

/// Accepts TLS handshakes.
pub(crate) struct TlsAcceptor {
    provider: Arc<CryptoProvider>,
    secrets: Arc<TicketSecrets>,
    /// Locked during a load.
    loaded: Mutex<Loaded>,
    generation: ArcSwap<Generation>,
}

/// The result of the last load.
struct Loaded {
    settings: Settings,
    inventory: Inventory,
    /// The file of `tls.client_ca` at that time.
    client_ca: Option<Stamp>,
    policy: ClientPolicy,
}

/// The part of a load that handshakes need.
struct Generation {
    resolver: Arc<Resolver>,
    /// Verifies the certificates of clients.
    verifier: Arc<dyn ClientCertVerifier>,
    ticketer: Arc<Ticketer>,
    /// Selects the first of the edge's ciphers that the client has.
    config: Arc<ServerConfig>,
    /// Selects the first of the client's ciphers.
    config_in_client_order: Arc<ServerConfig>,
}

impl TlsAcceptor {
    /// Reads the certificates. Those of a directory are checked when they are used, or by
    /// [`check_keys`](Self::check_keys).
    ///
    /// # Errors
    /// The first file that cannot be used: of a listed pair, of the issuers of client certificates,
    /// or the directory.
    pub(crate) fn load(settings: Settings, tickets: TicketScope) -> Result<Self, LoadError> {
        let provider = Arc::new(provider());
        let secrets = Arc::new(TicketSecrets::new(tickets, SystemTime::now()));
        let inventory = Inventory::load(&settings, None, Trigger::Start, &provider)?;
        let client_ca = settings.client_ca.as_deref().map(Stamp::of);
        let policy = ClientPolicy::read(settings.client_ca.as_deref(), &provider)?;
        let generation = Generation::new(settings.min_version, &inventory, &policy, &provider, &secrets);
        let loaded = Mutex::new(Loaded { settings, inventory, client_ca, policy });
        Ok(Self { provider, secrets, loaded, generation: ArcSwap::from_pointee(generation) })
    }

    /// Reads everything again that has changed, under new settings.
    ///
    /// # Errors
    /// The issuers of client certificates or the directory cannot be used; then all stays as it
    /// was. A pair that cannot be used is logged instead, and changes nothing else.
    pub(crate) fn reload(&self, settings: Settings) -> Result<(), LoadError> {
        self.replace(&mut self.loaded(), settings, Trigger::Operator)
    }

    /// Reads the files that have changed. Blocks on the file system.
    pub(crate) fn follow_files(&self) {
        self.generation.load().ticketer.rotate(SystemTime::now());
        let mut loaded = self.loaded();
        let settings = loaded.settings.clone();
        if let Err(error) = self.replace(&mut loaded, settings, Trigger::Files) {
            tracing::error!(%error, "certificates not read again, the previous ones stay");
        }
    }

    /// Parses the keys that no handshake has needed yet, and logs those that cannot be used.
    pub(crate) fn check_keys(&self) {
        self.loaded().inventory.check_keys(&self.provider);
    }

    /// Returns the secrets of the session tickets.
    pub(crate) fn ticket_secrets(&self) -> &Arc<TicketSecrets> {
        &self.secrets
    }

    pub(crate) fn report(&self) -> Report {
        self.loaded().inventory.report()
    }

    /// Logs the certificates that should have been renewed by `now`, in one line.
    pub(crate) fn warn_of_expiry(&self, now: SystemTime) {
        let loaded = self.loaded();
        let overdue = loaded.inventory.overdue(now);
        let Some(first) = overdue.first() else { return };
        first.warn_of_expiry(overdue.len(), now);
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        // A load replaces the value in one step.
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, loaded: &mut Loaded, settings: Settings, trigger: Trigger) -> Result<(), LoadError> {
        let inventory = Inventory::load(&settings, Some(&loaded.inventory), trigger, &self.provider)?;
        let Changes { added, removed } = inventory.changes_since(&loaded.inventory);
        let client_ca = settings.client_ca.as_deref().map(Stamp::of);
        let has_changed = trigger == Trigger::Operator || client_ca != loaded.client_ca;
        let policy = match has_changed.then(|| ClientPolicy::read(settings.client_ca.as_deref(), &self.provider)) {
            None => loaded.policy.clone(),
            Some(Ok(policy)) => policy,
            Some(Err(error)) if trigger == Trigger::Operator => return Err(error),
            Some(Err(error)) => {
                tracing::error!(%error, "issuers of client certificates rejected, the previous ones stay");
                loaded.policy.clone()
            }
        };
        if has_changed || added + removed > 0 {
            let generation = Generation::new(settings.min_version, &inventory, &policy, &self.provider, &self.secrets);
            self.generation.store(Arc::new(generation));
            tracing::info!(added, removed, "certificates loaded");
        }
        *loaded = Loaded { settings, inventory, client_ca, policy };
        Ok(())
    }

    /// Accepts a handshake.
    pub(crate) async fn accept(&self, tcp: TcpStream) -> Result<Accepted, HandshakeError> {
        let mut handshake = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), tcp);
        let mut start = (&mut handshake).await.map_err(|error| failure::of_accepted("client", &error))?;
        let generation = self.generation.load_full();
        let hello = start.client_hello();
        let name = hello.server_name().map(str::to_owned);
        if generation.resolver.select(name.as_deref(), hello.signature_schemes()).is_none() {
            // An error means that the client has gone, which makes no difference.
            let _ = start.io.write_all(&UNRECOGNIZED_NAME).await;
            return Err(HandshakeError::UnknownName(name));
        }
        let config = Arc::clone(generation.config(hello.cipher_suites()));
        let stream = start.into_stream(config).await.map_err(|error| failure::of_accepted("client", &error))?;
        generation.verify_resumed(stream.get_ref().1)?;
        let stream = TlsStream::new(stream);
        Ok((stream.session(), Selection::new(name, Arc::clone(&generation.resolver)), stream))
    }
}

impl Generation {
    fn new(
        min_version: TlsVersion,
        inventory: &Inventory,
        policy: &ClientPolicy,
        provider: &Arc<CryptoProvider>,
        secrets: &Arc<TicketSecrets>,
    ) -> Self {
        let names = Names::new(inventory.certificates(), inventory.default());
        let resolver = Arc::new(Resolver::new(names, Arc::clone(provider)));
        let versions: &[&SupportedProtocolVersion] = match min_version {
            TlsVersion::Tls12 => &[&TLS13, &TLS12],
            TlsVersion::Tls13 => &[&TLS13],
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(versions)
            .expect("the provider has suites for these versions")
            .with_client_cert_verifier(Arc::clone(&policy.verifier));
        let ticketer = Arc::new(Ticketer::new(Arc::clone(secrets), policy.id, SystemTime::now()));
        let mut config = builder.with_cert_resolver(Arc::<Resolver>::clone(&resolver));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Arc::<Ticketer>::clone(&ticketer);
        let config_in_client_order = Arc::new(config.clone());
        config.ignore_client_order = true;
        let verifier = Arc::clone(&policy.verifier);
        Self { resolver, verifier, ticketer, config: Arc::new(config), config_in_client_order }
    }

    /// Verifies the certificate of a client whose session was resumed: it may have expired since the
    /// full handshake (RFC 8446 §4.6.1).
    fn verify_resumed(&self, connection: &ServerConnection) -> Result<(), HandshakeError> {
        if connection.handshake_kind() != Some(HandshakeKind::Resumed) || !self.verifier.offer_client_auth() {
            return Ok(());
        }
        let verified = match connection.peer_certificates() {
            Some([certificate, issuers @ ..]) => {
                self.verifier.verify_client_cert(certificate, issuers, UnixTime::now()).map(drop)
            }
            _ => Err(rustls::Error::NoCertificatesPresented),
        };
        verified.map_err(|error| failure::of_tls("client", &error))
    }

    /// Returns the configuration for a client with these ciphers.
    fn config(&self, ciphers: &[CipherSuite]) -> &Arc<ServerConfig> {
        if prefers_chacha(ciphers) { &self.config_in_client_order } else { &self.config }
    }
}

/// Returns the cryptography of handshakes, with the ciphers in the edge's order. AES-128 comes first,
/// as in browsers: its suite has SHA-256, for which processors have instructions, so a resumed
/// handshake takes a fifth less CPU time than with SHA-384.
fn provider() -> CryptoProvider {
    let mut provider = default_provider();
    provider.cipher_suites.sort_by_key(|suite| !suite.suite().as_str().is_some_and(|name| name.contains("AES_128")));
    provider
}

/// Returns true if a client prefers `ChaCha20` among the edge's ciphers. It then has no instructions
/// for AES, so the edge's first choice would cost it most.
fn prefers_chacha(ciphers: &[CipherSuite]) -> bool {
    let is_own = |cipher: &&CipherSuite| DEFAULT_CIPHER_SUITES.iter().any(|own| own.suite() == **cipher);
    let first = ciphers.iter().find(is_own).and_then(CipherSuite::as_str);
    first.is_some_and(|name| name.contains("CHACHA20"))
}
