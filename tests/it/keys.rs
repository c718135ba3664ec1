//! Keys: a target is the same asset on every edge, or is rejected.

use crate::harness::{Cluster, within};
use crate::origin::{Origin, Script};

#[tokio::test]
async fn target_is_the_same_asset_on_every_edge() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(3, &origin, |_| {}).await;
    let long = format!("/{}.bin", "a-0123456789abcdef/".repeat(430));
    let names = [
        ("/a%20b-0123456789abcdef.png", "/a%20b-0123456789abcdef.png"),
        ("/a+b-0123456789abcdef.png", "/a+b-0123456789abcdef.png"),
        ("/a%2bb-0123456789abcdef.png", "/a%2Bb-0123456789abcdef.png"),
        ("/%c3%a9-0123456789abcdef.png", "/%C3%A9-0123456789abcdef.png"),
        ("/\u{e9}\u{e9}-0123456789abcdef.png", "/%C3%A9%C3%A9-0123456789abcdef.png"),
        ("/%ff-0123456789abcdef.png", "/%FF-0123456789abcdef.png"),
        ("/%61-0123456789abcdef.png", "/a-0123456789abcdef.png"),
        ("/a-0123456789abcdef.png?x=1", "/a-0123456789abcdef.png?x=1"),
        ("/a-0123456789abcdef.png?x=%2f", "/a-0123456789abcdef.png?x=%2f"),
        ("/a-0123456789abcdef.png?", "/a-0123456789abcdef.png?"),
        ("/a%3fx-0123456789abcdef.png", "/a%3Fx-0123456789abcdef.png"),
        ("/a%25b-0123456789abcdef.png", "/a%25b-0123456789abcdef.png"),
        ("//a-0123456789abcdef.png", "//a-0123456789abcdef.png"),
        (&long, &long),
    ];
    // The body of each asset is its name, so that a mix-up is detected.
    for (_, canonical) in &names {
        origin.script(canonical, Script::ok((*canonical).to_owned()).header("cache-control", "max-age=60"));
    }
    for (spelling, canonical) in &names {
        for edge in &cluster.edges {
            let got = within(20, edge.get(spelling).send()).await;
            assert_eq!((got.status.as_u16(), got.text()), (200, *canonical), "{spelling}");
        }
        assert_eq!(origin.count(canonical), 1, "{spelling}");
    }
}

#[tokio::test]
async fn ambiguous_target_is_400_on_every_edge() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(3, &origin, |_| {}).await;
    for target in [
        "/a%2f..%2fb-0123456789abcdef.png",
        "/..%5ca",
        "/x/../a-0123456789abcdef.png",
        "/%2e%2e/a",
        "/a%00",
        "/a%",
        "/a%g0",
    ] {
        for edge in &cluster.edges {
            assert_eq!(edge.get(target).send().await.status, 400, "{target}");
        }
    }
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn an_escaped_slash_and_the_bytes_of_a_query_reach_the_origin_through_any_edge() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(2, &origin, |_| {}).await;
    for (asked, sent) in [
        ("/@scope%2fname", "/@scope%2Fname"),
        ("/api/v4/projects/group%2Fproject", "/api/v4/projects/group%2Fproject"),
        ("/object?sig=a%2fb&x=%7e", "/object?sig=a%2fb&x=%7e"),
        ("/object?q=100%&x=[1]", "/object?q=100%&x=[1]"),
        ("/object?sig=a%2Fb&x=~", "/object?sig=a%2Fb&x=~"),
    ] {
        origin.script(sent, Script::ok(sent.to_owned()).header("cache-control", "max-age=60"));
        for edge in &cluster.edges {
            assert_eq!(edge.get(asked).send().await.text(), sent, "{asked}");
            assert_eq!(edge.get(asked).http2().send().await.text(), sent, "{asked}");
        }
        assert_eq!(origin.count(sent), 1, "{asked}");
    }
}

#[tokio::test]
async fn a_write_to_one_spelling_of_a_query_invalidates_every_spelling() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(2, &origin, |_| {}).await;
    let spellings = ["/page?a=%7e&b=%2f", "/page?a=~&b=%2F", "/page?%61=%7E&b=%2f"];
    for stored in spellings {
        for written in spellings {
            origin.script(stored, Script::ok("old").header("cache-control", "max-age=60"));
            for edge in &cluster.edges {
                edge.get(stored).send().await;
            }
            origin.script(stored, Script::ok("new").header("cache-control", "max-age=60"));
            origin.scripts(written, [Script::ok("new").header("cache-control", "max-age=60")]);
            cluster.edges[0].request(http::Method::POST, written).send().await;
            for edge in &cluster.edges {
                assert_eq!(edge.get(stored).send().await.text(), "new", "{stored} {written}");
            }
            cluster.edges[1].request(http::Method::POST, stored).send().await;
        }
    }
}
