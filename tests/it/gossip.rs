//! Membership by gossip among edges, on real sockets.

use std::process::Command;
use std::time::Duration;

use http::Method;
use peerage::cluster::ring::Ring;
use peerage::cluster::view::State;
use peerage::config::{Period, Secret};
use peerage::{AssetKey, Server};
use tokio::net::UdpSocket;

use crate::client::request;
use crate::harness::{Cluster, TestEdge, cluster_of, config, run, within};
use crate::origin::{Gate, Origin, Script};
use crate::process::{BINARY, Process, Signal, free_ports};

/// Waits until `edge` sees `address` in a state; `None` means that it does not list it.
pub async fn sees(edge: &TestEdge, address: &str, state: Option<State>) {
    let seen = async {
        while edge.edge.membership().view().member(address).map(|member| member.state) != state {
            tokio::task::yield_now().await;
        }
    };
    within(20, seen).await;
}

fn owners(edge: &TestEdge) -> Vec<String> {
    edge.edge.membership().view().ring.members().iter().map(|member| member.name().to_string()).collect()
}

pub fn secret(text: &str) -> Secret {
    Secret(text.to_owned())
}

/// Starts an edge that knows `secret` and the addresses `peers`.
pub async fn start_edge(name: &str, secret: Option<Secret>, peers: Vec<String>) -> TestEdge {
    let mut config = config(name);
    let mut cluster = cluster_of(peers);
    cluster.secret = secret;
    config.cluster = Some(cluster);
    run(Server::bind(config).await.unwrap())
}

#[tokio::test]
async fn stopped_edge_is_down_and_restarted_edge_is_alive() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("pixels"));
    let mut cluster = Cluster::start(3, &origin, |_| {}).await;
    let names = cluster.names();
    for edge in &cluster.edges {
        for name in &names {
            sees(edge, name, Some(State::Alive)).await;
        }
    }
    let path = cluster.path_owned_by(2, 1);
    let epoch = cluster.edges[0].edge.membership().view().epoch;
    cluster.edges[2].drain().await;
    for edge in &cluster.edges[..2] {
        sees(edge, &names[2], Some(State::Down)).await;
        assert!(!owners(edge).contains(&names[2]));
        edge.metric_becomes("peerage_members{state=\"down\"}", 1.0).await;
        edge.metric_becomes("peerage_members{state=\"alive\"}", 2.0).await;
    }
    assert!(cluster.edges[0].edge.membership().view().epoch > epoch);
    assert_eq!(cluster.edges[0].get(&path).send().await.text(), "pixels");
    assert_eq!(
        cluster.edges[0].edge.membership().view().peer(&names[2]).unwrap().errors(),
        0,
        "no request may be sent to it"
    );

    let mut again = config("edge-3");
    again.origin.url = origin.url();
    let mut rejoining = cluster_of(names.clone());
    rejoining.listen = names[2].parse().unwrap();
    again.cluster = Some(rejoining);
    let again = run(Server::bind(again).await.unwrap());
    for edge in &cluster.edges[..2] {
        sees(edge, &names[2], Some(State::Alive)).await;
    }
    assert_eq!(owners(&again), owners(&cluster.edges[0]));
}

#[tokio::test]
async fn edge_with_the_secret_joins_by_one_address_and_others_do_not() {
    let first = start_edge("first", Some(secret("one secret of ours")), Vec::new()).await;
    let second = start_edge("second", Some(secret("one secret of ours")), vec![first.name()]).await;
    let third = start_edge("third", Some(secret("one secret of ours")), vec![first.name()]).await;
    let edges = [&first, &second, &third];
    for edge in edges {
        for other in edges {
            sees(edge, &other.name(), Some(State::Alive)).await;
        }
    }
    let view = second.edge.membership().view();
    assert_eq!(&*view.member(&third.name()).unwrap().edge, "third");
    let wrong = start_edge("wrong", Some(secret("another secret than theirs")), vec![first.name()]).await;
    first.metric_becomes("peerage_members{state=\"alive\"}", 3.0).await;
    sees(&wrong, &first.name(), Some(State::Down)).await;
    sees(&first, &wrong.name(), None).await;
    assert!(first.metric("peerage_refused_datagrams_total{reason=\"seal\"}").await > 0.0);
}

#[tokio::test]
async fn guest_counts_the_datagrams_that_it_refuses_as_guest_not_stranger() {
    let [member, guest] = [start_edge("member", None, Vec::new()).await, start_edge("guest", None, Vec::new()).await];
    let names = [member.name(), guest.name()];
    guest.edge.membership().replace([names[0].as_str()]);
    member.edge.membership().replace(names.iter().map(String::as_str));
    let refused = async { while guest.metric("peerage_refused_datagrams_total{reason=\"guest\"}").await < 1.0 {} };
    within(20, refused).await;
    assert_eq!(guest.metric("peerage_refused_datagrams_total{reason=\"stranger\"}").await.to_string(), "0");
}

#[tokio::test]
async fn without_a_secret_only_listed_edges_are_members() {
    let cluster = Cluster::start(2, &Origin::start().await, |_| {}).await;
    let names = cluster.names();
    let stranger = start_edge("stranger", None, names.clone()).await;
    // The stranger takes itself for a member; the other edges do not.
    let own = stranger.name();
    stranger.edge.membership().replace(names.iter().map(String::as_str).chain([own.as_str()]));
    for edge in &cluster.edges {
        let refused = async {
            while edge.metric("peerage_refused_datagrams_total{reason=\"stranger\"}").await < 1.0 {
                tokio::task::yield_now().await;
            }
        };
        within(20, refused).await;
        sees(edge, &own, None).await;
    }
    cluster.edges[0].edge.membership().replace(names.iter().map(String::as_str).chain([own.as_str()]));
    sees(&cluster.edges[0], &own, Some(State::Alive)).await;
    sees(&stranger, &names[0], Some(State::Alive)).await;
}

#[tokio::test]
async fn datagram_of_another_version_is_counted_and_its_sender_stays_down() {
    let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let name = other.local_addr().unwrap().to_string();
    let edge = start_edge("edge-1", None, Vec::new()).await;
    let own = edge.name();
    edge.edge.membership().replace([own.as_str(), name.as_str()]);
    // The edge's own datagram is sent back, with another version.
    let mut datagram = [0; 2048];
    let (length, from) = within(20, other.recv_from(&mut datagram)).await.unwrap();
    datagram[4] += 1;
    other.send_to(&datagram[..length], from).await.unwrap();
    edge.metric_becomes("peerage_refused_datagrams_total{reason=\"version\"}", 1.0).await;
    other.send_to(b"GET / HTTP/1.1\r\n\r\n", from).await.unwrap();
    edge.metric_becomes("peerage_refused_datagrams_total{reason=\"garbage\"}", 1.0).await;
    sees(&edge, &name, Some(State::Down)).await;
    assert_eq!(owners(&edge), [own]);
}

#[tokio::test]
async fn edge_that_is_listed_again_is_alive_again() {
    let cluster = Cluster::start(2, &Origin::start().await, |_| {}).await;
    let names = cluster.names();
    let edge = &cluster.edges[0];
    sees(edge, &names[1], Some(State::Alive)).await;
    let membership = edge.edge.membership();
    membership.replace([]);
    assert_eq!(owners(edge), [names[0].clone()]);
    membership.replace(names.iter().map(String::as_str));
    sees(edge, &names[1], Some(State::Alive)).await;
    assert_eq!(owners(edge).len(), 2);
    membership.replace([]);
    edge.metric_becomes("peerage_members{state=\"alive\"}", 1.0).await;
}

#[tokio::test]
async fn without_gossip_every_listed_edge_counts_as_alive() {
    let origin = Origin::start().await;
    let mut cluster = Cluster::start(2, &origin, |config| config.cluster.as_mut().unwrap().gossip = false).await;
    let names = cluster.names();
    cluster.edges[1].drain().await;
    let path = cluster.path_owned_by(1, 1);
    cluster.edges[0].get(&path).send().await;
    let view = cluster.edges[0].edge.membership().view();
    assert_eq!(view.member(&names[1]).unwrap().state, State::Alive);
    assert!(!view.peer(&names[1]).unwrap().is_up());
    assert_eq!(request(cluster.edges[0].admin, Method::GET, "/readyz").send().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_command_prints_the_members() {
    let cluster = Cluster::start(2, &Origin::start().await, |_| {}).await;
    let (admin, names) = (cluster.edges[0].admin, cluster.names());
    sees(&cluster.edges[0], &names[1], Some(State::Alive)).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.toml"), format!("[admin]\nlisten = \"{admin}\"\n")).unwrap();
    let peers = |arguments: &[&str]| {
        let mut command = Command::new(BINARY);
        let output = command.arg("peers").args(arguments).current_dir(folder.path()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, table, _) = tokio::task::block_in_place(|| peers(&[]));
    assert_eq!((code, table.lines().count()), (Some(0), 4), "{table}");
    for name in names {
        let line = table.lines().find(|line| line.contains(&name)).unwrap();
        assert!(line.contains("alive") && line.contains("50.0%"), "{table}");
    }
    let (_, json, _) = tokio::task::block_in_place(|| peers(&["--json"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["members"][0]["state"], "alive");
    let (code, _, told) = tokio::task::block_in_place(|| peers(&["--set", "admin.listen=127.0.0.1:1"]));
    assert_eq!(code, Some(69));
    assert!(told.contains("admin.listen") && !told.contains("origin"), "{told}");
}

#[tokio::test]
async fn later_of_two_edges_with_one_name_is_refused_and_asks_the_owner() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("pixels"));
    let cluster = Cluster::start(2, &origin, |config| config.edge.name = "edge-1".to_owned()).await;
    for edge in &cluster.edges {
        edge.metric_becomes("peerage_members{state=\"refused\"}", 1.0).await;
        assert_eq!(owners(edge).len(), 1);
    }
    // The refused edge does not own keys in its own view either.
    assert_eq!(owners(&cluster.edges[0]), owners(&cluster.edges[1]));
    for edge in &cluster.edges {
        assert_eq!(edge.get("/a-0123456789abcdef.bin").send().await.text(), "pixels");
    }
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn draining_edge_owns_no_key_and_still_answers() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("pixels"));
    // A request in flight keeps the edge draining during the checks.
    let gate = Gate::closed();
    origin.script("/held", Script::ok("pixels").hold_body(&gate));
    let mut cluster = Cluster::start(2, &origin, |_| {}).await;
    let names = cluster.names();
    sees(&cluster.edges[0], &names[1], Some(State::Alive)).await;
    let asking = tokio::spawn(cluster.edges[1].get("/held").send());
    origin.arrived(1).await;
    cluster.edges[1].begin_drain();
    sees(&cluster.edges[0], &names[1], Some(State::Draining)).await;
    assert_eq!(owners(&cluster.edges[0]), [names[0].clone()]);
    let got = cluster.edges[1].get_as_peer("/a-0123456789abcdef.bin").send().await;
    assert_eq!(got.text(), "pixels");
    gate.open(6);
    assert_eq!(asking.await.unwrap().text(), "pixels");
    sees(&cluster.edges[0], &names[1], Some(State::Down)).await;
}

#[tokio::test]
async fn frozen_process_is_down_and_alive_again_when_it_resumes() {
    let origin = Origin::start().await;
    let first = start_edge("first", Some(secret("one secret of ours")), Vec::new()).await;
    let folder = tempfile::tempdir().unwrap();
    let cluster = format!(
        "[cluster]\nlisten = \"127.0.0.1:0\"\nsecret = \"one secret of ours\"\npeers = [\"{}\"]\n",
        first.name()
    );
    let process = Process::edge(folder.path(), &origin.url(), &cluster).await;
    first.metric_becomes("peerage_members{state=\"alive\"}", 2.0).await;
    process.signal(Signal::STOP);
    let began = std::time::Instant::now();
    first.metric_becomes("peerage_members{state=\"down\"}", 1.0).await;
    println!("a frozen process was down after {:?}", began.elapsed());
    let peers: serde_json::Value =
        serde_json::from_slice(&request(first.admin, Method::GET, "/peers").send().await.body).unwrap();
    let frozen = peers["members"].as_array().unwrap().iter().find(|peer| peer["own"] == false).unwrap();
    assert_eq!((&frozen["name"], &frozen["state"]), (&"edge-7".into(), &"down".into()));
    assert!(frozen["share"].as_f64().unwrap() < 0.01 && frozen["since"].as_str().unwrap().ends_with('Z'));
    process.signal(Signal::CONT);
    first.metric_becomes("peerage_members{state=\"alive\"}", 2.0).await;
}

/// A frozen owner is not waited for as long as a slow origin: its requests are retried at the
/// successor as soon as the owner is in doubt.
#[tokio::test]
async fn requests_leave_a_frozen_owner_when_gossip_doubts_it() {
    request_keys_of_a_frozen_owner("").await;
}

/// Without gossip, waiting requests detect a frozen owner by pings.
#[tokio::test]
async fn requests_leave_a_frozen_owner_when_a_ping_is_overdue() {
    request_keys_of_a_frozen_owner("gossip = false\n").await;
}

async fn request_keys_of_a_frozen_owner(more: &str) {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("x").delay(Duration::from_millis(300)));
    let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let ports = free_ports(3);
    let peers: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let mut edges = Vec::new();
    for (folder, own) in folders.iter().zip(&peers) {
        let more = format!("[cluster]\nlisten = \"{own}\"\npeers = {peers:?}\n{more}");
        edges.push(Process::edge(folder.path(), &origin.url(), &more).await);
    }
    let ring = Ring::new(peers.iter().map(String::as_str));
    let owned: Vec<_> = (0..1000u64)
        .map(|i| format!("/asset-{i:016x}.bin"))
        .filter(|path| **ring.owner(AssetKey::parse(path, 100).unwrap().hash()).unwrap().name() == *peers[0])
        .take(20)
        .collect();
    // The edges have met once one of them fetches a key through its owner.
    assert_eq!(edges[1].get(&owned[0]).await.text(), "x");
    edges[0].signal(Signal::STOP);
    let began = std::time::Instant::now();
    let mut slowest = Duration::ZERO;
    for (i, path) in owned[1..].iter().enumerate() {
        let began = std::time::Instant::now();
        // Far below cluster.first_byte_timeout, which would end each request as well.
        let got = within(30, edges[1 + i % 2].get(path)).await;
        assert_eq!((got.status.as_u16(), got.text()), (200, "x"), "{path}");
        slowest = slowest.max(began.elapsed());
    }
    edges[0].signal(Signal::CONT);
    println!("slowest of 19 requests for keys of a frozen owner: {slowest:?}, all in {:?}", began.elapsed());
}

/// The owner answers pings, however long the origin takes.
#[tokio::test]
async fn a_slow_origin_behind_a_healthy_owner_is_asked_once() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("x").delay(Duration::from_millis(1500)));
    for gossip in [true, false] {
        let secs = |seconds| Period(Duration::from_secs(seconds));
        let cluster = Cluster::start(3, &origin, |config| {
            let cluster = config.cluster.as_mut().unwrap();
            cluster.gossip = gossip;
            // On a busy machine a live owner may need longer than the default.
            (cluster.probe_interval, cluster.probe_timeout) = (secs(2), Period(Duration::from_millis(500)));
            cluster.suspicion = secs(10);
        })
        .await;
        let path = cluster.path_owned_by(2, usize::from(gossip));
        let (one, two) = (cluster.edges[0].get(&path).send(), cluster.edges[1].get(&path).send());
        let (one, two) = tokio::join!(one, two);
        assert_eq!((one.text(), two.text(), origin.count(&path)), ("x", "x", 1));
    }
}
