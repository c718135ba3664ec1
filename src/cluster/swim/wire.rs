//! What stands before what foca says: which protocol and which placement the
//! sender follows, and a digest of its view.

use std::sync::Arc;

use super::super::ring::PLACEMENT_VERSION;

/// Changes with the form of datagrams.
pub(crate) const PROTOCOL: u8 = 1;

const MARK: &[u8; 4] = b"peer";
const HEAD: usize = MARK.len() + 1 + 8 + 8;
/// A datagram and what seals it stay below what any network carries whole.
pub(super) const PAYLOAD: usize = 1200 - HEAD;

/// Why a datagram was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// It does not know the secret.
    Seal,
    /// Its sender follows another protocol, or places keys in another way: in
    /// one view with it, edges would disagree about owners.
    Version {
        /// The sender's [`PROTOCOL`].
        protocol: u8,
        /// The sender's [`PLACEMENT_VERSION`].
        placement: u64,
    },
    /// Its sender is not listed, and there is no secret that it could know.
    Stranger(Arc<str>),
    /// It is for a member, and this edge is none: others list it, and its own list does not.
    Guest,
    /// It is malformed.
    Garbage,
}

pub(super) fn pack(digest: u64, payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(HEAD + payload.len());
    datagram.extend_from_slice(MARK);
    datagram.push(PROTOCOL);
    datagram.extend_from_slice(&PLACEMENT_VERSION.to_le_bytes());
    datagram.extend_from_slice(&digest.to_le_bytes());
    datagram.extend_from_slice(payload);
    datagram
}

/// The sender's digest, and what foca said.
pub(super) fn unpack(datagram: &[u8]) -> Result<(u64, &[u8]), Rejection> {
    let rest = datagram.strip_prefix(MARK).ok_or(Rejection::Garbage)?;
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
    fn what_is_packed_comes_out_and_other_versions_do_not() {
        let datagram = pack(7, b"said");
        assert_eq!(unpack(&datagram), Ok((7, &b"said"[..])));
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
