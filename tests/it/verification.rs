//! Verification of contents by the digest in their names: for every client, in every tier.

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

use crate::client::FullResponse;
use crate::harness::{Cluster, TestEdge, cluster_of, pattern, single_edge, within};
use crate::origin::{Gate, Origin, Script};

const SMALL: usize = 1000;
const LARGE: usize = 300_000;

fn with_digest_names(config: &mut peerage::Config) {
    config.immutable = vec![ImmutableConfig::path("/**/*-{hash}.*", Some(Algorithm::Sha256))];
}

fn sha256(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the name of `body` with the first `digits` digits of its digest.
fn name(body: &[u8], digits: usize) -> String {
    format!("/blob-{}.bin", &sha256(body)[..digits])
}

fn flipped(body: &Bytes) -> Bytes {
    let mut wrong = body.to_vec();
    let middle = wrong.len() / 2;
    wrong[middle] ^= 1;
    wrong.into()
}

fn is_right(got: &FullResponse, body: &Bytes) -> bool {
    got.complete && got.status == 200 && got.body == *body
}

const FROM_ORIGIN: &str = "peerage_wrong_contents_total{from=\"origin\"}";
const FROM_PEER: &str = "peerage_wrong_contents_total{from=\"peer\"}";

#[tokio::test]
async fn wrong_copy_is_fetched_again_before_a_byte_is_sent() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, with_digest_names).await;
    for (digits, chunked) in [(64, false), (16, false), (16, true)] {
        let body = pattern(SMALL + digits + usize::from(chunked));
        let path = name(&body, digits);
        let script = |body: &Bytes| if chunked { Script::ok(body.clone()).chunked() } else { Script::ok(body.clone()) };
        origin.scripts(&path, [script(&flipped(&body)), script(&body)]);
        assert!(is_right(&edge.get(&path).send().await, &body));
        assert!(edge.get(&path).send().await.cache_status().contains(";hit"));
        assert_eq!(origin.count(&path), 2);
    }
    assert!((edge.metric(FROM_ORIGIN).await - 3.0).abs() < 0.1);
}

#[tokio::test]
async fn wrong_contents_of_the_origin_are_502_and_not_fetched_again_for_a_while() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, with_digest_names).await;
    let body = pattern(SMALL);
    let path = name(&body, 16);
    origin.script(&path, Script::ok(flipped(&body)));
    for _ in 0..5 {
        let got = edge.get(&path).send().await;
        assert_eq!((got.status.as_u16(), got.cache_status()), (502, "edge-1;detail=origin-wrong-content"));
        assert!(!got.text().contains("127.0.0.1") && got.text().contains("does not match its digest"));
    }
    assert_eq!(origin.count(&path), 2);
    // A write may have corrected the contents.
    origin.script(&path, Script::ok(body.clone()));
    assert_eq!(edge.get(&path).send().await.status, 502);
    edge.request(Method::PUT, &path).body("").send().await;
    assert!(is_right(&edge.get(&path).send().await, &body));
}

#[tokio::test]
async fn contents_are_verified_for_every_2xx_status() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, with_digest_names).await;
    for status in [200, 201, 203, 226, 299] {
        let body = pattern(SMALL + usize::from(status));
        let path = name(&body, 16);
        let script = |body: Bytes| Script::ok(body).with_status(status).header("cache-control", "max-age=60");
        origin.script(&path, script(flipped(&body)));
        for field in ["cache-control", "x-unknown", "cookie", "accept"] {
            let got = edge.get(&path).header(field, "no-store").send().await;
            assert_eq!((got.status.as_u16(), got.cache_status().contains("hit")), (502, false), "{status} {field}");
        }
        // A write may have corrected the contents.
        edge.request(Method::PUT, &path).body("").send().await;
        origin.script(&path, script(body.clone()));
        for hit in [false, true] {
            let got = edge.get(&path).send().await;
            assert_eq!((got.status.as_u16(), got.cache_status().contains(";hit")), (status, hit));
            assert!(got.complete && got.body == body);
        }
    }
    // Other statuses say nothing about the contents.
    for status in [204, 404] {
        let path = name(&status.to_string().into_bytes(), 16);
        origin.script(&path, Script::ok("").with_status(status).header("cache-control", "max-age=60"));
        assert_eq!(edge.get(&path).send().await.status, status);
    }
}

#[tokio::test]
async fn long_wrong_body_is_incomplete_for_every_reader() {
    for chunked in [false, true] {
        let origin = Origin::start().await;
        let cluster = Cluster::start(3, &origin, |config| {
            with_digest_names(config);
            config.cache.verify_first = Size(FIRST);
        })
        .await;
        let body = pattern(LARGE);
        let path = name(&body, 64);
        let mut wrong = body.to_vec();
        wrong[LARGE - 1] ^= 1;
        let gate = Gate::closed();
        let script = Script::ok(wrong).hold_body(&gate);
        origin.script(&path, if chunked { script.chunked() } else { script });
        gate.open(LARGE / 2);
        let mut readers = Vec::new();
        for edge in &cluster.edges {
            readers.push(edge.get(&path).open().await);
            readers.push(edge.get(&path).http2().open().await);
            if !chunked {
                readers.push(edge.get(&path).header("range", "bytes=0-99").open().await);
                readers.push(edge.get(&path).header("range", "bytes=0-9, 1000-1009").open().await);
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
        // The right contents are served once the origin has them.
        origin.script(&path, Script::ok(body.clone()));
        cluster.edges[0].request(Method::PUT, &path).body("").send().await;
        for edge in &cluster.edges {
            assert!(is_right(&edge.get(&path).send().await, &body));
        }
    }
}

/// The rest would come from a second copy, and neither copy would verify the bytes before it.
#[tokio::test]
async fn reader_that_falls_out_of_the_window_gets_no_mixture_of_copies() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |config| {
        with_digest_names(config);
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
        origin.scripts(&path, [script(first.into()).hold_body(&gate), script(body.clone())]);
        let opening = [edge.get(&path), edge.get(&path)].map(|ask| tokio::spawn(ask.open()));
        edge.metric_becomes("peerage_flights", 1.0).await;
        // Until enough has come, every request joins the one flight. The second one does so
        // within a few turns of this thread.
        for _ in 0..10 {
            edge.metric("peerage_flights").await;
        }
        gate.open(2 << 20);
        let [slow, fast] = opening;
        let (mut slow, fast) = (slow.await.unwrap(), fast.await.unwrap());
        let begun = slow.read_at_least(1000).await.len();
        assert_eq!(origin.count(&path), 1);
        gate.open(body.len());
        assert_eq!(within(60, fast.rest()).await.complete, ends_well);
        let rest = within(60, slow.rest()).await;
        assert_eq!(rest.complete, ends_well);
        assert!(!ends_well || rest.body == body[begun..]);
        assert_eq!(origin.count(&path), 2, "the slow reader must resume");
    }
}

#[tokio::test]
async fn range_of_a_body_completes_once_the_body_is_verified() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, with_digest_names).await;
    let body = pattern(LARGE);
    let path = name(&body, 16);
    let gate = Gate::closed();
    origin.script(&path, Script::ok(body.clone()).hold_body(&gate));
    gate.open(LARGE / 2);
    let mut open = edge.get(&path).header("range", "bytes=10-99").open().await;
    assert_eq!(within(20, open.read_at_least(89)).await, body[10..99]);
    gate.open(LARGE);
    let got = within(20, open.rest()).await;
    assert!(got.complete && got.body == body[99..100]);
}

/// Starts an edge with a single peer, which is scripted like the origin. The peer acknowledges no
/// request. So probes are rare and answers to them may be late; otherwise a busy machine would
/// have the edge doubt the peer and ask the next one in rank.
pub async fn with_scripted_peer(origin: &Origin, change: impl FnOnce(&mut peerage::Config)) -> (TestEdge, Origin) {
    let peer = Origin::start().await;
    let edge = single_edge(origin, |config| {
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

/// Probes the scripted peer as often as a cluster does by default.
pub fn probe_often(config: &mut peerage::Config) -> &mut peerage::config::ClusterConfig {
    let defaults = peerage::config::ClusterConfig::default();
    let cluster = config.cluster.as_mut().unwrap();
    cluster.connect_timeout = defaults.connect_timeout;
    cluster.probe_interval = defaults.probe_interval;
    cluster.probe_timeout = defaults.probe_timeout;
    cluster.suspicion = defaults.suspicion;
    cluster
}

pub fn is_owned_by(edge: &TestEdge, peer: &Origin, path: &str) -> bool {
    let key = peerage::AssetKey::parse(path, 1000).unwrap();
    **edge.edge.membership().view().ring.owner(key.hash()).unwrap().name() == *peer.address.to_string()
}

/// Returns a body with a name that the peer owns. Each `seed` gives another body.
fn body_of_peer(edge: &TestEdge, peer: &Origin, len: usize, seed: usize) -> Bytes {
    let body =
        |i: usize| -> Bytes { [format!("{seed}/{i}/").as_bytes(), &pattern(len)].concat()[..len].to_vec().into() };
    (0..1000).map(body).find(|body| is_owned_by(edge, peer, &name(body, 64))).unwrap()
}

#[tokio::test]
async fn wrong_contents_of_a_peer_are_purged_there_counted_and_fetched_elsewhere() {
    let origin = Origin::start().await;
    let (edge, peer) = with_scripted_peer(&origin, with_digest_names).await;
    for (seed, len) in [(1, SMALL), (2, LARGE)] {
        if len == LARGE {
            // A body of this length is not peeked.
            peer.reject_peeks();
        }
        let body = body_of_peer(&edge, &peer, len, seed);
        let path = name(&body, 64);
        peer.script(&path, Script::ok(flipped(&body)));
        origin.script(&path, Script::ok(body.clone()));
        let first = edge.get(&path).send().await;
        assert!(is_right(&first, &body) || len == LARGE && !first.complete);
        assert!(is_right(&edge.get(&path).send().await, &body));
        let purged = async {
            while !peer.seen().iter().any(|seen| seen.method == "PURGE" && seen.target == path) {
                tokio::task::yield_now().await;
            }
        };
        within(20, purged).await;
        let asked = peer.seen().iter().filter(|seen| seen.method == "GET" && seen.target == path).count();
        assert_eq!((asked, origin.count(&path)), (1, 1));
    }
    assert!((edge.metric(FROM_PEER).await - 2.0).abs() < 0.1);
    // The peer is still asked for other contents.
    let body = body_of_peer(&edge, &peer, SMALL, 3);
    let path = name(&body, 64);
    peer.script(&path, Script::ok(body.clone()));
    assert!(is_right(&edge.get(&path).send().await, &body));
    assert_eq!(origin.count(&path), 0);
}

#[tokio::test]
async fn verified_response_has_a_repr_digest_and_an_etag() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, with_digest_names).await;
    let encoded = |body: &[u8]| data_encoding::BASE64.encode(&Sha256::digest(body));
    for (digits, len) in [(64, SMALL), (16, SMALL + 1), (64, LARGE), (16, LARGE + 1)] {
        let body = pattern(len);
        let path = name(&body, digits);
        origin.script(&path, Script::ok(body.clone()));
        let field = format!("sha-256=:{}:", encoded(&body));
        let miss = edge.get(&path).send().await;
        // If the name shows only a part of the digest of a long body, the end of the body tells it.
        let known = digits == 64 || len < LARGE;
        assert_eq!(miss.header("repr-digest"), if known { &field } else { "" });
        assert_eq!(miss.header("etag"), format!("\"{}\"", &sha256(&body)[..digits]));
        let hit = edge.get(&path).send().await;
        assert_eq!((hit.header("repr-digest"), hit.header("etag")), (&*field, miss.header("etag")));
        let part = edge.get(&path).header("range", "bytes=1-2").send().await;
        assert_eq!((part.status.as_u16(), part.header("repr-digest")), (206, &*field));
        let same = edge.get(&path).header("if-none-match", hit.header("etag")).send().await;
        assert_eq!(same.status, 304);
        let unwanted = edge.get(&path).header("want-repr-digest", "sha-256=0").send().await;
        assert_eq!(unwanted.header("repr-digest"), "");
    }
    // The origin's own tag stays.
    let body = pattern(77);
    origin.script(&name(&body, 64), Script::ok(body.clone()).header("etag", "\"own\""));
    assert_eq!(edge.get(&name(&body, 64)).send().await.header("etag"), "\"own\"");
}

#[tokio::test]
async fn digest_header_of_the_origin_is_verified_for_any_name() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    let right = format!("sha-256=:{}:", data_encoding::BASE64.encode(&Sha256::digest(b"text")));
    for field in ["repr-digest", "content-digest"] {
        for control in ["max-age=60", "no-store"] {
            let path = format!("/{field}/{control}");
            let script = |text: &'static str| Script::ok(text).header("cache-control", control).header(field, &right);
            origin.script(&path, script("text"));
            assert_eq!(edge.get(&path).send().await.text(), "text");
            let path = format!("/wrong/{field}/{control}");
            origin.script(&path, script("texx"));
            let got = edge.get(&path).send().await;
            assert!(got.status == 502 || !got.complete, "{path}: {} {:?}", got.status, got.body);
            assert!(!edge.get(&path).send().await.cache_status().contains(";hit"));
        }
    }
}

#[tokio::test]
async fn unstored_body_is_verified_while_it_streams() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |config| {
        with_digest_names(config);
        config.cache.max_object = Some(Size(LARGE as u64 / 2));
    })
    .await;
    let body = pattern(LARGE);
    let path = name(&body, 64);
    for chunked in [false, true] {
        for wrong in [true, false] {
            let script = Script::ok(if wrong { flipped(&body) } else { body.clone() });
            origin.script(&path, if chunked { script.chunked() } else { script });
            edge.request(Method::PUT, &path).body("").send().await;
            let got = edge.get(&path).send().await;
            assert_eq!(is_right(&got, &body), !wrong, "{chunked}: {} {}", got.status, got.cache_status());
            assert!(got.complete != wrong || got.status == 502);
            edge.request(Method::PUT, &path).body("").send().await;
            let got = edge.get(&path).header("cache-control", "no-store").send().await;
            assert_eq!(is_right(&got, &body), !wrong, "{chunked}: {}", got.status);
        }
    }
    // An empty body is wrong as well.
    origin.script(&path, Script::ok(""));
    assert_eq!(edge.get(&path).header("cache-control", "no-store").send().await.status, 502);
}

/// A defect of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// One bit is flipped.
    Flip(u16),
    /// The connection closes before the end.
    Cut(u16),
    /// Content-Length is larger than the body.
    Longer,
    /// Content-Length is smaller than the body.
    Shorter(u16),
    /// The body ends with the connection, and too early.
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
            Self::Longer => Script::ok(body.clone()).claim_length(body.len() + 1),
            Self::Shorter(part) => Script::ok(body.clone()).claim_length(at(part)),
            Self::Unframed(part) => Script::ok(body.slice(..at(part))).until_close(),
            Self::Swapped => framed(Script::ok(body.iter().map(|byte| byte.wrapping_add(1)).collect::<Bytes>())),
        }
    }

    /// Returns true if the copy is complete and has the wrong bytes.
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

/// `cache.verify_first` in this test: shorter bodies are verified before they are sent.
const FIRST: u64 = 4096;

/// Runs `count` random cases with an edge and its peer. Returns how many gave the right bytes.
async fn random_cases(count: usize, peek_answer: PeekAnswer) -> usize {
    let origin = Origin::start().await;
    let (edge, peer) = with_scripted_peer(&origin, |config| {
        with_digest_names(config);
        config.cache.verify_first = Size(FIRST);
        config.log.access = false;
        // The edge fetches its own keys from the origin at once.
        config.cluster.as_mut().unwrap().warm_window = Period(Duration::ZERO);
    })
    .await;
    if peek_answer == PeekAnswer::Rejected {
        peer.reject_peeks();
    }
    let mut runner = TestRunner::default();
    let cases: Vec<_> = (0..count).map(|_| cases().new_tree(&mut runner).unwrap().current()).collect();
    stream::iter(cases.into_iter().enumerate())
        .map(|(number, case)| check(&edge, &peer, &origin, number, case, peek_answer))
        .buffer_unordered(16)
        .fold(0, |sum, right| async move { sum + right })
        .await
}

/// The answers of the scripted peer to peeks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PeekAnswer {
    Rejected,
    /// The next script in turn, which is then used up.
    Scripted,
}

/// 10,000 assets. Each has copies at the peer and at the origin that are right or have a random
/// defect, and other copies for the second request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_gets_wrong_bytes_of_10_000_assets() {
    let right = random_cases(10_000, PeekAnswer::Rejected).await;
    // For many of them the right bytes are available in spite of the defects.
    assert!(right > 5000, "{right}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_gets_wrong_bytes_from_peeks() {
    let right = random_cases(4000, PeekAnswer::Scripted).await;
    assert!(right > 2000, "{right}");
}

/// Requests an asset three times. Returns 1 if a response had the right bytes, else 0.
async fn check(
    edge: &TestEdge,
    peer: &Origin,
    origin: &Origin,
    number: usize,
    case: Case,
    peek_answer: PeekAnswer,
) -> usize {
    let body: Bytes = [number.to_le_bytes().as_slice(), &pattern(case.len)].concat()[..case.len].to_vec().into();
    // Short bodies repeat, so the number makes the path of each asset unique.
    let path = format!("/{number}{}", name(&body, case.digits));
    let owned = is_owned_by(edge, peer, &path);
    peer.scripts(&path, case.peer.map(|fault| fault.script(&body, case.chunked)));
    origin.scripts(&path, case.origin.map(|fault| fault.script(&body, case.chunked)));
    let mut had = 0;
    let small = case.len as u64 <= FIRST;
    for turn in 0..3 {
        // The connection may close before the head, too.
        let Ok(open) = within(60, edge.get(&path).try_open()).await else {
            continue;
        };
        let got = within(60, open.rest()).await;
        let right = is_right(&got, &body);
        assert!(right || got.status != 200 || !got.complete, "wrong bytes, whole: {path} {case:?}");
        assert!(!got.cache_status().contains(";hit") || right, "wrong bytes, stored: {path} {case:?}");
        had |= usize::from(right);
        // If the first copies are right, or can be fetched again before a byte is sent, the
        // client gets the right bytes at once.
        let [first, second] = case.origin;
        let origin_has = first == Fault::None || small && first.is_wrong() && second == Fault::None;
        let peer_has = owned && case.peer[0] == Fault::None && peek_answer == PeekAnswer::Rejected;
        if turn == 0 && (peer_has || origin_has && (small || !owned)) {
            assert!(right, "right bytes were to be had: {path} {case:?}: {} {}", got.status, got.complete);
        }
        // A longer body breaks off at its readers, and the next request gets the right bytes.
        // (Resuming it may have used up copies of the origin.)
        if turn == 1 && (peer_has || case.origin == [Fault::None; 2]) {
            assert!(right, "right bytes were to be had: {path} {case:?}: {} {}", got.status, got.complete);
        }
    }
    peer.scripts(&path, []);
    origin.scripts(&path, []);
    had
}
