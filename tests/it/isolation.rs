//! Isolation of clients: an unusual request or response changes no response to others.

use http::Method;
use peerage::config::{ImmutableConfig, Size};
use peerage::semantics::digest::Algorithm;
use sha2::{Digest, Sha256};

use crate::client::{FullResponse, RequestBuilder};
use crate::harness::{Cluster, pattern, single_edge, within};
use crate::origin::{Gate, Origin, Script};
use crate::verification::{is_owned_by, with_scripted_peer};

const PAGE: &str = "/page";

fn with_digest_names(config: &mut peerage::Config) {
    config.immutable = vec![ImmutableConfig::path("/**/*-{hash}.*", Some(Algorithm::Sha256))];
}

fn name(body: &[u8]) -> String {
    let hex: String = Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("/blob-{hex}.bin")
}

/// Returns a page that is fresh for a minute and has an entity tag.
fn page(text: &'static str) -> Script {
    Script::ok(text).header("cache-control", "max-age=60").etag("\"v1\"")
}

fn is_hit(got: &FullResponse) -> bool {
    got.cache_status().contains(";hit")
}

#[tokio::test]
async fn revalidation_with_a_cookie_answers_no_request_with_another_cookie() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    let page = Script::ok("alice's").header("cache-control", "no-cache").etag("\"alice\"");
    origin.script(PAGE, page.clone());
    edge.get(PAGE).send().await;
    let gate = Gate::closed();
    origin.scripts(PAGE, [page.hold_response(&gate), Script::ok("carol's")]);
    let alice = tokio::spawn(edge.get(PAGE).header("cookie", "alice").send());
    origin.arrived(2).await;
    let carol = tokio::spawn(edge.get(PAGE).header("cookie", "carol").send());
    edge.metric_becomes("peerage_flight_readers", 2.0).await;
    gate.open(1);
    let (alice, carol) = within(20, async { tokio::join!(alice, carol) }).await;
    assert_eq!((alice.unwrap().text(), carol.unwrap().text()), ("alice's", "carol's"));
}

#[tokio::test]
async fn head_with_unknown_headers_changes_no_stored_response() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script(PAGE, page("v1"));
    edge.get(PAGE).send().await;
    origin.script(PAGE, page("v1").header("link", "<https://evil/>"));
    let evil = |ask: RequestBuilder| ask.header("x-forwarded-scheme", "evil").header("cache-control", "no-cache");
    evil(edge.request(Method::HEAD, PAGE)).send().await;
    let seen = origin.seen().pop().unwrap();
    assert_eq!((seen.header("x-forwarded-scheme"), seen.header("x-forwarded-host")), (None, None));
    // A HEAD that is forwarded with headers of its client updates nothing.
    let got = edge.get(PAGE).send().await;
    assert!(is_hit(&got));
    origin.script(PAGE, page("v1").header("link", "<https://worse/>"));
    evil(edge.request(Method::HEAD, PAGE)).header("if-none-match", "\"x\"").send().await;
    assert_eq!(origin.seen().pop().unwrap().header("if-none-match"), Some("\"x\""));
    assert_eq!(edge.get(PAGE).send().await.header("link"), got.header("link"));
}

#[tokio::test]
async fn head_without_a_validator_refreshes_nothing() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    let chunked = |text: &'static str| Script::ok(text).chunked().header("cache-control", "max-age=100");
    origin.script(PAGE, chunked("v1").header("age", "99"));
    edge.get(PAGE).send().await;
    let stale = async { while edge.get(PAGE).header("cache-control", "only-if-cached").send().await.status == 200 {} };
    within(20, stale).await;
    origin.script(PAGE, chunked("v2"));
    edge.request(Method::HEAD, PAGE).send().await;
    assert_eq!(edge.get(PAGE).send().await.text(), "v2");
}

#[tokio::test]
async fn response_that_begins_to_vary_is_no_longer_shared() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script(PAGE, page("alice's"));
    edge.get(PAGE).header("cookie", "alice").send().await;
    origin.script(PAGE, page("alice's").header("vary", "cookie"));
    edge.get(PAGE).header("cookie", "alice").header("cache-control", "no-cache").send().await;
    origin.script(PAGE, page("bob's").header("vary", "cookie"));
    assert_eq!(edge.get(PAGE).header("cookie", "bob").send().await.text(), "bob's");
}

#[tokio::test]
async fn hop_by_hop_headers_of_a_304_are_not_stored() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    let script = page("v1").header("connection", "keep-alive, x-conn").header("keep-alive", "timeout=5");
    origin.script(PAGE, script.header("x-conn", "1").header("upgrade", "h2c"));
    edge.get(PAGE).send().await;
    let validated = edge.get(PAGE).header("cache-control", "no-cache").send().await;
    assert!(validated.cache_status().contains("fwd-status=304"));
    for got in [validated, edge.get(PAGE).send().await] {
        assert_eq!(["keep-alive", "x-conn", "upgrade"].map(|field| got.header(field).to_owned()), [""; 3]);
    }
}

#[tokio::test]
async fn coded_response_or_credentials_mark_no_name_as_wrong() {
    let body = pattern(1000);
    let path = name(&body);
    for credentials in [true, false] {
        let origin = Origin::start().await;
        let edge = single_edge(&origin, with_digest_names).await;
        let coded = Script::ok("gzipped").header("content-encoding", "gzip").header("vary", "accept-encoding");
        origin.script(&path, coded.header("cache-control", "public, max-age=9"));
        let ask = edge.get(&path).header("accept-encoding", "gzip").header("cookie", "c");
        let ask =
            if credentials { ask.header("authorization", "Basic x") } else { ask.header("cache-control", "no-store") };
        assert_eq!(ask.send().await.text(), "gzipped");
        if credentials {
            let seen = &origin.seen()[0];
            assert_eq!(seen.header("authorization"), Some("Basic x"));
            assert_eq!((seen.header("accept-encoding"), seen.header("cookie")), (Some("identity"), None));
        }
        origin.script(&path, Script::ok(body.clone()));
        let got = edge.get(&path).send().await;
        assert!(got.status == 200 && got.body == body, "{}", got.cache_status());
    }
}

#[tokio::test]
async fn content_digest_is_sent_with_the_whole_content_alone() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    let digest = format!("sha-256=:{}:", data_encoding::BASE64.encode(&Sha256::digest(b"0123456789")));
    let script = |control: &str| {
        Script::ok("0123456789").header("cache-control", control).header("content-digest", &digest).etag("\"a\"")
    };
    origin.script(PAGE, script("max-age=60"));
    assert_eq!(edge.get(PAGE).send().await.header("content-digest"), digest);
    for (range, status) in [("bytes=1-2", 206), ("bytes=100-", 416)] {
        let got = edge.get(PAGE).header("range", range).send().await;
        assert_eq!((got.status.as_u16(), got.header("content-digest")), (status, ""));
    }
    origin.script("/pass", script("no-store"));
    assert_eq!(edge.get("/pass").header("if-none-match", "\"a\"").send().await.status, 304);
}

#[tokio::test]
async fn reader_that_falls_out_of_the_window_resumes_under_a_verified_name() {
    let origin = Origin::start().await;
    let body = pattern(24 << 20);
    let edge = single_edge(&origin, |config| {
        with_digest_names(config);
        config.cache.memory = Size(16 << 20);
        config.cache.max_object = Some(Size(2 << 20));
    })
    .await;
    let path = name(&body);
    let gate = Gate::closed();
    origin.script(&path, Script::ok(body.clone()).chunked().hold_body(&gate));
    gate.open(1_000_000);
    let behind = edge.get(&path).open().await;
    let fast = edge.get(&path).open().await;
    gate.open(4 * body.len());
    for open in [fast, behind] {
        let got = within(60, open.rest()).await;
        assert!(got.complete && got.body == body, "{} bytes", got.body.len());
    }
}

#[tokio::test]
async fn write_invalidates_a_fill_of_an_unknown_variant() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    let varies = |text: &'static str| page(text).header("vary", "x-a");
    origin.script(PAGE, varies("one"));
    edge.get(PAGE).header("x-a", "1").send().await;
    let gate = Gate::closed();
    origin.script(PAGE, varies("old").hold_response(&gate));
    let slow = tokio::spawn(edge.get(PAGE).header("x-a", "2").send());
    origin.arrived(2).await;
    origin.script(PAGE, varies("new"));
    within(20, edge.request(Method::POST, PAGE).send()).await;
    gate.open(1);
    slow.await.unwrap();
    assert_eq!(edge.get(PAGE).header("x-a", "2").send().await.text(), "new");
}

#[tokio::test]
async fn error_to_one_request_keeps_the_stored_response() {
    for (case, answer, credentials) in
        [("401", Script::status(401), true), ("400", Script::status(400), false), ("304", page("v1"), true)]
    {
        let origin = Origin::start().await;
        let edge = single_edge(&origin, |_| {}).await;
        origin.script(PAGE, page("v1"));
        edge.get(PAGE).send().await;
        origin.script(PAGE, answer);
        let odd = edge.get(PAGE).header("cache-control", "no-cache");
        let odd = if credentials { odd.header("authorization", "Basic x") } else { odd };
        odd.send().await;
        assert_eq!(origin.count(PAGE), 2, "{case}");
        assert!(is_hit(&edge.get(PAGE).send().await), "{case}");
    }
    // Nor does such an error mark a name that has no stored response.
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.scripts(PAGE, [Script::status(400), page("v1")]);
    assert_eq!(edge.get(PAGE).header("x-odd", "1").send().await.status, 400);
    assert!(edge.get(PAGE).send().await.cache_status().contains(";stored"));
}

#[tokio::test]
async fn request_near_the_header_limit_is_answered_through_the_owner() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(2, &origin, |config| {
        config.limits.header = Size(8 * 1024);
        config.origin.forward = vec!["X-Long".to_owned()];
    })
    .await;
    let path = (0..1000).map(|i| format!("/plain/{i}")).find(|path| cluster.rank(path)[0] == 1).unwrap();
    origin.script("*", Script::ok("x").header("cache-control", "max-age=60"));
    cluster.edges[1].get(&path).send().await;
    let asks =
        |len: usize| cluster.edges[0].get(&path).header("x-long", &"k".repeat(len)).header("cache-control", "no-cache");
    let mut longest = 0;
    for len in (7900..8192).step_by(8) {
        let got = asks(len).send().await;
        assert!(got.status == 200 || got.cache_status() == "edge-1;detail=header-too-large", "{len}: {}", got.status);
        longest = if got.status == 200 { len } else { longest };
    }
    assert!(longest > 8000);
    assert!(is_hit(&cluster.edges[0].get(&path).send().await));
}

/// HTTP/1.1 libraries accept about a hundred headers. Headers that an edge adds must not exceed
/// that.
#[tokio::test]
async fn hundred_headers_pass_through_the_owner() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(2, &origin, |_| {}).await;
    let path = (0..1000).map(|i| format!("/plain/{i}")).find(|path| cluster.rank(path)[0] == 1).unwrap();
    origin.script("*", Script::ok("x").header("cache-control", "max-age=60"));
    for (number, status) in [(100, 200), (101, 431)] {
        // Host is one of them; Cache-Control forces a fetch.
        let ask = cluster.edges[0].get(&path).header("cache-control", "no-cache");
        let ask = (2..number).fold(ask, |ask, i| ask.header("x-field", &i.to_string()));
        assert_eq!(ask.send().await.status, status, "{number}");
        let ask = cluster.edges[0].get(&path).header("cache-control", "no-cache");
        let ask = (1..number).fold(ask, |ask, i| ask.header("x-field", &i.to_string()));
        assert_eq!(ask.http2().send().await.status, status, "{number} over HTTP/2");
    }
    let many = (0..95).fold(Script::ok("many"), |script, i| script.header("x-field", &i.to_string()));
    origin.script("*", many.header("cache-control", "max-age=60"));
    for i in 0..2 {
        // Over HTTP/1.1, this client itself accepts a hundred headers only.
        let got = cluster.edges[i].get("/plain/many").http2().send().await;
        assert_eq!((got.status.as_u16(), got.headers.get_all("x-field").iter().count()), (200, 95));
    }
    assert_eq!(origin.count("/plain/many"), 1);
}

#[tokio::test]
async fn old_variants_make_room_for_new_ones() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |config| config.cache.variants = 4).await;
    origin.script(PAGE, page("x").header("vary", "accept-language"));
    for number in 0..4 {
        edge.get(PAGE).header("accept-language", &format!("x{number}")).send().await;
    }
    edge.get(PAGE).header("accept-language", "en").send().await;
    assert!(is_hit(&edge.get(PAGE).header("accept-language", "en").send().await));
    assert_eq!(origin.count(PAGE), 5);
}

#[tokio::test]
async fn range_and_condition_of_a_request_with_credentials_are_forwarded() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script("*", Script::ok(pattern(1000)).with_ranges().etag("\"a\""));
    let private = |ask: RequestBuilder| ask.header("authorization", "Basic x");
    for _ in 0..2 {
        assert_eq!(private(edge.get(PAGE)).header("range", "bytes=900-").send().await.status, 206);
        assert_eq!(private(edge.get(PAGE)).header("if-none-match", "\"a\"").send().await.status, 304);
    }
    private(edge.request(Method::HEAD, "/logo-0123456789abcdef.png")).send().await;
    let seen = origin.seen();
    assert_eq!(seen.len(), 5);
    assert_eq!(seen[4].method, "HEAD");
}

#[tokio::test]
async fn response_that_changes_rarely_is_stored_and_revalidated() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    let version = |tag: &str| Script::ok(tag.to_owned()).header("cache-control", "no-cache").etag(tag);
    origin.script(PAGE, version("\"v1\""));
    for _ in 0..3 {
        edge.get(PAGE).send().await;
    }
    // It was unchanged twice: a new version is stored, and revalidated the next time.
    origin.script(PAGE, version("\"v2\""));
    assert!(edge.get(PAGE).send().await.cache_status().contains(";stored"));
    assert!(edge.get(PAGE).send().await.cache_status().contains("fwd-status=304"));
    // A response that differs each time is not stored for a while.
    origin.scripts(PAGE, ["\"v3\"", "\"v4\"", "\"v5\"", "\"v6\""].map(version));
    edge.get(PAGE).send().await;
    edge.get(PAGE).send().await;
    assert!(edge.get(PAGE).send().await.cache_status().contains(";fwd=bypass"));
}

#[tokio::test]
async fn response_with_stale_while_revalidate_stays_stored_when_it_changes() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    let version = |tag: &str| {
        Script::ok(tag.to_owned()).header("cache-control", "max-age=0, stale-while-revalidate=60").etag(tag)
    };
    origin.script(PAGE, version("\"v1\""));
    edge.get(PAGE).send().await;
    origin.script(PAGE, version("\"v2\""));
    let replaced = async {
        loop {
            let got = edge.get(PAGE).send().await;
            assert!(is_hit(&got), "{}", got.cache_status());
            if got.text() == "\"v2\"" {
                break;
            }
        }
    };
    within(20, replaced).await;
}

#[tokio::test]
async fn requests_after_a_slow_response_became_stale_share_the_next_fill() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    let gate = Gate::closed();
    let slow = Script::ok(pattern(1000)).header("cache-control", "max-age=100").header("age", "99").hold_body(&gate);
    let fresh = Script::ok(pattern(1000)).header("cache-control", "max-age=100").hold_body(&gate);
    origin.scripts(PAGE, [slow, fresh]);
    let first = edge.get(PAGE).open().await;
    let stale = async {
        while origin.count(PAGE) == 1 {
            edge.get(PAGE).open().await;
        }
    };
    within(20, stale).await;
    for _ in 0..5 {
        edge.get(PAGE).open().await;
    }
    assert_eq!(origin.count(PAGE), 2);
    gate.open(1_000_000);
    assert!(within(20, first.rest()).await.complete);
}

#[tokio::test]
async fn coded_body_that_cannot_be_verified_is_not_stored_under_a_verified_name() {
    let body = pattern(1000);
    let path = name(&body);
    for (coding, kept) in [("gzip", false), ("aws-chunked", false), ("identity", true)] {
        let origin = Origin::start().await;
        let edge = single_edge(&origin, with_digest_names).await;
        let sent = if kept { body.clone() } else { "coded".into() };
        origin.script(&path, Script::ok(sent.clone()).header("content-encoding", coding));
        for turn in 0..2 {
            let got = edge.get(&path).send().await;
            assert_eq!((got.status.as_u16(), &got.body), (200, &sent), "{coding}");
            assert_eq!(is_hit(&got), kept && turn == 1, "{coding}: {}", got.cache_status());
        }
    }
}

#[tokio::test]
async fn headers_of_a_revalidation_with_credentials_are_not_shared() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script(PAGE, Script::ok("v1").header("cache-control", "public, max-age=60").etag("\"v1\""));
    edge.get(PAGE).send().await;
    origin.script(PAGE, page("v1").header("x-user", "alice"));
    let alice = edge.get(PAGE).header("authorization", "Basic alice").header("cache-control", "no-cache").send().await;
    assert!(alice.text() == "v1" && alice.cache_status().contains("fwd-status=304"), "{}", alice.cache_status());
    let got = edge.get(PAGE).send().await;
    assert!(is_hit(&got) && got.header("x-user").is_empty());
}

/// A response that another cache revalidated earlier does not satisfy a later request for
/// revalidation.
#[tokio::test]
async fn no_cache_request_does_not_share_an_earlier_revalidation_of_a_peer() {
    let origin = Origin::start().await;
    let (edge, peer) = with_scripted_peer(&origin, |_| {}).await;
    let path = (0..1000).map(|i| format!("/plain/{i}")).find(|path| is_owned_by(&edge, &peer, path)).unwrap();
    let old = Script::ok("old").etag("\"a\"").header("age", "5");
    let old = old.header("cache-control", "max-age=1, stale-while-revalidate=60");
    origin.script("*", Script::ok("new").header("cache-control", "max-age=60"));
    let gate = Gate::closed();
    peer.scripts(&path, [old.clone(), old.acknowledged().hold_response(&gate)]);
    assert_eq!(edge.get(&path).send().await.text(), "old");
    // The peer is asked in the background,
    assert_eq!(edge.get(&path).send().await.text(), "old");
    edge.metric_becomes("peerage_flights", 1.0).await;
    // and this request comes meanwhile.
    let newer = tokio::spawn(edge.get(&path).header("cache-control", "no-cache").send());
    edge.metric_becomes("peerage_flight_readers", 1.0).await;
    gate.open(1);
    assert_eq!(within(20, newer).await.unwrap().text(), "new");
}

#[tokio::test]
async fn stale_response_to_a_max_stale_request_is_not_shared() {
    let origin = Origin::start().await;
    let (edge, peer) = with_scripted_peer(&origin, |_| {}).await;
    let path = (0..1000).map(|i| format!("/plain/{i}")).find(|path| is_owned_by(&edge, &peer, path)).unwrap();
    let old = Script::ok("old").header("age", "5").header("cache-control", "max-age=1, stale-if-error=60");
    origin.script("*", Script::ok("new"));
    let gate = Gate::closed();
    peer.scripts(&path, [old.acknowledged().hold_response(&gate)]);
    let leader = tokio::spawn(edge.get(&path).header("cache-control", "max-stale").send());
    edge.metric_becomes("peerage_flight_readers", 1.0).await;
    let other = tokio::spawn(edge.get(&path).send());
    edge.metric_becomes("peerage_flight_readers", 2.0).await;
    gate.open(1);
    assert_eq!(within(20, other).await.unwrap().text(), "new");
    assert_eq!(leader.await.unwrap().text(), "old");
}

#[tokio::test]
async fn large_non_200_is_delivered_whole_to_a_slow_reader() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |config| config.cache.max_object = Some(Size(1 << 20))).await;
    let path = "/large-0492830483.bin";
    let large = Script::ok(pattern(16 << 20)).with_status(404);
    let gate = Gate::closed();
    origin.script(path, large.hold_response(&gate));
    let [slow, fast] = [edge.get(path), edge.get(path)].map(|ask| tokio::spawn(ask.open()));
    edge.metric_becomes("peerage_flight_readers", 2.0).await;
    gate.open(2);
    let mut slow = slow.await.unwrap();
    slow.read_at_least(1000).await;
    assert!(fast.await.unwrap().rest().await.complete);
    assert!(slow.rest().await.complete);
}
