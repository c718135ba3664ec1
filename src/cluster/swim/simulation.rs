//! Clusters in one thread: the time is a number, the network is a queue, and
//! chance is a seed, which is printed when something is not as it should be.
//! `PEERAGE_SEED=… cargo test simulation` plays it again.

use std::collections::{BTreeMap, BTreeSet};

use foca::Message;
use rand::RngExt;

use super::*;
use crate::cluster::ring::Ring;

const PARAMETERS: Parameters = Parameters {
    probe_interval: Duration::from_millis(250),
    probe_timeout: Duration::from_millis(100),
    suspicion: Duration::from_millis(1500),
    admission: Admission::Heard,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Well,
    /// It neither reads nor works; what is sent to it waits.
    Frozen,
    Gone,
}

struct Node {
    swim: Swim,
    health: Health,
    inbox: Vec<Vec<u8>>,
    view: Vec<Known>,
    side: u8,
}

/// What a socket keeps for who does not read.
const INBOX: usize = 200;

struct World {
    seed: u64,
    chance: SmallRng,
    now: Duration,
    nodes: Vec<Node>,
    places: BTreeMap<Address, usize>,
    under_way: BTreeMap<(Duration, u64), (usize, Vec<u8>)>,
    wakes: BTreeSet<(Duration, usize)>,
    sent: u64,
    bytes: u64,
    /// The share of datagrams that is lost.
    loss: f64,
    /// Whether those on different sides hear one another.
    parted: bool,
    admission: Admission,
    /// Who was taken for dead, when, by whom.
    deaths: Vec<(Duration, usize, usize)>,
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn address(number: usize) -> Address {
    format!("10.0.{}.{}:7001", number / 250, number % 250).into()
}

/// Says which seed it was, when a test fails.
struct Tale(u64);

impl Drop for Tale {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("again with PEERAGE_SEED={}", self.0);
        }
    }
}

fn seed() -> Tale {
    let given = std::env::var("PEERAGE_SEED").ok().and_then(|seed| seed.parse().ok());
    let clock = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
    Tale(given.unwrap_or_else(|| u64::from(clock())))
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            chance: SmallRng::seed_from_u64(seed),
            now: Duration::ZERO,
            nodes: Vec::new(),
            places: BTreeMap::new(),
            under_way: BTreeMap::new(),
            wakes: BTreeSet::new(),
            sent: 0,
            bytes: 0,
            loss: 0.0,
            parted: false,
            admission: Admission::Heard,
            deaths: Vec::new(),
        }
    }

    /// Starts a member that has heard of `listed`; returns its place.
    fn start(&mut self, listed: &[usize]) -> usize {
        let place = self.nodes.len();
        self.places.insert(address(place), place);
        let node = self.fresh(place);
        self.nodes.push(node);
        self.list(place, listed);
        place
    }

    /// Members that have met already.
    fn met(seed: u64, count: usize) -> Self {
        let mut world = Self::new(seed);
        for _ in 0..count {
            world.start(&[]);
        }
        let identities: Vec<_> = world.nodes.iter().map(|node| node.swim.foca.identity().clone()).collect();
        for place in 0..count {
            let now = world.now;
            world.act(place, |swim| {
                let own = swim.foca.identity().clone();
                for other in identities.iter().filter(|identity| **identity != own) {
                    swim.apply(now, Member::alive(other.clone()));
                }
                swim.introducing = false;
                swim.refresh();
            });
        }
        world
    }

    fn fresh(&self, place: usize) -> Node {
        let started = u64::try_from(self.now.as_millis()).unwrap();
        let seed = self.seed.wrapping_mul(31).wrapping_add(place as u64).wrapping_add(started);
        let parameters = Parameters { admission: self.admission, ..PARAMETERS };
        let swim = Swim::new(parameters, &address(place), &format!("e{place}"), started, seed);
        Node { swim, health: Health::Well, inbox: Vec::new(), view: Vec::new(), side: 0 }
    }

    fn restart(&mut self, place: usize, listed: &[usize]) {
        let side = self.nodes[place].side;
        self.nodes[place] = Node { side, ..self.fresh(place) };
        self.list(place, listed);
    }

    fn list(&mut self, place: usize, listed: &[usize]) {
        let now = self.now;
        self.act(place, |swim| swim.list(now, listed.iter().map(|other| address(*other))));
    }

    fn freeze(&mut self, place: usize) {
        self.nodes[place].health = Health::Frozen;
    }

    fn thaw(&mut self, place: usize) {
        self.nodes[place].health = Health::Well;
        let (now, inbox) = (self.now, std::mem::take(&mut self.nodes[place].inbox));
        self.act(place, |swim| inbox.iter().for_each(|datagram| swim.receive(now, datagram).unwrap()));
        self.act(place, |swim| swim.wake(now));
    }

    fn kill(&mut self, place: usize) {
        self.nodes[place].health = Health::Gone;
    }

    /// Has a member do something, and sees to what it wants.
    fn act(&mut self, place: usize, what: impl FnOnce(&mut Swim)) {
        if let Some(at) = self.nodes[place].swim.wakes_at() {
            self.wakes.remove(&(at, place));
        }
        what(&mut self.nodes[place].swim);
        if let Some(at) = self.nodes[place].swim.wakes_at() {
            self.wakes.insert((at, place));
        }
        if let Some(view) = self.nodes[place].swim.take_news() {
            self.look(place, view);
        }
        let outgoing: Vec<_> = self.nodes[place].swim.take_outgoing().collect();
        for Outgoing { to, bytes } in outgoing {
            // Who is listed may not have started yet.
            if let Some(to) = self.places.get(&to) {
                self.carry(place, *to, bytes);
            }
        }
    }

    fn carry(&mut self, from: usize, to: usize, datagram: Vec<u8>) {
        self.sent += 1;
        self.bytes += datagram.len() as u64;
        assert!(datagram.len() <= 1200, "{} bytes", datagram.len());
        let cut = self.parted && self.nodes[from].side != self.nodes[to].side;
        if cut || self.chance.random_bool(self.loss) {
            return;
        }
        let delay = Duration::from_micros(self.chance.random_range(200..5000));
        self.under_way.insert((self.now + delay, self.sent), (to, datagram));
    }

    fn look(&mut self, by: usize, view: Vec<Known>) {
        let down = |view: &[Known]| -> BTreeSet<Address> {
            view.iter().filter(|known| known.state == State::Down).map(|known| Arc::clone(&known.address)).collect()
        };
        for dead in down(&view).difference(&down(&self.nodes[by].view)) {
            if let Some(dead) = self.places.get(dead) {
                self.deaths.push((self.now, *dead, by));
            }
        }
        self.nodes[by].view = view;
    }

    /// Lets time pass.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let arrives = self.under_way.first_key_value().map(|((at, _), _)| *at);
            let wakes = self.wakes.first().map(|(at, _)| *at);
            let Some(next) = arrives.into_iter().chain(wakes).min().filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            if arrives == Some(next) {
                let (_, (to, datagram)) = self.under_way.pop_first().unwrap();
                self.arrive(to, datagram);
            } else {
                let (_, place) = self.wakes.pop_first().unwrap();
                if self.nodes[place].health == Health::Well {
                    let now = self.now;
                    self.act(place, |swim| swim.wake(now));
                }
            }
        }
        self.now = end;
    }

    fn arrive(&mut self, to: usize, datagram: Vec<u8>) {
        let now = self.now;
        match self.nodes[to].health {
            Health::Well => self.act(to, |swim| {
                let received = swim.receive(now, &datagram);
                assert!(matches!(received, Ok(()) | Err(Rejection::Stranger(_) | Rejection::Guest)), "{received:?}");
            }),
            Health::Frozen if self.nodes[to].inbox.len() < INBOX => self.nodes[to].inbox.push(datagram),
            Health::Frozen | Health::Gone => {}
        }
    }

    fn well(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|place| self.nodes[*place].health == Health::Well).collect()
    }

    /// Who is on a member's ring, by address.
    fn owning(&self, place: usize) -> impl Iterator<Item = &Address> {
        let owns = |known: &&Known| matches!(known.state, State::Alive | State::Suspect);
        self.nodes[place].view.iter().filter(owns).map(|known| &known.address)
    }

    fn owners(&self, place: usize) -> usize {
        self.owning(place).count()
    }

    /// Whether those that are well all have them, and nobody else, on their rings.
    fn agrees(&self) -> bool {
        let well = self.well();
        let all: BTreeSet<_> = well.iter().map(|place| address(*place)).collect();
        well.iter().all(|place| self.owning(*place).eq(&all))
    }

    /// How long it takes until they agree, and do so for a second.
    fn agrees_within(&mut self, limit: Duration) -> Duration {
        let began = self.now;
        let mut since = None;
        while self.now <= began + limit + seconds(1.0) {
            self.pass(seconds(0.05));
            since = since.filter(|_| self.agrees()).or_else(|| self.agrees().then_some(self.now));
            if let Some(since) = since.filter(|since| *since + seconds(1.0) <= self.now) {
                return since.saturating_sub(began);
            }
        }
        let counts: Vec<_> = self.well().into_iter().map(|place| self.owners(place)).collect();
        panic!("no agreement within {limit:?}; {} are well, they see {counts:?}", self.well().len());
    }

    fn cluster(seed: u64, count: usize) -> Self {
        let mut world = Self::new(seed);
        for place in 0..count {
            world.start(&[0, 1, 2]);
            world.pass(seconds(0.01));
            assert_eq!(world.nodes.len(), place + 1);
        }
        world
    }
}

#[test]
fn two_that_start_at_the_same_moment_are_one_cluster() {
    let tale = seed();
    let mut world = World::new(tale.0);
    world.places = (0..2).map(|place| (address(place), place)).collect();
    for place in 0..2 {
        let node = world.fresh(place);
        world.nodes.push(node);
    }
    world.list(0, &[0, 1]);
    world.list(1, &[0, 1]);
    let took = world.agrees_within(seconds(1.0));
    assert!(world.deaths.is_empty());
    println!("two edges agree after {took:?}");
}

#[test]
fn a_frozen_one_is_out_within_three_seconds_and_back_when_it_thaws() {
    let tale = seed();
    let mut slowest = Duration::ZERO;
    for turn in 0..50 {
        let mut world = World::cluster(tale.0.wrapping_add(turn), 3);
        world.agrees_within(seconds(3.0));
        let wait = world.chance.random_range(0..1000);
        world.pass(Duration::from_millis(wait));
        world.freeze(1);
        let took = world.agrees_within(seconds(3.0));
        slowest = slowest.max(took);
        world.pass(seconds(5.0));
        world.thaw(1);
        world.agrees_within(seconds(2.0));
        let wrongly = world.deaths.iter().filter(|(_, dead, _)| *dead != 1).count();
        assert_eq!(wrongly, 0, "who thaws takes nobody for dead");
    }
    println!("a frozen one of three is out after {slowest:?} at the most, of 50");
}

#[test]
fn who_is_in_doubt_is_out_sooner_if_it_is_dead_and_stays_if_it_is_not() {
    let tale = seed();
    let mut world = World::cluster(tale.0, 3);
    world.agrees_within(seconds(3.0));
    let doubt = |world: &mut World| {
        let now = world.now;
        world.act(0, |swim| swim.doubt(now, &address(1)));
    };
    world.loss = 0.05;
    for _ in 0..100 {
        doubt(&mut world);
        world.pass(seconds(2.0));
    }
    assert_eq!(world.deaths, []);
    world.kill(1);
    doubt(&mut world);
    let took = world.agrees_within(seconds(1.0));
    println!("a dead one is out {took:?} after a request could not reach it");
}

#[test]
fn who_drains_says_so_and_who_leaves_is_gone_at_once() {
    let tale = seed();
    let mut world = World::cluster(tale.0, 3);
    world.agrees_within(seconds(3.0));
    let now = world.now;
    world.act(2, |swim| swim.drain(now));
    world.pass(seconds(0.05));
    for place in 0..3 {
        assert_eq!(world.nodes[place].view[2].state, State::Draining);
        assert_eq!(world.owners(place), 2);
    }
    world.pass(seconds(60.0));
    assert!(world.deaths.is_empty(), "it goes on taking part");
    let now = world.now;
    world.act(2, |swim| swim.leave(now));
    world.kill(2);
    world.pass(seconds(0.05));
    assert_eq!(world.nodes[0].view[2].state, State::Down);
    world.restart(2, &[0, 1, 2]);
    world.agrees_within(seconds(1.0));
}

#[test]
fn of_two_edges_with_one_name_the_later_is_refused_by_all_until_the_other_is_gone() {
    let tale = seed();
    let mut world = World::cluster(tale.0, 3);
    world.agrees_within(seconds(3.0));
    world.nodes[1].swim = Swim::new(PARAMETERS, &address(1), "e2", 1_000_000, tale.0);
    world.list(1, &[0, 1, 2]);
    world.pass(seconds(3.0));
    let state = |world: &World, by: usize, of: usize| world.nodes[by].view[of].state;
    for by in 0..3 {
        assert_eq!([0, 1, 2].map(|of| state(&world, by, of)), [State::Alive, State::Refused, State::Alive]);
    }
    world.kill(2);
    world.pass(seconds(5.0));
    for by in 0..2 {
        assert_eq!([0, 1, 2].map(|of| state(&world, by, of)), [State::Alive, State::Alive, State::Down]);
    }
}

#[test]
fn a_partition_heals_within_five_seconds() {
    let tale = seed();
    let mut slowest = Duration::ZERO;
    for turn in 0..20 {
        let mut world = World::cluster(tale.0.wrapping_add(turn), 3);
        world.agrees_within(seconds(3.0));
        world.nodes[0].side = 1;
        world.parted = true;
        world.pass(seconds(10.0));
        assert_eq!([0, 1, 2].map(|place| world.owners(place)), [1, 2, 2]);
        world.parted = false;
        slowest = slowest.max(world.agrees_within(seconds(5.0)));
    }
    println!("one against two: one view {slowest:?} after healing at the most, of 20");
}

#[test]
fn a_clock_that_was_set_back_keeps_nobody_out() {
    let tale = seed();
    let mut world = World::new(tale.0);
    world.now = seconds(1e6);
    world.start(&[0, 1]);
    world.start(&[0, 1]);
    world.agrees_within(seconds(1.0));
    world.nodes[1].swim = Swim::new(PARAMETERS, &address(1), "e1", 7, tale.0);
    world.list(1, &[0, 1]);
    world.agrees_within(seconds(5.0));
}

#[test]
fn who_is_not_listed_for_a_while_takes_nobody_for_dead() {
    let tale = seed();
    let mut world = World::new(tale.0);
    world.admission = Admission::Listed;
    let all: Vec<_> = (0..6).collect();
    for _ in 0..6 {
        world.start(&all);
    }
    world.agrees_within(seconds(5.0));
    for _ in 0..4 {
        world.list(5, &all[..5]);
        world.pass(seconds(4.0));
        world.list(5, &all);
        world.agrees_within(seconds(5.0));
    }
    let others: Vec<_> = world.deaths.iter().filter(|(_, dead, _)| *dead != 5).collect();
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn who_is_not_listed_is_not_taken_from_others() {
    let tale = seed();
    let mut world = World::new(tale.0);
    world.admission = Admission::Listed;
    for place in 0..4 {
        // The last is listed by itself and the first alone.
        world.start(if matches!(place, 0 | 3) { &[0, 1, 2, 3] } else { &[0, 1, 2] });
    }
    world.pass(seconds(20.0));
    for place in [1, 2] {
        let known: Vec<_> =
            world.nodes[place].swim.foca.iter_membership_state().map(|it| it.id().address.clone()).collect();
        assert!(!known.contains(&address(3)), "{known:?}");
    }
}

#[test]
fn nobody_is_said_to_be_later_than_all_time() {
    let tale = seed();
    let mut world = World::met(tale.0, 2);
    let own = world.nodes[0].swim.foca.identity().clone();
    let late = |address: &Address| Identity { bump: u64::MAX, ..Identity::unknown(address) };
    let gone = Member::new(late(&own.address), 0, foca::State::Down);
    for (src, dst, about, good) in [
        (Identity::unknown(&address(1)), own.clone(), vec![gone], true),
        (Identity::unknown(&address(1)), late(&own.address), vec![], false),
        (late(&address(1)), own.clone(), vec![], false),
    ] {
        let liar = Swim::new(PARAMETERS, &src.address, "edge", src.bump, 7);
        let (payload, _) = liar.datagram(&dst, Message::Gossip, &about);
        let taken = world.nodes[0].swim.receive(seconds(1.0), &wire::pack(0, &payload));
        assert_eq!(taken, if good { Ok(()) } else { Err(Rejection::Garbage) });
        assert_eq!(world.nodes[0].swim.foca.identity().bump, own.bump);
    }
}

/// Ten minutes in which 5 % of all datagrams are lost.
fn ten_lossy_minutes(seed: u64, count: usize) {
    let mut world = World::cluster(seed, count);
    world.agrees_within(seconds(5.0));
    world.loss = 0.05;
    world.pass(seconds(600.0));
    assert_eq!(world.deaths, [], "of {count}");
    println!("{count} members lose 5 % for 10 minutes: {} datagrams, nobody is declared dead", world.sent);
}

#[test]
fn what_is_lost_kills_nobody() {
    let tale = seed();
    ten_lossy_minutes(tale.0, 3);
    ten_lossy_minutes(tale.0, 20);
}

#[test]
#[ignore = "takes a minute without optimization"]
fn what_is_lost_kills_nobody_of_a_hundred() {
    let tale = seed();
    ten_lossy_minutes(tale.0, 100);
}

#[test]
fn whatever_happens_to_a_hundred_they_agree_in_the_end() {
    let tale = seed();
    let mut world = World::cluster(tale.0, 100);
    world.agrees_within(seconds(5.0));
    world.loss = 0.05;
    for _ in 0..60 {
        let place = world.chance.random_range(0..world.nodes.len());
        match (world.nodes[place].health, world.chance.random_range(0..4)) {
            (Health::Well, 0) if place > 2 => world.freeze(place),
            (Health::Well, 1) if place > 2 => world.kill(place),
            (Health::Well, 2) if place > 2 => {
                let now = world.now;
                world.act(place, |swim| swim.leave(now));
                world.kill(place);
            }
            (Health::Well, _) => drop(world.start(&[0, 1, 2])),
            (Health::Frozen, _) => world.thaw(place),
            (Health::Gone, _) => world.restart(place, &[0, 1, 2]),
        }
        let pause = world.chance.random_range(0..1000);
        world.pass(Duration::from_millis(pause));
    }
    let took = world.agrees_within(seconds(10.0));
    println!("{} of {} agree {took:?} after the last change, at 5 % loss", world.well().len(), world.nodes.len());
}

impl World {
    /// What each member does meanwhile, on average.
    fn cost_of(&mut self, what: impl FnOnce(&mut Self) -> Duration) -> String {
        let (sent, bytes, began) = (self.sent, self.bytes, std::time::Instant::now());
        let took = what(self);
        let members = self.nodes.len();
        let each = |count: u64| count / members as u64;
        let (sent, bytes) = (each(self.sent - sent), each(self.bytes - bytes));
        let cpu = began.elapsed() / u32::try_from(members).unwrap();
        format!("{took:?}, {sent} datagrams, {bytes} bytes, {cpu:?} of CPU a member")
    }
}

/// `cargo test --release simulation::cost -- --ignored --nocapture`
#[test]
#[ignore = "prints figures"]
fn cost_of_a_thousand() {
    use std::time::Instant;
    let names: Vec<_> = (0..1000).map(address).collect();
    let began = Instant::now();
    let rings: Vec<_> = (0..100).map(|_| Ring::new(names.iter().map(|name| &**name))).collect();
    println!("a new ring: {:?}", began.elapsed() / 100);
    let began = Instant::now();
    let keys = (0..10_000_u64).map(|key| key.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let owned = keys.filter(|key| **rings[0].owner(*key).unwrap().name() == *names[0]).count();
    println!("a lookup: {:?} ({owned} of 10000 keys are the first one's)", began.elapsed() / 10_000);
    let tale = seed();
    let mut world = World::met(tale.0, 1000);
    world.agrees_within(seconds(1.0));
    let quiet = world.cost_of(|world| {
        world.pass(seconds(1.0));
        seconds(1.0)
    });
    println!("a quiet second: {quiet}");
    let dies = world.cost_of(|world| {
        world.kill(500);
        world.agrees_within(seconds(10.0)) + seconds(1.0)
    });
    println!("one dies, until a second after all agree: {dies}");
    let joins = world.cost_of(|world| {
        world.start(&[0, 1, 2]);
        world.agrees_within(seconds(10.0)) + seconds(1.0)
    });
    println!("one joins, until a second after all agree: {joins}");
}
