//! What of a datagram foca is to hear.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut};
use foca::{Codec, Header, Member, Message, PostcardCodec};

use super::Swim;
use super::identity::Identity;
use super::wire::Rejection;

/// How far ahead of this edge's clock another's may be: a hundred years in milliseconds,
/// for some clocks begin with 1970.
const AGE: u64 = 100 * 365 * 24 * 3600 * 1000;

impl Swim {
    /// `payload` without what it says of strangers: foca would write to whoever is named
    /// there, and wait for an answer.
    pub(super) fn sift<'a>(
        &self,
        now: Duration,
        payload: &'a [u8],
    ) -> Result<(Header<Identity>, Cow<'a, [u8]>), Rejection> {
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
            if !self.admits(&named.address) {
                return Err(Rejection::Stranger(Arc::clone(&named.address)));
            }
        }
        if [&header.src, &header.dst].into_iter().chain(third).any(|named| !self.is_of_this_age(now, named)) {
            return Err(Rejection::Garbage);
        }
        let head = payload.len() - rest.len();
        let count = rest.try_get_u16().unwrap_or_default();
        let (mut kept, mut all) = (payload[..head].to_vec(), 0_u16);
        kept.put_u16(0);
        for _ in 0..count {
            let before = rest;
            let member: Member<Identity> = PostcardCodec.decode_member(&mut rest).map_err(|_| Rejection::Garbage)?;
            if self.is_worth_hearing(&member) && self.is_of_this_age(now, member.id()) {
                kept.extend_from_slice(&before[..before.len() - rest.len()]);
                all += 1;
            }
        }
        if all == count {
            return Ok((header, payload.into()));
        }
        kept[head..head + 2].copy_from_slice(&all.to_be_bytes());
        Ok((header, kept.into()))
    }

    /// Whether foca is to hear of a member. Not if it is gone and was not known: or each
    /// newcomer would remember it for another hour, and tell the next.
    fn is_worth_hearing(&self, member: &Member<Identity>) -> bool {
        let address = &member.id().address;
        let is_known = || self.foca.iter_membership_state().any(|known| known.id().address == *address);
        let is_own = *address == self.foca.identity().address;
        self.admits(address) && (member.state() != foca::State::Down || is_own || is_known())
    }

    /// Whether a member's bump is believable. One more than a century ahead is rejected:
    /// nothing could ever supersede it.
    fn is_of_this_age(&self, now: Duration, identity: &Identity) -> bool {
        let now = self.started.saturating_add(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        identity.bump <= now.saturating_add(AGE)
    }
}
