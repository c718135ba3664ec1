//! Throw-away certificates.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use peerage::config::CertificateConfig;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, Issuer, KeyPair, SanType};

/// A certificate authority.
pub struct Ca(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key.
pub struct Pair {
    pub certificate: rcgen::Certificate,
    pub key: KeyPair,
    issuer: String,
}

impl Ca {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn der(&self) -> rustls_pki_types::CertificateDer<'static> {
        self.0.der().clone()
    }

    pub fn write(&self, folder: &Path) -> PathBuf {
        let path = folder.join("ca.pem");
        std::fs::write(&path, self.pem()).unwrap();
        path
    }

    /// Issues a certificate for `names` that is valid for a year.
    pub fn issue(&self, names: &[&str]) -> Pair {
        self.issue_for(names, Duration::from_hours(365 * 24))
    }

    /// Writes pairs for `host-0.example` and so on, all with one key.
    pub fn write_many(&self, count: usize, directory: &Path) {
        let key = KeyPair::generate().unwrap();
        let issuer: &Issuer<'static, KeyPair> = &self.0;
        for number in 0..count {
            let name = format!("host-{number}.example");
            let certificate = CertificateParams::new([name.clone()]).unwrap().signed_by(&key, issuer).unwrap();
            std::fs::write(directory.join(format!("{name}.pem")), certificate.pem()).unwrap();
            std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
    }

    pub fn issue_for(&self, names: &[&str], validity: Duration) -> Pair {
        self.issue_until(names, SystemTime::now() + validity)
    }

    /// Issues a certificate for a URI, without another name.
    pub fn issue_for_uri(&self, uri: &str) -> Pair {
        let mut params = CertificateParams::new([]).unwrap();
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        self.sign(params, SystemTime::now() + Duration::from_hours(24))
    }

    pub fn issue_until(&self, names: &[&str], end: SystemTime) -> Pair {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        self.sign(CertificateParams::new(names).unwrap(), end)
    }

    fn sign(&self, mut params: CertificateParams, end: SystemTime) -> Pair {
        params.not_before = (SystemTime::now() - Duration::from_hours(24)).into();
        params.not_after = end.into();
        let key = KeyPair::generate().unwrap();
        let issuer: &Issuer<'static, KeyPair> = &self.0;
        Pair { certificate: params.signed_by(&key, issuer).unwrap(), key, issuer: self.pem() }
    }
}

impl Pair {
    pub fn chain_pem(&self) -> String {
        self.certificate.pem() + &self.issuer
    }

    /// Writes `NAME.pem` and `NAME.key`.
    pub fn write(&self, folder: &Path, name: &str) -> CertificateConfig {
        self.write_as(folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")))
    }

    pub fn write_as(&self, chain: PathBuf, key: PathBuf) -> CertificateConfig {
        std::fs::write(&chain, self.chain_pem()).unwrap();
        std::fs::write(&key, self.key.serialize_pem()).unwrap();
        CertificateConfig::new(chain, key)
    }
}
