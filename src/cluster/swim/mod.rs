//! Who is alive: SWIM with suspicion (Das, Gupta and Motivala, 2002), by foca.
//!
//! A machine without sockets and clocks: datagrams, the time and what the edge
//! itself notices go in; datagrams, the time at which it wants to be woken and
//! a new list of members come out. Time is counted from when it was made.
//!
//! What is added to SWIM here, each for a reason:
//!
//! - Who is suspected is told so at once and again and again, by whoever
//!   suspects it, so that it can object though most of the datagrams are lost.
//! - Who is down, but listed, is knocked at for ever, so partitions heal.
//! - Every datagram tells what its sender takes for the cluster, as a digest.
//!   Who finds another one there sends all that it knows: what gossip missed
//!   does not stay missed.
//! - Who wakes up late was frozen itself, and condemns nobody at once.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use foca::{Foca, Header, Member, NoCustomBroadcast, Notification, PostcardCodec, Runtime, Timer};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::membership::Admission;
use super::view::{Known, State};
use identity::{Identity, Role};
use wire::{PAYLOAD, Rejection};

mod filter;
mod identity;
mod outbound;
#[cfg(test)]
mod simulation;
pub(crate) mod wire;

/// How many members each piece of news is told to at a time, by each who knows it.
const FANOUT: usize = 3;
/// How often each who knows a piece of news tells it: enough for thousands of members.
const TELLINGS: u8 = 12;
/// How many members this edge tells of in the time between two probes, to those whose
/// view differs from its own.
const TOLD_AT_ONCE: usize = 64;
/// How long it is remembered that a member has gone.
const MOURNING: Duration = Duration::from_hours(1);

/// How this edge takes part.
#[derive(Debug, Clone)]
pub(crate) struct Parameters {
    /// Between two probes by one member.
    pub(crate) probe_interval: Duration,
    /// How long a probe's answer is waited for before others are asked to probe.
    pub(crate) probe_timeout: Duration,
    /// How long a suspected member may take to object.
    pub(crate) suspicion: Duration,
    /// Who may be a member.
    pub(crate) admission: Admission,
}

type Address = Arc<str>;

/// A datagram that is to be sent.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) to: Address,
    pub(crate) bytes: Vec<u8>,
}

/// See the module.
pub(crate) struct Swim {
    foca: Foca<Identity, PostcardCodec, SmallRng, NoCustomBroadcast>,
    parameters: Parameters,
    /// When it was made, in milliseconds of its clock.
    started: u64,
    listed: BTreeSet<Address>,
    /// Listed ones of which nothing has been heard yet. They count as suspect:
    /// who starts would otherwise own everything for a moment.
    awaited: BTreeSet<Address>,
    /// Members that a request could not reach, with the time until which that is no news.
    doubted: BTreeMap<Address, Duration>,
    jobs: BTreeMap<(Duration, u64), Job>,
    jobs_made: u64,
    outgoing: Vec<(Address, Vec<u8>)>,
    /// Nobody has answered to this identity yet.
    introducing: bool,
    /// Others took this edge for dead, and it has said that it is not.
    returned: bool,
    next_turn: usize,
    next_telling: Duration,
    /// What this edge takes for the cluster, and what it shows of it.
    digest: u64,
    shown: u64,
    taken: Option<u64>,
}

/// What is to be done at a certain time.
#[derive(Debug)]
enum Job {
    /// As foca wants it.
    Foca(Timer<Identity>),
    /// Announces this edge to those that are listed, or were members, and are not there.
    Knock,
    /// Tells a suspect that it is one, again.
    Challenge(Member<Identity>),
    /// Declares a suspect dead, unless it has objected.
    Condemn(Member<Identity>),
    /// Ends the wait for a word of a listed one.
    GiveUp(Address),
}

/// What foca wants done.
#[derive(Default)]
struct Effects {
    outgoing: Vec<(Address, Vec<u8>)>,
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
    /// The edge `name`, whose address is `own`. `started` grows from each start
    /// of it to the next; `seed` makes its choices its own.
    pub(crate) fn new(parameters: Parameters, own: &str, name: &str, started: u64, seed: u64) -> Self {
        let identity = Identity::new(own, name, started);
        let foca = Foca::new(identity, rules(&parameters), SmallRng::seed_from_u64(seed), PostcardCodec);
        let mut swim = Self {
            foca,
            parameters,
            started,
            listed: BTreeSet::new(),
            awaited: BTreeSet::new(),
            doubted: BTreeMap::new(),
            jobs: BTreeMap::new(),
            jobs_made: 0,
            outgoing: Vec::new(),
            introducing: true,
            returned: false,
            next_turn: usize::try_from(seed % 1000).unwrap_or_default(),
            next_telling: Duration::ZERO,
            digest: 0,
            shown: 0,
            taken: None,
        };
        swim.refresh();
        swim
    }

    /// Takes another list of who might be a member. What comes of it is news
    /// even if it says the same: whoever gave it has made do without meanwhile.
    pub(crate) fn list(&mut self, now: Duration, names: impl IntoIterator<Item = Address>) {
        let was_guest = self.is_guest();
        self.listed = names.into_iter().collect();
        if was_guest && !self.is_guest() {
            self.ask_suspects_again(now);
        }
        self.awaited.retain(|name| self.listed.contains(name));
        let known: BTreeSet<_> = self.foca.iter_membership_state().map(|member| &member.id().address).collect();
        let own = &self.foca.identity().address;
        let new: Vec<_> = self.listed.iter().filter(|name| *name != own && !known.contains(name)).cloned().collect();
        for name in new {
            self.schedule(now + self.parameters.suspicion, Job::GiveUp(Arc::clone(&name)));
            self.awaited.insert(name);
        }
        self.taken = None;
        self.jobs.retain(|_, job| !matches!(job, Job::Knock));
        self.knock(now);
        self.refresh();
    }

    /// Takes a datagram.
    pub(crate) fn receive(&mut self, now: Duration, datagram: &[u8]) -> Result<(), Rejection> {
        let (digest, payload) = wire::unpack(datagram)?;
        let (Header { src, dst, .. }, payload) = self.sift(now, payload)?;
        if self.is_guest() {
            return Err(Rejection::Guest);
        }
        if dst.address == self.foca.identity().address && dst.bump > self.foca.identity().bump {
            // It has met this edge under a later bump: the clock has been set back since.
            self.rename(now, self.foca.identity().after(dst.bump));
        }
        let handled = self.run(now, |foca, effects| foca.handle_data(&payload, effects));
        handled.map_err(|_| Rejection::Garbage)?;
        if self.foca.iter_membership_state().any(|member| member.id().address == src.address) {
            self.awaited.remove(&src.address);
        }
        self.introducing &= dst != *self.foca.identity();
        self.refresh();
        if digest != self.digest && now >= self.next_telling {
            // The more there is to tell, the longer the pause: gossip has told most of it.
            let pause = self.foca.num_members().div_ceil(TOLD_AT_ONCE).max(1);
            self.next_telling = now + self.parameters.probe_interval * u32::try_from(pause).unwrap_or(u32::MAX);
            self.tell_all(&src);
        }
        Ok(())
    }

    /// A request could not reach this peer: it is suspected at once, and has
    /// less time than others to object, for it is known to be in trouble. A
    /// live one does so within a round trip, and goes on owning what it owns.
    pub(crate) fn doubt(&mut self, now: Duration, name: &str) {
        self.doubted.retain(|_, until| *until > now);
        let known = self.foca.iter_members().find(|member| *member.id().address == *name);
        let Some(member) = known.filter(|_| !self.doubted.contains_key(name)).cloned() else {
            return;
        };
        self.doubted.insert(name.into(), now + self.parameters.suspicion);
        let suspect = Member::new(member.id().clone(), member.incarnation(), foca::State::Suspect);
        self.apply(now, suspect.clone());
        let patience = (self.parameters.suspicion / 3).max(self.parameters.probe_timeout * 3);
        self.suspect(now, &suspect, patience);
        self.refresh();
    }

    /// Says that this edge owns nothing from now on; it goes on taking part.
    pub(crate) fn drain(&mut self, now: Duration) {
        if self.foca.identity().role == Role::Serving {
            let mut draining = self.foca.identity().after(self.foca.identity().bump);
            draining.role = Role::Draining;
            self.rename(now, draining);
            self.refresh();
        }
    }

    /// Says that this edge is gone.
    pub(crate) fn leave(&mut self, now: Duration) {
        let _ = self.run(now, |foca, effects| foca.leave_cluster(effects));
        // Once more, to others: the last word is heard by whoever gets it.
        let _ = self.run(now, |foca, effects| foca.gossip(effects));
        self.jobs.clear();
    }

    /// When [`wake`](Self::wake) is wanted.
    pub(crate) fn wakes_at(&self) -> Option<Duration> {
        self.jobs.first_key_value().map(|((at, _), _)| *at)
    }

    /// Does what is due.
    pub(crate) fn wake(&mut self, now: Duration) {
        while let Some(first) = self.jobs.first_entry().filter(|first| first.key().0 <= now) {
            let ((due, _), job) = first.remove_entry();
            self.work(now, due, job);
        }
        self.refresh();
    }

    /// What is to be sent. A guest says nothing, for he has heard nothing.
    pub(crate) fn take_outgoing(&mut self) -> impl Iterator<Item = Outgoing> {
        if self.is_guest() {
            self.outgoing.clear();
        }
        let digest = self.digest;
        let pack = move |(to, payload): (Address, Vec<u8>)| Outgoing { to, bytes: wire::pack(digest, &payload) };
        std::mem::take(&mut self.outgoing).into_iter().map(pack)
    }

    /// Whether others took this edge for dead since this was last asked.
    pub(crate) fn take_returned(&mut self) -> bool {
        std::mem::take(&mut self.returned)
    }

    /// Everybody and how it is, by address, if that is news since it was last
    /// taken.
    pub(crate) fn take_news(&mut self) -> Option<Vec<Known>> {
        (self.taken.replace(self.shown) != Some(self.shown)).then(|| self.known())
    }

    /// Whether every listed one has been heard of, or waited for long enough.
    pub(crate) fn has_joined(&self) -> bool {
        self.awaited.is_empty() || self.is_guest()
    }

    fn admits(&self, address: &str) -> bool {
        self.parameters.admission == Admission::Heard || self.listed.contains(address)
    }

    /// Whether this edge is no member: those that are would not answer it. It
    /// takes the list's word for who they are.
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

    /// Members that are refused, because one that started before them has the same
    /// `edge.name`. All edges refuse the same one, for they compare what gossip says. One
    /// that is down or drains has given its name up.
    fn namesakes(&self) -> Vec<&Identity> {
        let own = self.foca.identity();
        let is_there = |member: &&Member<Identity>| {
            let address = &member.id().address;
            matches!(state(member), State::Alive | State::Suspect) && self.admits(address) && *address != own.address
        };
        let there = self.foca.iter_membership_state().filter(is_there).map(Member::id);
        let own = Some(own).filter(|own| own.role == Role::Serving);
        let mut named: Vec<_> = there.chain(own).filter(|member| !member.edge.is_empty()).collect();
        named.sort_by_key(|member| (&member.edge, member.bump, &member.address));
        named.windows(2).filter(|pair| pair[0].edge == pair[1].edge).map(|pair| pair[1]).collect()
    }

    /// Sums up anew what has changed. A sum does not depend on an order.
    fn refresh(&mut self) {
        let own = self.foca.identity().fingerprint();
        let (mut digest, mut shown) = (own, own);
        for member in self.foca.iter_membership_state() {
            let fingerprint = member.id().fingerprint();
            if member.state() != foca::State::Down {
                digest = digest.wrapping_add(fingerprint);
            }
            shown = shown.wrapping_add(fingerprint.rotate_left(1 + member.state() as u32));
        }
        for name in &self.listed {
            let awaited = u32::from(self.awaited.contains(name));
            shown = shown.wrapping_add(identity::hash(name).rotate_left(awaited));
        }
        (self.digest, self.shown) = (digest, shown);
    }

    fn schedule(&mut self, at: Duration, job: Job) {
        self.jobs_made += 1;
        self.jobs.insert((at, self.jobs_made), job);
    }

    fn work(&mut self, now: Duration, due: Duration, job: Job) {
        match job {
            Job::Foca(timer) => {
                // Its only complaint is of a timer that came late, and it makes up for that.
                let _ = self.run(now, |foca, effects| foca.handle_timer(timer, effects));
            }
            Job::Knock => self.knock(now),
            Job::GiveUp(name) => drop(self.awaited.remove(&name)),
            Job::Challenge(suspect) | Job::Condemn(suspect) if !self.is_suspect(&suspect) => {}
            Job::Challenge(_) | Job::Condemn(_) if self.is_guest() => {}
            Job::Challenge(suspect) => self.challenge(now, suspect),
            // This edge was frozen itself, and may not have heard an objection.
            Job::Condemn(suspect) if now > due + self.parameters.probe_interval => {
                self.schedule(now + self.parameters.suspicion, Job::Condemn(suspect));
            }
            Job::Condemn(suspect) => {
                self.apply(now, Member::new(suspect.id().clone(), suspect.incarnation(), foca::State::Down));
            }
        }
    }

    /// Has foca do something, and does what comes of it.
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
        // It fails only if an address does not fit into a datagram.
        let _ = self.run(now, |foca, effects| foca.apply_many(std::iter::once(member), true, effects));
    }

    fn is_suspect(&self, suspect: &Member<Identity>) -> bool {
        self.foca.iter_members().any(|member| member == suspect)
    }

    fn suspect(&mut self, now: Duration, suspect: &Member<Identity>, patience: Duration) {
        let sooner = self.jobs.range(..=(now + patience, u64::MAX));
        let mut sooner = sooner.filter(|(_, job)| matches!(job, Job::Condemn(other) if other == suspect));
        if sooner.next().is_none() {
            self.schedule(now, Job::Challenge(suspect.clone()));
            self.schedule(now + patience, Job::Condemn(suspect.clone()));
        }
    }

    /// Begins each suspicion anew: while this edge was a guest, it heard no objections.
    fn ask_suspects_again(&mut self, now: Duration) {
        self.jobs.retain(|_, job| !matches!(job, Job::Challenge(_) | Job::Condemn(_)));
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

/// foca's part of the rules; its own ways to meet those who are down do not
/// reach those who were never met, so they stay off.
fn rules(parameters: &Parameters) -> foca::Config {
    let some = |number| NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN);
    foca::Config {
        probe_period: parameters.probe_interval,
        probe_rtt: parameters.probe_timeout,
        num_indirect_probes: some(FANOUT),
        max_transmissions: NonZeroU8::new(TELLINGS).unwrap_or(NonZeroU8::MIN),
        suspect_to_down_after: parameters.suspicion,
        remove_down_after: Some(MOURNING),
        max_packet_size: some(PAYLOAD),
        notify_down_members: true,
        periodic_announce: None,
        periodic_announce_to_down_members: None,
        periodic_gossip: Some(foca::PeriodicParams { frequency: parameters.probe_timeout, num_members: some(FANOUT) }),
    }
}
