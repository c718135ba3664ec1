//! What a write has changed is forgotten, on every edge.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use http::Method;
use sha2::{Digest, Sha256};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use crate::ends::{End, accept, before_an_origin, connect};
use crate::harness::{Cluster, Running, alone, pattern, within};
use crate::origin::{Gate, Origin, Script};

fn page(text: &'static str) -> Script {
    Script::ok(text).field("cache-control", "max-age=100")
}

#[tokio::test]
async fn a_write_through_one_edge_is_seen_through_all() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(3, &origin, |_| {}).await;
    for (round, method) in [Method::POST, Method::PUT, Method::DELETE].into_iter().enumerate() {
        origin.script("/page", page("old"));
        cluster.edges[round].ask(Method::POST, "/page").get().await;
        for edge in &cluster.edges {
            assert_eq!(edge.get("/page").get().await.text(), "old");
        }
        origin.script("/page", page("new"));
        for edge in &cluster.edges {
            assert!(edge.get("/page").get().await.cache_status().contains(";hit"));
        }
        assert_eq!(cluster.edges[round].ask(method, "/page").get().await.status, 200);
        for edge in &cluster.edges {
            assert_eq!(edge.get("/page").get().await.text(), "new");
        }
    }
}

#[tokio::test]
async fn what_an_answer_names_is_forgotten_too_but_not_for_an_error() {
    let origin = Origin::start().await;
    let edge = alone(&origin, |_| {}).await;
    for path in ["/list", "/item", "/other"] {
        origin.script(path, page("old"));
        edge.get(path).get().await;
    }
    origin.script("/form", Script::status(500).field("location", "/item"));
    edge.ask(Method::POST, "/form").get().await;
    assert!(edge.get("/item").get().await.cache_status().contains(";hit"));
    let named = Script::ok("done").field("location", "http://site.example/item").field("content-location", "list");
    origin.script("/form", named);
    edge.ask(Method::POST, "/form").get().await;
    for (path, hit) in [("/item", false), ("/list", false), ("/other", true)] {
        assert_eq!(edge.get(path).get().await.cache_status().contains(";hit"), hit, "{path}");
    }
}

/// An origin may not know by which name clients ask, and calls itself by its own.
#[tokio::test]
async fn what_the_origin_calls_by_its_own_name_is_forgotten_too() {
    let origin = Origin::start().await;
    for (prefix, others) in [("", "other.example"), ("/site", "site.example:81")] {
        let edge = alone(&origin, |config| {
            config.origin.url = format!("http://{}{prefix}", origin.address).parse().unwrap();
        })
        .await;
        for path in ["/item", "/list", "/other"] {
            origin.script(&format!("{prefix}{path}"), page("old"));
            edge.get(path).get().await;
        }
        let own = |path: &str| format!("http://{}{prefix}{path}", origin.address);
        let done = || Script::ok("done").field("location", &own("/item"));
        let turns = [
            done().field("content-location", &own("/list")),
            done().field("content-location", &format!("http://{others}{prefix}/other")),
        ];
        origin.scripts(&format!("{prefix}/form"), turns);
        for _ in 0..2 {
            edge.ask(Method::POST, "/form").get().await;
        }
        for (path, hit) in [("/item", false), ("/list", false), ("/other", true)] {
            assert_eq!(edge.get(path).get().await.cache_status().contains(";hit"), hit, "{path}");
        }
    }
}

#[tokio::test]
async fn what_comes_in_while_it_is_changed_is_not_kept() {
    let origin = Origin::start().await;
    let gate = Gate::closed();
    let old = Script::ok(pattern(1000)).field("cache-control", "max-age=100");
    origin.script("/page", old.gate(&gate));
    let edge = alone(&origin, |_| {}).await;
    gate.open(10);
    let mut open = edge.get("/page").open().await;
    open.bytes(10).await;
    origin.script("/page", page("new"));
    edge.ask(Method::PUT, "/page").get().await;
    // Who asks now does not join what was under way.
    assert_eq!(edge.get("/page").get().await.text(), "new");
    gate.open(1000);
    assert!(within(20, open.rest()).await.complete);
    let hit = edge.get("/page").get().await;
    assert!(hit.text() == "new" && hit.cache_status().contains(";hit"), "{}", hit.cache_status());
    edge.metric_becomes("peerage_flights", 0.0).await;
}

#[tokio::test]
async fn a_purge_by_a_client_is_refused_or_the_origins_business() {
    let origin = Origin::start().await;
    let purge = || Method::from_bytes(b"PURGE").unwrap();
    for (listed, status) in [(false, 405), (true, 403)] {
        let cluster = Cluster::start(2, &origin, |config| {
            config.limits.methods.extend(listed.then(|| "PURGE".to_owned()));
        })
        .await;
        origin.script("/page", page("old"));
        cluster.edges[0].get("/page").get().await;
        origin.script("/page", Script::status(403));
        assert_eq!(cluster.edges[0].ask(purge(), "/page").get().await.status, status);
        assert!(cluster.edges[0].get("/page").get().await.cache_status().contains(";hit"));
    }
}

#[tokio::test]
async fn writes_invalidate_nothing_where_the_operator_says_so() {
    let origin = Origin::start().await;
    for invalidates in [true, false] {
        let cluster = Cluster::start(2, &origin, |config| config.cache.invalidate_on_write = invalidates).await;
        origin.script("/page", page("old"));
        for edge in &cluster.edges {
            edge.get("/page").get().await;
        }
        origin.script("/page", page("new"));
        assert_eq!(cluster.edges[0].ask(Method::POST, "/page").get().await.text(), "new");
        for edge in &cluster.edges {
            assert_eq!(edge.get("/page").get().await.text(), if invalidates { "new" } else { "old" });
        }
    }
}

#[tokio::test]
async fn a_write_counts_whether_or_not_its_client_waits() {
    let origin = Origin::start().await;
    let edge = alone(&origin, |_| {}).await;
    origin.script("/page", page("old"));
    edge.get("/page").get().await;
    let gate = Gate::closed();
    origin.scripts("/page", [page("done").hold(&gate), page("new")]);
    let writing = tokio::spawn(edge.ask(Method::PUT, "/page").get());
    origin.arrived(2).await;
    writing.abort();
    edge.metric_becomes("peerage_requests_total{source=\"client\",result=\"error\"}", 1.0).await;
    gate.open(1);
    let forgotten = async { while edge.get("/page").get().await.text() != "new" {} };
    within(20, forgotten).await;
}

#[tokio::test]
async fn a_write_whose_client_leaves_before_it_has_a_place_is_not_sent() {
    let (edge, origin) = before_an_origin(|config| {
        (config.origin.requests, config.limits.requests_per_client) = (1, 3);
    })
    .await;
    let first = tokio::spawn(edge.ask(Method::DELETE, "/first").get());
    let mut connection = accept(&origin).await;
    assert!(connection.head().await.starts_with("DELETE /first "));
    connect(&edge).await.say("DELETE /second HTTP/1.1\r\nhost: x\r\n\r\n").await;
    edge.metric_becomes("peerage_requests_total{source=\"client\",result=\"error\"}", 1.0).await;
    let third = tokio::spawn(edge.ask(Method::DELETE, "/third").get());
    let done = "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
    connection.say(done).await;
    assert_eq!(within(20, first).await.unwrap().status, 204);
    let mut connection = accept(&origin).await;
    assert!(connection.head().await.starts_with("DELETE /third "));
    connection.say(done).await;
    assert_eq!(within(20, third).await.unwrap().status, 204);
}

/// An edge whose peer is a listener, before an origin that takes every write.
async fn beside_a_listener() -> (Origin, Running, TcpListener) {
    let origin = Origin::start().await;
    origin.script("*", page("done"));
    let edge = Cluster::start(1, &origin, |_| {}).await.edges.remove(0);
    let peer = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let names = [edge.name(), peer.local_addr().unwrap().to_string()];
    edge.edge.membership().replace(names.iter().map(String::as_str));
    (origin, edge, peer)
}

#[tokio::test]
async fn a_purge_that_crosses_the_end_of_a_connection_is_sent_again() {
    let (_origin, edge, peer) = beside_a_listener().await;
    let first = tokio::spawn(edge.ask(Method::PUT, "/page").get());
    let mut connection = accept(&peer).await;
    assert!(connection.head().await.starts_with("PURGE /page "));
    connection.say("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(within(20, first).await.unwrap().status, 200);
    let second = tokio::spawn(edge.ask(Method::PUT, "/page").get());
    assert!(connection.head().await.starts_with("PURGE /page "));
    drop(connection);
    let mut connection = accept(&peer).await;
    assert!(connection.head().await.starts_with("PURGE /page "));
    connection.say("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(within(20, second).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_peer_that_was_away_hears_of_a_write_when_it_is_back() {
    let (_origin, edge, peer) = beside_a_listener().await;
    let address = peer.local_addr().unwrap();
    drop(peer);
    for path in ["/one", "/two"] {
        assert_eq!(within(20, edge.ask(Method::PUT, path).get()).await.status, 200);
    }
    let peer = TcpListener::bind(address).await.unwrap();
    let (mut heard, mut lost) = (BTreeSet::new(), 0);
    while heard.len() < 2 {
        let mut connection = accept(&peer).await;
        let head = connection.head().await;
        if head.starts_with("PURGE ") {
            // It is back, and in trouble still.
            if lost < 2 {
                lost += 1;
                continue;
            }
            heard.insert(head.split(' ').nth(1).unwrap().to_owned());
        }
        connection.say("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
    }
    assert!(heard.into_iter().eq(["/one", "/two"]));
}

/// Connects each client of `listener` with `server`.
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
async fn a_peer_that_missed_more_invalidations_than_are_kept_serves_nothing_unproven_from_before() {
    let origin = Origin::start().await;
    // The relay carries no gossip, which would keep the peer down.
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
    origin.script("/variant", page("old").field("vary", "accept-language"));
    let paths = ["/page", "/variant", &proven];
    for path in paths {
        away.get(path).get().await;
        assert!(away.get(path).get().await.cache_status().contains(";hit"), "{path}");
    }
    origin.script("*", Script::ok("done"));
    for number in 0..1100 {
        writer.ask(Method::POST, &format!("/made-up/{number}")).get().await;
    }
    for path in ["/page", "/variant"] {
        origin.script(path, page("new").field("vary", "accept-language"));
        assert_eq!(writer.ask(Method::POST, path).get().await.status, 200);
    }
    writer.metric_becomes("peerage_overflowed_invalidations_total", 1.0).await;
    // It comes back with all that it has stored.
    let back = tokio::spawn(relay(TcpListener::bind(address).await.unwrap(), away.peers.unwrap()));
    let forgotten = async { while away.get("/page").get().await.text() != "new" {} };
    within(20, forgotten).await;
    assert_eq!(away.get("/variant").get().await.text(), "new");
    assert!(away.get(&proven).get().await.cache_status().contains(";hit"));
    // Once is enough: what is stored after that is kept.
    assert!(away.get("/page").get().await.cache_status().contains(";hit"));
    back.abort();
}

#[tokio::test]
async fn a_client_cannot_have_everything_forgotten() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(1, &origin, |_| {}).await;
    let edge = &cluster.edges[0];
    origin.script("/page", page("old"));
    edge.get("/page").get().await;
    let purge = "PURGE * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let mut connection = connect(edge).await;
    connection.say(purge).await;
    assert!(connection.head().await.starts_with("HTTP/1.1 4"));
    assert!(edge.get("/page").get().await.cache_status().contains(";hit"));
    let mut peer = End(TcpStream::connect(edge.peers.unwrap()).await.unwrap());
    peer.say(purge).await;
    assert!(peer.head().await.starts_with("HTTP/1.1 204 "));
    assert!(!edge.get("/page").get().await.cache_status().contains(";hit"));
}

#[tokio::test]
async fn a_peer_that_is_gone_holds_up_no_write() {
    let origin = Origin::start().await;
    let mut cluster = Cluster::start(2, &origin, |_| {}).await;
    origin.script("/page", page("old"));
    cluster.edges[1].stop().await;
    let got = within(20, cluster.edges[0].ask(Method::POST, "/page").get()).await;
    assert_eq!(got.status, 200);
}
