//! [`Inventory`]: the certificates of all sources, and what has changed since the last load.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;

use super::certificate::Certificate;
use super::files::{self, Stamp};
use super::settings::{LoadError, PairPaths, Report, Settings};

/// The largest number of certificates in [`Report::expiries`].
const REPORTED: usize = 100;

/// The occasion of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trigger {
    /// The start of the edge: a listed pair must be usable.
    Start,
    /// A change of the files: a pair that was rejected is read again only if its files changed.
    Files,
    /// The operator's request: a pair that was rejected is read again.
    Operator,
}

/// The certificates of all sources.
#[derive(Debug)]
pub(super) struct Inventory {
    /// Those of `[[tls.certificate]]` first.
    entries: Vec<Entry>,
    /// The number of entries from `[[tls.certificate]]`.
    listed: usize,
}

/// One pair of files.
#[derive(Debug, Clone)]
struct Entry {
    pair: PairPaths,
    stamps: [Stamp; 2],
    /// The certificate in use: of the present files, or of earlier ones if those were rejected.
    certificate: Option<Arc<Certificate>>,
    verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Accepted,
    Rejected,
}

/// The certificates that two inventories do not share.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) added: usize,
    pub(super) removed: usize,
}

impl Inventory {
    /// Reads the pairs that are not in `previous`, or whose files have changed since.
    ///
    /// # Errors
    /// The directory cannot be listed, or at the start a listed pair was rejected. Any other pair
    /// that is rejected is logged, and changes nothing else.
    pub(super) fn load(
        settings: &Settings,
        previous: Option<&Self>,
        trigger: Trigger,
        provider: &CryptoProvider,
    ) -> Result<Self, LoadError> {
        let known = previous.map(|previous| &*previous.entries).unwrap_or_default();
        let known: HashMap<_, _> = known.iter().map(|entry| (&entry.pair, entry)).collect();
        let in_directory = settings.directory.as_deref().map(files::list).transpose()?.unwrap_or_default();
        let mut entries = Vec::with_capacity(settings.pairs.len() + in_directory.len());
        for (number, pair) in settings.pairs.iter().cloned().chain(in_directory).enumerate() {
            let (is_listed, stamps) = (number < settings.pairs.len(), files::stamps(&pair));
            let before = known.get(&pair).copied();
            let is_same = |entry: &&Entry| {
                entry.stamps == stamps && (entry.verdict == Verdict::Accepted || trigger != Trigger::Operator)
            };
            if let Some(entry) = before.filter(is_same) {
                entries.push(entry.clone());
                continue;
            }
            let checked_now = is_listed || trigger != Trigger::Start;
            let (certificate, verdict) = match read(&pair, is_listed, checked_now.then_some(provider)) {
                Ok(certificate) => (Some(Arc::new(certificate)), Verdict::Accepted),
                Err(error) if is_listed && trigger == Trigger::Start => return Err(error),
                Err(error) => {
                    let kept = before.and_then(|entry| entry.certificate.clone()).filter(|kept| !kept.is_rejected());
                    let used = if kept.is_some() { "the previous certificate" } else { "none" };
                    tracing::error!(%error, used, "certificate rejected");
                    (kept, Verdict::Rejected)
                }
            };
            entries.push(Entry { pair, stamps, certificate, verdict });
        }
        Ok(Self { entries, listed: settings.pairs.len() })
    }

    /// Returns the certificates in order of preference.
    pub(super) fn certificates(&self) -> impl Iterator<Item = &Arc<Certificate>> {
        self.entries.iter().filter_map(|entry| entry.certificate.as_ref())
    }

    /// Returns the certificate for clients that request no name or an unknown one: the first
    /// listed one. Certificates of a directory are never it, since their order means nothing.
    pub(super) fn default(&self) -> Option<&Arc<Certificate>> {
        self.entries[..self.listed].iter().find_map(|entry| entry.certificate.as_ref())
    }

    pub(super) fn changes_since(&self, previous: &Self) -> Changes {
        let set = |inventory: &Self| inventory.certificates().map(Arc::as_ptr).collect::<HashSet<_>>();
        let (now, before) = (set(self), set(previous));
        Changes { added: now.difference(&before).count(), removed: before.difference(&now).count() }
    }

    /// Parses the keys that no handshake has needed yet, and logs those that are rejected.
    pub(super) fn check_keys(&self, provider: &CryptoProvider) {
        for certificate in self.certificates() {
            let _logged = certificate.certified_key(provider);
        }
    }

    pub(super) fn report(&self) -> Report {
        let is_rejected = |entry: &&Entry| {
            entry.verdict == Verdict::Rejected || entry.certificate.as_ref().is_some_and(|one| one.is_rejected())
        };
        let usable = || self.certificates().filter(|certificate| !certificate.is_rejected());
        let mut earliest: Vec<_> = usable().collect();
        earliest.sort_by_key(|certificate| certificate.not_after);
        // A name can have certificates of two algorithms.
        let mut names = HashSet::new();
        earliest.retain(|certificate| names.insert(certificate.name()));
        earliest.truncate(REPORTED);
        Report {
            usable: usable().count(),
            rejected: self.entries.iter().filter(is_rejected).count(),
            expiries: earliest.iter().map(|certificate| (certificate.name(), certificate.not_after)).collect(),
        }
    }

    /// Returns the certificates that should have been renewed by `now`, the earliest first.
    pub(super) fn overdue(&self, now: SystemTime) -> Vec<&Arc<Certificate>> {
        let mut overdue: Vec<_> = self.certificates().filter(|certificate| certificate.warn_after <= now).collect();
        overdue.sort_by_key(|certificate| certificate.not_after);
        overdue
    }
}

/// Reads a pair. With a provider it is checked that key and certificate belong together.
fn read(pair: &PairPaths, is_listed: bool, provider: Option<&CryptoProvider>) -> Result<Certificate, LoadError> {
    let certificate = Certificate::read(pair)?;
    if certificate.names.is_empty() && !is_listed {
        let problem = "the certificate has no DNS name, so no client can request it; list it in [[tls.certificate]]";
        return Err(LoadError::new(&pair.chain, problem));
    }
    provider.map_or(Ok(()), |provider| certificate.check(provider))?;
    Ok(certificate)
}
