//! [`TlsAcceptor`]: accepts the TLS handshakes of a listener, under certificates that can change.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use rustls::crypto::{CryptoProvider, aws_lc_rs::default_provider};
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, InvalidMessage, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::CertificateDer;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;

use super::files::{self, Stamp};
use super::inventory::{Changes, Inventory, Trigger};
use super::names::Names;
use super::resolver::Resolver;
use super::selection::Selection;
use super::settings::{HandshakeError, LoadError, Report, Session, Settings, TlsVersion};
use super::stream::TlsStream;
use super::tickets::{PolicyId, TicketSecrets, Ticketer};

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
    /// The state of `tls.client_ca`.
    client_ca: Option<Stamp>,
}

/// The part of a load that handshakes need.
struct Generation {
    resolver: Arc<Resolver>,
    ticketer: Arc<Ticketer>,
    config: Arc<ServerConfig>,
}

impl TlsAcceptor {
    /// Reads the certificates. Those of a directory are checked when they are used, or by
    /// [`check_keys`](Self::check_keys).
    ///
    /// # Errors
    /// The first file that cannot be used: of a listed pair, of the client CAs, or the directory.
    pub(crate) fn load(settings: Settings) -> Result<Self, LoadError> {
        let (provider, secrets) = (Arc::new(default_provider()), Arc::new(TicketSecrets::new(SystemTime::now())));
        let inventory = Inventory::load(&settings, None, Trigger::Start, &provider)?;
        let client_ca = settings.client_ca.as_deref().map(Stamp::of);
        let generation = Generation::new(&settings, &inventory, &provider, &secrets)?;
        let loaded = Mutex::new(Loaded { settings, inventory, client_ca });
        Ok(Self { provider, secrets, loaded, generation: ArcSwap::from_pointee(generation) })
    }

    /// Reads everything again that has changed, under new settings.
    ///
    /// # Errors
    /// The client CAs or the directory cannot be used; then all stays as it was. A pair that
    /// cannot be used is logged instead, and changes nothing else.
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

    pub(crate) fn report(&self) -> Report {
        self.loaded().inventory.report()
    }

    /// Logs the certificates that should have been renewed by `now`, in one line.
    pub(crate) fn warn_of_expiry(&self, now: SystemTime) {
        let loaded = self.loaded();
        let overdue = loaded.inventory.overdue(now);
        let Some(first) = overdue.first() else { return };
        let (name, certificates, days) = (first.name(), overdue.len(), days_until(first.not_after, now));
        if first.not_after <= now {
            tracing::error!(%name, days, certificates, "certificate expired, renew it");
        } else {
            tracing::warn!(%name, days, certificates, "certificate expires soon, renew it");
        }
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        // A load replaces the value in one step.
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, loaded: &mut Loaded, settings: Settings, trigger: Trigger) -> Result<(), LoadError> {
        let inventory = Inventory::load(&settings, Some(&loaded.inventory), trigger, &self.provider)?;
        let Changes { added, removed } = inventory.changes_since(&loaded.inventory);
        let client_ca = settings.client_ca.as_deref().map(Stamp::of);
        if trigger == Trigger::Operator || added + removed > 0 || client_ca != loaded.client_ca {
            let generation = Generation::new(&settings, &inventory, &self.provider, &self.secrets)?;
            self.generation.store(Arc::new(generation));
            tracing::info!(added, removed, "certificates loaded");
        }
        *loaded = Loaded { settings, inventory, client_ca };
        Ok(())
    }

    /// Accepts a handshake.
    pub(crate) async fn accept(&self, tcp: TcpStream) -> Result<Accepted, HandshakeError> {
        let mut handshake = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), tcp);
        let mut start = (&mut handshake).await.map_err(|error| failure(&error))?;
        let generation = self.generation.load_full();
        let hello = start.client_hello();
        let name = hello.server_name().map(str::to_owned);
        if generation.resolver.select(name.as_deref(), hello.signature_schemes()).is_none() {
            // An error means that the client has gone, which makes no difference.
            let _ = start.io.write_all(&UNRECOGNIZED_NAME).await;
            return Err(HandshakeError::UnknownName(name));
        }
        let stream = start.into_stream(Arc::clone(&generation.config)).await.map_err(|error| failure(&error))?;
        let stream = TlsStream::new(stream);
        Ok((stream.session(), Selection::new(name, Arc::clone(&generation.resolver)), stream))
    }
}

impl Generation {
    fn new(
        settings: &Settings,
        inventory: &Inventory,
        provider: &Arc<CryptoProvider>,
        secrets: &Arc<TicketSecrets>,
    ) -> Result<Self, LoadError> {
        let names = Names::new(inventory.certificates(), inventory.default());
        let resolver = Arc::new(Resolver::new(names, Arc::clone(provider)));
        let versions: &[&SupportedProtocolVersion] = match settings.min_version {
            TlsVersion::Tls12 => &[&TLS13, &TLS12],
            TlsVersion::Tls13 => &[&TLS13],
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(versions)
            .expect("the provider has suites for these versions");
        let (builder, policy) = match settings.client_ca.as_deref() {
            None => (builder.with_no_client_auth(), PolicyId([0; 32])),
            Some(path) => {
                let issuers = files::certificates(path)?;
                let (policy, roots) = (policy_of(&issuers), roots(path, issuers)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
                    .build()
                    .map_err(|error| LoadError::new(path, format_args!("unusable issuers of clients: {error}")))?;
                (builder.with_client_cert_verifier(verifier), policy)
            }
        };
        let ticketer = Arc::new(Ticketer::new(Arc::clone(secrets), policy, SystemTime::now()));
        let mut config = builder.with_cert_resolver(Arc::<Resolver>::clone(&resolver));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Arc::<Ticketer>::clone(&ticketer);
        Ok(Self { resolver, ticketer, config: Arc::new(config) })
    }
}

/// Returns the identity of a policy that requires a certificate of one of `issuers`.
fn policy_of(issuers: &[CertificateDer<'_>]) -> PolicyId {
    let mut context = digest::Context::new(&digest::SHA256);
    for issuer in issuers {
        context.update(issuer);
    }
    PolicyId(context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
}

fn roots(path: &Path, issuers: Vec<CertificateDer<'static>>) -> Result<RootCertStore, LoadError> {
    let mut roots = RootCertStore::empty();
    for issuer in issuers {
        roots.add(issuer).map_err(|error| LoadError::new(path, format_args!("unusable issuer of clients: {error}")))?;
    }
    Ok(roots)
}

#[allow(clippy::cast_precision_loss)] // days are shown with one decimal
fn days_until(end: SystemTime, now: SystemTime) -> f64 {
    let tenths = |time: std::time::Duration| (time.as_secs() / 8640) as f64 / 10.0;
    end.duration_since(now).map_or_else(|error| -tenths(error.duration()), tenths)
}

/// Returns the reason of a failed handshake.
fn failure(error: &io::Error) -> HandshakeError {
    let kind = error.kind();
    let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return match kind {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                HandshakeError::Closed
            }
            _ => HandshakeError::Failed(error.to_string()),
        };
    };
    match inner {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => HandshakeError::NotTls,
        rustls::Error::NoCertificatesPresented => HandshakeError::ClientCertificate("none was sent".to_owned()),
        rustls::Error::InvalidCertificate(error) => HandshakeError::ClientCertificate(format!("{error:?}")),
        rustls::Error::AlertReceived(AlertDescription::UnknownCA | AlertDescription::BadCertificate) => {
            HandshakeError::Failed("the client does not trust the certificate".to_owned())
        }
        error => HandshakeError::Failed(error.to_string()),
    }
}
