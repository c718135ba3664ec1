//! Peerage beside other caches, in one run: `cargo bench --bench peers` compares
//! hits, each cache alone on one processor; `cargo bench --bench peers --
//! clusters` compares three of each that act as one. `--quick` is a short run
//! of either, and `--control cubic` (as root) has every server send by that
//! congestion control. What is not installed is left out with a line that names its
//! package. The tables go to standard output, and with a plot to
//! `target/bench-peers`.

#[path = "../shared/bare.rs"]
mod bare;
mod caches;
mod clients;
mod clusters;
mod control;
mod floor;
mod hits;
mod hop;
mod load;
mod nodes;
mod origin;
mod paced;
mod plot;
mod process;
mod report;
#[path = "../shared/spent.rs"]
mod spent;

use caches::Cache;
use control::Control;

/// The bodies that are asked for, in bytes.
const SIZES: [usize; 4] = [1024, 16 * 1024, 256 * 1024, 10 * 1024 * 1024];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("--serve") => serve(&arguments[1..]),
        Some("--pace") => paced::pace(&arguments[1..]),
        // `cargo test` runs benches too, with this argument: nothing to do.
        // `cargo test` runs benches too, with this argument: nothing to do.
        _ if has(&arguments, "--test") => {}
        _ => measure(&arguments),
    }
}

fn has(arguments: &[String], argument: &str) -> bool {
    arguments.iter().any(|given| given == argument)
}

fn measure(arguments: &[String]) {
    let _until_dropped = arguments.iter().position(|given| given == "--control").map(|at| {
        let name = arguments.get(at + 1).expect("--control wants the name of a congestion control, such as cubic");
        Control::set(name)
    });
    let compare = if has(arguments, "clusters") { clusters::compare } else { hits::compare };
    compare(has(arguments, "--quick"));
}

fn serve(arguments: &[String]) {
    let [server, address] = arguments else { panic!("wants SERVER ADDRESS") };
    let address = address.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    match server.as_str() {
        "floor" => floor::socket_loop(address),
        "hyper" => runtime.block_on(floor::hyper(address)),
        other => panic!("no such server: {other}"),
    }
}

/// Those of `caches` that are installed, with a line for each that is not.
fn installed(caches: &[Cache]) -> Vec<Cache> {
    caches.iter().copied().filter(|cache| cache.is_here()).collect()
}
