//! What this edge says of itself by itself, and of others: foca does the rest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::BufMut;
use foca::{Codec, Header, Member, Message, PostcardCodec};

use super::identity::Identity;
use super::wire::PAYLOAD;
use super::{Job, Swim};

/// How many are knocked at, or introduced to, at a time.
const AT_ONCE: usize = 16;

impl Swim {
    /// A ping that says that its receiver is suspected: the answer objects.
    pub(super) fn challenge(&mut self, now: Duration, suspect: Member<Identity>) {
        let (payload, _) = self.datagram(suspect.id(), Message::Ping(0), std::slice::from_ref(&suspect));
        self.outgoing.push((Arc::clone(&suspect.id().address), payload));
        self.schedule(now + self.parameters.probe_timeout, Job::Challenge(suspect));
    }

    /// Tells `to` all that is known.
    pub(super) fn tell_all(&mut self, to: &Identity) {
        let members: Vec<_> = self.foca.iter_membership_state().cloned().collect();
        let mut rest = &members[..];
        while !rest.is_empty() {
            let (payload, told) = self.datagram(to, Message::Gossip, rest);
            self.outgoing.push((Arc::clone(&to.address), payload));
            rest = &rest[told.max(1)..];
        }
    }

    /// A datagram as foca makes them, to a member and `about` members of our choice; and
    /// how many of these had room in it. foca does not tell this edge's incarnation, so
    /// it says 0, which is news to nobody.
    pub(super) fn datagram(
        &self,
        to: &Identity,
        message: Message<Identity>,
        about: &[Member<Identity>],
    ) -> (Vec<u8>, usize) {
        let header = Header { src: self.foca.identity().clone(), src_incarnation: 0, dst: to.clone(), message };
        let mut payload = Vec::with_capacity(PAYLOAD).limit(PAYLOAD);
        let _ = PostcardCodec.encode_header(&header, &mut payload);
        let at = payload.get_ref().len();
        payload.put_u16(0);
        let mut count: u16 = 0;
        for member in about {
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

    pub(super) fn rename(&mut self, now: Duration, identity: Identity) {
        let _ = self.run(now, |foca, effects| foca.change_identity(identity, effects));
        self.introduce(now);
    }

    /// Tells some of the members who this edge is now; each of them answers.
    pub(super) fn introduce(&mut self, now: Duration) {
        self.introducing = true;
        let members: Vec<_> = self.foca.iter_members().map(|member| member.id().clone()).collect();
        self.announce(now, members);
    }

    pub(super) fn knock(&mut self, now: Duration) {
        self.schedule(now + self.parameters.probe_interval, Job::Knock);
        if self.is_guest() {
            return;
        }
        let own = &self.foca.identity().address;
        let mut absent: BTreeMap<_, _> = self.listed.iter().map(|name| (name, Identity::unknown(name))).collect();
        for member in self.foca.iter_membership_state() {
            if member.state() != foca::State::Down && !self.introducing {
                absent.remove(&member.id().address);
            } else if self.admits(&member.id().address) {
                absent.insert(&member.id().address, member.id().clone());
            }
        }
        absent.remove(own);
        let absent = absent.into_values().collect();
        self.announce(now, absent);
    }

    /// Announces this edge to some of `others`, to other ones each time.
    fn announce(&mut self, now: Duration, mut others: Vec<Identity>) {
        let count = others.len().max(1);
        others.rotate_left(self.next_turn % count);
        self.next_turn = self.next_turn.wrapping_add(AT_ONCE);
        for other in others.into_iter().take(AT_ONCE) {
            let _ = self.run(now, |foca, effects| foca.announce(other, effects));
        }
    }
}
