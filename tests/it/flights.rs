//! Request coalescing: one fill streams to all readers; readers leave and sources fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use peerage::AssetKey;
use peerage::config::{Period, Size};
use tokio::io::AsyncReadExt;

use crate::client::{OpenResponse, RequestBuilder};
use crate::harness::{Cluster, assert_same, embedded, join_all, pattern, single_edge, within};
use crate::origin::{Gate, Origin, Script};
use crate::raw_connection::{connect, edge_with_raw_origin};

const ASSET: &str = "/asset-0123456789abcdef.bin";
const MIB: usize = 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_clients_of_three_edges_cost_one_fetch() {
    let origin = Origin::start().await;
    let body = pattern(4 * MIB);
    let gate = Gate::closed();
    origin.script(ASSET, Script::ok(body.clone()).hold_response(&gate));
    let cluster = Cluster::start(3, &origin, |config| {
        let cluster = config.cluster.as_mut().unwrap();
        // On a busy machine a probe may miss its timeout, and the request is then hedged.
        cluster.gossip = false;
        cluster.probe_interval = Period(Duration::from_mins(1));
        cluster.probe_timeout = Period(Duration::from_secs(30));
        cluster.suspicion = Period(Duration::from_secs(150));
    })
    .await;
    let asks: Vec<_> = (0..300).map(|i| cluster.edges[i % 3].get(ASSET)).collect();
    let responses = tokio::spawn(join_all(asks.into_iter().map(RequestBuilder::send)));
    // The origin holds its response until all clients wait. At the owner, the two other edges
    // wait as well.
    for (edge, readers) in cluster.rank(ASSET).into_iter().zip([102.0, 100.0, 100.0]) {
        cluster.edges[edge].metric_becomes("peerage_flight_readers", readers).await;
    }
    gate.open(1);
    for got in &within(60, responses).await.unwrap() {
        assert_same(got, &body);
    }
    assert_eq!(origin.count(ASSET), 1);
    let owner = &cluster.edges[cluster.rank(ASSET)[0]];
    assert!((owner.metric("peerage_fetches_total{from=\"origin\",outcome=\"ok\"}").await - 1.0).abs() < 0.1);
}

#[tokio::test]
async fn late_reader_at_another_edge_gets_the_received_bytes_at_once() {
    let origin = Origin::start().await;
    let body = pattern(5 * MIB);
    let gate = Gate::closed();
    origin.script(ASSET, Script::ok(body.clone()).hold_body(&gate));
    let cluster = Cluster::start(3, &origin, |_| {}).await;
    let rank = cluster.rank(ASSET);
    gate.open(2 * MIB);
    let mut early = cluster.edges[rank[1]].get(ASSET).open().await;
    let first = within(20, early.read_at_least(2 * MIB)).await;
    // The origin holds the rest back, so these bytes are at the owner already.
    let mut late = cluster.edges[rank[2]].get(ASSET).open().await;
    assert_eq!(within(20, late.read_at_least(2 * MIB)).await, first);
    gate.open(3 * MIB);
    for mut open in [early, late] {
        let rest = within(20, open.read_at_least(3 * MIB)).await;
        assert!(rest == body[2 * MIB..]);
        assert!(open.chunk().await.is_none());
    }
    assert_eq!(origin.count(ASSET), 1);
}

#[tokio::test]
async fn body_that_breaks_off_is_incomplete_for_each_reader_and_not_stored() {
    let body = pattern(MIB);
    let half = body.len() / 2;
    for script in [
        Script::ok(body.clone()).cut_at(half),
        Script::ok(body.clone()).chunked().cut_at(half),
        Script::ok(body.slice(..half)).claim_length(body.len()),
    ] {
        let origin = Origin::start().await;
        let cluster =
            Cluster::start(3, &origin, |config| config.origin.idle_timeout = Period(Duration::from_millis(200))).await;
        let gate = Gate::closed();
        origin.script(ASSET, script.hold_body(&gate));
        let mut opened = Vec::new();
        for i in 0..9 {
            let ask = cluster.edges[i % 3].get(ASSET);
            let ask = if i < 3 { ask.http2() } else { ask };
            opened.push(within(20, async { tokio::spawn(ask.open()).await.unwrap() }).await);
        }
        gate.open(MIB);
        for open in opened {
            let got = within(20, open.rest()).await;
            assert!(!got.complete && got.body.len() <= half, "{} bytes", got.body.len());
        }
        for edge in &cluster.edges {
            for tier in ["main", "hot"] {
                assert!(edge.metric(&format!("peerage_cache_objects{{tier=\"{tier}\"}}")).await < 0.1);
            }
            edge.metric_becomes("peerage_flights", 0.0).await;
            edge.metric_becomes("peerage_memory_used_bytes", 0.0).await;
        }
        assert_eq!(origin.count(ASSET), 1);
        origin.script(ASSET, Script::ok(body.clone()));
        for edge in &cluster.edges {
            assert_same(&within(20, edge.get(ASSET).send()).await, &body);
        }
        assert_eq!(origin.count(ASSET), 2);
    }
}

#[tokio::test]
async fn http_1_0_connection_is_reset_when_the_body_breaks_off() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    for (script, whole) in [(Script::ok("whole"), true), (Script::ok("broken off").cut_at(6), false)] {
        origin.script("/page", script.chunked());
        let mut client = connect(&edge).await;
        client.write("GET /page HTTP/1.0\r\n\r\n").await;
        assert!(client.head().await.starts_with("HTTP/1.0 200 "));
        let mut body = Vec::new();
        let ended = within(20, client.0.read_to_end(&mut body)).await;
        assert_eq!(ended.is_ok(), whole, "{ended:?} after {body:?}");
    }
}

#[tokio::test]
async fn body_longer_than_its_content_length_is_cut() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script(ASSET, Script::ok(pattern(1000)).claim_length(900));
    let got = edge.get(ASSET).send().await;
    assert!(got.complete && got.body == pattern(1000)[..900]);
}

#[tokio::test]
async fn first_client_leaving_mid_body_affects_no_other_reader() {
    let origin = Origin::start().await;
    let body = pattern(MIB);
    let gate = Gate::closed();
    origin.script(ASSET, Script::ok(body.clone()).hold_body(&gate));
    let edge = single_edge(&origin, |_| {}).await;
    gate.open(1000);
    let mut first = edge.get(ASSET).open().await;
    let second = edge.get(ASSET).open().await;
    first.read_at_least(1000).await;
    drop(first);
    gate.open(MIB);
    assert_same(&within(20, second.rest()).await, &body);
    assert_eq!(origin.count(ASSET), 1);
}

#[tokio::test]
async fn client_leaving_before_the_head_does_not_end_the_fill() {
    let origin = Origin::start().await;
    let body = pattern(1000);
    let gate = Gate::closed();
    origin.script(ASSET, Script::ok(body.clone()).hold_response(&gate));
    let edge = single_edge(&origin, |_| {}).await;
    let first = tokio::spawn(edge.get(ASSET).send());
    origin.arrived(1).await;
    first.abort();
    edge.metric_becomes("peerage_flight_readers", 0.0).await;
    let second = tokio::spawn(edge.get(ASSET).send());
    edge.metric_becomes("peerage_flight_readers", 1.0).await;
    gate.open(1);
    assert_same(&within(20, second).await.unwrap(), &body);
    assert_eq!(origin.count(ASSET), 1);
}

#[tokio::test]
async fn fill_without_readers_continues_and_is_stored() {
    let origin = Origin::start().await;
    let gate = Gate::closed();
    origin.script(ASSET, Script::ok(pattern(MIB)).hold_body(&gate));
    let edge = single_edge(&origin, |_| {}).await;
    gate.open(1000);
    let mut only = edge.get(ASSET).open().await;
    only.read_at_least(1000).await;
    drop(only);
    gate.open(MIB);
    edge.metric_becomes("peerage_cache_objects{tier=\"main\"}", 1.0).await;
}

#[tokio::test]
async fn fill_without_readers_ends_with_detached_fill_timeout() {
    let origin = Origin::start().await;
    let gate = Gate::closed();
    origin.script(ASSET, Script::ok(pattern(MIB)).hold_body(&gate));
    let edge = single_edge(&origin, |config| config.cache.detached_fill_timeout = Period(Duration::ZERO)).await;
    gate.open(1000);
    let mut only = edge.get(ASSET).open().await;
    only.read_at_least(1000).await;
    drop(only);
    // It ends with one of the next chunks, long before the last.
    let drips = async {
        while edge.metric("peerage_flights").await > 0.0 {
            gate.open(1);
        }
    };
    within(20, drips).await;
    assert!(edge.metric("peerage_cache_objects{tier=\"main\"}").await < 0.1);
}

#[tokio::test]
async fn idle_reader_stalls_no_other_reader() {
    let origin = Origin::start().await;
    let body = pattern(16 * MIB);
    origin.script(ASSET, Script::ok(body.clone()));
    let edge = single_edge(&origin, |_| {}).await;
    let idle = edge.get(ASSET).open().await;
    assert_same(&within(20, edge.get(ASSET).send()).await, &body);
    assert_same(&within(20, edge.get(ASSET).send()).await, &body);
    assert_same(&within(20, idle.rest()).await, &body);
    assert_eq!(origin.count(ASSET), 1);
}

#[tokio::test]
async fn panic_in_a_fill_leaves_no_request_waiting() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let edge = embedded(move |_: AssetKey| {
        let call = counted.fetch_add(1, Ordering::Relaxed);
        async move {
            tokio::task::yield_now().await;
            assert!(call > 0, "intended panic of the first call");
            Ok::<_, std::io::Error>(Some(Bytes::from_static(b"well")))
        }
    })
    .await;
    let responses = within(20, join_all((0..5).map(|_| edge.get(ASSET)).map(RequestBuilder::send))).await;
    assert!(responses.iter().any(|got| got.status == 500 && got.complete));
    assert!(responses.iter().all(|got| got.status == 500 || got.text() == "well"));
    assert_eq!(edge.get(ASSET).send().await.text(), "well");
}

#[tokio::test]
async fn embedded_origin_serves_misses_hits_and_errors() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let edge = embedded(move |key: AssetKey| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            match key.path() {
                "/none" => Ok(None),
                "/bad" => Err(std::io::Error::other("no such luck")),
                path => Ok(Some(Bytes::from(format!("this is {path}")))),
            }
        }
    })
    .await;
    assert_eq!(edge.get("/some?x=1").send().await.text(), "this is /some");
    let again = edge.get("/some?x=1").send().await;
    assert_eq!((again.text(), again.cache_status().contains(";hit")), ("this is /some", true));
    assert_eq!(edge.get("/none").send().await.status, 404);
    let bad = edge.get("/bad").send().await;
    assert_eq!((bad.status.as_u16(), bad.cache_status()), (502, "edge-1;detail=origin-failed"));
    assert!(!bad.text().contains("luck"));
    assert_eq!(edge.request(Method::POST, "/some").send().await.status, 405);
}

#[tokio::test]
async fn error_response_of_one_fetch_answers_all_waiting_requests() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    let failing = Script::status(503);
    for (requests, script) in [(1, failing.clone()), (2, failing.header("cache-control", "no-store"))] {
        let gate = Gate::closed();
        origin.script(ASSET, script.hold_body(&gate));
        // All clients have the head before any of the body comes.
        let heads = within(20, join_all((0..30).map(|_| edge.get(ASSET)).map(RequestBuilder::open))).await;
        gate.open(1000);
        let responses = within(20, join_all(heads.into_iter().map(OpenResponse::rest))).await;
        assert!(responses.iter().all(|got| got.status == 503 && got.complete && got.text() == "status 503\n"));
        assert_eq!(origin.count(ASSET), requests);
    }
    // The error answers the requests that waited, and no later one.
    origin.script(ASSET, Script::ok("well"));
    assert_eq!(edge.get(ASSET).send().await.text(), "well");
}

#[tokio::test]
async fn unreachable_origin_is_502_for_all_waiting_requests() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |config| {
        config.origin.url = "http://127.0.0.1:1".parse().unwrap();
    })
    .await;
    let responses = within(20, join_all((0..5).map(|_| edge.get(ASSET)).map(RequestBuilder::send))).await;
    for got in responses {
        assert_eq!((got.status.as_u16(), got.cache_status()), (502, "edge-1;detail=origin-unreachable"));
        assert!(!got.text().contains("127.0.0.1"), "the response shows an internal address: {}", got.text());
    }
}

#[tokio::test]
async fn origin_that_exceeds_first_byte_timeout_is_504() {
    let origin = Origin::start().await;
    origin.script(ASSET, Script::ok("late").hold_response(&Gate::closed()));
    let edge =
        single_edge(&origin, |config| config.origin.first_byte_timeout = Period(Duration::from_millis(100))).await;
    let got = within(20, edge.get(ASSET).send()).await;
    assert_eq!((got.status.as_u16(), got.cache_status()), (504, "edge-1;detail=origin-timeout"));
}

#[tokio::test]
async fn malformed_origin_response_is_502() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    for raw in ["nonsense\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", ""] {
        origin.script(ASSET, Script::raw(raw));
        let got = within(20, edge.get(ASSET).send()).await;
        assert_eq!(got.status, 502, "{raw}");
    }
    assert_eq!(origin.count(ASSET), 3);
}

#[tokio::test]
async fn waiters_for_an_uncacheable_response_are_forwarded_together_and_later_requests_do_not_wait() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    let page = Script::ok("yours").header("cache-control", "private");
    let gate = Gate::closed();
    origin.script("/page", page.clone().hold_response(&gate));
    let asks: Vec<_> = (0..10).map(|_| edge.get("/page").send()).collect();
    let waiting = tokio::spawn(join_all(asks));
    edge.metric_becomes("peerage_flight_readers", 10.0).await;
    gate.open(10);
    let responses = within(20, waiting).await.unwrap();
    assert!(responses.iter().all(|got| got.text() == "yours"));
    assert_eq!(origin.count("/page"), 10);
    // None of these waits for another: all ten arrive before the first response.
    let gate = Gate::closed();
    origin.script("/page", page.hold_body(&gate));
    let asks: Vec<_> = (0..10).map(|_| edge.get("/page").send()).collect();
    let waiting = tokio::spawn(join_all(asks));
    within(20, origin.arrived(20)).await;
    gate.open(1000);
    let responses = within(20, waiting).await.unwrap();
    assert!(responses.iter().all(|got| got.cache_status() == "edge-1;fwd=bypass"));
}

#[tokio::test]
async fn uncacheable_name_is_stored_again_once_it_is_cacheable() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script("/page", Script::ok("a").header("cache-control", "no-store"));
    assert_eq!(edge.get("/page").send().await.cache_status(), "edge-1;fwd=uri-miss;detail=no-store");
    origin.script("/page", Script::ok("b").header("cache-control", "max-age=60"));
    assert_eq!(edge.get("/page").send().await.cache_status(), "edge-1;fwd=bypass");
    assert_eq!(edge.get("/page").send().await.cache_status(), "edge-1;fwd=uri-miss;stored");
    assert!(edge.get("/page").send().await.cache_status().contains(";hit"));
}

#[tokio::test]
async fn range_is_served_from_a_flight_once_its_bytes_have_arrived() {
    let origin = Origin::start().await;
    let body = pattern(MIB);
    let gate = Gate::closed();
    origin.script(ASSET, Script::ok(body.clone()).hold_body(&gate));
    let edge = single_edge(&origin, |_| {}).await;
    gate.open(2000);
    let mut whole = edge.get(ASSET).open().await;
    whole.read_at_least(2000).await;
    let part = within(20, edge.get(ASSET).header("range", "bytes=500-1499").send()).await;
    assert_eq!((part.status.as_u16(), part.header("content-range")), (206, "bytes 500-1499/1048576"));
    assert!(part.complete && part.body == body[500..1500]);
    gate.open(MIB);
    assert!(whole.rest().await.complete);
    assert_eq!(origin.count(ASSET), 1);
}

#[tokio::test]
async fn body_that_outgrows_max_object_reaches_all_readers_and_is_not_stored() {
    let origin = Origin::start().await;
    let body = pattern(40 * MIB);
    let small = |config: &mut peerage::Config| {
        config.cache.memory = Size(16 * MIB as u64);
        config.cache.max_object = Some(Size(2 * MIB as u64));
    };
    let edge = single_edge(&origin, small).await;
    edge.get("/small-0123456789abcdef.bin").send().await;
    let gate = Gate::closed();
    let script = Script::ok(body.clone()).chunked().with_ranges().header("etag", "\"v1\"");
    origin.script(ASSET, script.hold_body(&gate));
    let kept = "/kept-0123456789abcdef.bin";
    origin.script(kept, Script::ok("kept"));
    edge.get(kept).send().await;
    let before = origin.seen().len();
    gate.open(1000);
    let lagging = edge.get(ASSET).open().await;
    let fast = edge.get(ASSET).open().await;
    gate.open(4 * body.len());
    assert_same(&within(60, fast.rest()).await, &body);
    // The slow reader fell out of the window, and resumes with a range request of its own.
    assert_same(&within(60, lagging.rest()).await, &body);
    let asked: Vec<_> = origin.seen()[before..].iter().map(|seen| seen.header("range").is_some()).collect();
    assert_eq!(asked, [false, true]);
    // The body evicted nothing, and none of it is stored.
    assert!(edge.get(kept).send().await.cache_status().contains(";hit"));
    assert!(edge.metric("peerage_evictions_total{tier=\"main\"}").await < 0.1);
    edge.metric_becomes("peerage_flights", 0.0).await;
}

#[tokio::test]
async fn fill_never_overruns_the_only_reader_of_its_window() {
    let origin = Origin::start().await;
    let body = pattern(8 * MIB);
    for max_object in [300_000, 1_000_000] {
        let edge = single_edge(&origin, |config| {
            config.cache.memory = Size(16 * MIB as u64);
            config.cache.max_object = Some(Size(max_object));
        })
        .await;
        // Without an entity tag, a reader that falls out of the window could not resume.
        origin.script("/plain", Script::ok(body.clone()).chunked().header("cache-control", "max-age=60"));
        for _ in 0..3 {
            let mut open = edge.get("/plain").open().await;
            let mut came = open.read_at_least(1).await;
            // Slow at first, so that an unbounded fill would be far ahead.
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
            let got = within(20, open.rest()).await;
            came.extend_from_slice(&got.body);
            assert!(got.complete && came == body, "{} bytes", came.len());
        }
    }
}

/// A reader that falls out of the window could not resume: Range applies to a 200 alone.
#[tokio::test]
async fn error_response_of_unknown_length_is_shared_only_if_it_is_small() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |config| {
        config.cache.memory = Size(16 * MIB as u64);
        config.cache.max_object = Some(Size(2 * MIB as u64));
    })
    .await;
    let body = pattern(40 * MIB);
    let missing =
        |body| Script::ok(body).with_status(404).chunked().etag("\"v1\"").header("cache-control", "max-age=60");
    let gate = Gate::closed();
    origin.script("/large", missing(body.clone()).hold_body(&gate));
    let begin = async {
        origin.arrived(1).await;
        gate.open(4 * body.len());
    };
    let (lagging, fast, ()) = tokio::join!(edge.get("/large").open(), edge.get("/large").open(), begin);
    let mut statuses = Vec::new();
    for open in [fast, lagging] {
        let got = within(60, open.rest()).await;
        assert!(got.status == 404 && got.complete && got.body == body, "{} bytes", got.body.len());
        statuses.push(got.cache_status().to_owned());
    }
    assert!(statuses.iter().any(|status| status.ends_with(";detail=unknown-length")), "{statuses:?}");

    let (small, gate) = (pattern(1000), Gate::closed());
    let before = origin.seen().len();
    origin.script("/small", missing(small.clone()).hold_body(&gate));
    let begin = async {
        origin.arrived(before + 1).await;
        gate.open(small.len());
    };
    let (first, second, ()) = tokio::join!(edge.get("/small").send(), edge.get("/small").send(), begin);
    for got in [first, second, edge.get("/small").send().await] {
        assert!(got.status == 404 && got.complete && got.body == small, "{} bytes", got.body.len());
    }
    assert_eq!(origin.count("/small"), 1);

    // The head does not wait long for a body that does not come.
    let (gate, path) = (Gate::closed(), "/slow");
    origin.script(path, missing(small.clone()).hold_body(&gate));
    let mut slow = within(20, edge.get(path).open()).await;
    gate.open(small.len());
    assert_eq!(slow.read_at_least(small.len()).await, small);
    edge.metric_becomes("peerage_flights", 0.0).await;
}

#[tokio::test]
async fn body_of_unknown_length_is_complete_when_memory_is_full() {
    let origin = Origin::start().await;
    let body = pattern(3 * MIB);
    let edge = single_edge(&origin, |config| {
        config.cache.memory = Size(4 * MIB as u64);
        config.cache.max_object = Some(Size(500_000));
    })
    .await;
    origin.script("*", Script::ok(body.clone()).chunked().header("cache-control", "max-age=60"));
    let asks: Vec<_> = (0..20).map(|i| edge.get(&format!("/plain-{}", i / 2)).send()).collect();
    for got in within(60, join_all(asks)).await {
        assert_same(&got, &body);
    }
    edge.metric_becomes("peerage_flights", 0.0).await;
    assert!(edge.metric("peerage_memory_used_bytes").await < 4e6);
}

#[tokio::test]
async fn embedded_origin_that_never_answers_is_504() {
    let mut config = crate::harness::config("edge-1");
    config.origin.first_byte_timeout = Period(Duration::from_millis(50));
    let never = |_: AssetKey| std::future::pending::<Result<Option<Bytes>, std::io::Error>>();
    let edge = crate::harness::run(peerage::Server::bind_with(config, never).await.unwrap());
    assert_eq!(within(20, edge.get(ASSET).send()).await.status, 504);
}

#[tokio::test]
async fn reload_keeps_an_embedded_origin() {
    let config = crate::harness::config("edge-1");
    let given = |_: AssetKey| async { Ok::<_, std::io::Error>(Some(Bytes::from_static(b"given"))) };
    let server = peerage::Server::bind_with(config.clone(), given).await.unwrap();
    let mut reloading = server.reloading();
    let edge = crate::harness::run(server);
    let mut changed = config.clone();
    changed.origin.idle_timeout = Period(Duration::from_secs(1));
    assert_eq!(reloading.reload(changed).unwrap(), ["[origin]"]);
    assert_eq!(within(20, edge.get(ASSET).send()).await.text(), "given");
    assert_eq!(reloading.reload(config).unwrap(), [""; 0]);
}

#[tokio::test]
async fn content_length_beyond_all_memory_streams_through() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    let endless = Script::ok("begins").claim_length(usize::MAX - 2).etag("\"v1\"");
    for (path, script) in [(ASSET, endless.clone()), ("/page", endless.header("cache-control", "max-age=60"))] {
        origin.script(path, script);
        let got = within(20, edge.get(path).send()).await;
        assert_eq!((got.status.as_u16(), got.text(), got.complete), (200, "begins", false), "{path}");
    }
}

#[tokio::test]
async fn body_larger_than_max_object_streams_through_and_evicts_nothing() {
    let origin = Origin::start().await;
    let body = pattern(12 * MIB);
    let edge = single_edge(&origin, |config| {
        config.cache.memory = Size(16 * MIB as u64);
        config.cache.max_object = Some(Size(2 * MIB as u64));
    })
    .await;
    origin.script("*", Script::ok(pattern(100_000)));
    for i in 0..20 {
        edge.get(&format!("/small-{i:016x}.bin")).send().await;
    }
    origin.script(ASSET, Script::ok(body.clone()));
    let responses = within(60, join_all((0..4).map(|_| edge.get(ASSET)).map(RequestBuilder::send))).await;
    for got in &responses {
        assert_same(got, &body);
    }
    assert!(responses.iter().any(|got| got.cache_status() == "edge-1;fwd=uri-miss;detail=too-large"));
    let before = origin.seen().len();
    for i in 0..20 {
        assert!(edge.get(&format!("/small-{i:016x}.bin")).send().await.cache_status().contains(";hit"));
    }
    assert_eq!(origin.seen().len(), before);
    assert!(edge.metric("peerage_memory_used_bytes").await < 3e6);
}

/// When its source breaks off, a fill resumes from another source at the same byte. Clients notice
/// nothing.
#[tokio::test]
async fn fill_resumes_from_another_source_where_the_first_broke_off() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(3, &origin, |_| {}).await;
    let body = pattern(1_000_000);
    let path = cluster.path_owned_by(1, 77);
    let whole = || Script::ok(body.clone()).etag("\"v1\"").with_ranges();
    origin.scripts(&path, [whole().cut_at(400_000), whole()]);
    let asks: Vec<_> = cluster.edges.iter().flat_map(|edge| [edge.get(&path), edge.get(&path).http2()]).collect();
    for got in within(20, join_all(asks.into_iter().map(RequestBuilder::send))).await {
        assert_same(&got, &body);
    }
    let ranges: Vec<_> = origin.seen().iter().map(|seen| seen.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, [None, Some("bytes=400000-".to_owned())]);
    assert_eq!(origin.seen()[1].header("if-range"), Some("\"v1\""));
    for edge in &cluster.edges {
        assert_same(&edge.get(&path).send().await, &body);
    }
    assert_eq!(origin.count(&path), 2);
}

#[tokio::test]
async fn resume_rejects_another_representation() {
    let body = pattern(1_000_000);
    let cut = || Script::ok(body.clone()).etag("\"v1\"").with_ranges().cut_at(400_000);
    let other = Script::ok(pattern(1_000_000)).etag("\"v2\"").with_ranges();
    let weak = |script: Script| script.header("etag", "W/\"v1\"");
    for (name, first, second, goes_on) in [
        ("/logo-0123456789abcdef.png", cut(), cut(), false),
        ("/logo-0123456789abcde0.png", cut(), other, false),
        ("/logo-0123456789abcde1.png", weak(Script::ok(body.clone()).cut_at(9)), weak(Script::ok(body.clone())), false),
        ("/plain.png", cut(), Script::ok(body.clone()).etag("\"v1\"").with_ranges(), true),
        ("/plain2.png", cut(), Script::ok(body.clone()).etag("\"v1\""), true),
        ("/plain3.png", cut(), Script::ok(pattern(1_000_000)).etag("\"v2\"").with_ranges(), false),
        ("/plain4.png", weak(Script::ok(body.clone()).cut_at(9)), weak(Script::ok(body.clone())), false),
        ("/plain5.png", Script::ok(body.clone()).cut_at(9), Script::ok(body.clone()), false),
        ("/plain6.png", cut().with_status(203), Script::ok(body.clone()).etag("\"v1\"").with_ranges(), false),
        ("/logo-0123456789abcde2.png", cut(), Script::ok(body.clone()).etag("\"v1\""), true),
        ("/logo-0123456789abcde3.png", cut(), Script::status(404), false),
    ] {
        let origin = Origin::start().await;
        let edge = single_edge(&origin, |_| {}).await;
        let fresh = |script: Script| script.header("cache-control", "max-age=60");
        origin.scripts(name, [fresh(first), fresh(second)]);
        let got = within(20, edge.get(name).send()).await;
        assert_eq!(got.complete && got.body == body, goes_on, "{name}: {} bytes", got.body.len());
        edge.metric_becomes("peerage_flights", 0.0).await;
        let objects = edge.metric("peerage_cache_objects{tier=\"main\"}").await;
        assert_eq!(objects > 0.0, goes_on, "{name}");
    }
}

#[tokio::test]
async fn resumed_body_is_delivered_and_not_stored_if_the_second_source_forbids_storing() {
    let body = pattern(1_000_000);
    for (name, value, stored) in [
        ("cache-control", "max-age=60", true),
        ("x-a", "without a Cache-Control", true),
        ("cache-control", "max-age=60, private", false),
        ("cache-control", "no-store", false),
        ("set-cookie", "a=b", false),
        ("vary", "*", false),
    ] {
        for ranges in [true, false] {
            let origin = Origin::start().await;
            let edge = single_edge(&origin, |_| {}).await;
            let tagged = || Script::ok(body.clone()).etag("\"v1\"").without_lifetime();
            let rest = tagged().header(name, value);
            let rest = if ranges { rest.with_ranges() } else { rest };
            origin.scripts("/plain", [tagged().header("cache-control", "max-age=60").cut_at(400_000), rest]);
            let got = within(20, edge.get("/plain").send()).await;
            assert_same(&got, &body);
            edge.metric_becomes("peerage_flights", 0.0).await;
            let objects = edge.metric("peerage_cache_objects{tier=\"main\"}").await;
            assert_eq!(objects > 0.0, stored, "{name}: {value}, by range: {ranges}");
            assert_eq!(origin.count("/plain"), 2);
        }
    }
}

#[tokio::test]
async fn resumed_body_is_stored_by_no_edge_if_the_second_source_forbids_storing() {
    let body = pattern(1_000_000);
    let origin = Origin::start().await;
    let cluster = Cluster::start(3, &origin, |_| {}).await;
    for (seed, field) in [("cache-control", "private"), ("set-cookie", "a=b")].into_iter().enumerate() {
        let path = cluster.path_owned_by(0, seed);
        let (tagged, gate) = (|| Script::ok(body.clone()).etag("\"v1\"").without_lifetime(), Gate::closed());
        let first = tagged().header("cache-control", "max-age=60").cut_at(400_000).hold_body(&gate);
        origin.scripts(&path, [first, tagged().with_ranges().header(field.0, field.1)]);
        let mut readers = Vec::new();
        for edge in &cluster.edges {
            readers.push(edge.get(&path).open().await);
        }
        gate.open(body.len());
        for reader in readers {
            assert_same(&within(20, reader.rest()).await, &body);
        }
        assert_eq!(origin.count(&path), 2);
        for edge in &cluster.edges {
            edge.metric_becomes("peerage_flights", 0.0).await;
            for tier in ["main", "hot"] {
                edge.metric_becomes(&format!("peerage_cache_objects{{tier=\"{tier}\"}}"), 0.0).await;
            }
        }
    }
}

/// Returns a path with a hash and a plain path, both owned by the peer.
fn paths_of_peer(edge: &crate::harness::TestEdge, peer: &Origin) -> [String; 2] {
    let owned = |name: fn(u64) -> String| {
        (0..1000).map(name).find(|path| crate::verification::is_owned_by(edge, peer, path)).unwrap()
    };
    [owned(|i| format!("/asset-{i:016x}.bin")), owned(|i| format!("/plain/{i}"))]
}

#[tokio::test]
async fn readers_get_the_rest_from_the_origin_when_the_owner_breaks_off() {
    let origin = Origin::start().await;
    let (edge, peer) = crate::verification::with_scripted_peer(&origin, |_| {}).await;
    let body = pattern(1_000_000);
    let whole = || Script::ok(body.clone()).etag("\"v1\"").header("cache-control", "max-age=60");
    for path in paths_of_peer(&edge, &peer) {
        peer.script(&path, whole().cut_at(300_000));
        origin.script(&path, whole().with_ranges());
        let asks: Vec<_> = (0..6).map(|_| edge.get(&path)).collect();
        for got in within(20, join_all(asks.into_iter().map(RequestBuilder::send))).await {
            assert_same(&got, &body);
        }
        let seen = origin.seen().pop().unwrap();
        assert_eq!((seen.header("range"), seen.header("if-range")), (Some("bytes=300000-"), Some("\"v1\"")));
        assert_eq!(origin.count(&path), 1);
        assert!(edge.get(&path).send().await.cache_status().contains("hit"));
    }
}

#[tokio::test]
async fn readers_get_the_rest_from_the_origin_when_the_owner_freezes() {
    let origin = Origin::start().await;
    // Its timeouts are far away: only an overdue ping can reveal that it is frozen.
    let (edge, peer) = crate::verification::with_scripted_peer(&origin, |config| {
        crate::verification::probe_often(config).idle_timeout = Period(Duration::from_mins(10));
    })
    .await;
    let body = pattern(1_000_000);
    let whole = || Script::ok(body.clone()).etag("\"v1\"").header("cache-control", "max-age=60");
    let paths = paths_of_peer(&edge, &peer);
    let (frozen, never) = (Gate::closed(), Gate::closed());
    frozen.open(600_000);
    for path in &paths {
        peer.script(path, whole().hold_body(&frozen));
        origin.script(path, whole().with_ranges());
    }
    // It answers no OPTIONS either.
    peer.script("*", Script::ok("").hold_response(&never));
    let responses = within(20, join_all(paths.iter().map(|path| edge.get(path).send()))).await;
    for (got, path) in responses.iter().zip(&paths) {
        assert_same(got, &body);
        assert_eq!(origin.count(path), 1);
    }
    assert!(origin.seen().iter().all(|seen| seen.header("if-range") == Some("\"v1\"")));
}

#[tokio::test]
async fn fills_without_readers_are_limited_and_abandoned_requests_are_counted() {
    // The origin accepts requests and never answers.
    let (edge, _origin) = edge_with_raw_origin(|config| {
        (config.origin.requests, config.limits.requests_per_client) = (6, 20);
    })
    .await;
    let asking: Vec<_> = (0..20).map(|i| tokio::spawn(edge.get(&format!("/asset-{i:016x}.bin")).send())).collect();
    edge.metric_becomes("peerage_flights", 20.0).await;
    asking.iter().for_each(tokio::task::JoinHandle::abort);
    edge.metric_becomes("peerage_flights", 3.0).await;
    edge.metric_becomes("peerage_fetches_total{from=\"origin\",outcome=\"error\"}", 17.0).await;
    edge.metric_becomes("peerage_requests_total{source=\"client\",result=\"error\"}", 20.0).await;
}

#[tokio::test]
async fn passed_response_is_counted_when_its_body_ends() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    let passed = |body: &'static str| Script::ok(body).header("cache-control", "no-store");
    let fetches = |outcome| format!("peerage_fetches_total{{from=\"origin\",outcome=\"{outcome}\"}}");
    origin.scripts("/page", [passed("whole"), passed("whole"), passed("it breaks off").cut_at(5)]);
    for _ in 0..2 {
        assert!(edge.get("/page").send().await.complete);
    }
    edge.metric_becomes(&fetches("ok"), 2.0).await;
    assert!(!edge.get("/page").send().await.complete);
    edge.metric_becomes(&fetches("error"), 1.0).await;
    edge.metric_becomes(&fetches("ok"), 2.0).await;
}
