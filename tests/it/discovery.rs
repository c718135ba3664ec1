//! Discovery of members by a file, DNS or etcd.

use std::path::Path;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use peerage::Server;
use peerage::config::{ClusterConfig, Period};

use crate::harness::{TestEdge, cluster_of, config, run, within};
use crate::origin::{Gate, Origin, Script};
use crate::process::{Process, Signal};
use crate::programs::require;

use servers::{Etcd, Nameserver};

mod etcd;
mod servers;

const OK: &str = "peerage_discoveries_total{outcome=\"ok\"}";
const FAILED: &str = "peerage_discoveries_total{outcome=\"error\"}";

/// Returns a configuration with a short refresh period and a short lease.
fn cluster(discover: &str) -> ClusterConfig {
    let mut cluster = cluster_of(ClusterConfig::default().peers);
    cluster.discover = Some(discover.to_owned());
    cluster.refresh = Period(Duration::from_millis(100));
    cluster.lease = Period(Duration::from_secs(2));
    cluster
}

/// Returns a [`cluster`] configuration for an edge that peers reach at `own`.
fn advertised(discover: &str, own: &str) -> ClusterConfig {
    let mut cluster = cluster(discover);
    cluster.advertise = Some(own.to_owned());
    cluster
}

async fn edge(name: &str, cluster: ClusterConfig) -> TestEdge {
    let mut config = config(name);
    config.cluster = Some(cluster);
    run(Server::bind(config).await.unwrap())
}

fn listed(edge: &TestEdge) -> Vec<String> {
    edge.edge.membership().view().members().iter().map(|member| member.address.to_string()).collect()
}

/// Waits until `edge` lists exactly these members.
async fn lists<S: AsRef<str>>(edge: &TestEdge, expected: &[S]) {
    let mut expected: Vec<_> = expected.iter().map(|name| name.as_ref().to_owned()).collect();
    expected.sort_unstable();
    let reached = async {
        while listed(edge) != expected {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), reached).await;
    assert!(waited.is_ok(), "{:?} is listed, not {expected:?}", listed(edge));
}

/// Waits until a metric of `edge` has grown by `more`.
async fn metric_grows(edge: &TestEdge, metric: &str, more: f64) {
    let before = edge.metric(metric).await;
    let reached = async {
        while edge.metric(metric).await < before + more {
            tokio::task::yield_now().await;
        }
    };
    within(30, reached).await;
}

async fn is_ready(edge: &TestEdge) -> bool {
    crate::client::request(edge.admin, http::Method::GET, "/readyz").send().await.status == 200
}

/// Replaces the file atomically.
fn write(path: &Path, lines: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, lines).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[tokio::test]
async fn file_discovery_follows_the_file_and_ignores_invalid_contents() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("peers");
    let source = format!("file:{}", file.display());
    let first = edge("edge-1", cluster(&source)).await;
    let second = edge("edge-2", cluster(&source)).await;
    let third = edge("edge-3", cluster(&source)).await;
    let (one, two, three) = (first.name(), second.name(), third.name());
    // Without the file each edge is alone, and serves.
    metric_grows(&first, FAILED, 1.0).await;
    lists(&first, &[&one]).await;
    assert!(is_ready(&first).await);

    write(&file, &format!("# edges\n{two}\n\n{one}  # the first\n"));
    lists(&first, &[&one, &two]).await;
    lists(&second, &[&one, &two]).await;
    first.metric_becomes("peerage_members{state=\"alive\"}", 2.0).await;
    write(&file, &format!("{one}\n{two}\n{three}\n"));
    for edge in [&first, &second, &third] {
        lists(edge, &[&one, &two, &three]).await;
        edge.metric_becomes("peerage_members{state=\"alive\"}", 3.0).await;
    }
    let epoch = first.edge.membership().view().epoch;
    for bad in [format!("{one}\nedge seven\n"), format!("{one}\n{two}"), String::new(), "\u{0}\n".to_owned()] {
        write(&file, &bad);
        metric_grows(&first, FAILED, 2.0).await;
        lists(&first, &[&one, &two, &three]).await;
    }
    std::fs::remove_file(&file).unwrap();
    metric_grows(&first, FAILED, 2.0).await;
    write(&file, &format!("{three}\n{two}\n{one}\n"));
    metric_grows(&first, OK, 2.0).await;
    assert_eq!(first.edge.membership().view().epoch, epoch, "an equal list changes no view");
    write(&file, &format!("{one}\n{two}\n"));
    lists(&first, &[&one, &two]).await;
}

#[tokio::test]
async fn edge_is_ready_once_discovered_members_are_alive_or_down() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("peers");
    // No peer listens there: readiness waits until it counts as down.
    write(&file, "127.0.0.1:1\n127.0.0.1:2\n");
    let mut cluster = cluster(&format!("file:{}", file.display()));
    cluster.advertise = Some("127.0.0.1:2".to_owned());
    let edge = edge("edge-1", cluster).await;
    assert!(!is_ready(&edge).await);
    edge.metric_becomes("peerage_members{state=\"down\"}", 1.0).await;
    let ready = async {
        while !is_ready(&edge).await {
            tokio::task::yield_now().await;
        }
    };
    within(20, ready).await;
    lists(&edge, &["127.0.0.1:1", "127.0.0.1:2"]).await;
}

#[tokio::test]
async fn reload_keeps_discovered_members() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("peers");
    let mut config = config("edge-1");
    let mut cluster = cluster(&format!("file:{}", file.display()));
    cluster.advertise = Some("10.0.0.1:7001".to_owned());
    config.cluster = Some(cluster);
    let server = Server::bind(config.clone()).await.unwrap();
    let mut reloading = server.reloading();
    write(&file, "10.0.0.1:7001\n10.0.0.2:7001\n");
    let edge = run(server);
    lists(&edge, &["10.0.0.1:7001", "10.0.0.2:7001"]).await;
    config.cluster.as_mut().unwrap().peers = vec!["10.0.0.9:7001".to_owned()];
    assert_eq!(reloading.reload(config.clone()).unwrap(), [""; 0]);
    lists(&edge, &["10.0.0.1:7001", "10.0.0.2:7001"]).await;
    config.cluster.as_mut().unwrap().discover = None;
    assert_eq!(reloading.reload(config).unwrap(), ["[cluster]"]);
    lists(&edge, &["10.0.0.1:7001", "10.0.0.2:7001"]).await;
}

/// Without a source of discovery, the embedding program supplies the list.
#[tokio::test]
async fn embedding_program_supplies_the_member_list() {
    let own = cluster_of(Vec::new());
    let (first, second) = (edge("edge-1", own.clone()).await, edge("edge-2", own).await);
    let names = [first.name(), second.name()];
    for edge in [&first, &second] {
        edge.edge.membership().replace(names.iter().map(String::as_str));
    }
    for edge in [&first, &second] {
        lists(edge, &names).await;
        edge.metric_becomes("peerage_members{state=\"alive\"}", 2.0).await;
    }
}

fn asks(nameserver: &Nameserver, source: &str, own: &str) -> ClusterConfig {
    let mut cluster = advertised(source, own);
    cluster.nameserver = Some(nameserver.address());
    cluster
}

#[tokio::test]
#[ignore = "needs dnsmasq"]
async fn dns_discovery_follows_the_addresses_of_a_name() {
    require(&["dnsmasq"]);
    let folder = tempfile::tempdir().unwrap();
    let hosts = "127.0.0.1 edges.test\n127.0.0.7 edges.test\n::1 edges.test\n127.0.0.8 others.test\n";
    let mut dns = Nameserver::start(folder.path(), hosts, &[]).await;
    let edge = edge("edge-1", asks(&dns, "dns:edges.test:1", "127.0.0.1:1")).await;
    lists(&edge, &["127.0.0.1:1", "127.0.0.7:1", "[::1]:1"]).await;
    dns.kill();
    metric_grows(&edge, FAILED, 2.0).await;
    // A name without an address is an error too.
    assert!(dns.start_again(folder.path(), "127.0.0.8 others.test\n", &[]).await);
    metric_grows(&edge, FAILED, 5.0).await;
    lists(&edge, &["127.0.0.1:1", "127.0.0.7:1", "[::1]:1"]).await;
    let many: String = (1..=200).map(|host| format!("127.0.1.{host} edges.test\n")).collect();
    assert!(dns.start_again(folder.path(), &(many + "127.0.0.1 edges.test\n"), &[]).await);
    let mut expected: Vec<_> = (1..=200).map(|host| format!("127.0.1.{host}:1")).collect();
    expected.push("127.0.0.1:1".to_owned());
    lists(&edge, &expected).await;
}

#[tokio::test]
#[ignore = "needs dnsmasq"]
async fn srv_discovery_follows_the_addresses_of_its_targets() {
    require(&["dnsmasq"]);
    let folder = tempfile::tempdir().unwrap();
    let hosts = "127.0.0.1 one.test\n::1 two.test\n127.0.0.9 two.test\n127.0.0.2 two.test\n";
    let target = |target: &str| format!("--srv-host=_peerage._tcp.test,{target}");
    let (one, two, three) = (target("one.test,11"), target("two.test,12"), target("three.test,13"));
    let mut dns = Nameserver::start(folder.path(), hosts, &[&one]).await;
    let edge = edge("edge-1", asks(&dns, "srv:_peerage._tcp.test", "127.0.0.1:11")).await;
    lists(&edge, &["127.0.0.1:11"]).await;
    assert!(dns.start_again(folder.path(), hosts, &[&one, &two]).await);
    lists(&edge, &["127.0.0.1:11", "127.0.0.2:12"]).await;
    // The third target has no address yet: an incomplete list is not applied.
    assert!(dns.start_again(folder.path(), hosts, &[&two, &three]).await);
    metric_grows(&edge, FAILED, 5.0).await;
    lists(&edge, &["127.0.0.1:11", "127.0.0.2:12"]).await;
    let hosts = hosts.to_owned() + "127.0.0.3 three.test\n";
    assert!(dns.start_again(folder.path(), &hosts, &[&two, &three]).await);
    lists(&edge, &["127.0.0.2:12", "127.0.0.3:13"]).await;
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn etcd_discovery_registers_members_and_keeps_them_during_an_outage() {
    require(&["etcd"]);
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut etcd = Etcd::start(&data).await;
    let source = etcd.source();
    let first = edge("edge-1", cluster(&source)).await;
    let mut second = edge("edge-2", cluster(&source)).await;
    let (one, two) = (first.name(), second.name());
    lists(&first, &[&one, &two]).await;
    lists(&second, &[&one, &two]).await;

    let more = format!("[cluster]\nlisten = \"127.0.0.1:0\"\ndiscover = \"{source}\"\nlease = \"2s\"\n");
    let origin = Origin::start().await;
    let process = Process::edge(folder.path(), &origin.url(), &more).await;
    let joined = async {
        while listed(&first).len() < 3 {
            tokio::task::yield_now().await;
        }
    };
    within(20, joined).await;
    let three = listed(&first).into_iter().find(|name| *name != one && *name != two).unwrap();

    let began = Instant::now();
    second.drain().await;
    lists(&first, &[&one, &three]).await;
    let left = began.elapsed();

    etcd.kill();
    metric_grows(&first, FAILED, 3.0).await;
    lists(&first, &[&one, &three]).await;
    assert!(etcd.start_again(&data).await);
    let fourth = edge("edge-4", cluster(&source)).await;
    let four = fourth.name();
    lists(&first, &[&one, &three, &four]).await;
    lists(&fourth, &[&one, &three, &four]).await;
    process.signal(Signal::KILL);
    let began = Instant::now();
    lists(&first, &[&one, &four]).await;
    println!("a drained edge left the list after {left:?}, a killed one after {:?}, lease 2s", began.elapsed());
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn members_register_again_in_an_etcd_that_lost_its_data() {
    require(&["etcd"]);
    let folder = tempfile::tempdir().unwrap();
    let mut etcd = Etcd::start(&folder.path().join("old")).await;
    let first = edge("edge-1", cluster(&etcd.source())).await;
    let second = edge("edge-2", cluster(&etcd.source())).await;
    let names = [first.name(), second.name()];
    lists(&first, &names).await;
    lists(&second, &names).await;
    // Neither edge loses the other at any time.
    let [watching, also] = [&first, &second].map(|edge| {
        let (edge, names) = (std::sync::Arc::clone(&edge.edge), names.clone());
        tokio::spawn(async move {
            while names.iter().all(|name| edge.membership().view().member(name).is_some()) {
                tokio::task::yield_now().await;
            }
        })
    });
    etcd.kill();
    // For longer than a lease.
    metric_grows(&first, FAILED, 12.0).await;
    assert!(etcd.start_again(&folder.path().join("new")).await);
    // A new edge lists all of them, so both are registered.
    let third = edge("edge-3", cluster(&etcd.source())).await;
    let all = [first.name(), second.name(), third.name()];
    for edge in [&first, &second, &third] {
        lists(edge, &all).await;
    }
    assert!(!watching.is_finished() && !also.is_finished());
}

/// Returns the response of an etcd that lists `entries`.
fn listing(entries: &[String]) -> Script {
    let kvs: Vec<_> = entries
        .iter()
        .map(|entry| serde_json::json!({ "key": BASE64.encode(format!("/p/{entry}").as_bytes()) }))
        .collect();
    Script::ok(serde_json::json!({ "header": { "revision": "7" }, "kvs": kvs }).to_string())
}

/// Starts a fake etcd that grants leases. Tests script its lists and watches.
async fn scripted() -> Origin {
    let etcd = Origin::start().await;
    etcd.script("/v3/lease/grant", Script::ok("{\"ID\":\"1\",\"TTL\":\"2\"}"));
    etcd.script("/v3/lease/keepalive", Script::ok("{\"result\":{\"ID\":\"1\",\"TTL\":\"2\"}}"));
    etcd.script("/v3/kv/put", Script::ok("{}"));
    etcd
}

#[tokio::test]
async fn member_missing_after_a_failure_stays_for_one_lease() {
    let members = ["127.0.0.1:1", "127.0.0.1:2"].map(str::to_owned);
    let etcd = scripted().await;
    etcd.scripts("/v3/kv/range", [listing(&members), listing(&members[..1])]);
    let gate = Gate::closed();
    etcd.scripts("/v3/watch", [Script::ok("").chunked(), Script::ok("{}\n{}\n").chunked().hold_body(&gate)]);
    let source = format!("etcd:{}/p", etcd.address);
    let edge = edge("edge-1", advertised(&source, &members[0])).await;
    edge.metric_becomes(OK, 2.0).await;
    let began = Instant::now();
    assert_eq!((listed(&edge), etcd.count("/v3/kv/range")), (members.to_vec(), 2));
    lists(&edge, &members[..1]).await;
    let stayed = began.elapsed();
    assert!(stayed > Duration::from_secs(1), "{stayed:?}");
    assert_eq!((etcd.count("/v3/kv/range"), etcd.count("/v3/kv/put")), (3, 1));
}

#[tokio::test]
async fn invalid_etcd_responses_change_no_list_and_fail_no_request() {
    let etcd = scripted().await;
    let members = ["127.0.0.1:1", "127.0.0.1:2"].map(str::to_owned);
    let crowd: Vec<_> = (0..=10_000).map(|i| format!("10.0.{}.{}:1", i / 250, i % 250)).collect();
    let ranges = [
        listing(&members),
        Script::raw("nonsense\r\n\r\n"),
        Script::ok("nonsense"),
        Script::ok("{}"),
        Script::ok("{\"header\":{\"revision\":\"7\"},\"kvs\":[{\"key\":\"%\"}]}"),
        Script::status(503),
        Script::ok(vec![b' '; 17 << 20]).chunked(),
        Script::ok("{\"header\"").cut_at(3),
        listing(&members).delay(Duration::from_secs(5)),
        listing(&members[1..]),
        // Rejected as lists; the watches that follow are invalid as well.
        listing(&crowd.iter().cloned().chain(members[..1].to_vec()).collect::<Vec<_>>()),
        listing(&[members[0].clone(), "no address".to_owned()]),
        listing(&members),
        listing(&members),
        listing(&members),
        listing(&members),
        Script::status(500),
    ];
    let watches = [
        Script::ok("nonsense\n").chunked(),
        Script::ok("").chunked(),
        Script::ok(vec![b' '; 2 << 20]).chunked(),
        Script::ok("{\"result\":{\"canceled\":true,\"compact_revision\":\"9\"}}\n").chunked(),
        Script::ok("{\"error\":{\"message\":\"no leader\"}}\n").chunked(),
        Script::ok("{\"result\":{\"events\":[{\"kv\":{\"key\":\"b3RoZXI=\"}}]}}\n").chunked(),
        Script::status(404),
    ];
    let count = ranges.len();
    etcd.scripts("/v3/kv/range", ranges);
    etcd.scripts("/v3/watch", watches);

    let origin = Origin::start().await;
    origin.script("*", Script::ok("pixels"));
    let mut config = config("edge-1");
    config.origin.url = origin.url();
    let source = format!("etcd:{}/p", etcd.address);
    config.cluster = Some(advertised(&source, &members[0]));
    let mut edge = run(Server::bind(config).await.unwrap());
    lists(&edge, &members).await;
    let epoch = edge.edge.membership().view().epoch;
    let mut asked = 0;
    let all_asked = async {
        while etcd.count("/v3/kv/range") < count + 2 {
            assert_eq!(edge.get(&format!("/asset-{asked:016x}.bin")).send().await.text(), "pixels");
            assert_eq!(listed(&edge), members);
            asked += 1;
        }
    };
    within(60, all_asked).await;
    println!("{asked} requests were served meanwhile; {} views", edge.edge.membership().view().epoch - epoch);
    assert!(edge.metric(FAILED).await > 16.0);

    let more = [&members[..], &["127.0.0.1:3".to_owned()]].concat();
    etcd.script("/v3/kv/range", listing(&more));
    lists(&edge, &more).await;
    edge.drain().await;
    assert_eq!(etcd.count("/v3/lease/revoke"), 1);
}
