//! [`Seal`]: authentication of gossip datagrams by `cluster.secret`.
//!
//! A datagram carries an HMAC-SHA-256 tag. It is not encrypted and the tag does not expire, so a
//! listener on the network can replay it. A replay repeats an old state: SWIM ignores it, because
//! the greatest bump and incarnation of a member win, and a member that is suspected because of a
//! replay refutes that with a greater incarnation.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Adds the tag to datagrams and verifies it. Without a secret, datagrams carry no tag and all of
/// them are accepted.
#[derive(Clone)]
pub(crate) struct Seal(Option<Hmac<Sha256>>);

/// The length of a tag in bytes.
const TAG: usize = 32;

impl Seal {
    pub(crate) fn new(secret: Option<&str>) -> Self {
        Self(secret.map(|secret| Hmac::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length")))
    }

    /// Appends the tag to a datagram.
    pub(crate) fn close(&self, mut datagram: Vec<u8>) -> Vec<u8> {
        if let Some(mac) = &self.0 {
            let tag = mac.clone().chain_update(&datagram).finalize().into_bytes();
            datagram.extend_from_slice(&tag);
        }
        datagram
    }

    /// Returns the datagram without its tag; `None` if the tag is wrong. The comparison takes
    /// constant time.
    pub(crate) fn open<'a>(&self, sealed: &'a [u8]) -> Option<&'a [u8]> {
        let Some(mac) = &self.0 else {
            return Some(sealed);
        };
        let (datagram, tag) = sealed.split_at_checked(sealed.len().checked_sub(TAG)?)?;
        mac.clone().chain_update(datagram).verify_slice(tag).is_ok().then_some(datagram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_datagrams_with_the_right_secret_are_accepted() {
        let (ours, other, none) = (Seal::new(Some("one secret")), Seal::new(Some("another")), Seal::new(None));
        let sealed = ours.close(b"datagram".to_vec());
        assert_eq!(ours.open(&sealed), Some(&b"datagram"[..]));
        assert_eq!(other.open(&sealed), None);
        assert_eq!(ours.open(&none.close(b"datagram".to_vec())), None);
        assert_eq!(none.open(b"datagram"), Some(&b"datagram"[..]));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(ours.open(&changed), None);
            assert_eq!(ours.open(&sealed[..at]), None);
        }
    }

    /// RFC 4231 §4.3.
    #[test]
    fn the_tag_is_hmac_sha_256() {
        let sealed = Seal::new(Some("Jefe")).close(b"what do ya want for nothing?".to_vec());
        let tag = data_encoding::HEXLOWER.encode(&sealed[28..]);
        assert_eq!(tag, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
