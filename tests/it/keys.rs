//! Names: the same asset on every edge, or a refusal; never another's bytes.

use crate::harness::{Cluster, within};
use crate::origin::{Origin, Script};

#[tokio::test]
async fn a_name_is_the_same_asset_on_every_edge() {
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
        ("/a-0123456789abcdef.png?x=%2f", "/a-0123456789abcdef.png?x=%2F"),
        ("/a-0123456789abcdef.png?", "/a-0123456789abcdef.png?"),
        ("/a%3fx-0123456789abcdef.png", "/a%3Fx-0123456789abcdef.png"),
        ("/a%25b-0123456789abcdef.png", "/a%25b-0123456789abcdef.png"),
        ("//a-0123456789abcdef.png", "//a-0123456789abcdef.png"),
        (&long, &long),
    ];
    // Each asset's bytes are its name, so a mix-up shows.
    for (_, canonical) in &names {
        origin.script(canonical, Script::ok((*canonical).to_owned()).field("cache-control", "max-age=60"));
    }
    for (spelling, canonical) in &names {
        for edge in &cluster.edges {
            let got = within(20, edge.get(spelling).get()).await;
            assert_eq!((got.status.as_u16(), got.text()), (200, *canonical), "{spelling}");
        }
        assert_eq!(origin.count(canonical), 1, "{spelling}");
    }
}

#[tokio::test]
async fn what_could_be_two_names_is_refused_by_every_edge() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(3, &origin, |_| {}).await;
    for target in ["/a%2fb-0123456789abcdef.png", "/x/../a-0123456789abcdef.png", "/%2e%2e/a", "/a%00", "/a%", "/a%g0"]
    {
        for edge in &cluster.edges {
            assert_eq!(edge.get(target).get().await.status, 400, "{target}");
        }
    }
    assert!(origin.seen().is_empty());
}
