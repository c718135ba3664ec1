//! Variants by Vary.

use peerage::Config;

use crate::client::FullResponse;
use crate::harness::{Cluster, TestEdge, join_all, single_edge, within};
use crate::origin::{Gate, Origin, Script};

const PAGE: &str = "/page";

fn varying_by(field: &str) -> Script {
    Script::ok("").header("cache-control", "max-age=100").varies_by(field)
}

/// Has `x-a` sent with fills.
fn forwarding(config: &mut Config) {
    config.origin.forward = vec!["X-A".to_owned()];
}

async fn get(edge: &TestEdge, field: &'static str, value: &str) -> FullResponse {
    within(20, edge.get(PAGE).header(field, value).send()).await
}

/// Repeats a request until it is a hit: a response is stored a moment after it was sent.
async fn get_hit(edge: &TestEdge, field: &'static str, value: &str) -> FullResponse {
    let asking = async {
        loop {
            let got = get(edge, field, value).await;
            if got.cache_status().contains(";hit") {
                break got;
            }
        }
    };
    within(20, asking).await
}

#[tokio::test]
async fn each_variant_is_stored_and_sent_to_requests_that_select_it() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(3, &origin, |_| {}).await;
    origin.script(PAGE, varying_by("accept-encoding").header("x-page", "1"));
    for edge in &cluster.edges {
        for (accepts, variant) in
            [("gzip", "gzip"), ("BR, gzip", "br, gzip"), ("gzip;q=0", "identity"), ("deflate", "identity")]
        {
            assert_eq!(get(edge, "accept-encoding", accepts).await.text(), variant, "{accepts}");
            assert_eq!(get_hit(edge, "accept-encoding", accepts).await.text(), variant);
        }
        assert_eq!(edge.get(PAGE).send().await.text(), "identity");
    }
    assert_eq!(origin.count(PAGE), 3);
}

#[tokio::test]
async fn request_that_waited_for_another_variant_fetches_its_own() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, forwarding).await;
    let gate = Gate::closed();
    origin.script(PAGE, varying_by("x-a").hold_body(&gate));
    // All requests join one flight, since the page is not known to vary yet.
    let asks: Vec<_> = (0..12).map(|i| edge.get(PAGE).header("x-a", &(i % 3).to_string()).send()).collect();
    let waiting = tokio::spawn(join_all(asks));
    origin.arrived(1).await;
    gate.open(1000);
    for (i, got) in within(20, waiting).await.unwrap().iter().enumerate() {
        assert_eq!(got.text(), (i % 3).to_string());
    }
    for i in 0..3 {
        assert_eq!(get_hit(&edge, "x-a", &i.to_string()).await.text(), i.to_string());
    }
    assert_eq!(origin.count(PAGE), 3);
}

#[tokio::test]
async fn response_with_a_content_coding_is_a_variant_without_vary() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    let coded = Script::ok("coded").header("cache-control", "max-age=100").header("content-encoding", "gzip");
    origin.script(PAGE, coded);
    assert_eq!(get(&edge, "accept-encoding", "gzip").await.text(), "coded");
    origin.script(PAGE, Script::ok("plain").header("cache-control", "max-age=100"));
    assert_eq!(edge.get(PAGE).send().await.text(), "plain");
    assert_eq!(get_hit(&edge, "accept-encoding", "gzip").await.text(), "coded");
}

#[tokio::test]
async fn hop_by_hop_header_selects_no_variant() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, forwarding).await;
    origin.script(PAGE, varying_by("x-a"));
    assert_eq!(get(&edge, "x-a", "1").await.text(), "1");
    // Like many origins, it sends Vary only for requests with the header.
    origin.script(PAGE, Script::ok("without").header("cache-control", "max-age=100"));
    let got = edge.get(PAGE).header("x-a", "2").header("connection", "x-a").send().await;
    assert_eq!(got.text(), "without");
    origin.script(PAGE, varying_by("x-a"));
    assert_eq!(get(&edge, "x-a", "2").await.text(), "2");
}

#[tokio::test]
async fn variants_of_a_name_are_limited() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |config| {
        forwarding(config);
        config.cache.variants = 3;
    })
    .await;
    origin.script(PAGE, varying_by("x-a"));
    for i in 0..6 {
        let got = get(&edge, "x-a", &i.to_string()).await;
        assert_eq!(got.text(), i.to_string());
        assert!(got.cache_status().contains("stored"), "{i}: {}", got.cache_status());
    }
    // The oldest variants have made room.
    assert!(edge.metric("peerage_cache_objects{tier=\"main\"}").await < 3.1);
    for i in [5, 4, 3] {
        assert!(get(&edge, "x-a", &i.to_string()).await.cache_status().contains(";hit"), "{i}");
    }
}

#[tokio::test]
async fn write_invalidates_all_variants() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(2, &origin, forwarding).await;
    origin.script(PAGE, varying_by("x-a"));
    for edge in &cluster.edges {
        for value in ["1", "2"] {
            get_hit(edge, "x-a", value).await;
        }
    }
    cluster.edges[0].request(http::Method::POST, PAGE).send().await;
    let before = origin.count(PAGE);
    for edge in &cluster.edges {
        for value in ["1", "2"] {
            get(edge, "x-a", value).await;
        }
    }
    // Each variant is fetched once more, for both edges.
    assert_eq!(origin.count(PAGE), before + 2);
}
