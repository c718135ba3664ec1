//! Requests to owners and their successors, also when an owner is unreachable.

use std::time::Duration;

use peerage::config::Period;
use tokio::net::TcpListener;

use crate::client::RequestBuilder;
use crate::harness::{Cluster, TestEdge, cluster_of, config, join_all, run, within};
use crate::origin::{Gate, Origin, Script};
use crate::verification::is_owned_by;

#[tokio::test]
async fn miss_is_fetched_from_the_owner_and_kept_as_a_copy() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("pixels").header("cache-control", "max-age=31536000"));
    let cluster = Cluster::start(3, &origin, |_| {}).await;
    let path = cluster.path_owned_by(2, 1);
    let first = cluster.edges[0].get(&path).send().await;
    assert_eq!(first.header("cache-status"), "edge-3;fwd=uri-miss;stored, edge-1;fwd=uri-miss;stored");
    let vias: Vec<_> = first.headers.get_all("via").iter().map(|via| via.to_str().unwrap()).collect();
    assert_eq!(vias, ["1.1 edge-3", "1.1 edge-1"]);
    let again = cluster.edges[0].get(&path).send().await;
    assert!(again.header("cache-status").starts_with("edge-1;hit;ttl=315359"), "{}", again.header("cache-status"));
    let other = cluster.edges[1].get(&path).send().await;
    assert!(other.header("cache-status").starts_with("edge-3;hit;ttl="), "{}", other.header("cache-status"));
    assert_eq!(origin.count(&path), 1);
    let figures = [("main", [0.0, 0.0, 1.0]), ("hot", [1.0, 1.0, 0.0])];
    for (tier, objects) in figures {
        for (edge, objects) in cluster.edges.iter().zip(objects) {
            edge.metric_becomes(&format!("peerage_cache_objects{{tier=\"{tier}\"}}"), objects).await;
        }
    }
}

#[tokio::test]
async fn request_of_a_peer_goes_to_the_origin_whichever_edge_owns_the_key() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("pixels"));
    let cluster = Cluster::start(3, &origin, |_| {}).await;
    let path = cluster.path_owned_by(2, 1);
    let got = cluster.edges[0].get_as_peer(&path).send().await;
    assert_eq!(got.header("cache-status"), "edge-1;fwd=uri-miss;stored");
    // The owner may have been asked for its stored copy, and has fetched nothing.
    assert!(cluster.edges[2].metric("peerage_fetches_total{from=\"origin\",outcome=\"ok\"}").await < 0.1);
}

#[tokio::test]
async fn stopped_owners_keys_are_fetched_once_by_the_successor() {
    let origin = Origin::start().await;
    let gate = Gate::closed();
    origin.script("*", Script::ok("pixels").hold_response(&gate));
    let mut cluster = Cluster::start(3, &origin, |_| {}).await;
    let paths: Vec<_> = (0..10).map(|i| cluster.path_owned_by(2, i)).collect();
    let dead = cluster.edges[2].name();
    cluster.edges[2].drain().await;
    let asks: Vec<_> = paths.iter().flat_map(|path| cluster.edges[..2].iter().map(|edge| edge.get(path))).collect();
    let responses = tokio::spawn(join_all(asks.into_iter().map(RequestBuilder::send)));
    // All wait before the origin answers: two clients for each key, and one edge at the other.
    let all_wait = async {
        let waiting = async |edge: usize| cluster.edges[edge].metric("peerage_flight_readers").await;
        while waiting(0).await + waiting(1).await < 30.0 {
            tokio::task::yield_now().await;
        }
    };
    within(20, all_wait).await;
    gate.open(10);
    let responses = within(20, responses).await.unwrap();
    assert!(responses.iter().all(|got| got.text() == "pixels"));
    for path in &paths {
        assert_eq!(origin.count(path), 1, "{path}");
    }
    for edge in &cluster.edges[..2] {
        assert!(edge.metric(&format!("peerage_peer_up{{peer=\"{dead}\"}}")).await < 0.1);
    }
}

#[tokio::test]
async fn silent_owner_is_passed_over() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("pixels"));
    // It accepts connections, and never sends a byte.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let cluster = Cluster::start(1, &origin, |config| {
        let cluster = config.cluster.as_mut().unwrap();
        cluster.first_byte_timeout = Period(Duration::from_millis(100));
    })
    .await;
    let edge = &cluster.edges[0];
    let names = [edge.name(), silent.local_addr().unwrap().to_string()];
    edge.edge.membership().replace(names.iter().map(String::as_str));
    let path = path_owned_by(edge, &names[1]);
    assert_eq!(within(20, edge.get(&path).send()).await.text(), "pixels");
    assert!(edge.metric(&format!("peerage_peer_up{{peer=\"{}\"}}", names[1])).await < 0.1);
}

#[tokio::test]
async fn owner_that_answers_pings_and_no_requests_blocks_no_key() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("pixels"));
    let (edge, peer) = crate::verification::with_scripted_peer(&origin, |config| {
        crate::verification::probe_often(config).first_byte_timeout = Period(Duration::from_mins(10));
    })
    .await;
    let (never, name) = (Gate::closed(), peer.address.to_string());
    peer.reject_peeks();
    // More paths than requests that doubts may cost.
    let paths: Vec<_> =
        (0..400).map(|i| format!("/plain/{i}")).filter(|path| is_owned_by(&edge, &peer, path)).collect();
    assert!(paths.len() > 100);
    for path in &paths {
        peer.script(path, Script::ok("late").hold_response(&never));
    }
    peer.script("*", Script::ok(""));
    let responses = join_all(paths.iter().map(|path| edge.get(path).send()));
    for got in within(60, responses).await {
        assert_eq!(got.text(), "pixels");
    }
    // It answers pings, and so it does not stay down.
    edge.metric_becomes(&format!("peerage_peer_up{{peer=\"{name}\"}}"), 1.0).await;
}

#[tokio::test]
async fn response_that_breaks_off_in_its_first_chunk_does_not_mark_the_peer_as_down() {
    let origin = Origin::start().await;
    let (edge, peer) = crate::verification::with_scripted_peer(&origin, |_| {}).await;
    origin.script("*", Script::ok("pixels"));
    peer.reject_peeks();
    // No other response of the peer may mark it as up again.
    let never = Gate::closed();
    peer.script("*", Script::ok("").hold_response(&never));
    let mut paths = (0..).map(|i| format!("/plain/{i}")).filter(|path| is_owned_by(&edge, &peer, path));
    for _ in 0..3 {
        let path = paths.next().unwrap();
        peer.script(&path, Script::ok("pixels").chunked().cut_at(0));
        assert_eq!(within(20, edge.get(&path).send()).await.text(), "pixels");
        assert_eq!(origin.count(&path), 1);
        let up = format!("peerage_peer_up{{peer=\"{}\"}}", peer.address);
        assert!(edge.metric(&up).await > 0.5);
    }
}

#[tokio::test]
async fn request_waits_for_an_owner_that_acknowledged_and_has_a_slow_origin() {
    let origin = Origin::start().await;
    let gate = Gate::closed();
    origin.script("*", Script::ok("pixels").hold_response(&gate));
    let cluster = Cluster::start(2, &origin, |config| config.cluster.as_mut().unwrap().gossip = false).await;
    let plain = (0..1000).map(|i| format!("/plain/{i}")).find(|path| cluster.rank(path)[0] == 1).unwrap();
    let paths = [cluster.path_owned_by(1, 1), plain];
    let asks: Vec<_> = paths.iter().map(|path| tokio::spawn(cluster.edges[0].get(path).send())).collect();
    // Meanwhile the owner is pinged repeatedly.
    let pinged = async {
        let pings = "peerage_requests_total{source=\"peer\",result=\"pass\"}";
        while cluster.edges[1].metric(pings).await < 5.0 {
            tokio::task::yield_now().await;
        }
    };
    within(20, pinged).await;
    gate.open(10);
    for ask in asks {
        assert_eq!(within(20, ask).await.unwrap().text(), "pixels");
    }
    for path in &paths {
        assert_eq!(origin.count(path), 1);
    }
}

fn path_owned_by(edge: &TestEdge, owner: &str) -> String {
    let view = edge.edge.membership().view();
    let owns = |path: &String| {
        let key = peerage::AssetKey::parse(path, usize::MAX).unwrap();
        **view.ring.owner(key.hash()).unwrap().name() == *owner
    };
    (0..100_000).map(|i| format!("/asset-{i:016x}.bin")).find(owns).unwrap()
}

#[tokio::test]
async fn silent_owners_key_is_fetched_once_if_the_edges_have_different_timeouts() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("pixels"));
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let cluster = Cluster::start(2, &origin, |config| {
        let cluster = config.cluster.as_mut().unwrap();
        // The second edge times out later.
        let wait = if config.edge.name == "edge-1" { 100 } else { 600 };
        cluster.first_byte_timeout = Period(Duration::from_millis(wait));
    })
    .await;
    let mut names = cluster.names();
    names.push(silent.local_addr().unwrap().to_string());
    for edge in &cluster.edges {
        edge.edge.membership().replace(names.iter().map(String::as_str));
    }
    // The silent edge owns the path, and the edge that times out later is its successor.
    let wanted = |path: &String| {
        let view = cluster.edges[0].edge.membership().view();
        let rank = view.ring.rank(peerage::AssetKey::parse(path, usize::MAX).unwrap().hash());
        **rank[0].name() == *names[2] && **rank[1].name() == *names[1]
    };
    let path = (0..100_000).map(|i| format!("/asset-{i:016x}.bin")).find(wanted).unwrap();
    let asks: Vec<_> = cluster.edges.iter().map(|edge| edge.get(&path).send()).collect();
    for got in within(20, join_all(asks)).await {
        assert_eq!(got.text(), "pixels");
    }
    assert_eq!(origin.count(&path), 1);
}

#[tokio::test]
async fn owners_502_causes_no_origin_request_of_other_edges() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(2, &origin, |config| {
        // Only the owner of the path cannot reach the origin.
        if config.edge.name == "edge-2" {
            config.origin.url = "http://127.0.0.1:1".parse().unwrap();
        }
    })
    .await;
    let path = cluster.path_owned_by(1, 1);
    let asks: Vec<_> = (0..20).map(|_| cluster.edges[0].get(&path).send()).collect();
    for got in within(20, join_all(asks)).await {
        assert_eq!(got.status, 502);
    }
    assert_eq!(origin.count(&path), 0);
}

#[tokio::test]
async fn origin_url_that_points_to_the_edge_itself_is_508() {
    let origin = Origin::start().await;
    let mut own = config("edge-1");
    let held = TcpListener::bind("127.0.0.1:0").await.unwrap();
    own.edge.listen = held.local_addr().unwrap().into();
    own.origin.url = format!("http://{}", own.edge.listen[0]).parse().unwrap();
    drop((held, origin));
    let edge = run(peerage::Server::bind(own).await.unwrap());
    for ask in [edge.get("/a"), edge.get("/logo-0492830483.png"), edge.request(http::Method::POST, "/a")] {
        let got = within(20, ask.send()).await;
        assert_eq!(got.status, 508);
    }
}

#[tokio::test]
async fn edges_with_contradicting_lists_answer_every_key() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("pixels"));
    let cluster = Cluster::start(2, &origin, |_| {}).await;
    let names = cluster.names();
    // Each edge takes the other one for the owner of every key; then no list names an owner.
    for lists in [[vec![&*names[1]], vec![&*names[0]]], [Vec::new(), Vec::new()]] {
        for (edge, list) in cluster.edges.iter().zip(lists) {
            edge.edge.membership().replace(list);
        }
        let asks: Vec<_> = (0..40).map(|i| cluster.edges[i % 2].get(&format!("/a-{:016x}.bin", i / 2))).collect();
        let responses = within(10, join_all(asks.into_iter().map(RequestBuilder::send))).await;
        assert!(responses.iter().all(|got| got.text() == "pixels"));
    }
}

#[tokio::test]
async fn origin_errors_are_passed_on_by_the_owner_and_not_retried() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(3, &origin, |_| {}).await;
    for (status, seed) in [(404, 1), (503, 2), (403, 3)] {
        let path = cluster.path_owned_by(2, seed);
        origin.script(&path, Script::status(status));
        let got = cluster.edges[0].get(&path).send().await;
        assert_eq!((got.status.as_u16(), got.text()), (status, format!("status {status}\n").as_str()));
        assert_eq!(origin.count(&path), 1);
    }
}

#[tokio::test]
async fn cache_status_shows_that_the_owner_cannot_reach_the_origin() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(2, &origin, |config| config.origin.url = "http://127.0.0.1:1".parse().unwrap()).await;
    let path = cluster.path_owned_by(1, 1);
    let got = within(20, cluster.edges[0].get(&path).send()).await;
    assert_eq!(got.status, 502);
    assert!(
        got.header("cache-status").starts_with("edge-2;detail=origin-unreachable, edge-1;"),
        "{}",
        got.header("cache-status")
    );
}

#[tokio::test]
async fn edge_that_is_not_in_its_own_list_owns_nothing() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("pixels"));
    let cluster = Cluster::start(1, &origin, |_| {}).await;
    let mut guest = config("guest");
    guest.origin.url = origin.url();
    guest.cluster = Some(cluster_of(cluster.names()));
    let guest = run(peerage::Server::bind(guest).await.unwrap());
    for i in 0..5 {
        let got = guest.get(&format!("/a-{i:016x}.bin")).send().await;
        assert!(got.header("cache-status").starts_with("edge-1;"), "{}", got.header("cache-status"));
    }
}

#[tokio::test]
async fn body_that_a_peer_breaks_off_is_incomplete_and_not_stored() {
    let origin = Origin::start().await;
    // The peer is a scripted origin that breaks off.
    let peer = Origin::start().await;
    peer.script("*", Script::ok("0123456789").cut_at(5));
    let cluster = Cluster::start(1, &origin, |_| {}).await;
    let edge = &cluster.edges[0];
    edge.edge.membership().replace([peer.address.to_string().as_str()]);
    let got = within(20, edge.get("/a-0123456789abcdef.bin").send()).await;
    assert!(!got.complete);
    edge.metric_becomes("peerage_cache_objects{tier=\"hot\"}", 0.0).await;
}

#[tokio::test]
async fn pooled_connection_that_was_closed_fails_no_request() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(2, &origin, |_| {}).await;
    // The origin closes the connection after each response, without Connection: close.
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    origin.script("*", Script::raw(answer));
    for i in 0..50 {
        let got = within(20, cluster.edges[i % 2].get(&format!("/a-{i:016x}.bin")).send()).await;
        assert_eq!((got.status.as_u16(), got.text()), (200, "ok"));
    }
}
