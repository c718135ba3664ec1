//! TLS between edges: authentication in both directions, rotation, rollout, and sessions of clients
//! that resume on another edge.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use http::Method;
use peerage::config::{ClusterTlsConfig, ClusterTlsMode, Secret};
use peerage::{Config, Server};
use rustls::HandshakeKind;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::request;
use crate::harness::{Cluster, TestEdge, assert_same, cluster_of, config, join_all, pattern, run, single_edge, within};
use crate::origin::{Origin, Script, body_per_target};
use crate::process::{Process, free_ports, line_with};
use crate::programs::require;
use crate::tls::client::{Client, Identity};
use crate::tls::pki::{Ca, Pair};
use crate::tls::program;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// The certificate authority of a cluster, and the files of one edge. All edges of a test have the
/// host 127.0.0.1, so they can share a certificate.
struct Pki {
    folder: TempDir,
    ca: Ca,
    pair: Pair,
}

impl Pki {
    fn new() -> Self {
        let (folder, ca) = (tempfile::tempdir().unwrap(), Ca::new("cluster CA"));
        let pair = ca.issue(&["127.0.0.1"]);
        pair.write(folder.path(), "edge");
        ca.write(folder.path());
        Self { folder, ca, pair }
    }

    fn tls(&self) -> ClusterTlsConfig {
        let file = |name: &str| self.folder.path().join(name);
        ClusterTlsConfig::new(file("edge.pem"), file("edge.key"), file("ca.pem"))
    }

    /// Sets `[cluster.tls]`, the secret that it requires, and a short refresh interval.
    fn secure(&self, config: &mut Config) {
        let cluster = config.cluster.as_mut().unwrap();
        cluster.secret = Some(Secret(SECRET.to_owned()));
        cluster.tls = Some(self.tls());
        config.tls.refresh = "1s".parse().unwrap();
    }

    fn write_ca(&self, issuers: &[&Ca]) {
        let text: String = issuers.iter().map(|ca| ca.pem()).collect();
        std::fs::write(self.folder.path().join("ca.pem"), text).unwrap();
    }
}

/// Sends `text` to a peer listener over TLS. Returns the response; empty if the edge rejects the
/// sender.
async fn send_as(ca: &Ca, identity: Identity<'_>, edge: SocketAddr, text: &str) -> String {
    let client = Client::with(ca, identity, rustls::ALL_VERSIONS);
    let Ok(mut connection) = client.connect(edge, "127.0.0.1").await else { return String::new() };
    // Over TLS 1.3 the sender learns of a rejection after its own side is complete.
    let _ = connection.0.write_all(text.as_bytes()).await;
    let mut received = [0; 1024];
    let length = within(20, connection.0.read(&mut received)).await.unwrap_or_default();
    String::from_utf8_lossy(&received[..length]).into_owned()
}

fn purge(path: &str) -> String {
    format!("PURGE {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

#[tokio::test]
async fn cluster_over_tls_fetches_once_peeks_and_purges() {
    let (pki, origin) = (Pki::new(), Origin::start().await);
    let cluster = Cluster::start(3, &origin, |config| pki.secure(config)).await;
    let large = pattern(3_000_000);
    for owner in 0..3 {
        let path = cluster.path_owned_by(owner, 1);
        origin.script(&path, Script::ok(large.clone()));
        let gets = cluster.edges.iter().cycle().take(12).map(|edge| edge.get(&path).send());
        for got in join_all(gets.collect::<Vec<_>>()).await {
            assert_same(&got, &large);
        }
        assert_eq!(origin.count(&path), 1);
        // A small asset is answered by a peek once its owner has it.
        let small = cluster.path_owned_by(owner, 2);
        origin.script(&small, Script::ok("small"));
        for edge in cluster.edges.iter().cycle().skip(owner).take(3) {
            assert_eq!(edge.get(&small).send().await.text(), "small");
        }
        assert_eq!(origin.count(&small), 1);
    }
    origin.script("/page", Script::ok("old").header("cache-control", "max-age=600"));
    for edge in &cluster.edges {
        assert_eq!(edge.get("/page").send().await.text(), "old");
    }
    origin.script("/page", Script::ok("new").header("cache-control", "max-age=600"));
    assert_eq!(cluster.edges[1].request(Method::POST, "/page").send().await.status, 200);
    for edge in &cluster.edges {
        assert_eq!(edge.get("/page").send().await.text(), "new");
        assert!(edge.metric("peerage_peer_tls_dials_total{outcome=\"ok\"}").await > 0.0);
        assert!(edge.metric("peerage_tls_handshakes_total{outcome=\"full\",source=\"peer\"}").await > 0.0);
    }
    let mut peeks = 0.0;
    for edge in &cluster.edges {
        peeks += edge.metric("peerage_peeks_total{outcome=\"held\"}").await;
    }
    assert!(peeks >= 3.0, "{peeks}");
}

#[tokio::test]
async fn rogue_peer_is_refused_counted_and_cannot_purge() {
    let (pki, origin, other) = (Pki::new(), Origin::start().await, Ca::new("other CA"));
    let edge = single_edge(&origin, |config| {
        config.cluster = Some(cluster_of(Vec::new()));
        pki.secure(config);
    })
    .await;
    origin.script("/page", Script::ok("page").header("cache-control", "max-age=600"));
    assert_eq!(edge.get("/page").send().await.text(), "page");
    let peers = edge.peers.unwrap();
    let strange = other.issue(&["127.0.0.1"]);
    let expired = pki.ca.issue_until(&["127.0.0.1"], SystemTime::now() - Duration::from_mins(1));
    let misnamed = pki.ca.issue(&["stranger.example", "10.1.2.3"]);
    let refused = "peerage_tls_handshakes_total{outcome=\"client_certificate\",source=\"peer\"}";
    for (number, rogue) in [None, Some(&strange), Some(&expired), Some(&misnamed)].into_iter().enumerate() {
        for message in [purge("/page"), "GET /page HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()] {
            assert_eq!(send_as(&pki.ca, rogue, peers, &message).await, "", "rogue {number}");
        }
        #[allow(clippy::cast_precision_loss)] // a small number
        edge.metric_becomes(refused, 2.0 * (number + 1) as f64).await;
    }
    let mut cleartext = TcpStream::connect(peers).await.unwrap();
    cleartext.write_all(purge("/page").as_bytes()).await.unwrap();
    let mut received = Vec::new();
    let _ = within(20, cleartext.read_to_end(&mut received)).await;
    assert!(!received.starts_with(b"HTTP"));
    edge.metric_becomes("peerage_tls_handshakes_total{outcome=\"not_tls\",source=\"peer\"}", 1.0).await;
    assert_eq!(edge.get("/page").send().await.text(), "page");
    assert_eq!(origin.count("/page"), 1);
    // A member is served, and may purge.
    let asked = "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n";
    assert!(send_as(&pki.ca, Some(&pki.pair), peers, asked).await.starts_with("HTTP/1.1 20"));
    assert!(send_as(&pki.ca, Some(&pki.pair), peers, &purge("/page")).await.starts_with("HTTP/1.1 204"));
    assert_eq!(edge.get("/page").send().await.text(), "page");
    assert_eq!(origin.count("/page"), 2);
}

/// A server that answers each request in cleartext.
async fn cleartext_server() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut received = [0; 4096];
                while stream.read(&mut received).await.is_ok_and(|length| length > 0) {
                    let response = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nrogue";
                    if stream.write_all(response).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn owner_whose_certificate_fails_is_not_believed_and_the_next_source_is_asked() {
    let (pki, elsewhere, origin) = (Pki::new(), Pki::new(), Origin::start().await);
    let rogue_origin = Origin::start().await;
    rogue_origin.script("*", Script::ok("rogue"));
    origin.script("*", Script::ok("asset"));
    let without_gossip = |config: &mut Config| config.cluster.as_mut().unwrap().gossip = false;
    let rogue = single_edge(&rogue_origin, |config| {
        config.cluster = Some(cluster_of(Vec::new()));
        elsewhere.secure(config);
        without_gossip(config);
    })
    .await;
    let cleartext = cleartext_server().await;
    for (address, outcome) in [(rogue.name(), "certificate"), (cleartext, "not_tls")] {
        let edge = single_edge(&origin, |config| {
            config.cluster = Some(cluster_of(Vec::new()));
            pki.secure(config);
            without_gossip(config);
        })
        .await;
        let own = edge.name();
        edge.edge.membership().replace([&*own, &*address]);
        // The other address owns about half of these.
        for number in 0..20 {
            assert_eq!(edge.get(&format!("/{number}-0492830483.png")).send().await.text(), "asset");
        }
        assert!(edge.metric(&format!("peerage_peer_tls_dials_total{{outcome=\"{outcome}\"}}")).await > 0.0);
        assert!(edge.edge.membership().view().peers().iter().all(|peer| !peer.is_up()), "it counts as unreachable");
    }
    assert!(rogue_origin.seen().is_empty());
}

#[tokio::test]
async fn with_an_identity_a_uri_takes_the_place_of_the_host() {
    let (origin, ca) = (Origin::start().await, Ca::new("cluster CA"));
    let folder = tempfile::tempdir().unwrap();
    let trusted = ca.write(folder.path());
    let cluster = Cluster::start(2, &origin, |config| {
        let uri = format!("spiffe://example.org/peerage/{}", config.edge.name);
        let pair = ca.issue_for_uri(&uri).write(folder.path(), &config.edge.name);
        let tls = ClusterTlsConfig::new(pair.chain, pair.key, &trusted);
        let cluster = config.cluster.as_mut().unwrap();
        cluster.secret = Some(Secret(SECRET.to_owned()));
        cluster.tls = Some(tls);
        cluster.tls.as_mut().unwrap().identity = Some("spiffe://example.org/peerage".to_owned());
    })
    .await;
    for owner in 0..2 {
        let path = cluster.path_owned_by(owner, 1);
        origin.script(&path, Script::ok("asset"));
        for edge in &cluster.edges {
            assert_eq!(edge.get(&path).send().await.text(), "asset");
        }
        assert_eq!(origin.count(&path), 1);
    }
    let asked = "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n";
    for (uri, accepted) in [
        ("spiffe://example.org/peerage", true),
        ("spiffe://example.org/peerage/a/b", true),
        ("spiffe://example.org/peerages", false),
        ("spiffe://example.com/peerage", false),
    ] {
        let answer = send_as(&ca, Some(&ca.issue_for_uri(uri)), cluster.edges[0].peers.unwrap(), asked).await;
        assert_eq!(answer.starts_with("HTTP/1.1 20"), accepted, "{uri}: {answer}");
    }
    let named = ca.issue(&["127.0.0.1"]);
    assert_eq!(send_as(&ca, Some(&named), cluster.edges[0].peers.unwrap(), asked).await, "");
}

#[tokio::test]
async fn unusable_certificate_prevents_the_start_with_the_file_and_the_reason() {
    let (pki, other) = (Pki::new(), Ca::new("other CA"));
    let folder = pki.folder.path();
    let damages: [(&dyn Fn(), &str, &str); 4] = [
        (&|| drop(other.issue(&["127.0.0.1"]).write(folder, "edge")), "edge.pem", "issuer"),
        (&|| drop(pki.ca.issue(&["edge.example"]).write(folder, "edge")), "edge.pem", "another name"),
        (
            &|| std::fs::write(folder.join("edge.key"), other.issue(&["a"]).key.serialize_pem()).unwrap(),
            "edge.pem",
            "does not belong",
        ),
        (&|| std::fs::write(folder.join("ca.pem"), "").unwrap(), "ca.pem", "no certificate"),
    ];
    for (damage, file, reason) in damages {
        pki.pair.write(folder, "edge");
        damage();
        let mut config = config("edge-1");
        config.cluster = Some(cluster_of(Vec::new()));
        pki.secure(&mut config);
        let error = Server::bind(config).await.err().unwrap().to_string();
        assert!(error.contains("cluster.tls") && error.contains(file) && error.contains(reason), "{error}");
    }
}

/// Clients that request assets of all edges until they are stopped, each on a new connection.
struct Load {
    stop: Arc<AtomicBool>,
    /// The number of paths that were requested.
    paths: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    /// Each response must be complete and correct.
    fn begin(edges: &[SocketAddr]) -> Self {
        let (stop, paths) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let client = |_| {
            let (stop, paths, edges) = (Arc::clone(&stop), Arc::clone(&paths), edges.to_vec());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let path = path_of(paths.fetch_add(1, Ordering::Relaxed));
                    for edge in &edges {
                        let got = within(30, request(*edge, Method::GET, &path).send()).await;
                        assert_same(&got, &body_per_target(&path));
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
        };
        let clients = (0..4).map(client).collect();
        Self { stop, paths, clients }
    }

    /// Waits until so many more paths were requested.
    async fn goes_on(&self, paths: usize) {
        let goal = self.paths.load(Ordering::Relaxed) + paths;
        let reached = async {
            while self.paths.load(Ordering::Relaxed) < goal {
                assert!(!self.clients.iter().any(tokio::task::JoinHandle::is_finished), "a request failed");
                tokio::task::yield_now().await;
            }
        };
        within(60, reached).await;
    }

    /// Returns the number of paths that were requested.
    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        self.paths.load(Ordering::Relaxed)
    }
}

fn path_of(number: usize) -> String {
    format!("/asset-{number:016x}.bin")
}

#[tokio::test]
async fn certificate_and_ca_are_rotated_under_requests_without_a_failure_or_another_fetch() {
    let (pki, origin, next) = (Pki::new(), Origin::start().await, Ca::new("next CA"));
    origin.script("*", Script::body_per_target());
    let cluster = Cluster::start(3, &origin, |config| {
        pki.secure(config);
        // A busy machine must not look like a failure of a peer, which would cost another fetch.
        let cluster = config.cluster.as_mut().unwrap();
        cluster.probe_interval = "8s".parse().unwrap();
        cluster.probe_timeout = "4s".parse().unwrap();
        cluster.suspicion = "20s".parse().unwrap();
        cluster.connect_timeout = "10s".parse().unwrap();
    })
    .await;
    let load = Load::begin(&cluster.edges.iter().map(|edge| edge.clients).collect::<Vec<_>>());
    load.goes_on(20).await;
    let asked = "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n";
    let all = || cluster.edges.iter().map(|edge| edge.peers.unwrap());
    let becomes = async |ca: &Ca, pair: &Pair, is_accepted: bool| {
        for edge in all() {
            let changed = async { while send_as(ca, Some(pair), edge, asked).await.is_empty() == is_accepted {} };
            within(20, changed).await;
        }
    };
    let (old, new) = (&pki.pair, next.issue(&["127.0.0.1"]));

    // A key of another certificate: the previous pair stays in use.
    std::fs::write(pki.folder.path().join("edge.key"), new.key.serialize_pem()).unwrap();
    for edge in &cluster.edges {
        edge.metric_becomes("peerage_tls_certificates{state=\"rejected\",source=\"peer\"}", 1.0).await;
    }
    load.goes_on(20).await;
    std::fs::write(pki.folder.path().join("edge.key"), old.key.serialize_pem()).unwrap();
    for edge in &cluster.edges {
        edge.metric_becomes("peerage_tls_certificates{state=\"rejected\",source=\"peer\"}", 0.0).await;
    }

    pki.write_ca(&[&pki.ca, &next]);
    becomes(&pki.ca, &new, true).await;
    load.goes_on(20).await;
    new.write(pki.folder.path(), "edge");
    becomes(&next, &new, true).await;
    load.goes_on(20).await;
    pki.write_ca(&[&next]);
    becomes(&next, old, false).await;
    load.goes_on(20).await;
    let paths = load.end().await;
    for number in 0..paths {
        assert_eq!(origin.count(&path_of(number)), 1, "{}", path_of(number));
    }
    // New connections are made under the new certificate.
    let names = cluster.names();
    let mut joining = config("edge-4");
    (joining.origin.url, joining.cluster) = (origin.url(), Some(cluster_of(names)));
    pki.secure(&mut joining);
    let joining = run(Server::bind(joining).await.unwrap());
    is_ready(&joining).await;
    let path = path_of(0);
    assert_same(&joining.get(&path).send().await, &body_per_target(&path));
    assert_eq!(origin.count(&path), 1);
}

async fn is_ready(edge: &TestEdge) {
    let ready = async {
        while request(edge.admin, Method::GET, "/readyz").send().await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    within(20, ready).await;
}

/// The listening sockets of an edge, for one process after another.
struct Sockets([TcpListener; 4]);

impl Sockets {
    fn open() -> Self {
        Self([(); 4].map(|()| TcpListener::bind("127.0.0.1:0").unwrap()))
    }

    fn addresses(&self) -> [SocketAddr; 4] {
        self.0.each_ref().map(|socket| socket.local_addr().unwrap())
    }

    fn clients(&self) -> SocketAddr {
        self.addresses()[0]
    }

    /// Starts an edge on these sockets. The last one is for clients over TLS, if `change` has
    /// configured them.
    async fn start(&self, name: &str, origin: &Origin, all: &[Self], change: impl FnOnce(&mut Config)) -> TestEdge {
        let [clients, own, admin, tls] = self.addresses();
        let mut config = config(name);
        let peers = all.iter().map(|sockets| sockets.addresses()[1].to_string()).collect();
        let mut cluster = cluster_of(peers);
        cluster.listen = own;
        cluster.secret = Some(Secret(SECRET.to_owned()));
        (config.edge.listen, config.admin.listen, config.cluster) = (clients.into(), admin, Some(cluster));
        config.origin.url = origin.url();
        change(&mut config);
        let used = if config.tls.certificate.is_empty() { 3 } else { 4 };
        if used == 4 {
            config.tls.listen = tls.into();
        }
        let sockets = self.0[..used].iter().map(|socket| socket.try_clone().unwrap()).collect();
        run(Server::bind_on(config, sockets).await.unwrap())
    }
}

#[tokio::test]
async fn edges_are_restarted_from_cleartext_to_required_tls_without_a_failed_request() {
    let (pki, origin) = (Pki::new(), Origin::start().await);
    origin.script("*", Script::body_per_target());
    let sockets = [(); 3].map(|()| Sockets::open());
    let start = |number: usize, mode: Option<ClusterTlsMode>| {
        let (pki, origin, sockets) = (&pki, &origin, &sockets);
        async move {
            let change = |config: &mut Config| {
                if let Some(mode) = mode {
                    pki.secure(config);
                    config.cluster.as_mut().unwrap().tls.as_mut().unwrap().mode = mode;
                }
            };
            let edge = sockets[number].start(&format!("edge-{number}"), origin, sockets, change).await;
            is_ready(&edge).await;
            edge
        }
    };
    let mut edges = Vec::new();
    for number in 0..3 {
        edges.push(sockets[number].start(&format!("edge-{number}"), &origin, &sockets, |_| {}).await);
    }
    for edge in &edges {
        is_ready(edge).await;
    }
    let load = Load::begin(&sockets.each_ref().map(Sockets::clients));
    load.goes_on(10).await;
    for mode in [ClusterTlsMode::Accept, ClusterTlsMode::Require] {
        for (number, edge) in edges.iter_mut().enumerate() {
            edge.drain().await;
            *edge = start(number, Some(mode)).await;
            load.goes_on(10).await;
            if number == 0 && mode == ClusterTlsMode::Accept {
                let cleartext = "peerage_tls_handshakes_total{outcome=\"cleartext\",source=\"peer\"}";
                assert!(edge.metric(cleartext).await > 0.0, "the others do not speak TLS yet");
                assert!(edge.metric("peerage_peer_tls_dials_total{outcome=\"not_tls\"}").await > 0.0);
            }
        }
    }
    load.goes_on(10).await;
    load.end().await;
    for edge in &edges {
        assert!(edge.metric("peerage_peer_tls_dials_total{outcome=\"ok\"}").await > 0.0);
        let mut cleartext = TcpStream::connect(edge.peers.unwrap()).await.unwrap();
        cleartext.write_all(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut received = Vec::new();
        let _ = within(20, cleartext.read_to_end(&mut received)).await;
        assert!(!received.starts_with(b"HTTP"));
    }
}

/// Three edges that share their ticket secrets, with a certificate for `localhost`.
async fn edges_with_clients_over_tls(pki: &Pki, origin: &Origin) -> Vec<TestEdge> {
    let pair = pki.ca.issue(&["localhost"]).write(pki.folder.path(), "site");
    let sockets = [(); 3].map(|()| Sockets::open());
    let mut edges = Vec::new();
    for (number, own) in sockets.iter().enumerate() {
        let change = |config: &mut Config| {
            pki.secure(config);
            config.tls.certificate = vec![pair.clone()];
        };
        edges.push(own.start(&format!("edge-{number}"), origin, &sockets, change).await);
    }
    for edge in &edges {
        is_ready(edge).await;
    }
    edges
}

#[tokio::test]
async fn session_of_one_edge_resumes_on_every_other() {
    let (pki, origin) = (Pki::new(), Origin::start().await);
    origin.script("*", Script::ok("asset"));
    let mut edges = edges_with_clients_over_tls(&pki, &origin).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for issuer in &edges {
            for other in &edges {
                let client = Client::with(&pki.ca, None, &[version]);
                for (edge, kind) in [(issuer, HandshakeKind::Full), (other, HandshakeKind::Resumed)] {
                    let mut connection = client.connect(edge.tls.unwrap(), "localhost").await.unwrap();
                    // Over TLS 1.3 the ticket comes with the response.
                    connection.get("localhost", "/a-0492830483.png").await.unwrap();
                    assert_eq!(connection.kind(), kind, "{version:?}");
                }
            }
        }
    }
    // An edge that has left has not taken the secrets with it.
    let client = Client::new(&pki.ca);
    let mut connection = client.connect(edges[0].tls.unwrap(), "localhost").await.unwrap();
    connection.get("localhost", "/a-0492830483.png").await.unwrap();
    edges[0].drain().await;
    assert_eq!(client.connect(edges[1].tls.unwrap(), "localhost").await.unwrap().kind(), HandshakeKind::Resumed);
}

#[tokio::test]
async fn ticket_secrets_do_not_travel_in_cleartext() {
    let (pki, origin) = (Pki::new(), Origin::start().await);
    let pair = pki.ca.issue(&["localhost"]).write(pki.folder.path(), "site");
    let edge = single_edge(&origin, |config| {
        config.cluster = Some(cluster_of(Vec::new()));
        pki.secure(config);
        let cluster = config.cluster.as_mut().unwrap();
        cluster.gossip = false;
        cluster.tls.as_mut().unwrap().mode = ClusterTlsMode::Accept;
        config.tls.listen = "127.0.0.1:0".parse::<SocketAddr>().unwrap().into();
        config.tls.certificate = vec![pair];
    })
    .await;
    is_ready(&edge).await;
    let asked = "OPTIONS * HTTP/1.1\r\nHost: a\r\nPeerage-Ticket-Secrets: 1\r\nContent-Length: 1\r\n\r\n\u{1}";
    let mut cleartext = TcpStream::connect(edge.peers.unwrap()).await.unwrap();
    cleartext.write_all(asked.as_bytes()).await.unwrap();
    let mut received = [0; 1024];
    let length = within(20, cleartext.read(&mut received)).await.unwrap();
    let answer = String::from_utf8_lossy(&received[..length]).to_lowercase();
    assert!(answer.starts_with("http/1.1 20") && answer.contains("content-length: 0\r\n"), "{answer}");
    // A member gets them over TLS.
    let answer = send_as(&pki.ca, Some(&pki.pair), edge.peers.unwrap(), asked).await.to_lowercase();
    assert!(answer.starts_with("http/1.1 20") && answer.contains("content-length: 83\r\n"), "{answer}");

    // A peer that answers in cleartext is asked for assets, but gets no secrets.
    let server = cleartext_server().await;
    edge.edge.membership().replace([&*edge.name(), &*server]);
    edge.metric_becomes("peerage_ticket_exchanges_total{outcome=\"error\"}", 1.0).await;
    assert!(edge.metric("peerage_peer_tls_dials_total{outcome=\"not_tls\"}").await >= 1.0);
}

#[tokio::test]
async fn mistaken_ports_and_rogue_peers_are_log_lines_that_name_the_remedy() {
    let (pki, origin) = (Pki::new(), Origin::start().await);
    let ports = free_ports(2);
    let [secure, cleartext] = [ports[0], ports[1]].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let ClusterTlsConfig { certificate, key, ca, .. } = pki.tls();
    let cluster = |at: SocketAddr| format!("[cluster]\nlisten = \"{at}\"\npeers = []\nsecret = \"{SECRET}\"\n");
    let tls = format!("[cluster.tls]\ncertificate = {certificate:?}\nkey = {key:?}\nca = {ca:?}\n");
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let _secure = Process::edge(folders[0].path(), &origin.url(), &(cluster(secure) + &tls)).await;
    let _cleartext = Process::edge(folders[1].path(), &origin.url(), &cluster(cleartext)).await;
    let line = async |folder: &TempDir, text: &str| line_with(&folder.path().join("err"), text).await;

    TcpStream::connect(secure).await.unwrap().write_all(purge("/a").as_bytes()).await.unwrap();
    let logged = line(&folders[0], "cleartext request on the TLS port for peers").await;
    assert!(logged.contains("set [cluster.tls] on that edge") && logged.contains("cluster.listen"), "{logged}");
    assert_eq!(send_as(&pki.ca, Some(&pki.pair), cleartext, &purge("/a")).await, "");
    let logged = line(&folders[1], "TLS handshake on the cleartext port for peers").await;
    assert!(logged.contains("set [cluster.tls] here too"), "{logged}");
    let misnamed = pki.ca.issue(&["stranger.example"]);
    assert_eq!(send_as(&pki.ca, Some(&misnamed), secure, &purge("/a")).await, "");
    let logged = line(&folders[0], "peer rejected").await;
    assert!(logged.contains("names no member") && logged.contains("cluster.tls.identity"), "{logged}");
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn openssl_resumes_on_another_edge_than_the_one_that_issued_the_ticket() {
    require(&["openssl"]);
    let (pki, origin) = (Pki::new(), Origin::start().await);
    origin.script("*", Script::ok("asset"));
    let edges = edges_with_clients_over_tls(&pki, &origin).await;
    let ca = pki.folder.path().join("ca.pem");
    let file = pki.folder.path().join("session");
    for version in ["-tls1_2", "-tls1_3"] {
        for (edge, option, kind) in [
            (&edges[0], "-sess_out", "New, TLSv1."),
            (&edges[1], "-sess_in", "Reused, TLSv1."),
            (&edges[2], "-sess_in", "Reused, TLSv1."),
        ] {
            let address = edge.tls.unwrap().to_string();
            let arguments = ["s_client", "-connect", &address, "-servername", "localhost", version];
            let more = ["-verify_return_error", "-CAfile", path_text(&ca), option, path_text(&file), "-ign_eof"];
            let text = "GET /a-0492830483.png HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            let (code, out, err) = program("openssl", &[&arguments[..], &more].concat(), text).await;
            assert_eq!(code, Some(0), "{err}");
            assert!(out.contains(kind) && out.contains("asset"), "{version} {option}: {out}");
        }
    }
}

fn path_text(path: &Path) -> &str {
    path.to_str().unwrap()
}
