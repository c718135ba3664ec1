//! Session tickets (RFC 8446 §4.6.1, RFC 5077): the keys that each policy of client authentication
//! derives from the [secrets](TicketSecrets).
//!
//! Policies have different keys: a ticket that a client got without a certificate must not resume
//! where a certificate is required (CVE-2025-23419).

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{self, HKDF_SHA256};
use rustls::server::ProducesTickets;

use super::ticket_secrets::{Epochs, Secret, TicketSecrets, epoch_of, random};

/// The time for which a ticket is accepted at least, in seconds. A ticket of the last second of
/// an epoch is accepted in the next two.
const LIFETIME: u32 = 2 * 6 * 60 * 60;

const NAME_LEN: usize = 16;
const KEY_LEN: usize = 32;

/// The identity of a policy of client authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PolicyId(pub(super) [u8; 32]);

/// Encrypts and decrypts the tickets of one policy.
pub(super) struct Ticketer {
    secrets: Arc<TicketSecrets>,
    policy: PolicyId,
    keys: ArcSwap<TicketKeys>,
}

struct TicketKeys {
    epoch: u64,
    /// The version of the secrets.
    version: u64,
    /// The key for new tickets.
    sealing: Option<TicketKey>,
    /// The keys of all tickets that are accepted.
    opening: Vec<TicketKey>,
}

struct TicketKey {
    /// The start of each ticket under this key.
    name: [u8; NAME_LEN],
    key: LessSafeKey,
}

/// The length of the name and the key of a ticket key, for HKDF.
struct KeyMaterial;

impl hkdf::KeyType for KeyMaterial {
    fn len(&self) -> usize {
        NAME_LEN + KEY_LEN
    }
}

impl TicketKey {
    fn derive(secret: &Secret, policy: PolicyId) -> Self {
        let mut material = [0; NAME_LEN + KEY_LEN];
        let info: [&[u8]; 2] = [b"peerage session tickets", &policy.0];
        let secret = hkdf::Salt::new(HKDF_SHA256, &[]).extract(secret);
        let derived = secret.expand(&info, KeyMaterial).and_then(|derived| derived.fill(&mut material));
        derived.expect("the length is below HKDF's limit");
        let (name, key) = material.split_at(NAME_LEN);
        let key = UnboundKey::new(&AES_256_GCM, key).expect("the key has the cipher's length");
        Self { name: name.try_into().expect("the name was split off"), key: LessSafeKey::new(key) }
    }

    fn seal(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let nonce: [u8; NONCE_LEN] = random();
        let mut sealed = plain.to_vec();
        let nonce_of_key = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce_of_key, Aad::from(self.name), &mut sealed).ok()?;
        Some([&self.name[..], &nonce, &sealed].concat())
    }

    /// Opens the part of a ticket after the key's name.
    fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut plain = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let len = self.key.open_in_place(nonce, Aad::from(self.name), &mut plain).ok()?.len();
        plain.truncate(len);
        Some(plain)
    }
}

impl TicketKeys {
    fn derive((epochs, version): &(Epochs, u64), policy: PolicyId) -> Self {
        let derive = |secret| TicketKey::derive(secret, policy);
        Self {
            epoch: epochs.current,
            version: *version,
            sealing: epochs.sealing().map(derive),
            opening: epochs.all().map(derive).collect(),
        }
    }
}

impl Ticketer {
    pub(super) fn new(secrets: Arc<TicketSecrets>, policy: PolicyId, now: SystemTime) -> Self {
        let keys = ArcSwap::from_pointee(TicketKeys::derive(&secrets.at(now), policy));
        Self { secrets, policy, keys }
    }

    /// Drops the keys of epochs that have ended, and derives those of new secrets. Without it they
    /// would live until the next ticket.
    pub(super) fn rotate(&self, now: SystemTime) {
        let keys = self.keys.load();
        if keys.epoch < epoch_of(now) || keys.version != self.secrets.version() {
            self.keys.store(Arc::new(TicketKeys::derive(&self.secrets.at(now), self.policy)));
        }
    }

    fn seal(&self, plain: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        self.rotate(now);
        self.keys.load().sealing.as_ref()?.seal(plain)
    }

    fn open(&self, ticket: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        self.rotate(now);
        let (name, sealed) = ticket.split_first_chunk::<NAME_LEN>()?;
        self.keys.load().opening.iter().find(|key| key.name == *name)?.open(sealed)
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, SystemTime::now())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, SystemTime::now())
    }
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticketer")
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::settings::TicketScope;
    use super::super::ticket_secrets::EPOCH;
    use super::*;

    const NONE: PolicyId = PolicyId([0; 32]);
    const STATE: &[u8] = b"the state of a session";

    fn at(epoch: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(epoch * EPOCH + 1)
    }

    fn local(epoch: u64) -> Arc<TicketSecrets> {
        Arc::new(TicketSecrets::new(TicketScope::Local, at(epoch)))
    }

    #[test]
    fn a_ticket_is_accepted_for_two_more_epochs_also_by_an_edge_that_lags_behind() {
        let ticketer = Ticketer::new(local(100), NONE, at(100));
        let ticket = ticketer.seal(STATE, at(100)).unwrap();
        for epoch in [100, 101, 102] {
            assert_eq!(ticketer.open(&ticket, at(epoch)).as_deref(), Some(STATE), "epoch {epoch}");
        }
        assert_eq!(ticketer.open(&ticket, at(103)), None);
        let ticket = ticketer.seal(STATE, at(50)).unwrap();
        assert_eq!(ticketer.open(&ticket, at(104)).as_deref(), Some(STATE), "the clock was set back");
        assert_eq!(ticketer.open(&ticket, at(1000)), None, "all secrets are new");
    }

    #[test]
    fn the_secret_of_the_next_epoch_exists_already() {
        let secrets = local(100);
        let behind = Ticketer::new(Arc::clone(&secrets), NONE, at(100));
        let keys = behind.keys.load_full();
        let ahead = Ticketer::new(secrets, NONE, at(101));
        let ticket = ahead.seal(STATE, at(101)).unwrap();
        let (name, sealed) = ticket.split_first_chunk::<NAME_LEN>().unwrap();
        let next = keys.opening.last().unwrap();
        assert_eq!((&next.name, next.open(sealed).as_deref()), (name, Some(STATE)));
    }

    #[test]
    fn a_ticket_of_one_edge_is_accepted_by_another_also_after_a_rotation() {
        let secrets = [(); 2].map(|()| Arc::new(TicketSecrets::new(TicketScope::Shared, at(100))));
        let [issuer, other] = secrets.each_ref().map(|secrets| Ticketer::new(Arc::clone(secrets), NONE, at(100)));
        let exchange = |now| {
            secrets[1].merge(&secrets[0].encode(now), now).unwrap();
            secrets[0].merge(&secrets[1].encode(now), now).unwrap();
        };
        assert_eq!(issuer.seal(STATE, at(100)), None, "before the first exchange");
        for secrets in &secrets {
            secrets.fill(at(100), Duration::ZERO);
        }
        exchange(at(100));
        for secrets in &secrets {
            secrets.adopt(at(100));
        }
        let ticket = issuer.seal(STATE, at(100)).unwrap();
        assert_eq!(ticket[..NAME_LEN], other.seal(STATE, at(100)).unwrap()[..NAME_LEN], "both use the least secret");
        for epoch in [100, 101, 102] {
            assert_eq!(other.open(&ticket, at(epoch)).as_deref(), Some(STATE), "epoch {epoch}");
            // One edge makes the secret of the next epoch, and the other gets it.
            secrets[0].fill(at(epoch), Duration::ZERO);
            exchange(at(epoch));
            let ticket = other.seal(STATE, at(epoch + 1)).unwrap();
            assert_eq!(issuer.open(&ticket, at(epoch)).as_deref(), Some(STATE), "the clock of one edge lags behind");
        }
        assert_eq!(other.open(&ticket, at(103)), None);
    }

    #[test]
    fn a_ticket_of_another_policy_or_a_changed_one_is_rejected() {
        let secrets = local(1);
        let [open, closed] = [NONE, PolicyId([1; 32])].map(|policy| Ticketer::new(Arc::clone(&secrets), policy, at(1)));
        let ticket = open.seal(STATE, at(1)).unwrap();
        assert_eq!(closed.open(&ticket, at(1)), None);
        assert_eq!(open.open(&ticket, at(1)).as_deref(), Some(STATE));
        for at_byte in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at_byte] ^= 1;
            assert_eq!(open.open(&changed, at(1)), None, "byte {at_byte}");
            assert_eq!(open.open(&ticket[..at_byte], at(1)), None, "cut at {at_byte}");
        }
    }
}
