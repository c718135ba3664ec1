//! Session tickets (RFC 8446 §4.6.1, RFC 5077): their secrets, and the keys that each policy of
//! client authentication derives from them.
//!
//! A secret is random and belongs to one epoch. The secrets of the current epoch, of the two
//! before it and of the next one exist at a time, so a ticket is accepted for two whole epochs.
//! Policies have different keys: a ticket that a client got without a certificate must not resume
//! where a certificate is required (CVE-2025-23419).

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{self, HKDF_SHA256};
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;

/// The length of an epoch, in seconds.
const EPOCH: u64 = 6 * 60 * 60;
/// The time for which a ticket is accepted at least, in seconds. A ticket of the last second of
/// an epoch is accepted in the next two.
const LIFETIME: u32 = 2 * 6 * 60 * 60;
/// The secrets that exist at a time: of two earlier epochs, the current one, and the next.
const SECRETS: usize = 4;
/// The position of the current epoch's secret.
const CURRENT: usize = 2;

const NAME_LEN: usize = 16;
const KEY_LEN: usize = 32;

type Secret = [u8; 32];

/// The identity of a policy of client authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PolicyId(pub(super) [u8; 32]);

fn epoch_of(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / EPOCH
}

fn random<const LEN: usize>() -> [u8; LEN] {
    let mut bytes = [0; LEN];
    rand::fill(&mut bytes).expect("the system provides random numbers");
    bytes
}

/// The secrets of the epochs, shared by all policies.
pub(super) struct TicketSecrets(Mutex<Epochs>);

#[derive(Clone, Copy)]
struct Epochs {
    current: u64,
    secrets: [Secret; SECRETS],
}

impl TicketSecrets {
    pub(super) fn new(now: SystemTime) -> Self {
        Self(Mutex::new(Epochs { current: epoch_of(now), secrets: std::array::from_fn(|_| random()) }))
    }

    /// Returns the secrets of `epoch`, after a rotation if it is later than the current one. A
    /// clock that was set back keeps the current epoch.
    fn of(&self, epoch: u64) -> Epochs {
        let mut epochs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while epochs.current < epoch {
            // Beyond the number of secrets, all of them are new.
            epochs.current = (epochs.current + 1).max(epoch.saturating_sub(SECRETS as u64));
            epochs.secrets.rotate_left(1);
            epochs.secrets[SECRETS - 1] = random();
        }
        *epochs
    }
}

/// Encrypts and decrypts the tickets of one policy.
pub(super) struct Ticketer {
    secrets: Arc<TicketSecrets>,
    policy: PolicyId,
    keys: ArcSwap<TicketKeys>,
}

struct TicketKeys {
    epoch: u64,
    keys: [TicketKey; SECRETS],
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
    fn derive(epochs: &Epochs, policy: PolicyId) -> Self {
        let keys = epochs.secrets.each_ref().map(|secret| TicketKey::derive(secret, policy));
        Self { epoch: epochs.current, keys }
    }
}

impl Ticketer {
    pub(super) fn new(secrets: Arc<TicketSecrets>, policy: PolicyId, now: SystemTime) -> Self {
        let keys = ArcSwap::from_pointee(TicketKeys::derive(&secrets.of(epoch_of(now)), policy));
        Self { secrets, policy, keys }
    }

    /// Drops the keys of epochs that have ended. Without it they would live until the next ticket.
    pub(super) fn rotate(&self, now: SystemTime) {
        let epoch = epoch_of(now);
        if self.keys.load().epoch < epoch {
            self.keys.store(Arc::new(TicketKeys::derive(&self.secrets.of(epoch), self.policy)));
        }
    }

    fn seal(&self, plain: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        self.rotate(now);
        self.keys.load().keys[CURRENT].seal(plain)
    }

    fn open(&self, ticket: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        self.rotate(now);
        let (name, sealed) = ticket.split_first_chunk::<NAME_LEN>()?;
        self.keys.load().keys.iter().find(|key| key.name == *name)?.open(sealed)
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
    use std::time::Duration;

    use super::*;

    const NONE: PolicyId = PolicyId([0; 32]);
    const STATE: &[u8] = b"the state of a session";

    fn at(epoch: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(epoch * EPOCH + 1)
    }

    #[test]
    fn a_ticket_is_accepted_for_two_more_epochs_also_by_an_edge_that_lags_behind() {
        let secrets = Arc::new(TicketSecrets::new(at(100)));
        let ticketer = Ticketer::new(secrets, NONE, at(100));
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
        let secrets = Arc::new(TicketSecrets::new(at(100)));
        let behind = Ticketer::new(Arc::clone(&secrets), NONE, at(100));
        let keys = behind.keys.load_full();
        let ahead = Ticketer::new(secrets, NONE, at(101));
        let ticket = ahead.seal(STATE, at(101)).unwrap();
        let (name, sealed) = ticket.split_first_chunk::<NAME_LEN>().unwrap();
        let next = keys.keys.last().unwrap();
        assert_eq!((&next.name, next.open(sealed).as_deref()), (name, Some(STATE)));
    }

    #[test]
    fn a_ticket_of_another_policy_or_a_changed_one_is_rejected() {
        let secrets = Arc::new(TicketSecrets::new(at(1)));
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
