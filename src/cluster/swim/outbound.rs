//! The datagrams that this edge builds itself, beside those of foca.

use std::sync::Arc;

use bytes::BufMut;
use foca::{Codec, Header, Member, Message, PostcardCodec};

use super::identity::Identity;
use super::wire::PAYLOAD;

/// A payload and the address of its receiver.
pub(super) type Payload = (Arc<str>, Vec<u8>);

/// Builds a ping that tells `suspect` that it is suspected. Its response refutes the suspicion.
pub(super) fn challenge(from: &Identity, suspect: &Member<Identity>) -> Payload {
    let (payload, _) = datagram(from, suspect.id(), Message::Ping(0), std::slice::from_ref(suspect));
    (Arc::clone(&suspect.id().address), payload)
}

/// Builds the datagrams that tell `to` about all `members`.
pub(super) fn full_state(from: &Identity, to: &Identity, members: &[Member<Identity>]) -> Vec<Payload> {
    let (mut payloads, mut rest) = (Vec::new(), members);
    while !rest.is_empty() {
        let (payload, count) = datagram(from, to, Message::Gossip, rest);
        payloads.push((Arc::clone(&to.address), payload));
        rest = &rest[count.max(1)..];
    }
    payloads
}

/// Builds a datagram in foca's format, with updates about the first of `members`. Returns with it
/// the number of updates that fit. foca does not expose this edge's incarnation, so the header says
/// 0, which supersedes no other.
pub(super) fn datagram(
    from: &Identity,
    to: &Identity,
    message: Message<Identity>,
    members: &[Member<Identity>],
) -> (Vec<u8>, usize) {
    let header = Header { src: from.clone(), src_incarnation: 0, dst: to.clone(), message };
    let mut payload = Vec::with_capacity(PAYLOAD).limit(PAYLOAD);
    let _ = PostcardCodec.encode_header(&header, &mut payload);
    let at = payload.get_ref().len();
    payload.put_u16(0);
    let mut count: u16 = 0;
    for member in members {
        let before = payload.get_ref().len();
        if PostcardCodec.encode_member(member, &mut payload).is_err() {
            payload.get_mut().truncate(before);
            break;
        }
        count += 1;
    }
    let mut payload = payload.into_inner();
    payload[at..at + 2].copy_from_slice(&count.to_be_bytes());
    (payload, usize::from(count))
}
