//! Handoff: the new owner of a key gets it from the previous owner, without an origin request.

use http::Method;
use peerage::cluster::view::State;
use peerage::{AssetKey, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::client::request;
use crate::gossip::{secret, sees};
use crate::harness::{Cluster, TestEdge, cluster_of, config, run, within};
use crate::origin::{Gate, Origin, Script};

const SECRET: &str = "one secret of ours";

fn paths(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("/asset-{i:016x}.bin")).collect()
}

/// Returns an edge that is not running yet, of a cluster with a shared secret.
async fn bind(name: &str, origin: &Origin, peers: Vec<String>) -> Server {
    let mut config = config(name);
    config.origin.url = origin.url();
    let mut cluster = cluster_of(peers);
    cluster.secret = Some(secret(SECRET));
    config.cluster = Some(cluster);
    Server::bind(config).await.unwrap()
}

/// Waits until all of `edges` see each other as alive.
async fn meet(edges: &[&TestEdge]) {
    for edge in edges {
        for other in edges {
            sees(edge, &other.name(), Some(State::Alive)).await;
        }
    }
}

async fn three(origin: &Origin) -> [TestEdge; 3] {
    let first = run(bind("edge-1", origin, Vec::new()).await);
    let second = run(bind("edge-2", origin, vec![first.name()]).await);
    let third = run(bind("edge-3", origin, vec![first.name()]).await);
    meet(&[&first, &second, &third]).await;
    [first, second, third]
}

fn owns(edge: &TestEdge, path: &str) -> bool {
    let key = AssetKey::parse(path, usize::MAX).unwrap();
    **edge.edge.membership().view().ring.owner(key.hash()).unwrap().name() == *edge.name()
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_edge_gets_its_keys_from_the_previous_owners() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("pixels"));
    let [first, second, third] = three(&origin).await;
    let paths = paths(80);
    for path in &paths {
        assert_eq!(first.get(path).send().await.text(), "pixels");
    }
    assert_eq!(origin.seen().len(), paths.len());
    let fourth = run(bind("edge-4", &origin, vec![second.name()]).await);
    meet(&[&first, &second, &third, &fourth]).await;
    for edge in [&fourth, &third, &second, &first] {
        for path in &paths {
            assert_eq!(edge.get(path).send().await.text(), "pixels");
        }
    }
    assert_eq!(origin.seen().len(), paths.len(), "every key is stored at some edge");
    let moved = paths.iter().filter(|path| owns(&fourth, path)).count();
    assert!((1..=40).contains(&moved), "{moved} of 80");
    let held = fourth.metric("peerage_takeovers_total{outcome=\"held\"}").await;
    assert!(held >= 1.0, "{held}");
    // Its own keys are in the main tier, like responses from the origin.
    let main = fourth.metric("peerage_cache_objects{tier=\"main\"}").await;
    #[allow(clippy::cast_precision_loss)]
    let moved = moved as f64;
    assert!((main - moved).abs() < f64::EPSILON, "{main} in main, {moved} owned");
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_with_a_warm_start_stores_its_keys_before_it_is_ready() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("pixels"));
    let [first, second, third] = three(&origin).await;
    let paths = paths(80);
    for path in &paths {
        second.get(path).send().await;
    }
    let mut server = bind("edge-4", &origin, vec![second.name()]).await;
    server.start_warm();
    let fourth = run(server);
    let ready = async {
        while request(fourth.admin, Method::GET, "/readyz").send().await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    within(20, ready).await;
    meet(&[&first, &second, &third, &fourth]).await;
    let owned: Vec<_> = paths.iter().filter(|path| owns(&fourth, path)).collect();
    assert!(!owned.is_empty());
    for path in owned {
        let got = fourth.get(path).send().await;
        assert!(got.cache_status().starts_with("edge-4;hit"), "{path}: {:?}", got.cache_status());
    }
    assert_eq!(origin.seen().len(), paths.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn fill_in_progress_at_the_previous_owner_is_joined() {
    let origin = Origin::start().await;
    let gate = Gate::closed();
    origin.script("*", Script::ok("pixels").hold_body(&gate));
    let first = run(bind("edge-1", &origin, Vec::new()).await);
    let paths = paths(40);
    let mut coming = Vec::new();
    for path in &paths {
        // The head is there, and the body waits.
        coming.push(first.get(path).open().await);
    }
    let second = run(bind("edge-2", &origin, vec![first.name()]).await);
    meet(&[&first, &second]).await;
    let moved: Vec<_> = paths.iter().filter(|path| owns(&second, path)).collect();
    assert!(!moved.is_empty());
    for path in moved {
        coming.push(second.get(path).open().await);
    }
    gate.open(6 * paths.len());
    for open in coming {
        assert_eq!(open.rest().await.text(), "pixels");
    }
    assert_eq!(origin.seen().len(), paths.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_edge_hands_its_keys_to_the_new_owner() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("pixels"));
    let gate = Gate::closed();
    origin.script("/held", Script::ok("pixels").hold_body(&gate));
    let mut cluster = Cluster::start(2, &origin, |_| {}).await;
    let names = cluster.names();
    sees(&cluster.edges[0], &names[1], Some(State::Alive)).await;
    let paths: Vec<_> = (1..20).map(|seed| cluster.path_owned_by(1, seed)).collect();
    for path in &paths {
        cluster.edges[1].get(path).send().await;
    }
    let held = tokio::spawn(cluster.edges[1].get("/held").send());
    origin.arrived(paths.len() + 1).await;
    cluster.edges[1].begin_drain();
    sees(&cluster.edges[0], &names[1], Some(State::Draining)).await;
    for path in &paths {
        let got = cluster.edges[0].get(path).send().await;
        assert_eq!((got.status.as_u16(), got.text()), (200, "pixels"));
    }
    assert_eq!(origin.seen().len(), paths.len() + 1);
    gate.open(6);
    assert_eq!(held.await.unwrap().text(), "pixels");
}

/// No request of a client probes whether a peer is back.
#[tokio::test]
async fn unreachable_peer_is_probed_until_it_answers() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("pixels"));
    let cluster = Cluster::start(1, &origin, |config| config.cluster.as_mut().unwrap().gossip = false).await;
    let edge = &cluster.edges[0];
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = free.local_addr().unwrap();
    drop(free);
    let (own, name) = (edge.name(), peer.to_string());
    edge.edge.membership().replace([own.as_str(), name.as_str()]);
    let path = paths(100).into_iter().find(|path| !owns(edge, path)).unwrap();
    assert_eq!(edge.get(&path).send().await.text(), "pixels");
    let up = format!("peerage_peer_up{{peer=\"{peer}\"}}");
    edge.metric_becomes(&up, 0.0).await;
    let listener = TcpListener::bind(peer).await.unwrap();
    let (mut stream, _) = within(20, listener.accept()).await.unwrap();
    let mut question = vec![0; 4096];
    let length = stream.read(&mut question).await.unwrap();
    let question = String::from_utf8_lossy(&question[..length]).to_lowercase();
    assert!(question.starts_with("options / ") && question.contains("max-forwards: 0"), "{question}");
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    edge.metric_becomes(&up, 1.0).await;
    let latency = edge.edge.membership().view().peer(&name).unwrap().latency();
    assert!(latency.is_some());
}

/// A write may not have reached every edge that stores the previous response.
#[tokio::test]
async fn written_key_is_fetched_from_the_origin_and_not_from_a_previous_owner() {
    let (origin, holder) = (Origin::start().await, Origin::start().await);
    origin.script("*", Script::ok("new").header("cache-control", "max-age=600"));
    holder.script("*", Script::ok("old").header("cache-control", "max-age=600"));
    let cluster = Cluster::start(1, &origin, |config| config.cluster.as_mut().unwrap().gossip = false).await;
    let edge = &cluster.edges[0];
    let (own, other) = (edge.name(), holder.url().authority().unwrap().to_string());
    edge.edge.membership().replace([own.as_str(), other.as_str()]);
    let mut pages = (0..100).map(|i| format!("/page-{i}")).filter(|path| owns(edge, path));
    let (first, second) = (pages.next().unwrap(), pages.next().unwrap());
    assert_eq!(edge.get(&first).send().await.text(), "old", "a key that was not written comes from the peer");
    assert_eq!(holder.seen()[0].header("cache-control"), Some("only-if-cached"));
    assert_eq!(edge.request(Method::PUT, &second).body("new").send().await.status, 200);
    assert_eq!(edge.get(&second).send().await.text(), "new");
    assert_eq!(holder.seen().iter().filter(|seen| seen.target == second && seen.method == "GET").count(), 0);
}
