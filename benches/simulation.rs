//! A simulation of a thousand edges: how evenly the ring divides keys and requests, how much the hot
//! tier saves, and how many keys move when an edge joins or leaves. `cargo bench --bench simulation
//! [-- --seed N]` prints a table, and writes it with a plot to `target/simulation/`.
//!
//! The ring, the keys and the policy of the tiers are the real ones. Requests come one after another,
//! at any edge, each for one object of the same size.

#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // counts are far below 2^32

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use peerage::AssetKey;
use peerage::cluster::ring::Ring;
use quick_cache::UnitWeighter;
use quick_cache::unsync::{Cache, DefaultLifecycle};
use serde_json::json;

const EDGES: usize = 1000;
const KEYS: usize = 1_000_000;
const REQUESTS: usize = 20_000_000;
/// Exponent of the Zipf distribution: the key of rank k is requested with a frequency of `k^-0.9`.
const EXPONENT: f64 = 0.9;
/// Objects in an edge's memory: twice the number of its own keys. The shares are the defaults of the
/// configuration.
const MEMORY: usize = 2000;
const HOT_SHARE: f64 = 0.125;
const FLIGHT_SHARE: f64 = 0.25;
const SEED: u64 = 492_830_483;
/// The goal for the most loaded owner, as a multiple of the mean.
const GOAL: f64 = 1.12;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    // `cargo test` runs benches with this argument; there is nothing to test.
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    let seed = arguments.iter().position(|argument| argument == "--seed");
    let seed = seed.map_or(SEED, |at| arguments[at + 1].parse().expect("--seed needs a number"));
    let began = Instant::now();
    println!(
        "{EDGES} edges of {MEMORY} objects, {KEYS} keys, {REQUESTS} requests, Zipf({EXPONENT}), seed {seed}; \
         load is the maximum over the mean"
    );

    let hashes: Vec<u64> = (0..KEYS).map(hash).collect();
    let names: Vec<String> = (0..=EDGES).map(|i| format!("10.0.{}.{}:7001", i / 250, i % 250)).collect();
    let now = Placement::of(&names[..EDGES], &hashes);
    let joined = Placement::of(&names, &hashes);
    let left = Placement::of(&names[1..EDGES], &hashes);
    let stream = stream(seed);

    let keys = Load::of(now.counts(std::iter::repeat_n(1, KEYS)));
    let join = now.moved(&joined, &names[EDGES]);
    let leave = left.moved(&now, &names[0]);
    let hot = share(HOT_SHARE);
    let main = MEMORY - hot - share(FLIGHT_SHARE);
    let without = Run::of(&now, &stream, main + hot, 0);
    let with = Run::of(&now, &stream, main, hot);
    let alone = alone(&stream, main + hot);

    println!("{:<46} {:>10} {:>8}", "keys", "most", "load");
    println!("{:<46} {:>10} {:>8.3}  (goal {GOAL})", "  of an owner", keys.most(), keys.ratio());
    println!("{:<46} {join:>10} {:>8.3}", "  moved by a join, over one share", join as f64 / even_share(EDGES + 1));
    println!("{:<46} {leave:>10} {:>8.3}", "  moved by a leave, over one share", leave as f64 / even_share(EDGES));
    let row = |name: &str, run: &Run| {
        println!("{name}");
        println!("{:<46} {:>10} {:>7.1}%", "  that needed a hop to a peer", run.hops, percent(run.hops));
        println!("{:<46} {:>10} {:>8.3}", "  of an owner, its own and its peers'", run.asked.most(), run.asked.ratio());
        println!("{:<46} {:>10} {:>8.3}", "  of an edge, its clients' and its peers'", run.all.most(), run.all.ratio());
        println!("{:<46} {:>10} {:>7.1}%", "  that went to the origin", run.fetches, percent(run.fetches));
    };
    row("requests, no hot tier", &without);
    row(&format!("requests, hot tier of {} %", HOT_SHARE * 100.0), &with);
    println!("requests, each edge alone");
    println!("{:<46} {alone:>10} {:>7.1}%", "  that went to the origin", percent(alone));
    println!("{:<46} {:>10}", "distinct keys requested", distinct(&stream));

    let figures = json!({
        "seed": seed, "edges": EDGES, "keys": KEYS, "requests": REQUESTS, "zipf": EXPONENT, "memory_objects": MEMORY,
        "load_by_keys": keys.ratio(), "goal": GOAL, "moved_by_join": join, "moved_by_leave": leave,
        "no_hot_tier": without.figures(), "hot_tier": with.figures(),
        "origin_fetches_alone": alone, "names_asked_for": distinct(&stream),
    });
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("simulation");
    std::fs::create_dir_all(&folder).expect("target/ can be written to");
    let curves = [("keys", &keys), ("requests, no hot tier", &without.asked), ("requests, hot tier", &with.asked)];
    std::fs::write(folder.join("figures.json"), format!("{figures:#}\n")).expect("target/ can be written to");
    std::fs::write(folder.join("load.svg"), plot(&curves)).expect("target/ can be written to");
    println!("{:.0} s; figures.json and load.svg are in {}", began.elapsed().as_secs_f64(), folder.display());
}

fn hash(index: usize) -> u64 {
    AssetKey::parse(&format!("/asset-{index:016x}.bin"), 100).expect("a plain path").hash()
}

fn share(share: f64) -> usize {
    (MEMORY as f64 * share) as usize
}

fn percent(requests: usize) -> f64 {
    100.0 * requests as f64 / REQUESTS as f64
}

/// Returns the number of keys of each member if all members had the same.
fn even_share(members: usize) -> f64 {
    KEYS as f64 / members as f64
}

/// The owner of each key.
struct Placement {
    ring: Ring,
    owners: Vec<u32>,
}

impl Placement {
    fn of(names: &[String], hashes: &[u64]) -> Self {
        let ring = Ring::new(names.iter().map(String::as_str));
        let index: HashMap<&Arc<str>, u32> =
            ring.members().iter().enumerate().map(|(i, member)| (member.name(), i as u32)).collect();
        let owner = |&hash: &u64| index[ring.owner(hash).expect("the ring has members").name()];
        let owners = hashes.iter().map(owner).collect();
        Self { ring, owners }
    }

    fn name(&self, owner: u32) -> &str {
        self.ring.members()[owner as usize].name()
    }

    /// Returns the sum of the weights of each owner's keys.
    fn counts(&self, weights: impl Iterator<Item = usize>) -> Vec<usize> {
        let mut counts = vec![0; self.ring.members().len()];
        self.owners.iter().zip(weights).for_each(|(&owner, weight)| counts[owner as usize] += weight);
        counts
    }

    /// Returns the number of keys that have another owner in `other`, which has one member more. Only
    /// that member may gain keys.
    fn moved(&self, other: &Self, more: &str) -> usize {
        let owners = self.owners.iter().zip(&other.owners).map(|(&one, &other_one)| (one, other_one));
        let moved = owners.filter(|&(one, other_one)| self.name(one) != other.name(other_one));
        moved
            .inspect(|&(_, owner)| assert_eq!(other.name(owner), more, "a key moved between two members of both rings"))
            .count()
    }
}

/// A request: the edge, and the key.
type Request = (u32, u32);

fn stream(seed: u64) -> Vec<Request> {
    let mut sum = 0.0;
    let below: Vec<f64> = (1..=KEYS)
        .map(|rank| {
            sum += (rank as f64).powf(-EXPONENT);
            sum
        })
        .collect();
    let mut random = Random(seed);
    let mut request = || {
        let point = random.unit() * sum;
        let key = below.partition_point(|&end| end <= point).min(KEYS - 1);
        ((random.unit() * EDGES as f64) as u32, key as u32)
    };
    (0..REQUESTS).map(|_| request()).collect()
}

/// `SplitMix64` (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number from 0 up to, and not including, 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn distinct(stream: &[Request]) -> usize {
    let mut asked = vec![false; KEYS];
    for &(_, key) in stream {
        asked[key as usize] = true;
    }
    asked.into_iter().filter(|&asked| asked).count()
}

/// The hash function is the same in every run.
type Tier = Cache<u32, (), UnitWeighter, BuildHasherDefault<DefaultHasher>>;

fn tiers(objects: usize) -> Vec<Tier> {
    let tier = || {
        Tier::with(objects, objects as u64, UnitWeighter, BuildHasherDefault::default(), DefaultLifecycle::default())
    };
    (0..EDGES).map(|_| tier()).collect()
}

/// Returns true if `tier` holds `key`, and inserts it if not.
fn get_or_insert(tier: &mut Tier, key: u32) -> bool {
    let found = tier.get(&key).is_some();
    if !found {
        tier.insert(key, ());
    }
    found
}

/// The outcome of all requests.
struct Run {
    hops: usize,
    fetches: usize,
    /// Requests that reached each edge as the owner of the key.
    asked: Load,
    /// All requests that reached each edge, from clients and from peers.
    all: Load,
}

impl Run {
    /// Runs the requests with tiers of these sizes in objects; 0 means no hot tier.
    fn of(placement: &Placement, stream: &[Request], main: usize, hot: usize) -> Self {
        let (mut mains, mut hots) = (tiers(main), tiers(hot));
        let (mut hops, mut fetches) = (0, 0);
        let (mut asked, mut all) = (vec![0; EDGES], vec![0; EDGES]);
        for &(edge, key) in stream {
            all[edge as usize] += 1;
            let owner = placement.owners[key as usize];
            if owner != edge {
                if hot > 0 && get_or_insert(&mut hots[edge as usize], key) {
                    continue;
                }
                hops += 1;
                all[owner as usize] += 1;
            }
            asked[owner as usize] += 1;
            fetches += usize::from(!get_or_insert(&mut mains[owner as usize], key));
        }
        Self { hops, fetches, asked: Load::of(asked), all: Load::of(all) }
    }

    fn figures(&self) -> serde_json::Value {
        json!({
            "hops": self.hops, "origin_fetches": self.fetches,
            "load_by_requests_as_owner": self.asked.ratio(), "load_by_all_requests": self.all.ratio(),
        })
    }
}

/// Returns the number of origin requests if each edge is alone.
fn alone(stream: &[Request], memory: usize) -> usize {
    let mut tiers = tiers(memory);
    stream.iter().filter(|&&(edge, key)| !get_or_insert(&mut tiers[edge as usize], key)).count()
}

/// The load of each edge, the highest first.
struct Load(Vec<usize>);

impl Load {
    fn of(mut counts: Vec<usize>) -> Self {
        counts.sort_unstable_by(|a, b| b.cmp(a));
        Self(counts)
    }

    fn most(&self) -> usize {
        self.0[0]
    }

    fn ratio(&self) -> f64 {
        self.relative().next().unwrap_or_default()
    }

    /// Returns the loads relative to the mean.
    fn relative(&self) -> impl Iterator<Item = f64> {
        let mean = self.0.iter().sum::<usize>() as f64 / self.0.len() as f64;
        self.0.iter().map(move |&count| count as f64 / mean)
    }
}

/// Plots the load of all edges over their rank, with two logarithmic axes.
fn plot(curves: &[(&str, &Load)]) -> String {
    let x = |rank: f64| 60.0 + 200.0 * rank.log10();
    let y = |load: f64| 220.0 - 120.0 * load.max(0.1).log10();
    let mut svg = String::from(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 680 380' font-family='sans-serif' font-size='12'>\n\
         <rect width='680' height='380' fill='white'/>\n",
    );
    for load in [0.1, 1.0, 10.0] {
        let _ = writeln!(svg, "<path d='M60 {0}H660' stroke='#ccc'/><text x='20' y='{0}'>{load}</text>", y(load));
    }
    for rank in [1.0, 10.0, 100.0, 1000.0] {
        let _ = writeln!(svg, "<path d='M{0} 20V340' stroke='#ccc'/><text x='{0}' y='356'>{rank}</text>", x(rank));
    }
    svg.push_str("<text x='60' y='374'>edges, the most loaded first; load over the mean</text>\n");
    for (i, ((name, load), colour)) in curves.iter().zip(["#1b6", "#c33", "#36c"]).enumerate() {
        let points: Vec<_> =
            load.relative().zip(1..).map(|(load, rank)| format!("{:.1},{:.1}", x(f64::from(rank)), y(load))).collect();
        let _ = writeln!(svg, "<polyline points='{}' fill='none' stroke='{colour}'/>", points.join(" "));
        let _ = writeln!(svg, "<text x='480' y='{}' fill='{colour}'>{name}</text>", 40 + 16 * i);
    }
    svg.push_str("</svg>\n");
    svg
}
