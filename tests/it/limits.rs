//! The limit on the requests of one client at the origin (`limits.requests_per_client`).

use std::net::SocketAddr;

use http::Method;
use peerage::config::Size;
use peerage::{AssetKey, Config, Server};
use tokio::net::TcpListener;

use crate::client::{FullResponse, RequestBuilder};
use crate::harness::{Cluster, TestEdge, config, pattern, run, single_edge, within};
use crate::origin::{Gate, Origin, Script};
use crate::raw_connection::{RawConnection, accept, connect, edge_with_raw_origin};

const ERRORS: &str = "peerage_requests_total{source=\"client\",result=\"error\"}";
const REFUSED: &str = "peerage_refused_client_requests_total";

fn cacheable() -> Script {
    Script::ok("page").header("cache-control", "max-age=60")
}

/// Starts an edge that allows each client `most` requests at the origin, and trusts proxies on
/// loopback addresses.
async fn limited(origin: &Origin, most: usize) -> TestEdge {
    single_edge(origin, |config| limit(config, most)).await
}

fn limit(config: &mut Config, most: usize) {
    config.edge.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    config.limits.requests_per_client = most;
}

fn on_behalf_of(ask: RequestBuilder, client: &str) -> RequestBuilder {
    ask.header("x-forwarded-for", client)
}

const ONE: &str = "192.0.2.1";
const OTHER: &str = "192.0.2.2";

fn assert_rejected(got: &FullResponse) {
    assert_eq!((got.status.as_u16(), got.cache_status()), (429, "edge-1;detail=client-limit"));
    assert_eq!(got.header("retry-after"), "1");
}

/// Begins an upload that does not end. Returns both of its connections once it has reached the
/// origin.
async fn slow_upload(edge: &TestEdge, origin: &TcpListener) -> (RawConnection, RawConnection) {
    let mut client = connect(edge).await;
    client.write("PUT /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nbegins").await;
    let mut upstream = accept(origin).await;
    assert!(upstream.head().await.starts_with("PUT /upload "));
    (client, upstream)
}

#[tokio::test]
async fn large_heads_of_waiting_requests_count_in_the_memory_budget() {
    let origin = Origin::start().await;
    let gate = Gate::closed();
    origin.script("/slow", cacheable().hold_response(&gate));
    let edge = single_edge(&origin, |config| config.cache.memory = Size(4 << 20)).await;
    let waits = || edge.get("/slow").header("accept-language", &"a".repeat(60_000));
    let used = "peerage_memory_used_bytes";
    let mut waiting = Vec::new();
    let refused = loop {
        let before = edge.metric(used).await;
        let mut asking = Box::pin(waits().send());
        let grown = async { while edge.metric(used).await <= before {} };
        tokio::select! {
            got = &mut asking => break got,
            () = within(20, grown) => waiting.push(asking),
        }
    };
    assert_eq!((refused.status.as_u16(), refused.cache_status()), (503, "edge-1;detail=overloaded"));
    assert!((20..40).contains(&waiting.len()), "{} heads of 60 kB in 4 MiB", waiting.len());
    // A request with a small head joins the flight.
    let small = tokio::spawn(edge.get("/slow").send());
    edge.metric_becomes("peerage_flights", 1.0).await;
    gate.open(4);
    for got in within(20, futures_util::future::join_all(waiting)).await {
        assert_eq!(got.text(), "page");
    }
    assert_eq!(within(20, small).await.unwrap().text(), "page");
    assert_eq!(within(20, waits().send()).await.text(), "page");
    let settled = async { while edge.metric(used).await > 100_000.0 {} };
    within(20, settled).await;
}

#[tokio::test]
async fn slow_uploads_of_one_client_leave_origin_requests_to_others() {
    // The default is a quarter of `origin.requests`.
    let (mut edge, origin) = edge_with_raw_origin(|config| {
        config.edge.listen = "0.0.0.0:0".parse().unwrap();
        config.origin.requests = 8;
    })
    .await;
    let at = SocketAddr::from(([127, 0, 0, 1], edge.clients.port()));
    edge.clients = at;
    let first = slow_upload(&edge, &origin).await;
    let second = slow_upload(&edge, &origin).await;
    for method in [Method::PUT, Method::GET] {
        assert_rejected(&within(20, edge.request(method, "/more").body("content").send()).await);
    }
    edge.metric_becomes(REFUSED, 2.0).await;
    // Another client, by its address.
    let other = tokio::net::TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = RawConnection(other.connect(at).await.unwrap());
    other.write("PUT /other HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nok").await;
    let mut upstream = accept(&origin).await;
    assert!(upstream.head().await.starts_with("PUT /other "));
    upstream.write("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
    assert!(other.head().await.starts_with("HTTP/1.1 204 "));
    // A request is free again when an upload has ended, and when its client has left.
    drop(first);
    edge.metric_becomes(ERRORS, 3.0).await;
    let third = slow_upload(&edge, &origin).await;
    let (mut client, mut upstream) = second;
    upstream.write("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 204 "));
    let _fourth = slow_upload(&edge, &origin).await;
    drop(third);
}

#[tokio::test]
async fn fill_counts_until_its_response_begins_and_hits_and_followers_do_not_count() {
    let origin = Origin::start().await;
    origin.script("*", cacheable());
    let edge = limited(&origin, 1).await;
    on_behalf_of(edge.get("/stored"), ONE).send().await;
    let gate = Gate::closed();
    origin.script("/slow", cacheable().hold_response(&gate));
    let leader = tokio::spawn(on_behalf_of(edge.get("/slow"), ONE).send());
    origin.arrived(2).await;
    for ask in [edge.get("/more"), edge.get("/more").http2(), edge.request(Method::HEAD, "/more")] {
        assert_rejected(&on_behalf_of(ask, ONE).send().await);
    }
    edge.metric_becomes(REFUSED, 3.0).await;
    for ask in [edge.get("/stored"), edge.get("/stored").http2(), edge.request(Method::HEAD, "/stored")] {
        assert!(on_behalf_of(ask, ONE).send().await.cache_status().contains(";hit"));
    }
    let follower = tokio::spawn(on_behalf_of(edge.get("/slow"), ONE).send());
    edge.metric_becomes("peerage_flight_readers", 2.0).await;
    assert_eq!(on_behalf_of(edge.get("/others"), OTHER).send().await.status, 200);
    gate.open(1);
    for got in [leader, follower] {
        assert_eq!(within(20, got).await.unwrap().text(), "page");
    }
    assert_eq!(on_behalf_of(edge.get("/more"), ONE).send().await.status, 200);
}

#[tokio::test]
async fn a_request_at_the_origin_counts_after_its_client_has_left() {
    let origin = Origin::start().await;
    origin.script("*", cacheable());
    let edge = limited(&origin, 1).await;
    for (name, method) in [("/first", Method::GET), ("/second", Method::PUT)] {
        let gate = Gate::closed();
        origin.script("/slow", cacheable().hold_response(&gate));
        let (before, errors) = (origin.seen().len(), edge.metric(ERRORS).await);
        let leaving = tokio::spawn(on_behalf_of(edge.request(method.clone(), "/slow"), ONE).send());
        origin.arrived(before + 1).await;
        leaving.abort();
        edge.metric_becomes(ERRORS, errors + 1.0).await;
        assert_rejected(&on_behalf_of(edge.get(name), ONE).send().await);
        gate.open(1);
        admitted(on_behalf_of(edge.get(name), ONE)).await;
    }
}

/// Repeats a request until it is not rejected any more.
async fn admitted(ask: RequestBuilder) {
    within(20, async { while ask.clone().send().await.status == 429 {} }).await;
}

#[tokio::test]
async fn passed_request_counts_until_its_response_ends() {
    let origin = Origin::start().await;
    origin.script("*", cacheable());
    let edge = limited(&origin, 1).await;
    // The first is the response to a fill that turns out to be for its leader alone.
    for kind in ["fwd=uri-miss;detail=no-store", "fwd=bypass"] {
        let gate = Gate::closed();
        origin.script("/page", Script::ok("in full").header("cache-control", "no-store").hold_body(&gate));
        gate.open(2);
        let mut open = within(20, on_behalf_of(edge.get("/page"), ONE).open()).await;
        assert!(open.headers["cache-status"].to_str().unwrap().contains(kind));
        open.read_at_least(2).await;
        assert_rejected(&on_behalf_of(edge.get("/more"), ONE).send().await);
        gate.open(5);
        assert!(open.rest().await.complete);
        // The client may read the last byte before the edge has seen the end.
        admitted(on_behalf_of(edge.get("/another"), ONE)).await;
    }
}

#[tokio::test]
async fn limit_applies_to_client_addresses_from_a_trusted_proxy() {
    let origin = Origin::start().await;
    let gate = Gate::closed();
    origin.script("*", cacheable().hold_response(&gate));
    let edge = limited(&origin, 1).await;
    let mut waiting = Vec::new();
    let mut arrived = 0;
    for (client, refused) in [
        (Some(ONE), false),
        (Some(ONE), true),
        (Some("6.6.6.6, 192.0.2.1"), true),
        (Some("::ffff:192.0.2.1"), true),
        (Some(OTHER), false),
        (Some("2001:db8::1"), false),
        (Some("2001:db8::ffff"), true),
        (Some("2001:db8:0:1::1"), false),
        // A proxy that sends no address speaks for many clients.
        (None, false),
        (None, false),
    ] {
        let ask = edge.get(&format!("/{}", waiting.len()));
        let ask = if let Some(client) = client { on_behalf_of(ask, client) } else { ask };
        if refused {
            assert_rejected(&within(20, ask.send()).await);
        } else {
            waiting.push(tokio::spawn(ask.send()));
            arrived += 1;
            within(20, origin.arrived(arrived)).await;
        }
    }
    gate.open(arrived);
    for got in waiting {
        assert_eq!(within(20, got).await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn owner_does_not_count_requests_of_peers() {
    let origin = Origin::start().await;
    let gate = Gate::closed();
    origin.script("*", cacheable().hold_response(&gate));
    let cluster = Cluster::start(3, &origin, |config| config.limits.requests_per_client = 1).await;
    let [first, second, third] = [1, 2, 3].map(|seed| cluster.path_owned_by(1, seed));
    let mut waiting = Vec::new();
    for (number, (edge, name)) in [(0, &first), (2, &second)].into_iter().enumerate() {
        waiting.push(tokio::spawn(cluster.edges[edge].get(name).send()));
        within(20, origin.arrived(number + 1)).await;
    }
    // The edge that received the client's request counts it while the owner answers it.
    assert_rejected(&cluster.edges[0].get(&third).send().await);
    gate.open(2);
    for got in waiting {
        assert_eq!(within(20, got).await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn fill_that_goes_to_the_origin_instead_of_a_lost_owner_still_counts() {
    let origin = Origin::start().await;
    let gate = Gate::closed();
    origin.script("*", cacheable().hold_response(&gate));
    let cluster = Cluster::start(1, &origin, |config| config.limits.requests_per_client = 1).await;
    let edge = &cluster.edges[0];
    let membership = edge.edge.membership();
    membership.replace([&*edge.name(), "127.0.0.1:1"]);
    let owner = |path: &str| {
        let key = AssetKey::parse(path, usize::MAX).unwrap();
        membership.view().ring.owner(key.hash()).unwrap().name().to_string()
    };
    let path = (0..1000).map(|number| format!("/of-{number}")).find(|path| owner(path) == "127.0.0.1:1").unwrap();
    let leader = tokio::spawn(edge.get(&path).send());
    within(20, origin.arrived(1)).await;
    assert_rejected(&within(20, edge.get("/more").send()).await);
    gate.open(1);
    assert_eq!(within(20, leader).await.unwrap().status, 200);
}

#[tokio::test]
async fn stale_hit_is_served_without_revalidation_while_its_client_is_at_the_limit() {
    let origin = Origin::start().await;
    let stale = Script::ok("stale").header("cache-control", "max-age=0, stale-while-revalidate=60").etag("\"v1\"");
    origin.script("/stale", stale);
    let edge = limited(&origin, 1).await;
    on_behalf_of(edge.get("/stale"), ONE).send().await;
    let gate = Gate::closed();
    origin.script("/slow", cacheable().hold_response(&gate));
    let slow = tokio::spawn(on_behalf_of(edge.get("/slow"), ONE).send());
    origin.arrived(2).await;
    let got = on_behalf_of(edge.get("/stale"), ONE).send().await;
    assert!(got.status == 200 && got.cache_status().contains(";hit"), "{}", got.cache_status());
    edge.metric_becomes(REFUSED, 1.0).await;
    assert_eq!(origin.count("/stale"), 1);
    on_behalf_of(edge.get("/stale"), OTHER).send().await;
    within(20, async {
        while origin.count("/stale") < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    gate.open(1);
    assert_eq!(within(20, slow).await.unwrap().status, 200);
}

#[tokio::test]
async fn client_limit_follows_a_reload_of_origin_requests() {
    let origin = Origin::start().await;
    let gate = Gate::closed();
    origin.script("*", cacheable().hold_response(&gate));
    let mut config = config("edge-1");
    (config.origin.url, config.origin.requests) = (origin.url(), 4);
    let server = Server::bind(config.clone()).await.unwrap();
    let mut reloading = server.reloading();
    let edge = run(server);
    let first = tokio::spawn(edge.get("/first").send());
    origin.arrived(1).await;
    assert_rejected(&edge.get("/second").send().await);
    config.origin.requests = 8;
    assert_eq!(reloading.reload(config).unwrap(), [""; 0]);
    let second = tokio::spawn(edge.get("/second").send());
    within(20, origin.arrived(2)).await;
    assert_rejected(&edge.get("/third").send().await);
    gate.open(2);
    for got in [first, second] {
        assert_eq!(within(20, got).await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn reader_that_resumes_alone_counts_for_its_client() {
    const MIB: usize = 1024 * 1024;
    let origin = Origin::start().await;
    let body = pattern(40 * MIB);
    let edge = single_edge(&origin, |config| {
        limit(config, 1);
        config.cache.memory = Size(16 * MIB as u64);
        config.cache.max_object = Some(Size(2 * MIB as u64));
    })
    .await;
    let large = Script::ok(body.clone()).chunked().with_ranges().etag("\"v1\"").header("cache-control", "max-age=60");
    for (number, busy) in [true, false].into_iter().enumerate() {
        let path = format!("/large-{number}");
        let (gate, hold) = (Gate::closed(), Gate::closed());
        origin.script(&path, large.clone().hold_body(&gate));
        gate.open(1000);
        let lagging = on_behalf_of(edge.get(&path), ONE).open().await;
        let fast = on_behalf_of(edge.get(&path), OTHER).open().await;
        origin.script("/slow", cacheable().hold_response(&hold));
        let before = origin.seen().len();
        let slow = busy.then(|| tokio::spawn(on_behalf_of(edge.get("/slow"), ONE).send()));
        origin.arrived(before + usize::from(busy)).await;
        gate.open(4 * body.len());
        assert!(within(60, fast.rest()).await.complete);
        let got = within(60, lagging.rest()).await;
        assert_eq!(got.complete, !busy, "{} bytes", got.body.len());
        hold.open(1);
        if let Some(slow) = slow {
            assert_eq!(within(20, slow).await.unwrap().status, 200);
        }
    }
}
