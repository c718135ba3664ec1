//! [`Resolver`]: selects the certificate of a handshake.

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::names::Names;

/// Selects the certificate of a handshake.
#[derive(Debug)]
pub(super) struct Resolver {
    names: Names,
    provider: Arc<CryptoProvider>,
}

impl Resolver {
    pub(super) fn new(names: Names, provider: Arc<CryptoProvider>) -> Self {
        Self { names, provider }
    }

    /// Returns the key of the first certificate for `name` that suits the client; of the first
    /// at all, if none suits.
    pub(super) fn select(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let mut first = None;
        for certificate in self.names.candidates(name) {
            let Some(key) = certificate.certified_key(&self.provider) else { continue };
            if key.key.choose_scheme(schemes).is_some() {
                return Some(Arc::clone(key));
            }
            first = first.or(Some(key));
        }
        first.cloned()
    }

    /// Returns true if handshakes for both names prefer the same certificate, or if `other` has
    /// none. `None` stands for a handshake without a name.
    pub(super) fn are_alike(&self, name: Option<&str>, other: &str) -> bool {
        let preferred = |name| self.names.candidates(name).find(|certificate| !certificate.is_rejected());
        match (preferred(name), preferred(Some(other))) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => true,
        }
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.select(hello.server_name(), hello.signature_schemes())
    }
}
