//! [`ClientPolicy`]: whether clients need a certificate, and of which issuers.

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::files;
use super::settings::LoadError;
use super::tickets::PolicyId;

/// The verification of clients.
#[derive(Debug, Clone)]
pub(super) struct ClientPolicy {
    pub(super) id: PolicyId,
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
}

impl ClientPolicy {
    /// Reads the issuers of client certificates. Without a file, clients need no certificate.
    pub(super) fn read(client_ca: Option<&Path>, provider: &Arc<CryptoProvider>) -> Result<Self, LoadError> {
        let Some(path) = client_ca else {
            return Ok(Self { id: PolicyId([0; 32]), verifier: WebPkiClientVerifier::no_client_auth() });
        };
        let (mut roots, mut id) = (RootCertStore::empty(), digest::Context::new(&digest::SHA256));
        let unusable = |error: &dyn std::fmt::Display| {
            LoadError::new(path, format_args!("unusable issuer of client certificates: {error}; check tls.client_ca"))
        };
        for issuer in files::certificates(path)? {
            id.update(&issuer);
            roots.add(issuer).map_err(|error| unusable(&error))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
        let id = id.finish().as_ref().try_into().expect("SHA-256 has 32 bytes");
        Ok(Self { id: PolicyId(id), verifier: verifier.map_err(|error| unusable(&error))? })
    }
}
