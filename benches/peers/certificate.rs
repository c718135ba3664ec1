//! The certificate of all servers: ECDSA on P-256, signed by itself.

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use tempfile::TempDir;

use super::caches::write;

/// The name in the certificate.
pub const NAME: &str = "localhost";

pub struct Certificate {
    chain: String,
    key: String,
}

impl Certificate {
    pub fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = CertificateParams::new([NAME.to_owned()]).unwrap().self_signed(&key).unwrap();
        Self { chain: certificate.pem(), key: key.serialize_pem() }
    }

    /// Writes the chain and the key. Returns their paths.
    pub fn write(&self, folder: &TempDir) -> (String, String) {
        (write(folder, "chain.pem", &self.chain, &[]), write(folder, "key.pem", &self.key, &[]))
    }
}
