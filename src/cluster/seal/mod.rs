//! [`Seal`]: encryption and authentication of gossip datagrams under `cluster.secret`.
//!
//! A sealed datagram is the version of this format, a nonce, the encrypted content and a tag, by
//! XChaCha20-Poly1305. The nonce has three numbers of 8 bytes each, the least significant byte
//! first: the random instance of the sender, drawn when it starts; the number of the datagram; and
//! the time in milliseconds. So no nonce is used twice, not even by a machine that is resumed from
//! a snapshot. A [`ReplayGuard`] rejects datagrams that arrive again.

use std::time::Duration;

use chacha20poly1305::{AeadInOut, KeyInit, Tag, XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac};
use sha2::Sha256;

pub(crate) use error::SealError;
use replay::{ReplayGuard, Stamp};

mod error;
mod replay;

/// The version of the sealed format. A datagram without a seal begins with another byte.
const VERSION: u8 = 2;
/// The label of the key that is derived from a secret.
const LABEL: &[u8] = b"peerage gossip datagram 2";

const NONCE: usize = 24;
const TAG: usize = 16;
/// The bytes that a seal adds to a datagram.
pub(crate) const OVERHEAD: usize = 1 + NONCE + TAG;

/// A datagram that was opened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened<'a> {
    pub(crate) datagram: &'a [u8],
    /// The index of the secret that opened the datagram; `None` without secrets.
    pub(crate) secret: Option<usize>,
}

/// Seals and opens datagrams. Without a secret, datagrams are neither encrypted nor authenticated,
/// and all of them are accepted.
pub(crate) struct Seal {
    /// One for each secret; the first seals.
    keys: Vec<XChaCha20Poly1305>,
    instance: u64,
    sequence: u64,
    guard: ReplayGuard,
}

impl Seal {
    /// Creates the seal of an edge that starts at the time `now`. `instance` must be random.
    /// Times are counted from 1970. A datagram of an unknown sender is accepted within
    /// `replay_window` of its time.
    pub(crate) fn new<'a>(
        secrets: impl IntoIterator<Item = &'a str>,
        instance: u64,
        replay_window: Duration,
        now: Duration,
    ) -> Self {
        let guard = ReplayGuard::new(millis(replay_window), millis(now));
        let mut seal = Self { keys: Vec::new(), instance, sequence: 0, guard };
        seal.replace_secrets(secrets);
        seal
    }

    /// Replaces the secrets, and keeps the replay windows of the senders.
    pub(crate) fn replace_secrets<'a>(&mut self, secrets: impl IntoIterator<Item = &'a str>) {
        self.keys = secrets.into_iter().map(derive).collect();
    }

    /// Seals a datagram that is sent at the time `now`.
    pub(crate) fn close(&mut self, mut datagram: Vec<u8>, now: Duration) -> Vec<u8> {
        let Some(key) = self.keys.first() else {
            return datagram;
        };
        let stamp = Stamp { instance: self.instance, sequence: self.sequence, time: millis(now) };
        self.sequence += 1;
        let nonce = nonce(stamp);
        let tag = key
            .encrypt_inout_detached(&XNonce::from(nonce), &[VERSION], datagram.as_mut_slice().into())
            .expect("a datagram is shorter than the cipher's limit");
        let mut sealed = Vec::with_capacity(OVERHEAD + datagram.len());
        sealed.push(VERSION);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&datagram);
        sealed.extend_from_slice(&tag);
        sealed
    }

    /// Opens a datagram in place that is received at the time `now`. A datagram is accepted once.
    ///
    /// # Errors
    /// [`SealError`]. Nothing is remembered of a datagram that no secret opens.
    pub(crate) fn open<'a>(&mut self, received: &'a mut [u8], now: Duration) -> Result<Opened<'a>, SealError> {
        if self.keys.is_empty() {
            return Ok(Opened { datagram: received, secret: None });
        }
        let (version, rest) = received.split_first_mut().ok_or(SealError::Unsealed)?;
        if *version != VERSION {
            return Err(SealError::Unsealed);
        }
        let (nonce, rest) = rest.split_first_chunk_mut::<NONCE>().ok_or(SealError::Forged)?;
        let (content, tag) = rest.split_last_chunk_mut::<TAG>().ok_or(SealError::Forged)?;
        let (nonce, tag) = (*nonce, Tag::from(*tag));
        // The tag is verified before anything is decrypted, so a wrong key changes nothing.
        let opens = |key: &XChaCha20Poly1305| {
            key.decrypt_inout_detached(&XNonce::from(nonce), &[VERSION], (&mut *content).into(), &tag).is_ok()
        };
        let secret = self.keys.iter().position(opens).ok_or(SealError::Forged)?;
        let stamp = stamp(nonce);
        if stamp.instance == self.instance {
            // This edge itself sent the datagram.
            return Err(SealError::Replayed);
        }
        self.guard.admit(stamp, millis(now))?;
        Ok(Opened { datagram: content, secret: Some(secret) })
    }
}

/// Derives the key of datagrams from a secret.
fn derive(secret: &str) -> XChaCha20Poly1305 {
    let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    XChaCha20Poly1305::new(&mac.chain_update(LABEL).finalize().into_bytes())
}

fn nonce(Stamp { instance, sequence, time }: Stamp) -> [u8; NONCE] {
    let mut nonce = [0; NONCE];
    for (part, number) in nonce.chunks_exact_mut(8).zip([instance, sequence, time]) {
        part.copy_from_slice(&number.to_le_bytes());
    }
    nonce
}

fn stamp(nonce: [u8; NONCE]) -> Stamp {
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| nonce[at + i]));
    Stamp { instance: number(0), sequence: number(8), time: number(16) }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
