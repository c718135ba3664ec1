//! How edges that know `cluster.secret` recognise one another.
//!
//! A datagram is sealed with HMAC-SHA-256. It is not encrypted, and a seal does
//! not expire: whoever listens can replay what it has heard. A replay tells an
//! edge what was true before. In SWIM the greatest bump and incarnation of a
//! member count, which a replay does not have, and who is wrongly suspected
//! objects with a greater one.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Seals datagrams, and opens what others have sealed. Without a secret it
/// leaves them as they are, and believes everybody.
#[derive(Clone)]
pub(crate) struct Seal(Option<Hmac<Sha256>>);

const LENGTH: usize = 32;

impl Seal {
    pub(crate) fn new(secret: Option<&str>) -> Self {
        // HMAC takes keys of any length; so there is no error to tell of.
        Self(secret.and_then(|secret| Hmac::new_from_slice(secret.as_bytes()).ok()))
    }

    pub(crate) fn close(&self, mut datagram: Vec<u8>) -> Vec<u8> {
        if let Some(mac) = &self.0 {
            let tag = mac.clone().chain_update(&datagram).finalize().into_bytes();
            datagram.extend_from_slice(&tag);
        }
        datagram
    }

    /// What was sealed; the comparison takes as long wherever they differ.
    pub(crate) fn open<'a>(&self, sealed: &'a [u8]) -> Option<&'a [u8]> {
        let Some(mac) = &self.0 else {
            return Some(sealed);
        };
        let (datagram, tag) = sealed.split_at_checked(sealed.len().checked_sub(LENGTH)?)?;
        mac.clone().chain_update(datagram).verify_slice(tag).is_ok().then_some(datagram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_knows_the_secret_is_believed() {
        let (ours, other, none) = (Seal::new(Some("one secret")), Seal::new(Some("another")), Seal::new(None));
        let sealed = ours.close(b"said".to_vec());
        assert_eq!(ours.open(&sealed), Some(&b"said"[..]));
        assert_eq!(other.open(&sealed), None);
        assert_eq!(ours.open(&none.close(b"said".to_vec())), None);
        assert_eq!(none.open(b"said"), Some(&b"said"[..]));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(ours.open(&changed), None);
            assert_eq!(ours.open(&sealed[..at]), None);
        }
    }

    /// RFC 4231 §4.3.
    #[test]
    fn it_is_hmac_sha_256() {
        let sealed = Seal::new(Some("Jefe")).close(b"what do ya want for nothing?".to_vec());
        let tag = data_encoding::HEXLOWER.encode(&sealed[28..]);
        assert_eq!(tag, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
