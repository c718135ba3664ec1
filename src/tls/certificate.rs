//! [`Certificate`]: a chain with its private key, and the facts about it that are known before the
//! key is parsed.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::files;
use super::settings::{LoadError, PairPaths};

/// The longest time before the end of validity at which a warning begins.
const WARNING: Duration = Duration::from_hours(14 * 24);

/// A certificate chain with its private key.
pub(super) struct Certificate {
    pair: PairPaths,
    /// DNS names, in lower case.
    pub(super) names: Box<[Arc<str>]>,
    pub(super) not_after: SystemTime,
    /// The time at which a missing renewal is worth a warning.
    pub(super) warn_after: SystemTime,
    /// The key with its chain once it was used; `None` if the two do not belong together.
    parsed: OnceLock<Option<Arc<CertifiedKey>>>,
    /// The parts of `parsed` until then. To parse 10,000 keys would take seconds.
    unparsed: Mutex<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>>,
}

impl Certificate {
    /// Reads the files of a pair. The key is parsed when it is used.
    pub(super) fn read(pair: &PairPaths) -> Result<Self, LoadError> {
        let chain = files::certificates(&pair.chain)?;
        let key = files::private_key(&pair.key)?;
        let invalid = |error: x509_cert::der::Error| {
            LoadError::new(&pair.chain, format_args!("invalid certificate: {error}; write the file again"))
        };
        let leaf = x509_cert::Certificate::from_der(&chain[0]).map_err(invalid)?;
        let leaf = leaf.tbs_certificate();
        let names = leaf.get_extension::<SubjectAltName>().map_err(invalid)?;
        let names = names.into_iter().flat_map(|(_, names)| names.0).filter_map(|name| match name {
            GeneralName::DnsName(name) => Some(name.as_str().to_ascii_lowercase().into()),
            _ => None,
        });
        let validity = leaf.validity();
        let (not_before, not_after) = (validity.not_before.to_system_time(), validity.not_after.to_system_time());
        let lifetime = not_after.duration_since(not_before).unwrap_or_default();
        Ok(Self {
            pair: pair.clone(),
            names: names.collect(),
            not_after,
            warn_after: not_after - WARNING.min(lifetime / 4),
            parsed: OnceLock::new(),
            unparsed: Mutex::new(Some((chain, key))),
        })
    }

    /// Returns the name of this certificate in logs and metrics: its first DNS name, or its file.
    pub(super) fn name(&self) -> Box<str> {
        self.names.first().map_or_else(|| self.pair.chain.to_string_lossy().into(), |name| Box::from(&**name))
    }

    /// Logs that this certificate should have been renewed by `now`. It is the first of so many
    /// `certificates`.
    pub(super) fn warn_of_expiry(&self, certificates: usize, now: SystemTime) {
        let (name, days) = (self.name(), days_until(self.not_after, now));
        if self.not_after <= now {
            tracing::error!(%name, days, certificates, "certificate expired, renew it");
        } else {
            tracing::warn!(%name, days, certificates, "certificate expires soon, renew it");
        }
    }

    /// Parses the key, if that was not done before.
    ///
    /// # Errors
    /// The key does not belong to the certificate, or cannot be used.
    pub(super) fn check(&self, provider: &CryptoProvider) -> Result<(), LoadError> {
        let mut rejected = Ok(());
        self.get_or_parse(provider, |error| rejected = Err(error));
        rejected
    }

    /// Returns the key with its chain; `None` if the two do not belong together, which is logged
    /// once.
    pub(super) fn certified_key(&self, provider: &CryptoProvider) -> Option<&Arc<CertifiedKey>> {
        self.get_or_parse(provider, |error| tracing::error!(%error, used = "none", "certificate rejected"))
    }

    fn get_or_parse(&self, provider: &CryptoProvider, rejected: impl FnOnce(LoadError)) -> Option<&Arc<CertifiedKey>> {
        self.parsed.get_or_init(|| self.parse(provider).map(Arc::new).map_err(rejected).ok()).as_ref()
    }

    /// Returns true if the key was found not to belong to the certificate.
    pub(super) fn is_rejected(&self) -> bool {
        self.parsed.get().is_some_and(Option::is_none)
    }

    fn parse(&self, provider: &CryptoProvider) -> Result<CertifiedKey, LoadError> {
        let unparsed = self.unparsed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (chain, key) = unparsed.expect("the key is parsed once");
        CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => LoadError::new(
                &self.pair.chain,
                format_args!(
                    "the key in {} does not belong to the first certificate of the chain; the certificate itself comes first, then its issuers",
                    self.pair.key.display()
                ),
            ),
            error => LoadError::new(
                &self.pair.key,
                format_args!("unusable private key: {error}; use ECDSA P-256, Ed25519, or RSA of 2048 bits or more"),
            ),
        })
    }
}

#[allow(clippy::cast_precision_loss)] // days are shown with one decimal
fn days_until(end: SystemTime, now: SystemTime) -> f64 {
    let tenths = |time: Duration| (time.as_secs() / 8640) as f64 / 10.0;
    end.duration_since(now).map_or_else(|error| -tenths(error.duration()), tenths)
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("pair", &self.pair).finish_non_exhaustive()
    }
}
