//! Faults as clients see them: edges are killed, freeze, return, join, disagree or are partitioned.
//! The binary runs as processes, under load.
//!
//! Each test loads the whole machine, so the tests run one at a time. They check responses and
//! origin fetches. Times depend on the machine: they are printed here, and measured in the
//! benches: `cargo test --test faults -- --nocapture`.

#![allow(missing_docs)]

use tokio::sync::{Mutex, MutexGuard};

// Shared with tests/it, which uses all of their items.
#[path = "../it/client.rs"]
#[allow(dead_code)]
mod client;
#[path = "../it/harness.rs"]
#[allow(dead_code)]
mod harness;
#[path = "../it/origin.rs"]
#[allow(dead_code)]
mod origin;
#[path = "../it/process.rs"]
#[allow(dead_code)]
mod process;

mod cluster;
mod joining;
mod large_body;
mod load;
mod owner_loss;
mod partition;
mod peer_lists;

/// Reserves the machine for one test.
async fn reserve_machine() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::const_new(());
    MACHINE.lock().await
}
