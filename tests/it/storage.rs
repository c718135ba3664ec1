//! Storing: which responses are stored, and for how long.

use std::time::Duration;

use http::Method;
use peerage::config::{Period, Size};

use crate::harness::{Cluster, pattern, single_edge};
use crate::origin::{Origin, Script};

const HASHED: &str = "/logo-0492830483.png";
/// A name that holds the digest of its contents, `there`.
const VERIFIED: &str = "/v2/x/blobs/sha256:e244f187f696561d5fd7e00f618e7ba641dc52e3c137380f6fa23a854b773aac";

#[tokio::test]
async fn exactly_the_cacheable_responses_are_stored() {
    for (path, script, stored) in [
        (HASHED, Script::ok("x"), true),
        (HASHED, Script::ok("x").header("cache-control", "max-age=0"), false),
        (HASHED, Script::ok("x").header("cache-control", "no-store"), false),
        (HASHED, Script::ok("x").header("cache-control", "private"), false),
        (HASHED, Script::ok("x").header("set-cookie", "a=b"), false),
        (HASHED, Script::ok("x").until_close(), false),
        (HASHED, Script::ok("x").chunked(), true),
        (HASHED, Script::ok(""), true),
        ("/plain.png", Script::ok("x"), false),
        ("/plain.png", Script::ok("x").header("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"), false),
        ("/plain.png", Script::ok("x").header("cache-control", "max-age=60"), true),
        ("/plain.png", Script::ok("x").header("cache-control", "s-maxage=60, max-age=0"), true),
        ("/plain.png", Script::ok("x").header("cache-control", "PUBLIC, Max-Age=\"60\""), true),
        ("/plain.png", Script::ok("x").header("cache-control", "max-age=99999999999999999999999"), true),
        ("/plain.png", Script::ok("x").header("cache-control", "max-age=soon"), false),
        (
            "/plain.png",
            Script::ok("x").header("cache-control", "max-age=60").header("cache-control", "max-age=0"),
            false,
        ),
        ("/plain.png", Script::ok("x").header("cache-control", "max-age=60").header("age", "60"), false),
        ("/plain.png", Script::ok("x").header("cache-control", "max-age=60").header("set-cookie", "a=b"), false),
        ("/plain.png", Script::ok("x").header("cache-control", "max-age=60").header("vary", "*"), false),
        ("/plain.png", Script::status(503), false),
        ("/plain.png", Script::status(404).header("cache-control", "max-age=60"), true),
        ("/plain.png", Script::status(599).header("cache-control", "max-age=60"), true),
        ("/plain.png", Script::status(599).header("cache-control", "max-age=60, must-understand"), false),
        ("/plain.png", Script::ok("x").header("cache-control", "max-age=60, no-store, must-understand"), true),
        (
            "/plain.png",
            Script::ok("x").header("cdn-cache-control", "max-age=60").header("cache-control", "no-store"),
            true,
        ),
        (
            "/plain.png",
            Script::ok("x").header("cdn-cache-control", "no-store").header("cache-control", "max-age=60"),
            false,
        ),
        ("/plain.png?a=b", Script::ok("x").header("cache-control", "public, max-age=60"), true),
    ] {
        let origin = Origin::start().await;
        let edge = single_edge(&origin, |_| {}).await;
        origin.script(path, script);
        let first = edge.get(path).send().await;
        let second = edge.get(path).send().await;
        assert_eq!(first.cache_status().contains(";stored"), stored, "{path}: {}", first.cache_status());
        assert_eq!(second.cache_status().contains(";hit"), stored, "{path}: {}", second.cache_status());
        assert_eq!(first.body, second.body);
        assert_eq!(origin.count(path), if stored { 1 } else { 2 });
    }
}

#[tokio::test]
async fn age_grows_until_the_response_expires() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script("/a", Script::ok("x").header("cache-control", "max-age=100").header("age", "40"));
    let age = |got: &crate::client::FullResponse| got.header("age").parse::<u64>().unwrap();
    assert!((40..60).contains(&age(&edge.get("/a").send().await)));
    let hit = edge.get("/a").send().await;
    assert!((40..60).contains(&age(&hit)));
    let ttl: u64 = hit.cache_status().strip_prefix("edge-1;hit;ttl=").unwrap().parse().unwrap();
    assert!((40..60).contains(&ttl), "{ttl}");
    // Nine of ten seconds of freshness have passed on arrival.
    let date = httpdate::fmt_http_date(std::time::SystemTime::now() - Duration::from_secs(9));
    origin.script("/b", Script::ok("x").header("cache-control", "max-age=10").header("date", &date));
    edge.get("/b").send().await;
    let expired = async { while !edge.get("/b").send().await.cache_status().contains("fwd=") {} };
    crate::harness::within(20, expired).await;
    assert!(origin.count("/b") >= 2);
}

#[tokio::test]
async fn missing_date_is_set_to_the_time_of_the_fill() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(3, &origin, |_| {}).await;
    let date = |got: &crate::client::FullResponse| httpdate::parse_http_date(got.header("date")).unwrap();
    for path in [HASHED, "/plain.png"] {
        // The scripted origin sends no Date.
        origin.script(path, Script::ok("x").header("cache-control", "max-age=600"));
        let filled = date(&cluster.edges[0].get(path).send().await);
        // A Date that hyper adds now, as to a response of the edge itself, is later.
        let later = async {
            let own_words = || cluster.edges[0].get("/none").header("cache-control", "only-if-cached").send();
            while date(&own_words().await) <= filled {}
        };
        crate::harness::within(20, later).await;
        for edge in &cluster.edges {
            edge.get(path).send().await;
            for ask in [edge.get(path), edge.get(path).http2(), edge.get(path).header("x-other", "1")] {
                let hit = ask.send().await;
                assert!(hit.cache_status().contains(";hit"), "{path}: {}", hit.cache_status());
                assert_eq!(date(&hit), filled, "{path}");
            }
        }
        assert_eq!(origin.count(path), 1);
    }
}

#[tokio::test]
async fn missing_asset_costs_one_origin_request_within_negative_ttl() {
    let origin = Origin::start().await;
    // Long enough for a slow machine.
    let cluster = Cluster::start(3, &origin, |config| config.cache.negative_ttl = Period(Duration::from_mins(1))).await;
    for i in 0..9 {
        let got = cluster.edges[i % 3].get(VERIFIED).send().await;
        assert_eq!((got.status.as_u16(), got.text()), (404, "status 404\n"));
    }
    assert_eq!(origin.count(VERIFIED), 1);
    // A client with a session may see more than one without.
    let got = cluster.edges[0].get(VERIFIED).header("cookie", "session=1").send().await;
    assert_eq!((got.status.as_u16(), origin.seen()[1].header("cookie")), (404, Some("session=1")));
}

#[tokio::test]
async fn a_missing_asset_is_found_once_it_is_there() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |config| config.cache.negative_ttl = Period(Duration::from_millis(1))).await;
    assert_eq!(edge.get(VERIFIED).send().await.status, 404);
    origin.script(VERIFIED, Script::ok("there"));
    let found = async { while edge.get(VERIFIED).send().await.status == 404 {} };
    crate::harness::within(20, found).await;
}

#[tokio::test]
async fn plain_404_is_not_stored() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    for _ in 0..2 {
        assert_eq!(edge.get("/plain").send().await.status, 404);
    }
    assert_eq!(origin.count("/plain"), 2);
}

#[tokio::test]
async fn memory_stays_within_its_budget() {
    const MIB: u64 = 1024 * 1024;
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |config| {
        config.cache.memory = Size(8 * MIB);
        config.cache.max_object = Some(Size(MIB));
    })
    .await;
    origin.script("*", Script::ok(pattern(300_000)));
    for i in 0..100 {
        let script = if i % 2 == 0 { Script::ok(pattern(300_000)) } else { Script::ok(pattern(300_000)).chunked() };
        origin.script("*", script);
        assert!(edge.get(&format!("/a-{i:016x}.bin")).send().await.complete);
        assert!(edge.metric("peerage_memory_used_bytes").await <= 8.0 * 1024.0 * 1024.0);
    }
    let bytes = edge.metric("peerage_cache_bytes{tier=\"main\"}").await;
    // All but the share of flights and the metadata of variants.
    let tier = 8.0 * 1024.0 * 1024.0 * (1.0 - 0.25 - 1.0 / 64.0);
    assert!(bytes <= tier && bytes > tier / 2.0, "{bytes}");
    assert!(edge.metric("peerage_evictions_total{tier=\"main\"}").await > 50.0);
}

#[tokio::test]
async fn copy_up_to_max_object_is_kept_by_an_edge_that_does_not_own_it() {
    const MIB: u64 = 1024 * 1024;
    let origin = Origin::start().await;
    // The hot tier has 2 MiB, and each of its shards holds a quarter of max_object.
    let cluster = Cluster::start(2, &origin, |config| config.cache.memory = Size(16 * MIB)).await;
    for (seed, len) in [100_000, 1_000_000, 2_000_000].into_iter().enumerate() {
        let path = cluster.path_owned_by(1, seed);
        origin.script(&path, Script::ok(pattern(len)));
        assert!(cluster.edges[0].get(&path).send().await.complete);
        let again = cluster.edges[0].get(&path).send().await;
        assert!(again.cache_status().starts_with("edge-1;hit"), "{len}: {}", again.cache_status());
        assert!(again.body == pattern(len));
    }
}

#[tokio::test]
async fn long_headers_count_in_the_memory_budget() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    for i in 0..10 {
        let policy = format!("default-src 'nonce-{i}' {}", "x".repeat(10_000));
        let page = Script::ok("x").header("cache-control", "max-age=100").header("content-security-policy", &policy);
        origin.script(&format!("/{i}"), page);
        assert_eq!(edge.get(&format!("/{i}")).send().await.header("content-security-policy"), policy);
    }
    edge.metric_becomes("peerage_flights", 0.0).await;
    let counted = edge.metric("peerage_memory_used_bytes").await;
    assert!(counted > 100_000.0, "{counted}");
}

#[tokio::test]
async fn body_that_ends_with_its_connection_is_stored_by_no_edge() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("cut off?").until_close());
    let cluster = Cluster::start(2, &origin, |_| {}).await;
    let path = cluster.path_owned_by(1, 1);
    for _ in 0..2 {
        let got = cluster.edges[0].get(&path).send().await;
        assert_eq!(got.text(), "cut off?");
        assert!(!got.cache_status().contains("hit"), "{}", got.cache_status());
    }
    assert_eq!(origin.count(&path), 2);
}

#[tokio::test]
async fn content_length_beside_chunked_coding_is_ignored() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    let raw = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n";
    origin.script("*", Script::raw(raw));
    for path in [HASHED, "/plain"] {
        let got = edge.get(path).send().await;
        assert_eq!(
            (got.complete, got.text(), got.header("content-length") == "3"),
            (true, "0123456789", false),
            "{path}"
        );
    }
    origin.script("/other", Script::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nabc"));
    assert_eq!(edge.get("/other").send().await.status, 502);
}

#[tokio::test]
async fn repeated_content_length_is_forwarded_once() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    for lengths in ["content-length: 5, 5", "content-length: 5\r\ncontent-length: 5", "content-length: 5"] {
        origin
            .script("*", Script::raw(format!("HTTP/1.1 200 OK\r\ncache-control: no-store\r\n{lengths}\r\n\r\nhello")));
        for method in [Method::GET, Method::HEAD, Method::POST] {
            let got = edge.request(method.clone(), "/plain").send().await;
            let values: Vec<_> = got.headers.get_all("content-length").iter().collect();
            assert!(values == ["5"] && got.complete, "{method}, {lengths}: {values:?}");
        }
    }
    origin.script("*", Script::raw("HTTP/1.1 200 OK\r\ncache-control: no-store\r\ncontent-length: 5, 6\r\n\r\n"));
    for method in [Method::GET, Method::HEAD] {
        assert_eq!(edge.request(method, "/plain").send().await.status, 502);
    }
}

#[tokio::test]
async fn content_of_a_get_cannot_shift_responses_between_keys() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script("/a", Script::ok("a").header("cache-control", "max-age=60"));
    origin.script("/evil", Script::ok("evil").header("cache-control", "max-age=60"));
    let inner = "GET /evil HTTP/1.1\r\nhost: x\r\n\r\n";
    let got = edge.get("/a").body(inner).send().await;
    assert_eq!((got.text(), got.cache_status()), ("a", "edge-1;fwd=uri-miss"));
    assert_eq!(origin.seen()[0].body, inner.as_bytes());
    // As a peer or a fill would send it: a length without content.
    for _ in 0..3 {
        assert_eq!(edge.get("/a").send().await.text(), "a");
    }
    assert_eq!(origin.count("/evil"), 0);
}

#[tokio::test]
async fn repeated_and_empty_headers_are_stored() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script(HASHED, Script::ok("x").header("link", "<a>").header("link", "<b>").header("x-empty", ""));
    for _ in 0..2 {
        let got = edge.get(HASHED).send().await;
        let links: Vec<_> = got.headers.get_all("link").iter().collect();
        assert_eq!(links, ["<a>", "<b>"]);
        assert_eq!(got.headers.get("x-empty").unwrap(), "");
    }
}
