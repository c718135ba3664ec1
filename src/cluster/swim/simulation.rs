//! Simulated clusters in one thread: time is a number, the network is a queue, and all randomness
//! comes from a seed that is printed when a test fails. `PEERAGE_SEED=… cargo test simulation`
//! repeats the run.

use std::collections::{BTreeMap, BTreeSet};

use foca::Message;
use rand::RngExt;

use super::*;
use crate::cluster::ring::Ring;

const PARAMETERS: Parameters = Parameters {
    probe_interval: Duration::from_millis(250),
    probe_timeout: Duration::from_millis(100),
    suspicion: Duration::from_millis(1500),
    admission: Admission::Authenticated,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Running,
    /// The node does not run; datagrams to it wait in its inbox.
    Frozen,
    Gone,
}

struct Node {
    swim: Swim,
    status: Status,
    inbox: Vec<Vec<u8>>,
    view: Vec<Known>,
    side: u8,
}

/// The most datagrams that wait in the inbox of a frozen node.
const INBOX: usize = 200;

struct World {
    seed: u64,
    rng: SmallRng,
    now: Duration,
    nodes: Vec<Node>,
    indices: BTreeMap<Address, usize>,
    in_flight: BTreeMap<(Duration, u64), (usize, Vec<u8>)>,
    wakes: BTreeSet<(Duration, usize)>,
    sent: u64,
    bytes: u64,
    /// The share of lost datagrams, from 0 to 1.
    loss: f64,
    /// True while nodes on different sides cannot reach each other.
    partitioned: bool,
    admission: Admission,
    /// The declared deaths: time, dead node, declaring node.
    deaths: Vec<(Duration, usize, usize)>,
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn address(number: usize) -> Address {
    format!("10.0.{}.{}:7001", number / 250, number % 250).into()
}

/// The seed of a test, printed when the test fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("repeat with PEERAGE_SEED={}", self.0);
        }
    }
}

fn seed() -> Seed {
    let given = std::env::var("PEERAGE_SEED").ok().and_then(|seed| seed.parse().ok());
    let clock = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
    Seed(given.unwrap_or_else(|| u64::from(clock())))
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            rng: SmallRng::seed_from_u64(seed),
            now: Duration::ZERO,
            nodes: Vec::new(),
            indices: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            wakes: BTreeSet::new(),
            sent: 0,
            bytes: 0,
            loss: 0.0,
            partitioned: false,
            admission: Admission::Authenticated,
            deaths: Vec::new(),
        }
    }

    /// Starts a node with the list `listed` and returns its index.
    fn start(&mut self, listed: &[usize]) -> usize {
        let index = self.nodes.len();
        self.indices.insert(address(index), index);
        let node = self.fresh(index);
        self.nodes.push(node);
        self.list(index, listed);
        index
    }

    /// Creates a cluster of nodes that know each other already.
    fn met(seed: u64, count: usize) -> Self {
        let mut world = Self::new(seed);
        for _ in 0..count {
            world.start(&[]);
        }
        let identities: Vec<_> = world.nodes.iter().map(|node| node.swim.foca.identity().clone()).collect();
        for index in 0..count {
            let now = world.now;
            world.act(index, |swim| {
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

    fn fresh(&self, index: usize) -> Node {
        let started = u64::try_from(self.now.as_millis()).unwrap();
        let seed = self.seed.wrapping_mul(31).wrapping_add(index as u64).wrapping_add(started);
        let parameters = Parameters { admission: self.admission, ..PARAMETERS };
        let swim = Swim::new(parameters, &address(index), &format!("e{index}"), started, seed);
        Node { swim, status: Status::Running, inbox: Vec::new(), view: Vec::new(), side: 0 }
    }

    fn restart(&mut self, index: usize, listed: &[usize]) {
        let side = self.nodes[index].side;
        self.nodes[index] = Node { side, ..self.fresh(index) };
        self.list(index, listed);
    }

    fn list(&mut self, index: usize, listed: &[usize]) {
        let now = self.now;
        self.act(index, |swim| swim.list(now, listed.iter().map(|other| address(*other))));
    }

    fn freeze(&mut self, index: usize) {
        self.nodes[index].status = Status::Frozen;
    }

    fn thaw(&mut self, index: usize) {
        self.nodes[index].status = Status::Running;
        let (now, inbox) = (self.now, std::mem::take(&mut self.nodes[index].inbox));
        self.act(index, |swim| inbox.iter().for_each(|datagram| swim.receive(now, datagram).unwrap()));
        self.act(index, |swim| swim.wake(now));
    }

    fn kill(&mut self, index: usize) {
        self.nodes[index].status = Status::Gone;
    }

    /// Runs `action` on a node and handles its outputs: the next wake time, states and datagrams.
    fn act(&mut self, index: usize, action: impl FnOnce(&mut Swim)) {
        if let Some(at) = self.nodes[index].swim.wakes_at() {
            self.wakes.remove(&(at, index));
        }
        action(&mut self.nodes[index].swim);
        if let Some(at) = self.nodes[index].swim.wakes_at() {
            self.wakes.insert((at, index));
        }
        if let Some(view) = self.nodes[index].swim.take_news() {
            self.record_view(index, view);
        }
        let outgoing: Vec<_> = self.nodes[index].swim.take_outgoing().collect();
        for Datagram { to, bytes } in outgoing {
            // A listed node may not have started yet.
            if let Some(to) = self.indices.get(&to) {
                self.transmit(index, *to, bytes);
            }
        }
    }

    fn transmit(&mut self, from: usize, to: usize, datagram: Vec<u8>) {
        self.sent += 1;
        self.bytes += datagram.len() as u64;
        assert!(datagram.len() <= 1200, "{} bytes", datagram.len());
        let cut = self.partitioned && self.nodes[from].side != self.nodes[to].side;
        if cut || self.rng.random_bool(self.loss) {
            return;
        }
        let delay = Duration::from_micros(self.rng.random_range(200..5000));
        self.in_flight.insert((self.now + delay, self.sent), (to, datagram));
    }

    fn record_view(&mut self, by: usize, view: Vec<Known>) {
        let down = |view: &[Known]| -> BTreeSet<Address> {
            view.iter().filter(|known| known.state == State::Down).map(|known| Arc::clone(&known.address)).collect()
        };
        for dead in down(&view).difference(&down(&self.nodes[by].view)) {
            if let Some(dead) = self.indices.get(dead) {
                self.deaths.push((self.now, *dead, by));
            }
        }
        self.nodes[by].view = view;
    }

    /// Advances the time.
    fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let arrives = self.in_flight.first_key_value().map(|((at, _), _)| *at);
            let wakes = self.wakes.first().map(|(at, _)| *at);
            let Some(next) = arrives.into_iter().chain(wakes).min().filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            if arrives == Some(next) {
                let (_, (to, datagram)) = self.in_flight.pop_first().unwrap();
                self.receive(to, datagram);
            } else {
                let (_, index) = self.wakes.pop_first().unwrap();
                if self.nodes[index].status == Status::Running {
                    let now = self.now;
                    self.act(index, |swim| swim.wake(now));
                }
            }
        }
        self.now = end;
    }

    fn receive(&mut self, to: usize, datagram: Vec<u8>) {
        let now = self.now;
        match self.nodes[to].status {
            Status::Running => self.act(to, |swim| {
                let received = swim.receive(now, &datagram);
                assert!(matches!(received, Ok(()) | Err(Rejection::Stranger(_) | Rejection::Guest)), "{received:?}");
            }),
            Status::Frozen if self.nodes[to].inbox.len() < INBOX => self.nodes[to].inbox.push(datagram),
            Status::Frozen | Status::Gone => {}
        }
    }

    fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|index| self.nodes[*index].status == Status::Running).collect()
    }

    /// Returns the addresses of the members on a node's ring.
    fn owning(&self, index: usize) -> impl Iterator<Item = &Address> {
        let owns = |known: &&Known| matches!(known.state, State::Alive | State::Suspect);
        self.nodes[index].view.iter().filter(owns).map(|known| &known.address)
    }

    fn owners(&self, index: usize) -> usize {
        self.owning(index).count()
    }

    /// Returns true if the ring of each running node consists of exactly the running nodes.
    fn agrees(&self) -> bool {
        let running = self.running();
        let all: BTreeSet<_> = running.iter().map(|index| address(*index)).collect();
        running.iter().all(|index| self.owning(*index).eq(&all))
    }

    /// Returns the time until the nodes agree and keep agreeing for a second.
    fn agrees_within(&mut self, limit: Duration) -> Duration {
        let began = self.now;
        let mut since = None;
        while self.now <= began + limit + seconds(1.0) {
            self.advance(seconds(0.05));
            since = since.filter(|_| self.agrees()).or_else(|| self.agrees().then_some(self.now));
            if let Some(since) = since.filter(|since| *since + seconds(1.0) <= self.now) {
                return since.saturating_sub(began);
            }
        }
        let counts: Vec<_> = self.running().into_iter().map(|index| self.owners(index)).collect();
        panic!("no agreement within {limit:?}; {} nodes run, ring sizes {counts:?}", self.running().len());
    }

    /// Starts `count` nodes one after another.
    fn cluster(seed: u64, count: usize) -> Self {
        let mut world = Self::new(seed);
        for index in 0..count {
            world.start(&[0, 1, 2]);
            world.advance(seconds(0.01));
            assert_eq!(world.nodes.len(), index + 1);
        }
        world
    }
}

#[test]
fn two_nodes_that_start_at_the_same_moment_form_one_cluster() {
    let seed = seed();
    let mut world = World::new(seed.0);
    world.indices = (0..2).map(|index| (address(index), index)).collect();
    for index in 0..2 {
        let node = world.fresh(index);
        world.nodes.push(node);
    }
    world.list(0, &[0, 1]);
    world.list(1, &[0, 1]);
    let took = world.agrees_within(seconds(1.0));
    assert!(world.deaths.is_empty());
    println!("two edges agree after {took:?}");
}

#[test]
fn a_frozen_node_is_removed_within_three_seconds_and_returns_when_it_thaws() {
    let seed = seed();
    let mut slowest = Duration::ZERO;
    for turn in 0..50 {
        let mut world = World::cluster(seed.0.wrapping_add(turn), 3);
        world.agrees_within(seconds(3.0));
        let wait = world.rng.random_range(0..1000);
        world.advance(Duration::from_millis(wait));
        world.freeze(1);
        let took = world.agrees_within(seconds(3.0));
        slowest = slowest.max(took);
        world.advance(seconds(5.0));
        world.thaw(1);
        world.agrees_within(seconds(2.0));
        let wrongly = world.deaths.iter().filter(|(_, dead, _)| *dead != 1).count();
        assert_eq!(wrongly, 0, "a node that thaws declares no other node dead");
    }
    println!("a frozen node of three is removed after at most {slowest:?} in 50 runs");
}

#[test]
fn a_doubted_node_is_removed_sooner_if_dead_and_stays_if_alive() {
    let seed = seed();
    let mut world = World::cluster(seed.0, 3);
    world.agrees_within(seconds(3.0));
    let doubt = |world: &mut World| {
        let now = world.now;
        world.act(0, |swim| swim.doubt(now, &address(1)));
    };
    world.loss = 0.05;
    for _ in 0..100 {
        doubt(&mut world);
        world.advance(seconds(2.0));
    }
    assert_eq!(world.deaths, []);
    world.kill(1);
    doubt(&mut world);
    let took = world.agrees_within(seconds(1.0));
    println!("a dead node is removed {took:?} after a request could not reach it");
}

#[test]
fn a_draining_node_is_announced_and_a_leaving_one_is_removed_at_once() {
    let seed = seed();
    let mut world = World::cluster(seed.0, 3);
    world.agrees_within(seconds(3.0));
    let now = world.now;
    world.act(2, |swim| swim.drain(now));
    world.advance(seconds(0.05));
    for index in 0..3 {
        assert_eq!(world.nodes[index].view[2].state, State::Draining);
        assert_eq!(world.owners(index), 2);
    }
    world.advance(seconds(60.0));
    assert!(world.deaths.is_empty(), "a draining node remains a member");
    let now = world.now;
    world.act(2, |swim| swim.leave(now));
    world.kill(2);
    world.advance(seconds(0.05));
    assert_eq!(world.nodes[0].view[2].state, State::Down);
    world.restart(2, &[0, 1, 2]);
    world.agrees_within(seconds(1.0));
}

#[test]
fn of_two_edges_with_one_name_all_refuse_the_later_until_the_other_is_gone() {
    let seed = seed();
    let mut world = World::cluster(seed.0, 3);
    world.agrees_within(seconds(3.0));
    world.nodes[1].swim = Swim::new(PARAMETERS, &address(1), "e2", 1_000_000, seed.0);
    world.list(1, &[0, 1, 2]);
    world.advance(seconds(3.0));
    let state = |world: &World, by: usize, of: usize| world.nodes[by].view[of].state;
    for by in 0..3 {
        assert_eq!([0, 1, 2].map(|of| state(&world, by, of)), [State::Alive, State::Refused, State::Alive]);
    }
    world.kill(2);
    world.advance(seconds(5.0));
    for by in 0..2 {
        assert_eq!([0, 1, 2].map(|of| state(&world, by, of)), [State::Alive, State::Alive, State::Down]);
    }
}

#[test]
fn a_partition_heals_within_five_seconds() {
    let seed = seed();
    let mut slowest = Duration::ZERO;
    for turn in 0..20 {
        let mut world = World::cluster(seed.0.wrapping_add(turn), 3);
        world.agrees_within(seconds(3.0));
        world.nodes[0].side = 1;
        world.partitioned = true;
        world.advance(seconds(10.0));
        assert_eq!([0, 1, 2].map(|index| world.owners(index)), [1, 2, 2]);
        world.partitioned = false;
        slowest = slowest.max(world.agrees_within(seconds(5.0)));
    }
    println!("partition of one against two: one view at most {slowest:?} after healing in 20 runs");
}

#[test]
fn a_node_whose_clock_was_set_back_can_rejoin() {
    let seed = seed();
    let mut world = World::new(seed.0);
    world.now = seconds(1e6);
    world.start(&[0, 1]);
    world.start(&[0, 1]);
    world.agrees_within(seconds(1.0));
    world.nodes[1].swim = Swim::new(PARAMETERS, &address(1), "e1", 7, seed.0);
    world.list(1, &[0, 1]);
    world.agrees_within(seconds(5.0));
}

#[test]
fn a_node_that_is_unlisted_for_a_while_declares_no_other_node_dead() {
    let seed = seed();
    let mut world = World::new(seed.0);
    world.admission = Admission::Listed;
    let all: Vec<_> = (0..6).collect();
    for _ in 0..6 {
        world.start(&all);
    }
    world.agrees_within(seconds(5.0));
    for _ in 0..4 {
        world.list(5, &all[..5]);
        world.advance(seconds(4.0));
        world.list(5, &all);
        world.agrees_within(seconds(5.0));
    }
    let others: Vec<_> = world.deaths.iter().filter(|(_, dead, _)| *dead != 5).collect();
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn unlisted_members_are_not_accepted_from_other_members() {
    let seed = seed();
    let mut world = World::new(seed.0);
    world.admission = Admission::Listed;
    for index in 0..4 {
        // Only the first node and the last itself list the last node.
        world.start(if matches!(index, 0 | 3) { &[0, 1, 2, 3] } else { &[0, 1, 2] });
    }
    world.advance(seconds(20.0));
    for index in [1, 2] {
        let known: Vec<_> =
            world.nodes[index].swim.foca.iter_membership_state().map(|member| member.id().address.clone()).collect();
        assert!(!known.contains(&address(3)), "{known:?}");
    }
}

#[test]
fn updates_with_an_impossible_bump_are_ignored() {
    let seed = seed();
    let mut world = World::met(seed.0, 2);
    let own = world.nodes[0].swim.foca.identity().clone();
    let impossible = |address: &Address| Identity { bump: u64::MAX, ..Identity::unknown(address) };
    let gone = Member::new(impossible(&own.address), 0, foca::State::Down);
    for (src, dst, updates, accepted) in [
        (Identity::unknown(&address(1)), own.clone(), vec![gone], true),
        (Identity::unknown(&address(1)), impossible(&own.address), vec![], false),
        (impossible(&address(1)), own.clone(), vec![], false),
    ] {
        let liar = Swim::new(PARAMETERS, &src.address, "edge", src.bump, 7);
        let (payload, _) = outbound::datagram(liar.foca.identity(), &dst, Message::Gossip, &updates);
        let received = world.nodes[0].swim.receive(seconds(1.0), &wire::pack(0, &payload));
        assert_eq!(received, if accepted { Ok(()) } else { Err(Rejection::Garbage) });
        assert_eq!(world.nodes[0].swim.foca.identity().bump, own.bump);
    }
}

/// Runs a cluster for ten minutes with a loss of 5 % and checks that no node is declared dead.
fn ten_lossy_minutes(seed: u64, count: usize) {
    let mut world = World::cluster(seed, count);
    world.agrees_within(seconds(5.0));
    world.loss = 0.05;
    world.advance(seconds(600.0));
    assert_eq!(world.deaths, [], "of {count}");
    println!("{count} members, 5 % loss for 10 minutes: {} datagrams, none declared dead", world.sent);
}

#[test]
fn packet_loss_kills_no_member() {
    let seed = seed();
    ten_lossy_minutes(seed.0, 3);
    ten_lossy_minutes(seed.0, 20);
}

#[test]
#[ignore = "takes a minute without optimization"]
fn packet_loss_kills_no_member_of_a_hundred() {
    let seed = seed();
    ten_lossy_minutes(seed.0, 100);
}

#[test]
fn a_hundred_nodes_agree_after_random_faults() {
    let seed = seed();
    let mut world = World::cluster(seed.0, 100);
    world.agrees_within(seconds(5.0));
    world.loss = 0.05;
    for _ in 0..60 {
        let index = world.rng.random_range(0..world.nodes.len());
        match (world.nodes[index].status, world.rng.random_range(0..4)) {
            (Status::Running, 0) if index > 2 => world.freeze(index),
            (Status::Running, 1) if index > 2 => world.kill(index),
            (Status::Running, 2) if index > 2 => {
                let now = world.now;
                world.act(index, |swim| swim.leave(now));
                world.kill(index);
            }
            (Status::Running, _) => drop(world.start(&[0, 1, 2])),
            (Status::Frozen, _) => world.thaw(index),
            (Status::Gone, _) => world.restart(index, &[0, 1, 2]),
        }
        let pause = world.rng.random_range(0..1000);
        world.advance(Duration::from_millis(pause));
    }
    let took = world.agrees_within(seconds(10.0));
    println!("{} of {} agree {took:?} after the last change, at 5 % loss", world.running().len(), world.nodes.len());
}

impl World {
    /// Returns the average cost of `action` for each member.
    fn cost_of(&mut self, action: impl FnOnce(&mut Self) -> Duration) -> String {
        let (sent, bytes, began) = (self.sent, self.bytes, std::time::Instant::now());
        let took = action(self);
        let members = self.nodes.len();
        let each = |count: u64| count / members as u64;
        let (sent, bytes) = (each(self.sent - sent), each(self.bytes - bytes));
        let cpu = began.elapsed() / u32::try_from(members).unwrap();
        format!("{took:?}, {sent} datagrams, {bytes} bytes, {cpu:?} of CPU for each member")
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
    println!("a lookup: {:?} ({owned} of 10000 keys belong to the first member)", began.elapsed() / 10_000);
    let seed = seed();
    let mut world = World::met(seed.0, 1000);
    world.agrees_within(seconds(1.0));
    let quiet = world.cost_of(|world| {
        world.advance(seconds(1.0));
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
