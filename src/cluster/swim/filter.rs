//! The filter for received datagrams: foca gets only information about admissible members.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut};
use foca::{Codec, Header, Member, Message, PostcardCodec};

use super::identity::Identity;
use super::wire::Rejection;

/// The most that a member's clock may be ahead of this edge's, in milliseconds: a hundred years,
/// because some clocks start in 1970.
const MAX_AHEAD: u64 = 100 * 365 * 24 * 3600 * 1000;

/// Returns the greatest bump that is accepted at the time `now` (since the start) from other
/// members. A greater one is rejected, because no later bump could ever supersede it. `started` is
/// in milliseconds of this edge's clock.
pub(super) fn max_bump(started: u64, now: Duration) -> u64 {
    let now = started.saturating_add(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    now.saturating_add(MAX_AHEAD)
}

/// The rules by which a datagram is filtered.
pub(super) struct Filter<A, K> {
    /// Returns true for the address of an admissible member.
    pub(super) admits: A,
    /// Returns true for the address of this edge and of members that foca knows.
    pub(super) is_known: K,
    pub(super) max_bump: u64,
}

impl<A: Fn(&str) -> bool, K: Fn(&str) -> bool> Filter<A, K> {
    /// Returns the header of `payload`, and `payload` without its updates about strangers: foca
    /// would send to each address that an update names and wait for a response.
    ///
    /// # Errors
    /// The datagram is malformed, names a bump that is too great, or its sender or a third member
    /// in its header is a stranger.
    pub(super) fn apply<'a>(&self, payload: &'a [u8]) -> Result<(Header<Identity>, Cow<'a, [u8]>), Rejection> {
        let mut rest = payload;
        let header: Header<Identity> = PostcardCodec.decode_header(&mut rest).map_err(|_| Rejection::Garbage)?;
        let third = match &header.message {
            Message::PingReq { target: third, .. }
            | Message::IndirectPing { origin: third, .. }
            | Message::IndirectAck { target: third, .. }
            | Message::ForwardedAck { origin: third, .. } => Some(third),
            _ => None,
        };
        for named in [&header.src].into_iter().chain(third) {
            if !(self.admits)(&named.address) {
                return Err(Rejection::Stranger(Arc::clone(&named.address)));
            }
        }
        if [&header.src, &header.dst].into_iter().chain(third).any(|named| named.bump > self.max_bump) {
            return Err(Rejection::Garbage);
        }
        let head = payload.len() - rest.len();
        let count = rest.try_get_u16().unwrap_or_default();
        let (mut kept, mut kept_count) = (payload[..head].to_vec(), 0_u16);
        kept.put_u16(0);
        for _ in 0..count {
            let before = rest;
            let member: Member<Identity> = PostcardCodec.decode_member(&mut rest).map_err(|_| Rejection::Garbage)?;
            if self.keeps(&member) {
                kept.extend_from_slice(&before[..before.len() - rest.len()]);
                kept_count += 1;
            }
        }
        if kept_count == count {
            return Ok((header, payload.into()));
        }
        kept[head..head + 2].copy_from_slice(&kept_count.to_be_bytes());
        Ok((header, kept.into()))
    }

    /// Returns true if foca gets an update about this member. Down updates for unknown members are
    /// dropped: each newcomer would remember the tombstone for another hour and pass it on, so it
    /// would circulate forever.
    fn keeps(&self, update: &Member<Identity>) -> bool {
        let Identity { address, bump, .. } = update.id();
        let is_relevant = update.state() != foca::State::Down || (self.is_known)(address);
        (self.admits)(address) && is_relevant && *bump <= self.max_bump
    }
}
