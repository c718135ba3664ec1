//! The cost of a hop to a peer: the first of two edges gets requests for names that the second owns
//! and stores. The first cannot keep them: its hot tier is as small as possible, and the names are
//! many.

use std::net::SocketAddr;
use std::time::Duration;

use peerage::AssetKey;
use peerage::cluster::ring::Ring;
use tempfile::TempDir;

use super::caches::{folder, peerage};
use super::load::{cost, wrk};

use super::origin::Named;
use super::paced::{Client, text};
use super::process::{Process, free_addresses};
use super::report::Figures;

/// Number of names in turn: 1 KiB each, with 2.5 MiB for hot copies.
const NAMES: usize = 10_000;
const SIZE: usize = 1024;

pub struct Hop {
    /// The folder of wrk's script.
    folder: TempDir,
    asked: Process,
    owner: Process,
    admin: SocketAddr,
    paths: Vec<String>,
}

impl Hop {
    /// Starts two edges. `path` makes names from a number and a length.
    pub fn start(origin: SocketAddr, path: Named) -> Self {
        let at = free_addresses(6);
        let peers = [at[4].to_string(), at[5].to_string()];
        let edge = |i: usize| {
            let folder = folder();
            let settings = format!(
                "[cluster]\nlisten = \"{}\"\npeers = {peers:?}\n\
                 [cache]\nmemory = \"256MiB\"\nmax_object = \"1MiB\"\nhot_share = 0.01\n",
                peers[i]
            );
            let mut command = peerage(&folder, &settings, at[i], at[2 + i], origin);
            command.args(["--set", &format!("edge.name=edge-{i}")]);
            Process::start(command, folder, at[i], None).pin()
        };
        let (asked, owner) = (edge(0), edge(1));
        for admin in &at[2..4] {
            while !text(*admin, "/readyz").starts_with("HTTP/1.1 200") {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        let ring = Ring::new(peers.iter().map(String::as_str));
        let owned = |path: &String| {
            let key = AssetKey::parse(path, usize::MAX).unwrap();
            ring.owner(key.hash()).is_some_and(|owner| **owner.name() == *peers[1])
        };
        let paths: Vec<_> = (0..).map(|id| path(id, SIZE)).filter(owned).take(NAMES).collect();
        let mut client = Client::connect(owner.clients);
        for path in &paths {
            client.get(path, SIZE);
        }
        Self { folder: folder(), asked, owner, admin: at[3], paths }
    }

    /// Measures a hit at the owner, and the same through the other edge, where the CPU time is that of
    /// both. Prints the share of requests that took the hop if some did not.
    pub fn round(&self, connections: usize, time: Duration) -> (Figures, Figures) {
        let run = |edge: &Process| wrk(&self.folder, &edge.site(), &self.paths, connections, time);
        let hit = cost(&[&self.owner], || run(&self.owner));
        let before = self.hits();
        let hop = cost(&[&self.asked, &self.owner], || run(&self.asked));
        let hops = self.hits() - before;
        let part = hops / (hop.requests_per_second * time.as_secs_f64());
        if part < 0.9 {
            println!("only {:.0} % of the requests reached the owner", part * 100.0);
        }
        (hit, hop)
    }

    /// Returns the number of hits that the owner has served to peers.
    fn hits(&self) -> f64 {
        let metrics = text(self.admin, "/metrics");
        let name = "peerage_requests_total{source=\"peer\",result=\"hit\",";
        let hits = metrics.lines().filter(|line| line.starts_with(name));
        hits.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}
