//! What a name promises, the bytes keep: at every client, in every tier.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Method;
use peerage::config::{ImmutableConfig, Period, Size};
use peerage::semantics::digest::Algorithm;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use sha2::{Digest, Sha256};

use crate::client::Got;
use crate::harness::{Cluster, Running, alone, cluster_of, pattern, within};
use crate::origin::{Gate, Origin, Script};

const SMALL: usize = 1000;
const LARGE: usize = 300_000;

fn checked(config: &mut peerage::Config) {
    config.immutable = vec![ImmutableConfig::path("/**/*-{hash}.*", Some(Algorithm::Sha256))];
}

fn sha256(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of `body`, with as much of its digest as is wanted.
fn name(body: &[u8], digits: usize) -> String {
    format!("/blob-{}.bin", &sha256(body)[..digits])
}

fn flipped(body: &Bytes) -> Bytes {
    let mut wrong = body.to_vec();
    let middle = wrong.len() / 2;
    wrong[middle] ^= 1;
    wrong.into()
}

fn is_right(got: &Got, body: &Bytes) -> bool {
    got.complete && got.status == 200 && got.body == *body
}

const FROM_ORIGIN: &str = "peerage_wrong_contents_total{from=\"origin\"}";
const FROM_PEER: &str = "peerage_wrong_contents_total{from=\"peer\"}";

#[tokio::test]
async fn a_wrong_copy_is_fetched_again_before_anyone_sees_it() {
    let origin = Origin::start().await;
    let edge = alone(&origin, checked).await;
    for (digits, chunked) in [(64, false), (16, false), (16, true)] {
        let body = pattern(SMALL + digits + usize::from(chunked));
        let path = name(&body, digits);
        let script = |body: &Bytes| if chunked { Script::ok(body.clone()).chunked() } else { Script::ok(body.clone()) };
        origin.scripts(&path, [script(&flipped(&body)), script(&body)]);
        assert!(is_right(&edge.get(&path).get().await, &body));
        assert!(edge.get(&path).get().await.cache_status().contains(";hit"));
        assert_eq!(origin.count(&path), 2);
    }
    assert!((edge.metric(FROM_ORIGIN).await - 3.0).abs() < 0.1);
}

#[tokio::test]
async fn an_origin_that_is_wrong_is_a_502_and_is_let_be_for_a_while() {
    let origin = Origin::start().await;
    let edge = alone(&origin, checked).await;
    let body = pattern(SMALL);
    let path = name(&body, 16);
    origin.script(&path, Script::ok(flipped(&body)));
    for _ in 0..5 {
        let got = edge.get(&path).get().await;
        assert_eq!((got.status.as_u16(), got.cache_status()), (502, "edge-1;detail=origin-wrong-content"));
        assert!(!got.text().contains("127.0.0.1") && got.text().contains("promises"));
    }
    assert_eq!(origin.count(&path), 2);
    // A write may have put it right.
    origin.script(&path, Script::ok(body.clone()));
    assert_eq!(edge.get(&path).get().await.status, 502);
    edge.ask(Method::PUT, &path).body("").get().await;
    assert!(is_right(&edge.get(&path).get().await, &body));
}

#[tokio::test]
async fn contents_are_verified_whatever_the_successful_status() {
    let origin = Origin::start().await;
    let edge = alone(&origin, checked).await;
    for status in [200, 201, 203, 226, 299] {
        let body = pattern(SMALL + usize::from(status));
        let path = name(&body, 16);
        let script = |body: Bytes| Script::ok(body).with_status(status).field("cache-control", "max-age=60");
        origin.script(&path, script(flipped(&body)));
        for field in ["cache-control", "x-unknown", "cookie", "accept"] {
            let got = edge.get(&path).field(field, "no-store").get().await;
            assert_eq!((got.status.as_u16(), got.cache_status().contains("hit")), (502, false), "{status} {field}");
        }
        // A write may have put it right.
        edge.ask(Method::PUT, &path).body("").get().await;
        origin.script(&path, script(body.clone()));
        for hit in [false, true] {
            let got = edge.get(&path).get().await;
            assert_eq!((got.status.as_u16(), got.cache_status().contains(";hit")), (status, hit));
            assert!(got.complete && got.body == body);
        }
    }
    // Other statuses speak of the request, and not of the contents.
    for status in [204, 404] {
        let path = name(&status.to_string().into_bytes(), 16);
        origin.script(&path, Script::ok("").with_status(status).field("cache-control", "max-age=60"));
        assert_eq!(edge.get(&path).get().await.status, status);
    }
}

#[tokio::test]
async fn a_long_wrong_body_ends_well_for_nobody() {
    for chunked in [false, true] {
        let origin = Origin::start().await;
        let cluster = Cluster::start(3, &origin, |config| {
            checked(config);
            config.cache.verify_first = Size(FIRST);
        })
        .await;
        let body = pattern(LARGE);
        let path = name(&body, 64);
        let mut wrong = body.to_vec();
        wrong[LARGE - 1] ^= 1;
        let gate = Gate::closed();
        let script = Script::ok(wrong).gate(&gate);
        origin.script(&path, if chunked { script.chunked() } else { script });
        gate.open(LARGE / 2);
        let mut readers = Vec::new();
        for edge in &cluster.edges {
            readers.push(edge.get(&path).open().await);
            readers.push(edge.get(&path).http2().open().await);
            if !chunked {
                readers.push(edge.get(&path).field("range", "bytes=0-99").open().await);
                readers.push(edge.get(&path).field("range", "bytes=0-9, 1000-1009").open().await);
            }
        }
        gate.open(LARGE);
        for reader in readers {
            let got = within(20, reader.rest()).await;
            assert!(!got.complete, "{chunked} {}: {} bytes", got.status, got.body.len());
            assert!(got.body.len() < LARGE);
        }
        for edge in &cluster.edges {
            edge.metric_becomes("peerage_flights", 0.0).await;
            edge.metric_becomes("peerage_memory_used_bytes", 0.0).await;
        }
        // What is right is had once it is there.
        origin.script(&path, Script::ok(body.clone()));
        cluster.edges[0].ask(Method::PUT, &path).body("").get().await;
        for edge in &cluster.edges {
            assert!(is_right(&edge.get(&path).get().await, &body));
        }
    }
}

/// The rest comes with another copy, and what came before is proven by neither.
#[tokio::test]
async fn a_reader_that_is_left_behind_gets_no_mixture() {
    let origin = Origin::start().await;
    let edge = alone(&origin, |config| {
        checked(config);
        config.cache.max_object = Some(Size(1 << 20));
    })
    .await;
    for (chunked, ends_well) in [(false, true), (true, false)] {
        // More than the window and the sockets hold.
        let body = pattern((16 << 20) + usize::from(chunked));
        let path = name(&body, 16);
        let mut first = body.to_vec();
        first[0] ^= u8::from(!ends_well);
        let gate = Gate::closed();
        let script = |body: Bytes| if chunked { Script::ok(body).chunked() } else { Script::ok(body) };
        origin.scripts(&path, [script(first.into()).gate(&gate), script(body.clone())]);
        let opening = [edge.get(&path), edge.get(&path)].map(|ask| tokio::spawn(ask.open()));
        edge.metric_becomes("peerage_flights", 1.0).await;
        // Until enough has come, everybody joins the one flight: so does the second
        // within a few turns of this thread.
        for _ in 0..10 {
            edge.metric("peerage_flights").await;
        }
        gate.open(2 << 20);
        let [slow, fast] = opening;
        let (mut slow, fast) = (slow.await.unwrap(), fast.await.unwrap());
        let begun = slow.bytes(1000).await.len();
        assert_eq!(origin.count(&path), 1);
        gate.open(body.len());
        assert_eq!(within(60, fast.rest()).await.complete, ends_well);
        let rest = within(60, slow.rest()).await;
        assert_eq!(rest.complete, ends_well);
        assert!(!ends_well || rest.body == body[begun..]);
        assert_eq!(origin.count(&path), 2, "it has lost its place");
    }
}

#[tokio::test]
async fn a_range_of_a_right_body_comes_when_it_has_proven_to_be() {
    let origin = Origin::start().await;
    let edge = alone(&origin, checked).await;
    let body = pattern(LARGE);
    let path = name(&body, 16);
    let gate = Gate::closed();
    origin.script(&path, Script::ok(body.clone()).gate(&gate));
    gate.open(LARGE / 2);
    let mut open = edge.get(&path).field("range", "bytes=10-99").open().await;
    assert_eq!(within(20, open.bytes(89)).await, body[10..99]);
    gate.open(LARGE);
    let got = within(20, open.rest()).await;
    assert!(got.complete && got.body == body[99..100]);
}

/// An edge whose one peer is scripted, like the origin. The scripted peer acknowledges no
/// request, so probes are far apart and answers to them may be late: on a busy machine
/// the peer would otherwise be doubted, and the next in rank asked.
pub async fn with_scripted_peer(origin: &Origin, change: impl FnOnce(&mut peerage::Config)) -> (Running, Origin) {
    let peer = Origin::start().await;
    let edge = alone(origin, |config| {
        let mut cluster = cluster_of(Vec::new());
        // The scripted peer speaks only HTTP.
        cluster.gossip = false;
        cluster.connect_timeout = Period(Duration::from_mins(1));
        cluster.probe_interval = Period(Duration::from_mins(1));
        cluster.probe_timeout = Period(Duration::from_secs(30));
        cluster.suspicion = Period(Duration::from_secs(150));
        config.cluster = Some(cluster);
        change(config);
    })
    .await;
    let names = [edge.name(), peer.address.to_string()];
    edge.edge.membership().replace(names.iter().map(String::as_str));
    (edge, peer)
}

/// Probes the scripted peer as a cluster does by default.
pub fn probe_often(config: &mut peerage::Config) -> &mut peerage::config::ClusterConfig {
    let defaults = peerage::config::ClusterConfig::default();
    let cluster = config.cluster.as_mut().unwrap();
    cluster.connect_timeout = defaults.connect_timeout;
    cluster.probe_interval = defaults.probe_interval;
    cluster.probe_timeout = defaults.probe_timeout;
    cluster.suspicion = defaults.suspicion;
    cluster
}

pub fn is_owned_by(edge: &Running, peer: &Origin, path: &str) -> bool {
    let key = peerage::AssetKey::parse(path, 1000).unwrap();
    **edge.edge.membership().view().ring.owner(key.hash()).unwrap().name() == *peer.address.to_string()
}

/// A body, distinct by `seed`, whose name the peer owns.
fn body_of(edge: &Running, peer: &Origin, len: usize, seed: usize) -> Bytes {
    let body =
        |i: usize| -> Bytes { [format!("{seed}/{i}/").as_bytes(), &pattern(len)].concat()[..len].to_vec().into() };
    (0..1000).map(body).find(|body| is_owned_by(edge, peer, &name(body, 64))).unwrap()
}

#[tokio::test]
async fn a_peer_that_is_wrong_is_told_counted_and_passed_over() {
    let origin = Origin::start().await;
    let (edge, peer) = with_scripted_peer(&origin, checked).await;
    for (seed, len) in [(1, SMALL), (2, LARGE)] {
        if len == LARGE {
            // Such is not asked for by a link.
            peer.has_nothing_at_hand();
        }
        let body = body_of(&edge, &peer, len, seed);
        let path = name(&body, 64);
        peer.script(&path, Script::ok(flipped(&body)));
        origin.script(&path, Script::ok(body.clone()));
        let first = edge.get(&path).get().await;
        assert!(is_right(&first, &body) || len == LARGE && !first.complete);
        assert!(is_right(&edge.get(&path).get().await, &body));
        let told = async {
            while !peer.seen().iter().any(|seen| seen.method == "PURGE" && seen.target == path) {
                tokio::task::yield_now().await;
            }
        };
        within(20, told).await;
        let asked = peer.seen().iter().filter(|seen| seen.method == "GET" && seen.target == path).count();
        assert_eq!((asked, origin.count(&path)), (1, 1));
    }
    assert!((edge.metric(FROM_PEER).await - 2.0).abs() < 0.1);
    // It is asked for what it had right.
    let body = body_of(&edge, &peer, SMALL, 3);
    let path = name(&body, 64);
    peer.script(&path, Script::ok(body.clone()));
    assert!(is_right(&edge.get(&path).get().await, &body));
    assert_eq!(origin.count(&path), 0);
}

#[tokio::test]
async fn what_was_proven_says_so() {
    let origin = Origin::start().await;
    let edge = alone(&origin, checked).await;
    let encoded = |body: &[u8]| data_encoding::BASE64.encode(&Sha256::digest(body));
    for (digits, len) in [(64, SMALL), (16, SMALL + 1), (64, LARGE), (16, LARGE + 1)] {
        let body = pattern(len);
        let path = name(&body, digits);
        origin.script(&path, Script::ok(body.clone()));
        let field = format!("sha-256=:{}:", encoded(&body));
        let miss = edge.get(&path).get().await;
        // Of a long body whose name shows a part of its digest, only the end tells.
        let known = digits == 64 || len < LARGE;
        assert_eq!(miss.field("repr-digest"), if known { &field } else { "" });
        assert_eq!(miss.field("etag"), format!("\"{}\"", &sha256(&body)[..digits]));
        let hit = edge.get(&path).get().await;
        assert_eq!((hit.field("repr-digest"), hit.field("etag")), (&*field, miss.field("etag")));
        let part = edge.get(&path).field("range", "bytes=1-2").get().await;
        assert_eq!((part.status.as_u16(), part.field("repr-digest")), (206, &*field));
        let same = edge.get(&path).field("if-none-match", hit.field("etag")).get().await;
        assert_eq!(same.status, 304);
        let unwanted = edge.get(&path).field("want-repr-digest", "sha-256=0").get().await;
        assert_eq!(unwanted.field("repr-digest"), "");
    }
    // The origin's own tag stays.
    let body = pattern(77);
    origin.script(&name(&body, 64), Script::ok(body.clone()).field("etag", "\"own\""));
    assert_eq!(edge.get(&name(&body, 64)).get().await.field("etag"), "\"own\"");
}

#[tokio::test]
async fn what_an_origin_says_of_its_content_holds_for_any_name() {
    let origin = Origin::start().await;
    let edge = alone(&origin, |_| {}).await;
    let right = format!("sha-256=:{}:", data_encoding::BASE64.encode(&Sha256::digest(b"text")));
    for field in ["repr-digest", "content-digest"] {
        for control in ["max-age=60", "no-store"] {
            let path = format!("/{field}/{control}");
            let script = |text: &'static str| Script::ok(text).field("cache-control", control).field(field, &right);
            origin.script(&path, script("text"));
            assert_eq!(edge.get(&path).get().await.text(), "text");
            let path = format!("/wrong/{field}/{control}");
            origin.script(&path, script("texx"));
            let got = edge.get(&path).get().await;
            assert!(got.status == 502 || !got.complete, "{path}: {} {:?}", got.status, got.body);
            assert!(!edge.get(&path).get().await.cache_status().contains(";hit"));
        }
    }
}

#[tokio::test]
async fn what_is_not_kept_is_proven_on_its_way() {
    let origin = Origin::start().await;
    let edge = alone(&origin, |config| {
        checked(config);
        config.cache.max_object = Some(Size(LARGE as u64 / 2));
    })
    .await;
    let body = pattern(LARGE);
    let path = name(&body, 64);
    for chunked in [false, true] {
        for wrong in [true, false] {
            let script = Script::ok(if wrong { flipped(&body) } else { body.clone() });
            origin.script(&path, if chunked { script.chunked() } else { script });
            edge.ask(Method::PUT, &path).body("").get().await;
            let got = edge.get(&path).get().await;
            assert_eq!(is_right(&got, &body), !wrong, "{chunked}: {} {}", got.status, got.cache_status());
            assert!(got.complete != wrong || got.status == 502);
            edge.ask(Method::PUT, &path).body("").get().await;
            let got = edge.get(&path).field("cache-control", "no-store").get().await;
            assert_eq!(is_right(&got, &body), !wrong, "{chunked}: {}", got.status);
        }
    }
    // Nothing at all is not what it should be, either.
    origin.script(&path, Script::ok(""));
    assert_eq!(edge.get(&path).field("cache-control", "no-store").get().await.status, 502);
}

/// How a copy is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// One bit is another.
    Flip(u16),
    /// The connection closes before the end.
    Cut(u16),
    /// It says that it is longer than it is.
    Longer,
    /// It says that it is shorter than it is.
    Shorter(u16),
    /// It ends with the connection, and too early.
    Unframed(u16),
    /// Another blob of the same size.
    Swapped,
}

impl Fault {
    fn script(self, body: &Bytes, chunked: bool) -> Script {
        let at = |part: u16| usize::from(part) * (body.len() - 1) / usize::from(u16::MAX);
        let framed = |script: Script| if chunked { script.chunked() } else { script };
        match self {
            Self::None => framed(Script::ok(body.clone())),
            Self::Flip(part) => {
                let mut wrong = body.to_vec();
                wrong[at(part)] ^= 1 << (part % 8);
                framed(Script::ok(wrong))
            }
            Self::Cut(part) => framed(Script::ok(body.clone())).cut_at(at(part)),
            Self::Longer => Script::ok(body.clone()).claim(body.len() + 1),
            Self::Shorter(part) => Script::ok(body.clone()).claim(at(part)),
            Self::Unframed(part) => Script::ok(body.slice(..at(part))).until_close(),
            Self::Swapped => framed(Script::ok(body.iter().map(|byte| byte.wrapping_add(1)).collect::<Bytes>())),
        }
    }

    /// Whether the copy is whole, and just of the wrong bytes.
    fn is_wrong(self) -> bool {
        matches!(self, Self::Flip(_) | Self::Shorter(_) | Self::Unframed(_) | Self::Swapped)
    }
}

#[derive(Debug, Clone)]
struct Case {
    len: usize,
    chunked: bool,
    digits: usize,
    peer: [Fault; 2],
    origin: [Fault; 2],
}

fn faults() -> impl Strategy<Value = Fault> {
    prop_oneof![
        3 => Just(Fault::None),
        1 => any::<u16>().prop_map(Fault::Flip),
        1 => any::<u16>().prop_map(Fault::Cut),
        1 => Just(Fault::Longer),
        1 => any::<u16>().prop_map(Fault::Shorter),
        1 => any::<u16>().prop_map(Fault::Unframed),
        1 => Just(Fault::Swapped),
    ]
}

fn cases() -> impl Strategy<Value = Case> {
    let len = prop_oneof![1 => 2usize..100, 2 => 100usize..4096, 2 => 4097usize..40_000];
    let digits = prop_oneof![Just(16), Just(64)];
    (len, any::<bool>(), digits, [faults(), faults()], [faults(), faults()])
        .prop_map(|(len, chunked, digits, peer, origin)| Case { len, chunked, digits, peer, origin })
}

/// What is proven before it is sent, in this test.
const FIRST: u64 = 4096;

/// An edge and its peer, for as many random cases, and how many of them were right.
async fn random_cases(count: usize, at_hand: AtHand) -> usize {
    let origin = Origin::start().await;
    let (edge, peer) = with_scripted_peer(&origin, |config| {
        checked(config);
        config.cache.verify_first = Size(FIRST);
        config.log.access = false;
        // What the edge owns itself it asks the origin for at once.
        config.cluster.as_mut().unwrap().warm_window = Period(Duration::ZERO);
    })
    .await;
    if at_hand == AtHand::Nothing {
        peer.has_nothing_at_hand();
    }
    let mut runner = TestRunner::default();
    let cases: Vec<_> = (0..count).map(|_| cases().new_tree(&mut runner).unwrap().current()).collect();
    stream::iter(cases.into_iter().enumerate())
        .map(|(number, case)| check(&edge, &peer, &origin, number, case, at_hand))
        .buffer_unordered(16)
        .fold(0, |sum, right| async move { sum + right })
        .await
}

/// The answers of the scripted peer to peeks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AtHand {
    Nothing,
    /// What its scripts say: then they are used up sooner.
    Scripted,
}

/// Ten thousand assets, each with copies at a peer and at the origin that are
/// right or wrong in any way, the second time in another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_ten_thousand_assets_nobody_has_wrong_bytes() {
    let right = random_cases(10_000, AtHand::Nothing).await;
    // The faults leave many of them to be had.
    assert!(right > 5000, "{right}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_has_anybody_wrong_bytes_that_a_peer_had_at_hand() {
    let right = random_cases(4000, AtHand::Scripted).await;
    assert!(right > 2000, "{right}");
}

/// Asks three times for one asset; whether the bytes could be had.
async fn check(edge: &Running, peer: &Origin, origin: &Origin, number: usize, case: Case, at_hand: AtHand) -> usize {
    let body: Bytes = [number.to_le_bytes().as_slice(), &pattern(case.len)].concat()[..case.len].to_vec().into();
    // Short bodies repeat; another name for each is all that is needed.
    let path = format!("/{number}{}", name(&body, case.digits));
    let owned = is_owned_by(edge, peer, &path);
    peer.scripts(&path, case.peer.map(|fault| fault.script(&body, case.chunked)));
    origin.scripts(&path, case.origin.map(|fault| fault.script(&body, case.chunked)));
    let mut had = 0;
    let small = case.len as u64 <= FIRST;
    for turn in 0..3 {
        // It may break off before its head, too.
        let Ok(open) = within(60, edge.get(&path).try_open()).await else {
            continue;
        };
        let got = within(60, open.rest()).await;
        let right = is_right(&got, &body);
        assert!(right || got.status != 200 || !got.complete, "wrong bytes, whole: {path} {case:?}");
        assert!(!got.cache_status().contains(";hit") || right, "wrong bytes, stored: {path} {case:?}");
        had |= usize::from(right);
        // Where the first copies are right, or can be fetched again before
        // anything was sent, the client sees nothing of it.
        let [first, second] = case.origin;
        let origin_has = first == Fault::None || small && first.is_wrong() && second == Fault::None;
        let peer_has = owned && case.peer[0] == Fault::None && at_hand == AtHand::Nothing;
        if turn == 0 && (peer_has || origin_has && (small || !owned)) {
            assert!(right, "right bytes were to be had: {path} {case:?}: {} {}", got.status, got.complete);
        }
        // A longer one breaks off at whoever reads it; who asks again has it.
        // (To go on with it, copies of the origin's may have been used up.)
        if turn == 1 && (peer_has || case.origin == [Fault::None; 2]) {
            assert!(right, "right bytes were to be had: {path} {case:?}: {} {}", got.status, got.complete);
        }
    }
    peer.scripts(&path, []);
    origin.scripts(&path, []);
    had
}
