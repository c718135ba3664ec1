//! [`Credentials`]: a throw-away authority, one certificate of it, and a secret for gossip.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use crate::random::random;

/// The names in the certificate.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
const DAY: Duration = Duration::from_hours(24);
/// Browsers accept no more than 398 days.
const VALIDITY: Duration = Duration::from_hours(30 * 24);

/// The files of a certificate for this machine's loopback names, and of its authority. The key of
/// the authority exists only while they are made, so nothing else can be issued by it.
pub(super) struct Credentials {
    pub(super) authority: PathBuf,
    pub(super) chain: PathBuf,
    pub(super) key: PathBuf,
    /// The secret of gossip.
    pub(super) secret: String,
}

impl Credentials {
    /// Makes the credentials, and writes the certificates to `folder`.
    pub(super) fn make(folder: &Path) -> io::Result<Self> {
        let files = Self {
            authority: folder.join("ca.pem"),
            chain: folder.join("localhost.pem"),
            key: folder.join("localhost.key"),
            secret: format!("{:016x}{:016x}", random(), random()),
        };
        let (authority, chain, key) = issue().map_err(io::Error::other)?;
        std::fs::write(&files.authority, authority)?;
        std::fs::write(&files.chain, chain)?;
        std::fs::write(&files.key, key)?;
        Ok(files)
    }
}

/// Returns the authority, the certificate with its authority, and the certificate's key, as PEM.
fn issue() -> Result<(String, String, String), rcgen::Error> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority.distinguished_name.push(DnType::CommonName, "Peerage demo, throw-away authority");
    set_validity(&mut authority);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;

    let mut leaf = CertificateParams::new(NAMES.map(str::to_owned))?;
    leaf.distinguished_name.push(DnType::CommonName, NAMES[0]);
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Edges are clients of one another.
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    leaf.use_authority_key_identifier_extension = true;
    set_validity(&mut leaf);
    let key = KeyPair::generate()?;
    let leaf = leaf.signed_by(&key, &authority)?;
    Ok((authority.pem(), leaf.pem() + &authority.pem(), key.serialize_pem()))
}

fn set_validity(params: &mut CertificateParams) {
    let now = SystemTime::now();
    params.not_before = (now - DAY).into();
    params.not_after = (now + VALIDITY).into();
}
