//! The header before foca's payload: the versions of protocol and placement, and a digest of the
//! sender's view.

use std::sync::Arc;

use crate::cluster::ring::PLACEMENT_VERSION;
use crate::cluster::seal::{self, SealError};

/// The version of the datagram format, below the seal.
pub(crate) const PROTOCOL: u8 = 1;

const MAGIC: &[u8; 4] = b"peer";
const HEAD: usize = MAGIC.len() + 1 + 8 + 8;
/// The longest datagram in bytes, with its seal: what every IPv6 link carries (1280 bytes), without
/// the headers of IPv6 and UDP.
const MAX_SEALED: usize = 1280 - 40 - 8;
/// The longest datagram before it is sealed.
pub(crate) const MAX_DATAGRAM: usize = MAX_SEALED - seal::OVERHEAD;
/// The longest payload.
pub(super) const PAYLOAD: usize = MAX_DATAGRAM - HEAD;

/// The reason why a datagram was rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// The seal is missing or wrong, or the datagram is a replay.
    Seal(SealError),
    /// The sender has another protocol or placement version: edges in one view would disagree
    /// about owners.
    Version {
        /// The sender's [`PROTOCOL`].
        protocol: u8,
        /// The sender's [`PLACEMENT_VERSION`].
        placement: u64,
    },
    /// The sender is not listed and there is no secret that would authenticate it.
    Stranger(Arc<str>),
    /// This edge is no member: other edges list it, but its own list does not.
    Guest,
    /// The datagram is malformed.
    Garbage,
}

/// Puts the header before foca's payload.
pub(super) fn pack(digest: u64, payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(HEAD + payload.len());
    datagram.extend_from_slice(MAGIC);
    datagram.push(PROTOCOL);
    datagram.extend_from_slice(&PLACEMENT_VERSION.to_le_bytes());
    datagram.extend_from_slice(&digest.to_le_bytes());
    datagram.extend_from_slice(payload);
    datagram
}

/// Returns the sender's digest and foca's payload.
pub(super) fn unpack(datagram: &[u8]) -> Result<(u64, &[u8]), Rejection> {
    let rest = datagram.strip_prefix(MAGIC).ok_or(Rejection::Garbage)?;
    let (&[protocol], rest) = rest.split_first_chunk().ok_or(Rejection::Garbage)?;
    let (placement, rest) = rest.split_first_chunk().ok_or(Rejection::Garbage)?;
    let placement = u64::from_le_bytes(*placement);
    if (protocol, placement) != (PROTOCOL, PLACEMENT_VERSION) {
        return Err(Rejection::Version { protocol, placement });
    }
    let (digest, payload) = rest.split_first_chunk().ok_or(Rejection::Garbage)?;
    Ok((u64::from_le_bytes(*digest), payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_payloads_are_unpacked_and_other_versions_rejected() {
        let datagram = pack(7, b"payload");
        assert_eq!(unpack(&datagram), Ok((7, &b"payload"[..])));
        for (at, rejection) in [
            (0, Rejection::Garbage),
            (4, Rejection::Version { protocol: PROTOCOL ^ 1, placement: PLACEMENT_VERSION }),
            (5, Rejection::Version { protocol: PROTOCOL, placement: PLACEMENT_VERSION ^ 1 }),
        ] {
            let mut other = datagram.clone();
            other[at] ^= 1;
            assert_eq!(unpack(&other), Err(rejection));
        }
        for end in 0..HEAD {
            assert_eq!(unpack(&datagram[..end]), Err(Rejection::Garbage));
        }
    }
}
