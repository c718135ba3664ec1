//! Peeks: an edge asks an owner for stored responses over one connection, and responses stay the
//! same.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use peerage::config::{Period, Size};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fast_path::expect_response;
use crate::harness::{Cluster, TestEdge, assert_same, join_all, pattern, single_edge, within};
use crate::origin::{Gate, Origin, Script};
use crate::raw_connection::{RawConnection, connect};
use crate::verification::{is_owned_by, with_scripted_peer};

const HELD: &str = "peerage_peeks_total{outcome=\"held\"}";
const MISSING: &str = "peerage_peeks_total{outcome=\"missing\"}";
const ERROR: &str = "peerage_peeks_total{outcome=\"error\"}";

/// Returns a path with a hash that the peer owns.
fn owned_by(edge: &TestEdge, peer: &Origin, seed: usize) -> String {
    let name = |i| format!("/peeked-{:016x}.bin", seed * 1_000_000 + i);
    (0..1000).map(name).find(|path| is_owned_by(edge, peer, path)).unwrap()
}

/// Starts an origin, an edge, and a peer with a script for a path that it owns. Returns the path too.
async fn edge_and_peer(script: Script, seed: usize) -> (Origin, TestEdge, Origin, String) {
    let origin = Origin::start().await;
    let (edge, peer) = with_scripted_peer(&origin, |_| {}).await;
    let path = owned_by(&edge, &peer, seed);
    peer.script(&path, script);
    origin.script("*", Script::ok("the origin's"));
    (origin, edge, peer, path)
}

/// Returns the metric of peers' requests with a result.
fn peer_requests(result: &str) -> String {
    format!("peerage_requests_total{{source=\"peer\",result=\"{result}\"}}")
}

#[tokio::test]
async fn response_stored_at_the_owner_is_peeked_and_kept_as_a_copy() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(2, &origin, |_| {}).await;
    let (asked, owner) = (&cluster.edges[0], &cluster.edges[1]);
    for seed in 0..20 {
        let (path, body) = (cluster.path_owned_by(1, seed), pattern(100 * seed));
        origin.script(&path, Script::ok(body.clone()).header("etag", "\"a\""));
        owner.get(&path).send().await;
        let hop = asked.get(&path).send().await;
        assert_same(&hop, &body);
        let status = hop.header("cache-status");
        assert!(status.starts_with("edge-2;hit") && status.ends_with(", edge-1;fwd=uri-miss;stored"), "{status}");
        let via: Vec<_> = hop.headers.get_all("via").iter().collect();
        assert_eq!(via, ["1.1 edge-2", "1.1 edge-1"]);
        assert_eq!(asked.get(&path).send().await.cache_status().split(";ttl").next(), Some("edge-1;hit"));
        assert_eq!(origin.count(&path), 1);
    }
    for (edge, name, value) in [
        (asked, HELD, 20.0),
        (asked, MISSING, 0.0),
        (asked, ERROR, 0.0),
        (asked, "peerage_fetches_total{from=\"peer\",outcome=\"ok\"}", 20.0),
        (asked, "peerage_requests_total{source=\"client\",result=\"miss\"}", 20.0),
        (asked, "peerage_requests_total{source=\"client\",result=\"hot_hit\"}", 20.0),
        (asked, "peerage_flights", 0.0),
        (owner, "peerage_requests_total{source=\"peer\",result=\"hit\"}", 20.0),
        (owner, "peerage_requests_total{source=\"peer\",result=\"error\"}", 0.0),
    ] {
        edge.metric_becomes(name, value).await;
    }
}

#[tokio::test]
async fn response_missing_at_the_owner_is_fetched_once_by_a_regular_request() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(3, &origin, |_| {}).await;
    let path = cluster.path_owned_by(2, 1);
    origin.script(&path, Script::ok("cold"));
    let miss = cluster.edges[0].get(&path).send().await;
    assert_eq!(miss.text(), "cold");
    assert_eq!(miss.header("cache-status"), "edge-3;fwd=uri-miss;stored, edge-1;fwd=uri-miss;stored");
    cluster.edges[0].metric_becomes(MISSING, 1.0).await;
    // A peek for a missing response is no failed request.
    for result in ["hit", "miss", "error"] {
        let value = if result == "miss" { 1.0 } else { 0.0 };
        cluster.edges[2].metric_becomes(&peer_requests(result), value).await;
    }
    assert_eq!(origin.count(&path), 1);
}

/// Returns the headers without values that depend on the time or the edge, sorted.
fn comparable(got: &crate::client::FullResponse) -> Vec<String> {
    let line = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        let value = String::from_utf8_lossy(value.as_bytes()).replace("edge-2", "edge-1").replace("edge-3", "edge-1");
        let value: Vec<_> = value.split(", ").map(|member| member.split(";ttl=").next().unwrap().to_owned()).collect();
        format!("{name}: {}", value.join(", "))
    };
    let mut lines: Vec<_> = got.headers.iter().filter(|(name, _)| *name != "age").map(line).collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn peeked_responses_equal_those_of_regular_requests() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(4, &origin, |_| {}).await;
    let kinds = [
        Script::ok("pixels").header("ETag", "\"a\"").header("Content-Type", "image/png"),
        Script::ok("chunks").chunked(),
        Script::ok(""),
        Script::ok("old")
            .header("Age", "100")
            .header("Cache-Control", "max-age=1000")
            .header("Cache-Status", "other;hit"),
        Script::ok("many").header("Link", "<a>").header("X-Empty", "").header("Link", "<b>").header("Via", "1.0 other"),
        Script::ok("with")
            .header("Set-Cookie", "a=b")
            .header("Cache-Control", "public, private=\"set-cookie\", max-age=9"),
        Script::ok(pattern(60_000)),
        Script::ok(pattern(70_000)),
        Script::status(404).header("Cache-Control", "max-age=1000"),
    ];
    for (i, kind) in kinds.into_iter().enumerate() {
        let path = cluster.path_owned_by(3, i);
        origin.script(&path, kind);
        cluster.edges[3].get(&path).send().await;
        let short = cluster.edges[0].get(&path).send().await;
        let multiplexed = cluster.edges[1].get(&path).http2().send().await;
        // A target in absolute form is not peeked.
        let long = cluster.edges[2].get(&format!("http://site.example{path}")).send().await;
        for other in [multiplexed, long] {
            assert_eq!(comparable(&short), comparable(&other), "{i}");
            assert!(other.complete && short.status == other.status && short.body == other.body, "{i}");
        }
        assert_eq!(origin.count(&path), 1);
    }
    // All but the body that is too long and the response that is no 200.
    for (edge, held) in [(0, 7.0), (1, 7.0), (2, 0.0)] {
        cluster.edges[edge].metric_becomes(HELD, held).await;
    }
}

#[tokio::test]
async fn requests_share_a_peek_whose_leader_has_left() {
    let gate = Gate::closed();
    let (_origin, edge, peer, path) = edge_and_peer(Script::ok("shared").hold_response(&gate), 1).await;
    let mut leader = connect(&edge).await;
    leader.write(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    peer.arrived(1).await;
    let others: Vec<_> = (0..5).map(|_| tokio::spawn(edge.get(&path).send())).collect();
    drop(leader);
    gate.open(1);
    for other in others {
        assert_eq!(other.await.unwrap().text(), "shared");
    }
    edge.metric_becomes("peerage_cache_objects{tier=\"hot\"}", 1.0).await;
    assert_eq!(peer.count(&path), 1);
}

#[tokio::test]
async fn silent_peer_delays_requests_only_until_the_peek_times_out() {
    let gate = Gate::closed();
    let (origin, edge, peer, path) = edge_and_peer(Script::ok("late").hold_response(&gate), 2).await;
    let waiting = tokio::spawn(edge.get(&path).send());
    // When the peek times out, a regular request follows, and its response is waited for.
    peer.arrived(2).await;
    edge.metric_becomes(ERROR, 1.0).await;
    // The link is behind, so no other path is peeked on it.
    let other = owned_by(&edge, &peer, 3);
    peer.script(&other, Script::ok("at once"));
    assert_eq!(within(20, edge.get(&other).send()).await.text(), "at once");
    assert!(edge.metric(HELD).await + edge.metric(MISSING).await < 1.0);
    gate.open(2);
    assert_eq!(within(20, waiting).await.unwrap().text(), "late");
    assert_eq!(origin.count(&path), 0);
}

#[tokio::test]
async fn any_answer_to_a_peek_leads_to_the_right_bytes() {
    let body = Bytes::from_static(b"the right bytes");
    let kinds = [
        Script::ok(body.clone()).chunked(),
        Script::ok(body.clone()).until_close(),
        Script::ok(body.clone()).cut_at(5),
        Script::ok(body.clone()).header("content-length", "3"),
        Script::ok(body.clone()).header("cache-control", "no-store"),
        Script::ok(body.clone()).header("cache-control", "private=\"x-own\"").header("x-own", "1"),
        Script::ok(pattern(200_000)),
        Script::ok(body.clone()).header("x-long", &"long".repeat(20_000)),
        Script::raw("HTTP/1.1 200 OK\r\ncontent-le"),
        Script::raw("what is this?\r\n\r\n"),
        Script::raw(""),
        Script::raw("HTTP/1.1 103 Early Hints\r\nlink: <a>\r\n\r\n"),
        Script::status(504),
        Script::status(500),
    ];
    for (i, kind) in kinds.into_iter().enumerate() {
        let (_origin, edge, peer, path) = edge_and_peer(Script::ok(body.clone()), 10 + i).await;
        peer.scripts(&path, [kind, Script::ok(body.clone())]);
        let got = within(20, edge.get(&path).send()).await;
        assert_same(&got, &body);
        edge.metric_becomes("peerage_flights", 0.0).await;
    }
}

#[tokio::test]
async fn unsolicited_response_ends_the_link() {
    let two = "HTTP/1.1 504 X\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong";
    let (_origin, edge, peer, path) = edge_and_peer(Script::ok("right"), 30).await;
    peer.scripts(&path, [Script::raw(two), Script::ok("right")]);
    assert_eq!(within(20, edge.get(&path).send()).await.text(), "right");
    let other = owned_by(&edge, &peer, 31);
    peer.script(&other, Script::ok("right, too"));
    assert_eq!(within(20, edge.get(&other).send()).await.text(), "right, too");
}

/// No edge stores the path yet. Each client has its own connection, and a peek that finds nothing
/// causes no origin request of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stampede_on_an_unstored_path_is_one_fetch() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(3, &origin, |_| {}).await;
    let clients: Vec<_> = cluster.edges.iter().map(|edge| edge.clients).collect();
    for seed in 0..10 {
        let path = cluster.path_owned_by(seed % 3, seed);
        let gate = Gate::closed();
        origin.script(&path, Script::ok("one for all").hold_response(&gate));
        let gets: Vec<_> = (0..150)
            .map(|i| {
                let ask = crate::client::request(clients[i % 3], Method::GET, &path);
                tokio::spawn(if i % 2 == 0 { ask.send() } else { ask.http2().send() })
            })
            .collect();
        origin.arrived(seed + 1).await;
        gate.open(1000);
        let mut how = std::collections::BTreeMap::new();
        for get in gets {
            let got = within(20, get).await.unwrap();
            assert_eq!(got.text(), "one for all");
            *how.entry(got.header("cache-status").to_owned()).or_insert(0) += 1;
        }
        assert_eq!(origin.count(&path), 1, "{how:#?}");
    }
}

#[tokio::test]
async fn a_client_cannot_peek() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(2, &origin, |_| {}).await;
    let path = cluster.path_owned_by(1, 1);
    origin.script(&path, Script::ok("there"));
    let peek = |edge: &TestEdge| edge.get(&path).header("cache-control", "only-if-cached").header("peerage-peek", "9");
    assert_eq!(peek(&cluster.edges[0]).send().await.status, 504);
    assert!(peek(&cluster.edges[0]).send().await.header("cache-status").starts_with("edge-1;"));
    // By itself the peek header means nothing, at the owner either.
    let plain = cluster.edges[0].get(&path).header("peerage-peek", "1").send().await;
    assert_eq!((plain.status.as_u16(), plain.text()), (200, "there"));
    assert_eq!(peek(&cluster.edges[0]).send().await.text(), "there");
}

#[tokio::test]
async fn peek_for_a_missing_or_too_large_response_is_answered_at_once() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(2, &origin, |_| {}).await;
    let (small, large) = (cluster.path_owned_by(0, 1), cluster.path_owned_by(0, 2));
    origin.script(&small, Script::ok("small"));
    origin.script(&large, Script::ok("larger than ten bytes"));
    for path in [&small, &large] {
        cluster.edges[0].get(path).send().await;
    }
    let peek = |path: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: a:1\r\ncache-control: only-if-cached\r\npeerage-peek: 10\r\n\r\n")
    };
    let mut end = RawConnection(tokio::net::TcpStream::connect(cluster.edges[0].peers.unwrap()).await.unwrap());
    // All of them arrive together, with a regular request among them.
    let ordinary = format!("GET {large} HTTP/1.1\r\nhost: a:1\r\n\r\n");
    end.write(&[peek(&large), peek(&small), peek("/none-0123456789abcdef.bin"), ordinary, peek(&small)].concat()).await;
    let nothing = "HTTP/1.1 504 Gateway Timeout\r\ncontent-length: 0\r\n\r\n";
    end.expect_bytes(nothing).await;
    for (before, body) in [("", "small"), (nothing, "larger than ten bytes"), ("", "small")] {
        end.expect_bytes(before).await;
        assert!(end.head().await.starts_with("HTTP/1.1 200 "));
        end.expect_bytes(body).await;
    }
}

/// The limits of the owner may differ from those of the edge that asks it.
#[tokio::test]
async fn peeked_body_larger_than_max_object_is_not_stored() {
    let origin = Origin::start().await;
    let (edge, peer) = with_scripted_peer(&origin, |config| config.cache.max_object = Some(Size(10_000))).await;
    for (seed, len, kept) in [(50, 10_000, true), (51, 10_001, false)] {
        let (path, body) = (owned_by(&edge, &peer, seed), pattern(len));
        peer.script(&path, Script::ok(body.clone()));
        origin.script(&path, Script::ok(body.clone()));
        let first = edge.get(&path).send().await;
        assert_same(&first, &body);
        assert_eq!(first.cache_status().ends_with(";stored"), kept, "{}", first.cache_status());
        assert_same(&edge.get(&path).send().await, &body);
    }
    edge.metric_becomes("peerage_cache_objects{tier=\"hot\"}", 1.0).await;
}

/// The owner would leave so long a head to hyper, and with it all later requests on the link.
#[tokio::test]
async fn long_target_is_fetched_without_a_peek() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(2, &origin, |_| {}).await;
    let folder = "q".repeat(5000);
    let name = |i| format!("/{folder}/long-{i:016x}.bin");
    let long = (0..1000).map(name).find(|path| cluster.rank(path)[0] == 1).unwrap();
    origin.script(&long, Script::ok("long"));
    assert_eq!(cluster.edges[0].get(&long).http2().send().await.text(), "long");
    for seed in 0..5 {
        let path = cluster.path_owned_by(1, seed);
        origin.script(&path, Script::ok("short"));
        assert_eq!(cluster.edges[0].get(&path).send().await.text(), "short");
    }
    cluster.edges[0].metric_becomes(MISSING, 5.0).await;
    for (result, value) in [("miss", 6.0), ("error", 0.0)] {
        cluster.edges[1].metric_becomes(&peer_requests(result), value).await;
    }
}

#[tokio::test]
async fn link_with_negative_answers_alone_does_not_time_out() {
    let origin = Origin::start().await;
    let timeout = Duration::from_millis(300);
    let cluster = Cluster::start(2, &origin, |config| config.limits.header_timeout = Period(timeout)).await;
    let mut end = RawConnection(tokio::net::TcpStream::connect(cluster.edges[0].peers.unwrap()).await.unwrap());
    let began = Instant::now();
    while began.elapsed() < 3 * timeout {
        let fields = "host: a:1\r\ncache-control: only-if-cached\r\npeerage-peek: 10";
        end.write(&format!("GET /none-0123456789abcdef.bin HTTP/1.1\r\n{fields}\r\n\r\n")).await;
        end.expect_bytes("HTTP/1.1 504 Gateway Timeout\r\ncontent-length: 0\r\n\r\n").await;
    }
}

/// While a large response is being sent, the responses to the requests behind it do not begin.
#[tokio::test]
async fn slow_reader_of_pipelined_responses_holds_one_of_them_in_memory() {
    const LEN: usize = 8_000_000;
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |config| config.cache.max_object = Some(Size(12 << 20))).await;
    let paths: Vec<_> = (0..10).map(|i| format!("/big-{i:016x}.bin")).collect();
    origin.script("*", Script::ok(pattern(LEN)));
    for path in &paths {
        edge.get(path).send().await;
    }
    let mut end = connect(&edge).await;
    end.write(&paths.iter().map(|path| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).collect::<String>()).await;
    let mut some = vec![0; LEN / 2];
    within(20, end.0.read_exact(&mut some)).await.unwrap();
    for path in &paths {
        edge.request(Method::DELETE, path).send().await;
    }
    let used = async {
        while edge.metric("peerage_memory_used_bytes").await >= 2.0 * 8_000_000.0 {
            tokio::task::yield_now().await;
        }
    };
    within(20, used).await;
}

#[tokio::test]
async fn drain_waits_for_a_peek() {
    let gate = Gate::closed();
    let (_origin, mut edge, peer, path) = edge_and_peer(Script::ok("drained").hold_response(&gate), 40).await;
    let mut end = connect(&edge).await;
    end.write(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    peer.arrived(1).await;
    edge.begin_drain();
    while tokio::net::TcpStream::connect(edge.clients).await.is_ok() {}
    gate.open(2);
    assert!(end.head().await.starts_with("HTTP/1.1 200 "));
    end.expect_bytes("drained").await;
    end.expect_end().await;
    assert_eq!(within(20, edge.drained()).await, 0);
}

/// Requests for paths that are stored here, at the owner, or nowhere, cut at any byte.
#[tokio::test]
async fn pipelined_requests_with_peeks_are_answered_in_order() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(2, &origin, |_| {}).await;
    for seed in 0..30 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut asked = Vec::new();
        for i in 0..random.random_range(1..24) {
            let owner = random.random_range(0..2);
            let path = cluster.path_owned_by(owner, 1000 + usize::try_from(seed).unwrap() * 100 + i);
            let body = pattern(*[0, 10, 10, 10, 5000, 5000, 60_000, 100_000].choose(&mut random).unwrap());
            origin.script(&path, Script::ok(body.clone()));
            if random.random_bool(0.9) {
                cluster.edges[owner].get(&path).send().await;
            }
            asked.push((path, body));
        }
        let requests: Vec<_> =
            asked.iter().map(|(path, _)| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
        let (mut from, mut to) = connect(&cluster.edges[0]).await.0.into_split();
        let all = requests.concat().into_bytes();
        let most = *[10, 1000, 100_000].choose(&mut random).unwrap();
        let saying = tokio::spawn(async move {
            for cut in all.chunks(most) {
                to.write_all(cut).await.unwrap();
                tokio::task::yield_now().await;
            }
            to
        });
        let mut came = Vec::new();
        for (path, body) in asked {
            expect_response(&mut from, &mut came, "HTTP/1.1 200 ", &body, &format!("seed {seed}, to {path}")).await;
            assert_eq!(origin.count(&path), 1, "seed {seed}: {path}");
        }
        drop(saying.await.unwrap());
    }
    let held = cluster.edges[0].metric(HELD).await;
    assert!(held > 30.0, "{held}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_peeks_get_their_own_responses() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(2, &origin, |_| {}).await;
    let assets: Vec<_> = (0..400).map(|seed| (cluster.path_owned_by(1, seed), seed)).collect();
    for (path, seed) in &assets {
        origin.script(path, Script::ok(format!("body {seed}").repeat(seed % 50)));
        cluster.edges[1].get(path).send().await;
    }
    let (edge, clients) = (&cluster.edges[0], cluster.edges[0].clients);
    let gets = assets.iter().map(|(path, seed)| {
        let (ask, seed) = (crate::client::request(clients, Method::GET, path), *seed);
        async move { (ask.send().await, seed) }
    });
    for (got, seed) in join_all(gets).await {
        assert_same(&got, &format!("body {seed}").repeat(seed % 50).into());
    }
    assert_eq!(origin.seen().len(), 400);
    assert!(edge.metric(HELD).await > 0.0);
}
