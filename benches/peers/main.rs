//! Peerage beside other caches, in one run. `cargo bench --bench peers` compares hits, each cache
//! alone on one processor. `cargo bench --bench peers -- tls` measures only the rows over TLS, HTTP/2 in cleartext, and the
//! memory of idle connections. `cargo bench --bench peers -- clusters` compares clusters of three.
//! `--quick` is a short run of either, and `--control cubic` (as root) sets the congestion control
//! of all servers. A program that is not installed is left out, and a line names its package. The
//! tables are printed to standard output, and written with a plot to `target/bench-peers`.

#[path = "../shared/bare.rs"]
mod bare;
mod caches;
mod certificate;
mod clients;
mod clusters;
mod control;
mod floor;
mod hits;
mod hop;
mod idle;
mod load;
mod nodes;
mod origin;
mod paced;
mod plot;
mod process;
mod report;
#[path = "../shared/spent.rs"]
mod spent;
mod tls;
mod tls_client;

use caches::Cache;
use control::Control;
use hits::Rows;

/// The lengths of the bodies, in bytes.
const SIZES: [usize; 4] = [1024, 16 * 1024, 256 * 1024, 10 * 1024 * 1024];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("--serve") => serve(&arguments[1..]),
        Some("--handshakes") => tls_client::shake_hands(&arguments[1..]),
        Some("--pace") => paced::pace(&arguments[1..]),
        // `cargo test` runs benches with this argument; there is nothing to test.
        _ if has(&arguments, "--test") => {}
        _ => measure(&arguments),
    }
}

fn has(arguments: &[String], argument: &str) -> bool {
    arguments.iter().any(|given| given == argument)
}

fn measure(arguments: &[String]) {
    let _until_dropped = arguments.iter().position(|given| given == "--control").map(|at| {
        let name = arguments.get(at + 1).expect("--control needs the name of a congestion control, such as cubic");
        Control::set(name)
    });
    let quick = has(arguments, "--quick");
    if has(arguments, "clusters") {
        clusters::compare(quick);
    } else {
        hits::compare(quick, if has(arguments, "tls") { Rows::Tls } else { Rows::All });
    }
}

fn serve(arguments: &[String]) {
    let [server, address] = arguments else { panic!("expected SERVER ADDRESS") };
    let address = address.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    match server.as_str() {
        "floor" => floor::socket_loop(address),
        "hyper" => runtime.block_on(floor::hyper(address)),
        other => panic!("no such server: {other}"),
    }
}

/// Returns those of `caches` that are installed, and prints a line for each other one.
fn installed(caches: &[Cache]) -> Vec<Cache> {
    caches.iter().copied().filter(|cache| cache.is_here()).collect()
}
