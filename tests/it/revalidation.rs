//! Stale responses: revalidated, served during a revalidation, served when the origin fails.

use http::Method;
use tokio::task::JoinHandle;

use crate::client::{FullResponse, RequestBuilder, send_until_accepted};
use crate::harness::{Cluster, TestEdge, single_edge, within};
use crate::origin::{Gate, Origin, Script};

const PAGE: &str = "/page";

/// Returns a response that is fresh for less than a second after its arrival.
fn soon_stale(body: &'static str, control: &str) -> Script {
    Script::ok(body).header("cache-control", &format!("max-age=100, {control}")).header("age", "99").etag("\"v1\"")
}

/// Repeats a request until the origin has received this many requests for the page.
async fn get_until_origin_requests(edge: &TestEdge, origin: &Origin, times: usize) -> FullResponse {
    let asking = async {
        loop {
            let got = edge.get(PAGE).send().await;
            if origin.count(PAGE) >= times {
                break got;
            }
        }
    };
    within(20, asking).await
}

/// Has an edge accept `count` requests, and returns their pending responses.
async fn pending_requests(edge: &TestEdge, count: usize, ask: RequestBuilder) -> Vec<JoinHandle<FullResponse>> {
    let last = edge.get("/nothing").header("cache-control", "only-if-cached");
    within(20, send_until_accepted(vec![ask; count], last)).await
}

#[tokio::test]
async fn stale_response_is_revalidated_and_fresh_again() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script(PAGE, soon_stale("v1", "").header("x-version", "1"));
    assert_eq!(edge.get(PAGE).send().await.cache_status(), "edge-1;fwd=uri-miss;stored");
    // The headers of the 304 replace the stored ones.
    origin
        .script(PAGE, Script::ok("v1").etag("\"v1\"").header("cache-control", "max-age=100").header("x-version", "2"));
    let validated = get_until_origin_requests(&edge, &origin, 2).await;
    assert!(
        validated.cache_status().starts_with("edge-1;fwd=stale;fwd-status=304;ttl="),
        "{}",
        validated.cache_status()
    );
    assert_eq!((validated.status.as_u16(), validated.text(), validated.header("x-version")), (200, "v1", "2"));
    let seen = &origin.seen()[1];
    assert_eq!(seen.header("if-none-match"), Some("\"v1\""));
    let hit = edge.get(PAGE).send().await;
    assert!(hit.cache_status().starts_with("edge-1;hit;ttl=9"), "{}", hit.cache_status());
    assert_eq!((hit.text(), hit.header("content-length"), hit.header("x-version")), ("v1", "2", "2"));
    assert_eq!(origin.count(PAGE), 2);
}

#[tokio::test]
async fn another_representation_replaces_the_stale_one() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script(PAGE, soon_stale("v1", ""));
    edge.get(PAGE).send().await;
    origin.script(PAGE, Script::ok("v2").etag("\"v2\"").header("cache-control", "max-age=100"));
    let replaced = get_until_origin_requests(&edge, &origin, 2).await;
    assert_eq!((replaced.text(), replaced.cache_status()), ("v2", "edge-1;fwd=stale;stored"));
    assert_eq!(edge.get(PAGE).send().await.text(), "v2");
    assert_eq!(origin.count(PAGE), 2);
}

#[tokio::test]
async fn not_modified_for_another_representation_is_retried_without_a_condition() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script(PAGE, soon_stale("v1", ""));
    edge.get(PAGE).send().await;
    let another = || Script::raw("HTTP/1.1 304 Not Modified\r\netag: \"v9\"\r\n\r\n");
    origin.scripts(PAGE, [another(), Script::ok("v9").header("cache-control", "max-age=100")]);
    assert_eq!(get_until_origin_requests(&edge, &origin, 3).await.text(), "v9");
    let conditions: Vec<_> = origin.seen().iter().map(|seen| seen.header("if-none-match").is_some()).collect();
    assert_eq!(conditions, [false, true, false]);
    assert!(edge.get(PAGE).send().await.cache_status().contains(";hit"));
    // A second 304 without a condition is an origin error.
    origin.script("/other", another());
    assert_eq!((edge.get("/other").send().await.status.as_u16(), origin.count("/other")), (502, 2));
}

#[tokio::test]
async fn edge_with_a_newer_copy_than_the_owner_accepts_an_older_response() {
    let dated = |text: &'static str, date: &str| Script::ok(text).header("last-modified", date);
    let origin = Origin::start().await;
    let cluster = Cluster::start(2, &origin, |_| {}).await;
    let (owner, other) = (&cluster.edges[cluster.rank(PAGE)[0]], &cluster.edges[cluster.rank(PAGE)[1]]);
    let newer = dated("newer", "Tue, 03 Nov 2026 10:00:00 GMT");
    origin.script(PAGE, newer.header("cache-control", "max-age=100").header("age", "99"));
    assert_eq!(other.get(PAGE).send().await.text(), "newer");
    let older = dated("older", "Mon, 02 Nov 2026 10:00:00 GMT");
    origin.script(PAGE, older.header("cache-control", "max-age=100"));
    let rolled_back = |edge| async move {
        let asking = async {
            loop {
                let got = TestEdge::get(edge, PAGE).send().await;
                assert_eq!(got.status, 200, "{}", got.cache_status());
                if got.text() == "older" {
                    break;
                }
            }
        };
        within(20, asking).await;
    };
    rolled_back(owner).await;
    rolled_back(other).await;
}

#[tokio::test]
async fn no_cache_request_does_not_join_an_earlier_fill() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    let gate = Gate::closed();
    let page = |text: &'static str| Script::ok(text).header("cache-control", "max-age=100");
    origin.scripts(PAGE, [page("old").hold_body(&gate), page("new")]);
    let mut first = edge.get(PAGE).open().await;
    let newer = within(20, edge.get(PAGE).header("cache-control", "no-cache").send()).await;
    assert_eq!((newer.text(), origin.count(PAGE)), ("new", 2));
    gate.open(10);
    assert_eq!(first.read_at_least(3).await, b"old");
}

#[tokio::test]
async fn concurrent_max_age_0_requests_share_one_fill() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(2, &origin, |_| {}).await;
    let page = Script::ok("new").header("cache-control", "max-age=100");
    for (requests, place) in cluster.rank(PAGE).into_iter().rev().enumerate() {
        let gate = Gate::closed();
        origin.script(PAGE, page.clone().hold_response(&gate));
        let edge = &cluster.edges[place];
        let answers = pending_requests(edge, 20, edge.get(PAGE).header("cache-control", "max-age=0")).await;
        gate.open(20);
        for got in answers {
            assert_eq!(within(20, got).await.unwrap().text(), "new");
        }
        assert_eq!(origin.count(PAGE), requests + 1);
    }
}

#[tokio::test]
async fn condition_is_evaluated_against_the_response_of_its_own_fill() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(2, &origin, |_| {}).await;
    let asks = |edge: &TestEdge, tag| edge.get(PAGE).header("if-none-match", tag).send();
    let page = Script::ok("v1").etag("\"v1\"").header("cache-control", "no-store");
    origin.script(PAGE, page);
    for (i, edge) in cluster.edges.iter().enumerate() {
        assert_eq!(asks(edge, "\"v1\"").await.status, 304, "{i}");
        assert_eq!(asks(edge, "\"v0\"").await.text(), "v1");
    }
    assert_eq!(origin.count(PAGE), 4);
}

#[tokio::test]
async fn headers_added_by_a_304_count_in_the_memory_budget() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script(PAGE, soon_stale("v1", ""));
    edge.get(PAGE).send().await;
    let longer = Script::ok("v1").etag("\"v1\"").header("cache-control", "max-age=100");
    origin.script(PAGE, longer.header("x-long", &"x".repeat(50_000)));
    get_until_origin_requests(&edge, &origin, 2).await;
    let counted = edge.metric("peerage_memory_used_bytes").await;
    assert!((50_000.0..60_000.0).contains(&counted), "{counted}");
    assert_eq!(edge.get(PAGE).send().await.header("x-long").len(), 50_000);
}

#[tokio::test]
async fn many_edges_with_a_stale_copy_cost_one_conditional_request() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(3, &origin, |_| {}).await;
    origin.script(PAGE, soon_stale("v1", ""));
    for edge in &cluster.edges {
        assert_eq!(edge.get(PAGE).send().await.text(), "v1");
    }
    assert_eq!(origin.count(PAGE), 1);
    let fresh = Script::ok("v1").etag("\"v1\"").header("cache-control", "max-age=100");
    let gate = Gate::closed();
    origin.script(PAGE, fresh.hold_response(&gate));
    // Waits until it is stale on each edge.
    let stale = async {
        let wish = |edge: &TestEdge| edge.get(PAGE).header("cache-control", "only-if-cached").send();
        for edge in &cluster.edges {
            while wish(edge).await.status == 200 {}
        }
    };
    within(20, stale).await;
    let mut answers = Vec::new();
    for edge in &cluster.edges {
        answers.extend(pending_requests(edge, 10, edge.get(PAGE)).await);
    }
    gate.open(30);
    for got in answers {
        assert_eq!(within(20, got).await.unwrap().text(), "v1");
    }
    assert_eq!(origin.count(PAGE), 2);
    assert_eq!(origin.seen()[1].header("if-none-match"), Some("\"v1\""));
}

#[tokio::test]
async fn stale_response_is_served_at_once_while_it_is_revalidated() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script(PAGE, soon_stale("v1", "stale-while-revalidate=60"));
    edge.get(PAGE).send().await;
    let slow = Script::ok("v2").etag("\"v2\"").header("cache-control", "max-age=100");
    let gate = Gate::closed();
    origin.script(PAGE, slow.hold_response(&gate));
    let stale = get_until_origin_requests(&edge, &origin, 2).await;
    assert_eq!(stale.text(), "v1");
    // One revalidation at a time, however many requests come.
    for _ in 0..5 {
        let got = edge.get(PAGE).send().await;
        assert!(got.text() == "v1" && got.cache_status().starts_with("edge-1;hit;ttl="), "{}", got.cache_status());
    }
    gate.open(1);
    let replaced = async { while edge.get(PAGE).send().await.text() == "v1" {} };
    within(20, replaced).await;
    assert_eq!(origin.count(PAGE), 2);
    assert!(edge.metric("peerage_requests_total{source=\"client\",result=\"stale\"}").await > 0.9);
}

#[tokio::test]
async fn stale_response_is_served_when_the_origin_fails_if_allowed() {
    for (control, does) in
        [("stale-if-error=60", true), ("stale-if-error=60, must-revalidate", false), ("public", false)]
    {
        let origin = Origin::start().await;
        let edge = single_edge(&origin, |_| {}).await;
        origin.script(PAGE, soon_stale("v1", control));
        edge.get(PAGE).send().await;
        origin.script(PAGE, Script::status(503));
        let got = get_until_origin_requests(&edge, &origin, 2).await;
        assert_eq!(got.status == 200, does, "{control}: {}", got.status);
        if does {
            assert!(got.cache_status().starts_with("edge-1;fwd=stale;fwd-status=503;ttl="), "{}", got.cache_status());
            origin.script(PAGE, Script::raw(""));
            let got = edge.get(PAGE).send().await;
            assert_eq!((got.status.as_u16(), got.text()), (200, "v1"));
            assert!(got.cache_status().ends_with(";detail=origin-broke-off"), "{}", got.cache_status());
        }
    }
}

#[tokio::test]
async fn cache_control_of_a_request_is_honoured() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script(PAGE, Script::ok("v1").etag("\"v1\"").header("cache-control", "max-age=100").header("age", "50"));
    let wish = |control: &str| edge.get(PAGE).header("cache-control", control).send();
    assert_eq!(wish("only-if-cached").await.status, 504);
    assert_eq!(origin.count(PAGE), 0);
    assert_eq!(edge.get(PAGE).send().await.cache_status(), "edge-1;fwd=uri-miss;stored");
    for (control, hit) in [
        ("only-if-cached", true),
        ("max-age=90", true),
        ("max-age=10", false),
        ("min-fresh=10", true),
        ("min-fresh=90", false),
        ("max-stale", true),
        ("no-store", true),
        ("no-cache", false),
    ] {
        let got = wish(control).await;
        assert_eq!((got.status.as_u16(), got.text()), (200, "v1"));
        let expected = if hit { "edge-1;hit;" } else { "edge-1;fwd=request;fwd-status=304;" };
        assert!(got.cache_status().starts_with(expected), "{control}: {}", got.cache_status());
    }
    assert!(edge.get(PAGE).header("pragma", "no-cache").send().await.cache_status().contains("fwd=request"));
    assert_eq!(wish("only-if-cached, max-age=10").await.status, 504);
    // With no-store in the request, the response is not stored.
    origin.script("/secret", Script::ok("x").header("cache-control", "max-age=100"));
    for _ in 0..2 {
        let got = edge.get("/secret").header("cache-control", "no-store").send().await;
        assert_eq!(got.cache_status(), "edge-1;fwd=uri-miss");
    }
}

#[tokio::test]
async fn verified_name_is_not_revalidated() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    let asset = "/v2/x/blobs/sha256:6ec9c2b0eb14010746c8bce8939303b382344b296206612eb8a907a37b2b2f37";
    origin.script(asset, Script::ok("pixels").etag("\"v1\"").header("cache-control", "max-age=1").header("age", "9"));
    edge.get(asset).send().await;
    for control in ["no-cache", "max-age=0", "min-fresh=99999999"] {
        assert!(edge.get(asset).header("cache-control", control).send().await.cache_status().contains(";hit"));
    }
    assert_eq!(origin.count(asset), 1);
}

#[tokio::test]
async fn conditional_request_for_a_stale_response_is_answered_after_revalidation() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script(PAGE, soon_stale("v1", ""));
    edge.get(PAGE).send().await;
    origin.script(PAGE, Script::ok("v1").etag("\"v1\"").header("cache-control", "max-age=100"));
    let asking = async {
        loop {
            let got = edge.get(PAGE).header("if-none-match", "\"v1\"").send().await;
            assert_eq!((got.status.as_u16(), got.body.len()), (304, 0));
            if origin.count(PAGE) == 2 {
                break;
            }
        }
    };
    within(20, asking).await;
    assert_eq!(edge.request(Method::HEAD, PAGE).send().await.header("content-length"), "2");
    assert_eq!(origin.count(PAGE), 2);
}
