//! A network partition: one edge on one side, two on the other.
//!
//! The test runs itself again in namespaces of its own. There it is the hub of two networks:
//! clients and the origin reach the edges over one, the edges reach each other over the other.
//! The kernel removes all of it with its last process.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cluster::{Addresses, Edge, KEYS, agree, listing, slow_origin_at};
use crate::load::{Load, Report, assert_coalesced, fetches, sweep, warm};
use crate::origin::Origin;
use crate::process::{BINARY, line_with};
use crate::reserve_machine;

/// Set in the process that runs inside the namespaces.
const INSIDE: &str = "PEERAGE_TEST_INSIDE";
const SPLIT: Duration = Duration::from_secs(10);

#[test]
#[ignore = "needs network namespaces, ip, unshare and nsenter"]
fn each_side_of_a_partition_fails_no_request_and_both_agree_after_it_heals() {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        return runtime.block_on(cut_off());
    }
    let _machine = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(reserve_machine());
    let unshare = namespaces().unwrap_or_else(|reason| {
        panic!(
            "this test needs network namespaces: root or user namespaces, ip (Debian's package iproute2), unshare and \
             nsenter (Debian's package util-linux): {reason}"
        )
    });
    let mut command = Command::new(unshare[0]);
    command.args(&unshare[1..]).arg(std::env::current_exe().unwrap()).env(INSIDE, "");
    command.args(["--exact", "partition::each_side_of_a_partition_fails_no_request_and_both_agree_after_it_heals"]);
    command.args(["--include-ignored", "--nocapture"]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout).trim());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Commands that must succeed inside the namespaces.
const NEEDED: &str = "ip link add hub type bridge && ip link add one type veth && nsenter -V";

/// Returns the command that runs another one in new namespaces. Processes started there end with
/// it.
fn namespaces() -> Result<Vec<&'static str>, String> {
    let mut reasons = Vec::new();
    // As root, or as a user that the system lets become root in a user namespace.
    for user in [&[][..], &["--map-root-user"]] {
        let mut unshare = vec!["unshare", "--net", "--mount", "--pid", "--mount-proc", "--kill-child"];
        unshare.extend(user);
        let mut command = Command::new(unshare[0]);
        command.args(&unshare[1..]).args(["sh", "-c", NEEDED]);
        match command.stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => return Ok(unshare),
            Ok(output) => reasons.push(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => reasons.push(format!("unshare: {error}")),
        }
    }
    Err(reasons.join("; "))
}

/// Runs `ip` through the command `through`.
fn ip(through: &[&str], arguments: &str) {
    let words: Vec<_> = through.iter().copied().chain(["ip"]).chain(arguments.split(' ')).collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The two networks: the name of the bridge, and the third byte of the addresses.
const NETWORKS: [(&str, u8); 2] = [("front", 1), ("back", 2)];

fn address(network: u8, host: u8) -> IpAddr {
    [10, 77, network, host].into()
}

/// A network namespace. It exists as long as its holder process, which ends with this process.
struct Host {
    holder: Child,
    number: u8,
}

impl Host {
    /// Creates a namespace that is connected to both networks.
    async fn new(number: u8, folder: &Path) -> Self {
        let ready = folder.join(format!("host-{number}"));
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "echo here; exec cat"]).stdin(Stdio::piped());
        let holder = command.stdout(std::fs::File::create(&ready).unwrap()).spawn().unwrap();
        let host = Self { holder, number };
        line_with(&ready, "here").await;
        let pid = host.holder.id().to_string();
        for (bridge, network) in NETWORKS {
            let (link, address) = (format!("{bridge}{number}"), address(network, number));
            ip(&[], &format!("link add {link} type veth peer name {bridge} netns {pid}"));
            ip(&[], &format!("link set {link} master {bridge} up"));
            ip(&["nsenter", "-t", &pid, "-n"], &format!("address add {address}/24 dev {bridge}"));
            ip(&["nsenter", "-t", &pid, "-n"], &format!("link set {bridge} up"));
        }
        host
    }

    fn addresses(&self) -> Addresses {
        let at = |network, port| SocketAddr::new(address(network, self.number), port);
        Addresses { clients: at(1, 8001), peers: at(2, 7001), admin: at(1, 9901) }
    }

    /// Returns a command that executes the binary in this namespace.
    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.holder.id().to_string(), "-n", BINARY]);
        command
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

async fn cut_off() {
    for (bridge, network) in NETWORKS {
        ip(&[], &format!("link add {bridge} type bridge"));
        ip(&[], &format!("address add {}/24 dev {bridge}", address(network, 254)));
        ip(&[], &format!("link set {bridge} up"));
    }
    let origin = slow_origin_at(address(1, 254)).await;
    let folder = tempfile::tempdir().unwrap();
    let (mut hosts, mut edges) = (Vec::new(), Vec::new());
    for number in 1..=3 {
        hosts.push(Host::new(number, folder.path()).await);
    }
    let all_addresses: Vec<_> = hosts.iter().map(Host::addresses).collect();
    for (i, host) in hosts.iter().enumerate() {
        edges.push(Edge::new(i + 1, all_addresses[i].clone(), &origin.url(), &listing(&all_addresses)));
        edges[i].start_by(host.command()).await;
    }
    agree(&edges).await;
    split_and_heal(&origin, &edges).await;
}

async fn split_and_heal(origin: &Origin, edges: &[Edge]) {
    warm(edges, (0..KEYS).step_by(2)).await;
    let load = Load::over_all(edges);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let warmed = origin.seen().len();
    ip(&[], "link set back1 down");
    let cut = Instant::now();
    tokio::join!(agree(&edges[..1]), agree(&edges[1..]));
    let noticed = cut.elapsed();
    tokio::time::sleep(SPLIT.saturating_sub(cut.elapsed())).await;
    let split = origin.seen().len();
    ip(&[], "link set back1 up");
    let healed = agree(edges).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let reports = [load.end().await, sweep(edges, 0..KEYS).await];

    let seen = origin.seen();
    // During the partition each side fetches for itself.
    let most = |own| fetches(&seen, |_, by| (by == "edge-1") == own).into_values().max().unwrap_or_default();
    let (one, two) = (most(true), most(false));
    println!(
        "partition: {}; detected in {noticed:.2?}; agreed {healed:.2?} after it healed; then each key at each edge: {}; \
        origin fetches: {warmed} before, {} in {SPLIT:?} of partition, {} after; at most {one} of one key by the single \
         edge, {two} by the pair",
        reports[0],
        reports[1],
        split - warmed,
        seen.len() - split
    );
    reports.iter().for_each(Report::assert_well);
    // Each side has its own owner of a key.
    assert_coalesced(&seen, edges.len(), |_| 2);
}
