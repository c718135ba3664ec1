//! [`Swim`]: failure detection by SWIM with suspicion (Das, Gupta and Motivala, 2002), with foca.
//!
//! A state machine without sockets and clocks. Its inputs are datagrams, the time, the list of
//! candidates and failed requests. Its outputs are datagrams, the time at which it must be woken
//! and the states of the members. Time is counted from the creation of the state machine.
//!
//! Additions to SWIM:
//!
//! - A member that suspects another tells it so at once and repeatedly (a challenge), so that the
//!   suspect can refute the suspicion even if most datagrams are lost.
//! - A listed member that is down gets announcements for ever, so that partitions heal.
//! - Every datagram carries a digest of its sender's view. A receiver with another digest sends
//!   its full state, so that updates which gossip missed arrive later.
//! - A deadline that is handled late means that this edge itself was frozen. The suspect then gets
//!   its time again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use foca::{Foca, Header, Member, NoCustomBroadcast, Notification, PostcardCodec, Runtime, Timer};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::cluster::membership::Admission;
use crate::cluster::view::{Known, State};
use filter::Filter;
use identity::{Identity, Role};
use outbound::Payload;
use wire::Rejection;

mod filter;
mod identity;
mod outbound;
mod parameters;
#[cfg(test)]
mod simulation;
pub(crate) mod wire;

pub(crate) use parameters::Parameters;

/// The number of members that a full state covers in the time between two probes.
const SYNC_RATE: usize = 64;
/// The most members that get an announcement at a time.
const MAX_ANNOUNCEMENTS: usize = 16;

type Address = Arc<str>;

/// A datagram to send.
#[derive(Debug)]
pub(crate) struct Datagram {
    pub(crate) to: Address,
    pub(crate) bytes: Vec<u8>,
}

/// The state machine; see the module's documentation.
pub(crate) struct Swim {
    foca: Foca<Identity, PostcardCodec, SmallRng, NoCustomBroadcast>,
    parameters: Parameters,
    /// The time of creation, in milliseconds of this edge's clock.
    started: u64,
    listed: BTreeSet<Address>,
    /// Listed members that gossip has not heard from yet. They count as suspect; otherwise an edge
    /// that starts would own all keys for a moment.
    awaited: BTreeSet<Address>,
    /// Members that a request could not reach, with the time until which further failures are
    /// ignored.
    doubted: BTreeMap<Address, Duration>,
    jobs: BTreeMap<(Duration, u64), Job>,
    next_job: u64,
    outgoing: Vec<Payload>,
    /// No member has responded to this edge's current identity yet.
    introducing: bool,
    /// Other members declared this edge dead and it has refuted that; reset when read.
    returned: bool,
    /// The position in the list of members at which the next announcements begin.
    next_announced: usize,
    /// The earliest time of the next full state.
    next_sync: Duration,
    /// The digest of this edge's view, which datagrams carry.
    digest: u64,
    /// A fingerprint of the states that [`take_news`](Self::take_news) returns.
    fingerprint: u64,
    /// The fingerprint when the states were last taken.
    taken: Option<u64>,
}

/// A job with a due time.
#[derive(Debug)]
enum Job {
    /// A timer of foca.
    Foca(Timer<Identity>),
    /// Announces this edge to listed and former members that are absent.
    Announce,
    /// Tells a suspect again that it is suspected.
    Challenge(Member<Identity>),
    /// Declares a suspect dead unless it has refuted the suspicion.
    DeclareDead(Member<Identity>),
    /// Ends the wait for a first datagram of a listed member.
    StopAwaiting(Address),
}

/// The effects that foca requests.
#[derive(Default)]
struct Effects {
    outgoing: Vec<Payload>,
    timers: Vec<(Timer<Identity>, Duration)>,
    renamed: bool,
}

impl Runtime<Identity> for &mut Effects {
    fn notify(&mut self, notification: Notification<'_, Identity>) {
        self.renamed |= matches!(notification, Notification::Rejoin(_));
    }

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        self.outgoing.push((to.address, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Identity>, after: Duration) {
        self.timers.push((event, after));
    }
}

impl Swim {
    /// Creates the state machine of the edge `name` with the address `own`. `started` must grow
    /// from each start of the edge to the next. `seed` must differ between edges.
    pub(crate) fn new(parameters: Parameters, own: &str, name: &str, started: u64, seed: u64) -> Self {
        let identity = Identity::new(own, name, started);
        let foca =
            Foca::new(identity, parameters::foca_config(&parameters), SmallRng::seed_from_u64(seed), PostcardCodec);
        let mut swim = Self {
            foca,
            parameters,
            started,
            listed: BTreeSet::new(),
            awaited: BTreeSet::new(),
            doubted: BTreeMap::new(),
            jobs: BTreeMap::new(),
            next_job: 0,
            outgoing: Vec::new(),
            introducing: true,
            returned: false,
            next_announced: usize::try_from(seed % 1000).unwrap_or_default(),
            next_sync: Duration::ZERO,
            digest: 0,
            fingerprint: 0,
            taken: None,
        };
        swim.refresh();
        swim
    }

    /// Replaces the list of candidates. The states are then news even if they are the same: the
    /// caller has used a provisional view since it had the new list.
    pub(crate) fn list(&mut self, now: Duration, names: impl IntoIterator<Item = Address>) {
        let was_guest = self.is_guest();
        self.listed = names.into_iter().collect();
        if was_guest && !self.is_guest() {
            self.restart_suspicions(now);
        }
        self.awaited.retain(|name| self.listed.contains(name));
        let known: BTreeSet<_> = self.foca.iter_membership_state().map(|member| &member.id().address).collect();
        let own = &self.foca.identity().address;
        let new: Vec<_> = self.listed.iter().filter(|name| *name != own && !known.contains(name)).cloned().collect();
        for name in new {
            self.schedule(now + self.parameters.suspicion, Job::StopAwaiting(Arc::clone(&name)));
            self.awaited.insert(name);
        }
        self.taken = None;
        self.jobs.retain(|_, job| !matches!(job, Job::Announce));
        self.announce_to_absent(now);
        self.refresh();
    }

    /// Handles a received datagram.
    pub(crate) fn receive(&mut self, now: Duration, datagram: &[u8]) -> Result<(), Rejection> {
        let (digest, payload) = wire::unpack(datagram)?;
        let (Header { src, dst, .. }, payload) = self.filter(now).apply(payload)?;
        if self.is_guest() {
            return Err(Rejection::Guest);
        }
        if dst.address == self.foca.identity().address && dst.bump > self.foca.identity().bump {
            // The sender knows this edge with a later bump: the clock was set back since.
            self.rename(now, self.foca.identity().after(dst.bump));
        }
        let handled = self.run(now, |foca, effects| foca.handle_data(&payload, effects));
        handled.map_err(|_| Rejection::Garbage)?;
        if self.foca.iter_membership_state().any(|member| member.id().address == src.address) {
            self.awaited.remove(&src.address);
        }
        self.introducing &= dst != *self.foca.identity();
        self.refresh();
        if digest != self.digest && now >= self.next_sync {
            // A larger state is sent less often: gossip has already sent most of it.
            let pause = self.foca.num_members().div_ceil(SYNC_RATE).max(1);
            self.next_sync = now + self.parameters.probe_interval * u32::try_from(pause).unwrap_or(u32::MAX);
            let members: Vec<_> = self.foca.iter_membership_state().cloned().collect();
            self.outgoing.extend(outbound::full_state(self.foca.identity(), &src, &members));
        }
        Ok(())
    }

    /// Suspects a peer that a request could not reach. It has less time to refute the suspicion
    /// than others, because there is evidence against it. A live peer refutes within a round trip
    /// and keeps its keys.
    pub(crate) fn doubt(&mut self, now: Duration, name: &str) {
        self.doubted.retain(|_, until| *until > now);
        let known = self.foca.iter_members().find(|member| *member.id().address == *name);
        let Some(member) = known.filter(|_| !self.doubted.contains_key(name)).cloned() else {
            return;
        };
        self.doubted.insert(name.into(), now + self.parameters.suspicion);
        let suspect = Member::new(member.id().clone(), member.incarnation(), foca::State::Suspect);
        self.apply(now, suspect.clone());
        let limit = (self.parameters.suspicion / 3).max(self.parameters.probe_timeout * 3);
        self.suspect(now, &suspect, limit);
        self.refresh();
    }

    /// Announces that this edge owns nothing from now on. It remains a member.
    pub(crate) fn drain(&mut self, now: Duration) {
        if self.foca.identity().role == Role::Serving {
            let mut draining = self.foca.identity().after(self.foca.identity().bump);
            draining.role = Role::Draining;
            self.rename(now, draining);
            self.refresh();
        }
    }

    /// Announces that this edge leaves.
    pub(crate) fn leave(&mut self, now: Duration) {
        let _ = self.run(now, |foca, effects| foca.leave_cluster(effects));
        // Repeat it to other members, because datagrams may be lost.
        let _ = self.run(now, |foca, effects| foca.gossip(effects));
        self.jobs.clear();
    }

    /// Returns the time at which [`wake`](Self::wake) must be called.
    pub(crate) fn wakes_at(&self) -> Option<Duration> {
        self.jobs.first_key_value().map(|((at, _), _)| *at)
    }

    /// Runs the jobs that are due.
    pub(crate) fn wake(&mut self, now: Duration) {
        while let Some(first) = self.jobs.first_entry().filter(|first| first.key().0 <= now) {
            let ((due, _), job) = first.remove_entry();
            self.run_job(now, due, job);
        }
        self.refresh();
    }

    /// Takes the datagrams to send. A guest sends none, because it handles none.
    pub(crate) fn take_outgoing(&mut self) -> impl Iterator<Item = Datagram> {
        if self.is_guest() {
            self.outgoing.clear();
        }
        let digest = self.digest;
        let pack = move |(to, payload): Payload| Datagram { to, bytes: wire::pack(digest, &payload) };
        std::mem::take(&mut self.outgoing).into_iter().map(pack)
    }

    /// Returns true if other members declared this edge dead since the last call.
    pub(crate) fn take_returned(&mut self) -> bool {
        std::mem::take(&mut self.returned)
    }

    /// Returns the states of all members, sorted by address, if they changed since the last call.
    pub(crate) fn take_news(&mut self) -> Option<Vec<Known>> {
        (self.taken.replace(self.fingerprint) != Some(self.fingerprint)).then(|| self.known())
    }

    /// Returns true if gossip has heard from each listed member, or waited for long enough.
    pub(crate) fn has_joined(&self) -> bool {
        self.awaited.is_empty() || self.is_guest()
    }

    fn admits(&self, address: &str) -> bool {
        self.parameters.admission == Admission::Authenticated || self.listed.contains(address)
    }

    fn filter(&self, now: Duration) -> Filter<impl Fn(&str) -> bool, impl Fn(&str) -> bool> {
        let foca = &self.foca;
        let is_known = move |address: &str| {
            *address == *foca.identity().address
                || foca.iter_membership_state().any(|member| *member.id().address == *address)
        };
        Filter { admits: |address: &str| self.admits(address), is_known, max_bump: filter::max_bump(self.started, now) }
    }

    /// Returns true if this edge is no member: its own list does not contain it. The members would
    /// not answer its gossip, so it takes all listed members to be alive.
    fn is_guest(&self) -> bool {
        !self.listed.is_empty() && !self.admits(&self.foca.identity().address)
    }

    fn known(&self) -> Vec<Known> {
        let (own, guest) = (self.foca.identity(), self.is_guest());
        let mut states: BTreeMap<&Address, (&str, State)> = BTreeMap::new();
        for name in &self.listed {
            let state = match name {
                _ if guest => State::Alive,
                name if self.awaited.contains(name) => State::Suspect,
                _ => State::Down,
            };
            states.insert(name, ("", state));
        }
        let members = self.foca.iter_membership_state().filter(|_| !guest);
        for member in members.filter(|member| self.admits(&member.id().address)) {
            states.insert(&member.id().address, (&member.id().edge, state(member)));
        }
        if !guest {
            states.insert(&own.address, (&own.edge, own.role.state()));
            for refused in self.namesakes() {
                states.insert(&refused.address, (&refused.edge, State::Refused));
            }
        }
        let known = |(address, (edge, state)): (&Address, (&str, State))| Known {
            address: Arc::clone(address),
            edge: edge.into(),
            state,
        };
        states.into_iter().map(known).collect()
    }

    /// Returns the members that are refused because a member that started earlier has the same
    /// `edge.name`. All edges refuse the same one, because they compare the values from gossip. A
    /// member that is down or drains has given up its name.
    fn namesakes(&self) -> Vec<&Identity> {
        let own = self.foca.identity();
        let holds_name = |member: &&Member<Identity>| {
            let address = &member.id().address;
            matches!(state(member), State::Alive | State::Suspect) && self.admits(address) && *address != own.address
        };
        let others = self.foca.iter_membership_state().filter(holds_name).map(Member::id);
        let own = Some(own).filter(|own| own.role == Role::Serving);
        let mut named: Vec<_> = others.chain(own).filter(|member| !member.edge.is_empty()).collect();
        named.sort_by_key(|member| (&member.edge, member.bump, &member.address));
        named.windows(2).filter(|pair| pair[0].edge == pair[1].edge).map(|pair| pair[1]).collect()
    }

    /// Recomputes the digest and the fingerprint. Both are sums, which do not depend on the order of
    /// members.
    fn refresh(&mut self) {
        let own = self.foca.identity().fingerprint();
        let (mut digest, mut states) = (own, own);
        for member in self.foca.iter_membership_state() {
            let fingerprint = member.id().fingerprint();
            if member.state() != foca::State::Down {
                digest = digest.wrapping_add(fingerprint);
            }
            states = states.wrapping_add(fingerprint.rotate_left(1 + member.state() as u32));
        }
        for name in &self.listed {
            let awaited = u32::from(self.awaited.contains(name));
            states = states.wrapping_add(identity::hash(name).rotate_left(awaited));
        }
        (self.digest, self.fingerprint) = (digest, states);
    }

    fn schedule(&mut self, at: Duration, job: Job) {
        self.next_job += 1;
        self.jobs.insert((at, self.next_job), job);
    }

    fn run_job(&mut self, now: Duration, due: Duration, job: Job) {
        match job {
            Job::Foca(timer) => {
                // The only error is about a late timer, which foca handles.
                let _ = self.run(now, |foca, effects| foca.handle_timer(timer, effects));
            }
            Job::Announce => self.announce_to_absent(now),
            Job::StopAwaiting(name) => drop(self.awaited.remove(&name)),
            Job::Challenge(suspect) | Job::DeclareDead(suspect) if !self.is_suspect(&suspect) => {}
            Job::Challenge(_) | Job::DeclareDead(_) if self.is_guest() => {}
            Job::Challenge(suspect) => self.challenge(now, suspect),
            // This edge itself was frozen and may have missed a refutation.
            Job::DeclareDead(suspect) if now > due + self.parameters.probe_interval => {
                self.schedule(now + self.parameters.suspicion, Job::DeclareDead(suspect));
            }
            Job::DeclareDead(suspect) => {
                self.apply(now, Member::new(suspect.id().clone(), suspect.incarnation(), foca::State::Down));
            }
        }
    }

    /// Calls foca and applies the effects that it requests.
    fn run(
        &mut self,
        now: Duration,
        act: impl FnOnce(
            &mut Foca<Identity, PostcardCodec, SmallRng, NoCustomBroadcast>,
            &mut Effects,
        ) -> Result<(), foca::Error>,
    ) -> Result<(), foca::Error> {
        let mut effects = Effects::default();
        let done = act(&mut self.foca, &mut effects);
        self.outgoing.append(&mut effects.outgoing);
        for (timer, after) in effects.timers {
            match timer {
                Timer::ChangeSuspectToDown { member_id, incarnation, .. } => {
                    self.suspect(now, &Member::new(member_id, incarnation, foca::State::Suspect), after);
                }
                timer => self.schedule(now + after, Job::Foca(timer)),
            }
        }
        if effects.renamed {
            self.returned = true;
            self.introduce(now);
        }
        done
    }

    fn apply(&mut self, now: Duration, member: Member<Identity>) {
        // Fails only if an address does not fit into a datagram.
        let _ = self.run(now, |foca, effects| foca.apply_many(std::iter::once(member), true, effects));
    }

    fn challenge(&mut self, now: Duration, suspect: Member<Identity>) {
        self.outgoing.push(outbound::challenge(self.foca.identity(), &suspect));
        self.schedule(now + self.parameters.probe_timeout, Job::Challenge(suspect));
    }

    fn rename(&mut self, now: Duration, identity: Identity) {
        let _ = self.run(now, |foca, effects| foca.change_identity(identity, effects));
        self.introduce(now);
    }

    /// Announces this edge's new identity to some of the members; each of them responds.
    fn introduce(&mut self, now: Duration) {
        self.introducing = true;
        let members: Vec<_> = self.foca.iter_members().map(|member| member.id().clone()).collect();
        self.announce(now, members);
    }

    fn announce_to_absent(&mut self, now: Duration) {
        self.schedule(now + self.parameters.probe_interval, Job::Announce);
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

    /// Announces this edge to some of `others`, in turn.
    fn announce(&mut self, now: Duration, mut others: Vec<Identity>) {
        let count = others.len().max(1);
        others.rotate_left(self.next_announced % count);
        self.next_announced = self.next_announced.wrapping_add(MAX_ANNOUNCEMENTS);
        for other in others.into_iter().take(MAX_ANNOUNCEMENTS) {
            let _ = self.run(now, |foca, effects| foca.announce(other, effects));
        }
    }

    fn is_suspect(&self, suspect: &Member<Identity>) -> bool {
        self.foca.iter_members().any(|member| member == suspect)
    }

    fn suspect(&mut self, now: Duration, suspect: &Member<Identity>, limit: Duration) {
        let sooner = self.jobs.range(..=(now + limit, u64::MAX));
        let mut sooner = sooner.filter(|(_, job)| matches!(job, Job::DeclareDead(other) if other == suspect));
        if sooner.next().is_none() {
            self.schedule(now, Job::Challenge(suspect.clone()));
            self.schedule(now + limit, Job::DeclareDead(suspect.clone()));
        }
    }

    /// Restarts each suspicion: while this edge was a guest, it received no refutations.
    fn restart_suspicions(&mut self, now: Duration) {
        self.jobs.retain(|_, job| !matches!(job, Job::Challenge(_) | Job::DeclareDead(_)));
        let suspects: Vec<_> =
            self.foca.iter_members().filter(|member| member.state() == foca::State::Suspect).cloned().collect();
        for suspect in suspects {
            self.suspect(now, &suspect, self.parameters.suspicion);
        }
    }
}

fn state(member: &Member<Identity>) -> State {
    match (member.state(), member.id().role) {
        (foca::State::Down, _) => State::Down,
        (_, Role::Draining) => State::Draining,
        (foca::State::Suspect, Role::Serving) => State::Suspect,
        (foca::State::Alive, Role::Serving) => State::Alive,
    }
}
