//! Stale responses: validated, served meanwhile, served for want of better.

use http::Method;
use tokio::task::JoinHandle;

use crate::client::{Ask, Got, taken};
use crate::harness::{Cluster, Running, alone, within};
use crate::origin::{Gate, Origin, Script};

const PAGE: &str = "/page";

/// Fresh for less than a second more when it comes.
fn soon_stale(body: &'static str, control: &str) -> Script {
    Script::ok(body).field("cache-control", &format!("max-age=100, {control}")).field("age", "99").tag("\"v1\"")
}

/// Asks until the origin has seen so many requests for the page.
async fn until_asked(edge: &Running, origin: &Origin, times: usize) -> Got {
    let asking = async {
        loop {
            let got = edge.get(PAGE).get().await;
            if origin.count(PAGE) >= times {
                break got;
            }
        }
    };
    within(20, asking).await
}

/// Has an edge take as many requests as `ask`; what will come of each.
async fn waiting(edge: &Running, count: usize, ask: Ask) -> Vec<JoinHandle<Got>> {
    let last = edge.get("/nothing").field("cache-control", "only-if-cached");
    within(20, taken(vec![ask; count], last)).await
}

#[tokio::test]
async fn a_stale_response_is_validated_and_fresh_again() {
    let origin = Origin::start().await;
    let edge = alone(&origin, |_| {}).await;
    origin.script(PAGE, soon_stale("v1", "").field("x-version", "1"));
    assert_eq!(edge.get(PAGE).get().await.cache_status(), "edge-1;fwd=uri-miss;stored");
    // What a 304 says is taken over.
    origin.script(PAGE, Script::ok("v1").tag("\"v1\"").field("cache-control", "max-age=100").field("x-version", "2"));
    let validated = until_asked(&edge, &origin, 2).await;
    assert!(
        validated.cache_status().starts_with("edge-1;fwd=stale;fwd-status=304;ttl="),
        "{}",
        validated.cache_status()
    );
    assert_eq!((validated.status.as_u16(), validated.text(), validated.field("x-version")), (200, "v1", "2"));
    let seen = &origin.seen()[1];
    assert_eq!(seen.field("if-none-match"), Some("\"v1\""));
    let hit = edge.get(PAGE).get().await;
    assert!(hit.cache_status().starts_with("edge-1;hit;ttl=9"), "{}", hit.cache_status());
    assert_eq!((hit.text(), hit.field("content-length"), hit.field("x-version")), ("v1", "2", "2"));
    assert_eq!(origin.count(PAGE), 2);
}

#[tokio::test]
async fn another_representation_replaces_what_was_stale() {
    let origin = Origin::start().await;
    let edge = alone(&origin, |_| {}).await;
    origin.script(PAGE, soon_stale("v1", ""));
    edge.get(PAGE).get().await;
    origin.script(PAGE, Script::ok("v2").tag("\"v2\"").field("cache-control", "max-age=100"));
    let replaced = until_asked(&edge, &origin, 2).await;
    assert_eq!((replaced.text(), replaced.cache_status()), ("v2", "edge-1;fwd=stale;stored"));
    assert_eq!(edge.get(PAGE).get().await.text(), "v2");
    assert_eq!(origin.count(PAGE), 2);
}

#[tokio::test]
async fn a_304_for_another_representation_is_no_answer() {
    let origin = Origin::start().await;
    let edge = alone(&origin, |_| {}).await;
    origin.script(PAGE, soon_stale("v1", ""));
    edge.get(PAGE).get().await;
    let another = || Script::raw("HTTP/1.1 304 Not Modified\r\netag: \"v9\"\r\n\r\n");
    origin.scripts(PAGE, [another(), Script::ok("v9").field("cache-control", "max-age=100")]);
    assert_eq!(until_asked(&edge, &origin, 3).await.text(), "v9");
    let conditions: Vec<_> = origin.seen().iter().map(|seen| seen.field("if-none-match").is_some()).collect();
    assert_eq!(conditions, [false, true, false]);
    assert!(edge.get(PAGE).get().await.cache_status().contains(";hit"));
    // Twice is no mistake any more.
    origin.script("/other", another());
    assert_eq!((edge.get("/other").get().await.status.as_u16(), origin.count("/other")), (502, 2));
}

#[tokio::test]
async fn an_edge_whose_copy_is_newer_than_the_owners_goes_on() {
    let dated = |text: &'static str, date: &str| Script::ok(text).field("last-modified", date);
    let origin = Origin::start().await;
    let cluster = Cluster::start(2, &origin, |_| {}).await;
    let (owner, other) = (&cluster.edges[cluster.rank(PAGE)[0]], &cluster.edges[cluster.rank(PAGE)[1]]);
    let newer = dated("newer", "Tue, 03 Nov 2026 10:00:00 GMT");
    origin.script(PAGE, newer.field("cache-control", "max-age=100").field("age", "99"));
    assert_eq!(other.get(PAGE).get().await.text(), "newer");
    let older = dated("older", "Mon, 02 Nov 2026 10:00:00 GMT");
    origin.script(PAGE, older.field("cache-control", "max-age=100"));
    let rolled_back = |edge| async move {
        let asking = async {
            loop {
                let got = Running::get(edge, PAGE).get().await;
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
async fn who_wants_it_newer_does_not_join_what_began_before() {
    let origin = Origin::start().await;
    let edge = alone(&origin, |_| {}).await;
    let gate = Gate::closed();
    let page = |text: &'static str| Script::ok(text).field("cache-control", "max-age=100");
    origin.scripts(PAGE, [page("old").gate(&gate), page("new")]);
    let mut first = edge.get(PAGE).open().await;
    let newer = within(20, edge.get(PAGE).field("cache-control", "no-cache").get()).await;
    assert_eq!((newer.text(), origin.count(PAGE)), ("new", 2));
    gate.open(10);
    assert_eq!(first.bytes(3).await, b"old");
}

#[tokio::test]
async fn many_who_want_it_newer_at_a_time_share_what_comes() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(2, &origin, |_| {}).await;
    let page = Script::ok("new").field("cache-control", "max-age=100");
    for (requests, place) in cluster.rank(PAGE).into_iter().rev().enumerate() {
        let gate = Gate::closed();
        origin.script(PAGE, page.clone().hold(&gate));
        let edge = &cluster.edges[place];
        let answers = waiting(edge, 20, edge.get(PAGE).field("cache-control", "max-age=0")).await;
        gate.open(20);
        for got in answers {
            assert_eq!(within(20, got).await.unwrap().text(), "new");
        }
        assert_eq!(origin.count(PAGE), requests + 1);
    }
}

#[tokio::test]
async fn a_condition_is_answered_from_what_its_own_fill_brought() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(2, &origin, |_| {}).await;
    let asks = |edge: &Running, tag| edge.get(PAGE).field("if-none-match", tag).get();
    let page = Script::ok("v1").tag("\"v1\"").field("cache-control", "no-store");
    origin.script(PAGE, page);
    for (i, edge) in cluster.edges.iter().enumerate() {
        assert_eq!(asks(edge, "\"v1\"").await.status, 304, "{i}");
        assert_eq!(asks(edge, "\"v0\"").await.text(), "v1");
    }
    assert_eq!(origin.count(PAGE), 4);
}

#[tokio::test]
async fn what_a_304_adds_is_counted() {
    let origin = Origin::start().await;
    let edge = alone(&origin, |_| {}).await;
    origin.script(PAGE, soon_stale("v1", ""));
    edge.get(PAGE).get().await;
    let longer = Script::ok("v1").tag("\"v1\"").field("cache-control", "max-age=100");
    origin.script(PAGE, longer.field("x-long", &"x".repeat(50_000)));
    until_asked(&edge, &origin, 2).await;
    let counted = edge.metric("peerage_memory_used_bytes").await;
    assert!((50_000.0..60_000.0).contains(&counted), "{counted}");
    assert_eq!(edge.get(PAGE).get().await.field("x-long").len(), 50_000);
}

#[tokio::test]
async fn many_edges_with_a_stale_copy_cost_one_conditional_request() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(3, &origin, |_| {}).await;
    origin.script(PAGE, soon_stale("v1", ""));
    for edge in &cluster.edges {
        assert_eq!(edge.get(PAGE).get().await.text(), "v1");
    }
    assert_eq!(origin.count(PAGE), 1);
    let fresh = Script::ok("v1").tag("\"v1\"").field("cache-control", "max-age=100");
    let gate = Gate::closed();
    origin.script(PAGE, fresh.hold(&gate));
    // By now it is stale on all of them: this observes it on one.
    let stale = async {
        let wish = |edge: &Running| edge.get(PAGE).field("cache-control", "only-if-cached").get();
        for edge in &cluster.edges {
            while wish(edge).await.status == 200 {}
        }
    };
    within(20, stale).await;
    let mut answers = Vec::new();
    for edge in &cluster.edges {
        answers.extend(waiting(edge, 10, edge.get(PAGE)).await);
    }
    gate.open(30);
    for got in answers {
        assert_eq!(within(20, got).await.unwrap().text(), "v1");
    }
    assert_eq!(origin.count(PAGE), 2);
    assert_eq!(origin.seen()[1].field("if-none-match"), Some("\"v1\""));
}

#[tokio::test]
async fn while_it_is_validated_a_stale_response_is_served_at_once() {
    let origin = Origin::start().await;
    let edge = alone(&origin, |_| {}).await;
    origin.script(PAGE, soon_stale("v1", "stale-while-revalidate=60"));
    edge.get(PAGE).get().await;
    let slow = Script::ok("v2").tag("\"v2\"").field("cache-control", "max-age=100");
    let gate = Gate::closed();
    origin.script(PAGE, slow.hold(&gate));
    let stale = until_asked(&edge, &origin, 2).await;
    assert_eq!(stale.text(), "v1");
    // One at a time, however many ask.
    for _ in 0..5 {
        let got = edge.get(PAGE).get().await;
        assert!(got.text() == "v1" && got.cache_status().starts_with("edge-1;hit;ttl="), "{}", got.cache_status());
    }
    gate.open(1);
    let replaced = async { while edge.get(PAGE).get().await.text() == "v1" {} };
    within(20, replaced).await;
    assert_eq!(origin.count(PAGE), 2);
    assert!(edge.metric("peerage_requests_total{source=\"client\",result=\"stale\"}").await > 0.9);
}

#[tokio::test]
async fn when_the_origin_fails_a_stale_response_may_do() {
    for (control, does) in
        [("stale-if-error=60", true), ("stale-if-error=60, must-revalidate", false), ("public", false)]
    {
        let origin = Origin::start().await;
        let edge = alone(&origin, |_| {}).await;
        origin.script(PAGE, soon_stale("v1", control));
        edge.get(PAGE).get().await;
        origin.script(PAGE, Script::status(503));
        let got = until_asked(&edge, &origin, 2).await;
        assert_eq!(got.status == 200, does, "{control}: {}", got.status);
        if does {
            assert!(got.cache_status().starts_with("edge-1;fwd=stale;fwd-status=503;ttl="), "{}", got.cache_status());
            origin.script(PAGE, Script::raw(""));
            let got = edge.get(PAGE).get().await;
            assert_eq!((got.status.as_u16(), got.text()), (200, "v1"));
            assert!(got.cache_status().ends_with(";detail=origin-broke-off"), "{}", got.cache_status());
        }
    }
}

#[tokio::test]
async fn what_a_request_wishes_of_a_stored_response() {
    let origin = Origin::start().await;
    let edge = alone(&origin, |_| {}).await;
    origin.script(PAGE, Script::ok("v1").tag("\"v1\"").field("cache-control", "max-age=100").field("age", "50"));
    let wish = |control: &str| edge.get(PAGE).field("cache-control", control).get();
    assert_eq!(wish("only-if-cached").await.status, 504);
    assert_eq!(origin.count(PAGE), 0);
    assert_eq!(edge.get(PAGE).get().await.cache_status(), "edge-1;fwd=uri-miss;stored");
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
    assert!(edge.get(PAGE).field("pragma", "no-cache").get().await.cache_status().contains("fwd=request"));
    assert_eq!(wish("only-if-cached, max-age=10").await.status, 504);
    // Nothing is kept of what a request does not want kept.
    origin.script("/secret", Script::ok("x").field("cache-control", "max-age=100"));
    for _ in 0..2 {
        let got = edge.get("/secret").field("cache-control", "no-store").get().await;
        assert_eq!(got.cache_status(), "edge-1;fwd=uri-miss");
    }
}

#[tokio::test]
async fn a_proven_name_is_not_validated() {
    let origin = Origin::start().await;
    let edge = alone(&origin, |_| {}).await;
    let asset = "/v2/x/blobs/sha256:6ec9c2b0eb14010746c8bce8939303b382344b296206612eb8a907a37b2b2f37";
    origin.script(asset, Script::ok("pixels").tag("\"v1\"").field("cache-control", "max-age=1").field("age", "9"));
    edge.get(asset).get().await;
    for control in ["no-cache", "max-age=0", "min-fresh=99999999"] {
        assert!(edge.get(asset).field("cache-control", control).get().await.cache_status().contains(";hit"));
    }
    assert_eq!(origin.count(asset), 1);
}

#[tokio::test]
async fn a_conditional_request_for_what_is_stale_is_answered_from_what_is_validated() {
    let origin = Origin::start().await;
    let edge = alone(&origin, |_| {}).await;
    origin.script(PAGE, soon_stale("v1", ""));
    edge.get(PAGE).get().await;
    origin.script(PAGE, Script::ok("v1").tag("\"v1\"").field("cache-control", "max-age=100"));
    let asking = async {
        loop {
            let got = edge.get(PAGE).field("if-none-match", "\"v1\"").get().await;
            assert_eq!((got.status.as_u16(), got.body.len()), (304, 0));
            if origin.count(PAGE) == 2 {
                break;
            }
        }
    };
    within(20, asking).await;
    assert_eq!(edge.ask(Method::HEAD, PAGE).get().await.field("content-length"), "2");
    assert_eq!(origin.count(PAGE), 2);
}
