//! Invalidation: a write drops the stored responses that it changes, on every edge.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use http::Method;
use sha2::{Digest, Sha256};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Cluster, TestEdge, pattern, single_edge, within};
use crate::origin::{Gate, Origin, Script};
use crate::raw_connection::{RawConnection, accept, connect, edge_with_raw_origin};

fn page(text: &'static str) -> Script {
    Script::ok(text).header("cache-control", "max-age=100")
}

#[tokio::test]
async fn write_through_one_edge_invalidates_on_all_edges() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(3, &origin, |_| {}).await;
    for (round, method) in [Method::POST, Method::PUT, Method::DELETE].into_iter().enumerate() {
        origin.script("/page", page("old"));
        cluster.edges[round].request(Method::POST, "/page").send().await;
        for edge in &cluster.edges {
            assert_eq!(edge.get("/page").send().await.text(), "old");
        }
        origin.script("/page", page("new"));
        for edge in &cluster.edges {
            assert!(edge.get("/page").send().await.cache_status().contains(";hit"));
        }
        assert_eq!(cluster.edges[round].request(method, "/page").send().await.status, 200);
        for edge in &cluster.edges {
            assert_eq!(edge.get("/page").send().await.text(), "new");
        }
    }
}

#[tokio::test]
async fn location_headers_of_a_successful_write_are_invalidated_too() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    for path in ["/list", "/item", "/other"] {
        origin.script(path, page("old"));
        edge.get(path).send().await;
    }
    origin.script("/form", Script::status(500).header("location", "/item"));
    edge.request(Method::POST, "/form").send().await;
    assert!(edge.get("/item").send().await.cache_status().contains(";hit"));
    let named = Script::ok("done").header("location", "http://site.example/item").header("content-location", "list");
    origin.script("/form", named);
    edge.request(Method::POST, "/form").send().await;
    for (path, hit) in [("/item", false), ("/list", false), ("/other", true)] {
        assert_eq!(edge.get(path).send().await.cache_status().contains(";hit"), hit, "{path}");
    }
}

/// An origin may not know the public host, and use its own in Location.
#[tokio::test]
async fn location_with_the_origins_own_host_is_invalidated_too() {
    let origin = Origin::start().await;
    for (prefix, others) in [("", "other.example"), ("/site", "site.example:81")] {
        let edge = single_edge(&origin, |config| {
            config.origin.url = format!("http://{}{prefix}", origin.address).parse().unwrap();
        })
        .await;
        for path in ["/item", "/list", "/other"] {
            origin.script(&format!("{prefix}{path}"), page("old"));
            edge.get(path).send().await;
        }
        let own = |path: &str| format!("http://{}{prefix}{path}", origin.address);
        let done = || Script::ok("done").header("location", &own("/item"));
        let turns = [
            done().header("content-location", &own("/list")),
            done().header("content-location", &format!("http://{others}{prefix}/other")),
        ];
        origin.scripts(&format!("{prefix}/form"), turns);
        for _ in 0..2 {
            edge.request(Method::POST, "/form").send().await;
        }
        for (path, hit) in [("/item", false), ("/list", false), ("/other", true)] {
            assert_eq!(edge.get(path).send().await.cache_status().contains(";hit"), hit, "{path}");
        }
    }
}

#[tokio::test]
async fn fill_during_a_write_is_delivered_and_not_stored() {
    let origin = Origin::start().await;
    let gate = Gate::closed();
    let old = Script::ok(pattern(1000)).header("cache-control", "max-age=100");
    origin.script("/page", old.hold_body(&gate));
    let edge = single_edge(&origin, |_| {}).await;
    gate.open(10);
    let mut open = edge.get("/page").open().await;
    open.read_at_least(10).await;
    origin.script("/page", page("new"));
    edge.request(Method::PUT, "/page").send().await;
    // A new request does not join the fill in progress.
    assert_eq!(edge.get("/page").send().await.text(), "new");
    gate.open(1000);
    assert!(within(20, open.rest()).await.complete);
    let hit = edge.get("/page").send().await;
    assert!(hit.text() == "new" && hit.cache_status().contains(";hit"), "{}", hit.cache_status());
    edge.metric_becomes("peerage_flights", 0.0).await;
}

#[tokio::test]
async fn purge_by_a_client_is_rejected_or_forwarded_to_the_origin() {
    let origin = Origin::start().await;
    let purge = || Method::from_bytes(b"PURGE").unwrap();
    for (listed, status) in [(false, 405), (true, 403)] {
        let cluster = Cluster::start(2, &origin, |config| {
            config.limits.methods.extend(listed.then(|| "PURGE".to_owned()));
        })
        .await;
        origin.script("/page", page("old"));
        cluster.edges[0].get("/page").send().await;
        origin.script("/page", Script::status(403));
        assert_eq!(cluster.edges[0].request(purge(), "/page").send().await.status, status);
        assert!(cluster.edges[0].get("/page").send().await.cache_status().contains(";hit"));
    }
}

#[tokio::test]
async fn writes_invalidate_nothing_without_invalidate_on_write() {
    let origin = Origin::start().await;
    for invalidates in [true, false] {
        let cluster = Cluster::start(2, &origin, |config| config.cache.invalidate_on_write = invalidates).await;
        origin.script("/page", page("old"));
        for edge in &cluster.edges {
            edge.get("/page").send().await;
        }
        origin.script("/page", page("new"));
        assert_eq!(cluster.edges[0].request(Method::POST, "/page").send().await.text(), "new");
        for edge in &cluster.edges {
            assert_eq!(edge.get("/page").send().await.text(), if invalidates { "new" } else { "old" });
        }
    }
}

#[tokio::test]
async fn write_invalidates_after_its_client_has_left() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script("/page", page("old"));
    edge.get("/page").send().await;
    let gate = Gate::closed();
    origin.scripts("/page", [page("done").hold_response(&gate), page("new")]);
    let writing = tokio::spawn(edge.request(Method::PUT, "/page").send());
    origin.arrived(2).await;
    writing.abort();
    edge.metric_becomes("peerage_requests_total{source=\"client\",result=\"error\"}", 1.0).await;
    gate.open(1);
    let forgotten = async { while edge.get("/page").send().await.text() != "new" {} };
    within(20, forgotten).await;
}

#[tokio::test]
async fn queued_write_is_not_sent_after_its_client_has_left() {
    let (edge, origin) = edge_with_raw_origin(|config| {
        (config.origin.requests, config.limits.requests_per_client) = (1, 3);
    })
    .await;
    let first = tokio::spawn(edge.request(Method::DELETE, "/first").send());
    let mut connection = accept(&origin).await;
    assert!(connection.head().await.starts_with("DELETE /first "));
    connect(&edge).await.write("DELETE /second HTTP/1.1\r\nhost: x\r\n\r\n").await;
    edge.metric_becomes("peerage_requests_total{source=\"client\",result=\"error\"}", 1.0).await;
    let third = tokio::spawn(edge.request(Method::DELETE, "/third").send());
    let done = "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
    connection.write(done).await;
    assert_eq!(within(20, first).await.unwrap().status, 204);
    let mut connection = accept(&origin).await;
    assert!(connection.head().await.starts_with("DELETE /third "));
    connection.write(done).await;
    assert_eq!(within(20, third).await.unwrap().status, 204);
}

/// Starts an edge with a listener as its peer, and an origin that accepts every write.
async fn beside_a_listener() -> (Origin, TestEdge, TcpListener) {
    let origin = Origin::start().await;
    origin.script("*", page("done"));
    let edge = Cluster::start(1, &origin, |_| {}).await.edges.remove(0);
    let peer = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let names = [edge.name(), peer.local_addr().unwrap().to_string()];
    edge.edge.membership().replace(names.iter().map(String::as_str));
    (origin, edge, peer)
}

#[tokio::test]
async fn purge_is_retried_when_the_peer_closes_the_connection() {
    let (_origin, edge, peer) = beside_a_listener().await;
    let first = tokio::spawn(edge.request(Method::PUT, "/page").send());
    let mut connection = accept(&peer).await;
    assert!(connection.head().await.starts_with("PURGE /page "));
    connection.write("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(within(20, first).await.unwrap().status, 200);
    let second = tokio::spawn(edge.request(Method::PUT, "/page").send());
    assert!(connection.head().await.starts_with("PURGE /page "));
    drop(connection);
    let mut connection = accept(&peer).await;
    assert!(connection.head().await.starts_with("PURGE /page "));
    connection.write("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(within(20, second).await.unwrap().status, 200);
}

#[tokio::test]
async fn returning_peer_receives_the_purges_that_it_missed() {
    let (_origin, edge, peer) = beside_a_listener().await;
    let address = peer.local_addr().unwrap();
    drop(peer);
    for path in ["/one", "/two"] {
        assert_eq!(within(20, edge.request(Method::PUT, path).send()).await.status, 200);
    }
    let peer = TcpListener::bind(address).await.unwrap();
    let (mut heard, mut lost) = (BTreeSet::new(), 0);
    while heard.len() < 2 {
        let mut connection = accept(&peer).await;
        let head = connection.head().await;
        if head.starts_with("PURGE ") {
            // The peer is back, and still loses connections.
            if lost < 2 {
                lost += 1;
                continue;
            }
            heard.insert(head.split(' ').nth(1).unwrap().to_owned());
        }
        connection.write("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
    }
    assert!(heard.into_iter().eq(["/one", "/two"]));
}

/// Forwards each connection of `listener` to `server`.
async fn relay(listener: TcpListener, server: SocketAddr) {
    loop {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut upstream = TcpStream::connect(server).await.unwrap();
        tokio::spawn(async move {
            let _ = copy_bidirectional(&mut client, &mut upstream).await;
        });
    }
}

#[tokio::test]
async fn peer_that_missed_too_many_purges_serves_nothing_unverified_from_before() {
    let origin = Origin::start().await;
    // The relay carries no gossip, so gossip would keep the peer down.
    let cluster = || Cluster::start(1, &origin, |config| config.cluster.as_mut().unwrap().gossip = false);
    let (writer, away) = (cluster().await.edges.remove(0), cluster().await.edges.remove(0));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let names = [writer.name(), address.to_string()];
    writer.edge.membership().replace(names.iter().map(String::as_str));
    let body = pattern(1000);
    let digits: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
    let proven = format!("/v2/a/blobs/sha256:{digits}");
    origin.script(&proven, Script::ok(body));
    origin.script("/page", page("old"));
    origin.script("/variant", page("old").header("vary", "accept-language"));
    let paths = ["/page", "/variant", &proven];
    for path in paths {
        away.get(path).send().await;
        assert!(away.get(path).send().await.cache_status().contains(";hit"), "{path}");
    }
    origin.script("*", Script::ok("done"));
    for number in 0..1100 {
        writer.request(Method::POST, &format!("/made-up/{number}")).send().await;
    }
    for path in ["/page", "/variant"] {
        origin.script(path, page("new").header("vary", "accept-language"));
        assert_eq!(writer.request(Method::POST, path).send().await.status, 200);
    }
    writer.metric_becomes("peerage_overflowed_invalidations_total", 1.0).await;
    // The peer returns with all that it has stored.
    let back = tokio::spawn(relay(TcpListener::bind(address).await.unwrap(), away.peers.unwrap()));
    let forgotten = async { while away.get("/page").send().await.text() != "new" {} };
    within(20, forgotten).await;
    assert_eq!(away.get("/variant").send().await.text(), "new");
    assert!(away.get(&proven).send().await.cache_status().contains(";hit"));
    // The peer drops its responses once: a response that is stored afterwards stays.
    assert!(away.get("/page").send().await.cache_status().contains(";hit"));
    back.abort();
}

#[tokio::test]
async fn purge_of_everything_is_rejected_for_a_client_and_accepted_from_a_peer() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(1, &origin, |_| {}).await;
    let edge = &cluster.edges[0];
    origin.script("/page", page("old"));
    edge.get("/page").send().await;
    let purge = "PURGE * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let mut connection = connect(edge).await;
    connection.write(purge).await;
    assert!(connection.head().await.starts_with("HTTP/1.1 4"));
    assert!(edge.get("/page").send().await.cache_status().contains(";hit"));
    let mut peer = RawConnection(TcpStream::connect(edge.peers.unwrap()).await.unwrap());
    peer.write(purge).await;
    assert!(peer.head().await.starts_with("HTTP/1.1 204 "));
    assert!(!edge.get("/page").send().await.cache_status().contains(";hit"));
}

#[tokio::test]
async fn write_does_not_wait_for_a_stopped_peer() {
    let origin = Origin::start().await;
    let mut cluster = Cluster::start(2, &origin, |_| {}).await;
    origin.script("/page", page("old"));
    cluster.edges[1].drain().await;
    let got = within(20, cluster.edges[0].request(Method::POST, "/page").send()).await;
    assert_eq!(got.status, 200);
}
