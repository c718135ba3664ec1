//! Gossip under `cluster.secret` on real sockets: hostile datagrams, and the rotation of the secret.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use peerage::cluster::view::State;
use peerage::{Config, Reloading, Server};
use tokio::net::UdpSocket;

use crate::gossip::{secret, sees, start_edge};
use crate::harness::{TestEdge, cluster_of, config, run, within};
use crate::origin::{Origin, Script};

const OLD: &str = "one secret of ours";
const NEW: &str = "another secret of ours";

async fn grows(edge: &TestEdge, metric: &str, least: f64) {
    let grown = async {
        while edge.metric(metric).await < least {
            tokio::task::yield_now().await;
        }
    };
    within(20, grown).await;
}

fn refused(reason: &str) -> String {
    format!("peerage_refused_datagrams_total{{reason=\"{reason}\"}}")
}

fn millis_since_1970() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()
}

#[tokio::test]
async fn hostile_datagrams_change_nothing_and_are_counted() {
    let listener = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let listener_name = listener.local_addr().unwrap().to_string();
    // The first edge announces itself to the test, which records a datagram of it.
    let first = start_edge("first", Some(secret(OLD)), vec![listener_name.clone()]).await;
    let mut second = start_edge("second", Some(secret(OLD)), vec![first.name()]).await;
    for (edge, other) in [(&first, &second), (&second, &first)] {
        sees(edge, &other.name(), Some(State::Alive)).await;
    }
    sees(&first, &listener_name, Some(State::Down)).await;
    let mut recorded = [0; 2048];
    let (length, _) = within(20, listener.recv_from(&mut recorded)).await.unwrap();
    let recorded = &recorded[..length];
    assert!(!recorded.windows(7).any(|bytes| bytes == b"127.0.0") && !recorded.starts_with(b"peer"));
    assert!(length <= 1232);

    let states = |edge: &TestEdge| {
        let view = edge.edge.membership().view();
        view.members().iter().map(|member| (member.address.to_string(), member.state)).collect::<Vec<_>>()
    };
    let before = states(&second);
    let second_name = second.name();
    let attack = async |datagram: &[u8]| {
        listener.send_to(datagram, &second_name).await.unwrap();
    };
    let mut forgeries = 0.0;
    for at in [1, 9, 17, 25, length - 1] {
        let mut changed = recorded.to_vec();
        changed[at] ^= 0x10;
        attack(&changed).await;
        attack(&recorded[..at]).await;
        forgeries += 2.0;
    }
    attack(b"peer\x01").await;
    attack(b"").await;
    grows(&second, &refused("seal"), forgeries + 2.0).await;
    // It was not addressed to the second edge, which opens it once and ignores it.
    for _ in 0..3 {
        attack(recorded).await;
    }
    grows(&second, &refused("replay"), 2.0).await;
    listener.send_to(recorded, first.name()).await.unwrap();
    grows(&first, &refused("replay"), 1.0).await;
    assert_eq!(states(&second), before);

    // A restarted edge does not know what its predecessor received.
    second.drain().await;
    let recorded_until = millis_since_1970();
    while millis_since_1970() == recorded_until {
        tokio::task::yield_now().await;
    }
    let mut config = config("second");
    let mut cluster = cluster_of(vec![first.name()]);
    (cluster.listen, cluster.secret) = (second_name.parse().unwrap(), Some(secret(OLD)));
    config.cluster = Some(cluster);
    let restarted = run(Server::bind(config).await.unwrap());
    sees(&restarted, &first.name(), Some(State::Alive)).await;
    let known = restarted.metric(&refused("replay")).await;
    attack(recorded).await;
    grows(&restarted, &refused("replay"), known + 1.0).await;
    sees(&restarted, &listener_name, None).await;
    assert!(restarted.metric(&refused("time")).await < 1.0);
}

/// An edge with its configuration, which the test reloads.
struct Reloaded {
    edge: TestEdge,
    config: Config,
    reloading: Reloading,
}

impl Reloaded {
    async fn start(name: &str, origin: &Origin, peers: Vec<String>) -> Self {
        let mut config = config(name);
        config.origin.url = origin.url();
        let mut cluster = cluster_of(peers);
        cluster.secret = Some(secret(OLD));
        config.cluster = Some(cluster);
        let server = Server::bind(config.clone()).await.unwrap();
        let reloading = server.reloading();
        Self { edge: run(server), config, reloading }
    }

    fn reload(&mut self, secrets: &[&str]) {
        let cluster = self.config.cluster.as_mut().unwrap();
        (cluster.secret, cluster.secrets) = (None, secrets.iter().map(|text| secret(text)).collect());
        assert_eq!(self.reloading.reload(self.config.clone()).unwrap(), [""; 0]);
    }

    async fn opened(&self, position: usize) -> f64 {
        self.edge.metric(&format!("peerage_opened_datagrams_total{{secret=\"{position}\"}}")).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secret_is_rotated_in_three_steps_without_a_lost_member_or_request() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("pixels").header("cache-control", "max-age=3600"));
    let mut edges = vec![Reloaded::start("edge-1", &origin, Vec::new()).await];
    for name in ["edge-2", "edge-3"] {
        edges.push(Reloaded::start(name, &origin, vec![edges[0].edge.name()]).await);
    }
    let names: Vec<_> = edges.iter().map(|edge| edge.edge.name()).collect();
    for edge in &edges {
        for name in &names {
            sees(&edge.edge, name, Some(State::Alive)).await;
        }
    }
    let done = Arc::new(AtomicBool::new(false));
    let watches: Vec<_> = edges
        .iter()
        .map(|edge| {
            let (edge, names, done) = (Arc::clone(&edge.edge.edge), names.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let view = edge.membership().view();
                    for name in &names {
                        let state = view.member(name).map(|member| member.state);
                        assert!(matches!(state, Some(State::Alive | State::Suspect)), "{name}: {state:?}");
                    }
                    drop(view);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let clients: Vec<_> = edges
        .iter()
        .map(|edge| {
            let (address, done) = (edge.edge.clients, Arc::clone(&done));
            tokio::spawn(async move {
                let mut served = 0;
                while !done.load(Ordering::Relaxed) {
                    let path = format!("/asset-{:016x}.bin", served % 50);
                    let got = crate::client::request(address, http::Method::GET, &path).send().await;
                    assert_eq!((got.status.as_u16(), got.text()), (200, "pixels"));
                    served += 1;
                }
                served
            })
        })
        .collect();
    for (secrets, position) in [(&[OLD, NEW][..], 1), (&[NEW, OLD], 1), (&[NEW], 1)] {
        for index in 0..edges.len() {
            edges[index].reload(secrets);
            // The other edges still, or already, have the secrets of another step.
            for edge in &edges {
                let total = edge.opened(1).await + edge.opened(2).await;
                while edge.opened(1).await + edge.opened(2).await < total + 3.0 {
                    tokio::task::yield_now().await;
                }
            }
        }
        // Every datagram is sealed with the first secret now.
        for edge in &edges {
            let (before, unused) = (edge.opened(position).await, edge.opened(2).await);
            grows(&edge.edge, "peerage_opened_datagrams_total{secret=\"1\"}", before + 6.0).await;
            assert!((edge.opened(2).await - unused).abs() < 2.0, "datagrams under the second secret");
        }
    }
    done.store(true, Ordering::Relaxed);
    for watch in watches {
        watch.await.unwrap();
    }
    let mut served = 0;
    for client in clients {
        served += client.await.unwrap();
    }
    assert!((0..50).all(|number| origin.count(&format!("/asset-{number:016x}.bin")) <= 1));
    for edge in &edges {
        assert!(edge.edge.metric(&refused("seal")).await < 1.0);
    }
    println!("{served} requests during three steps, {} fetches from the origin", origin.seen().len());
}
