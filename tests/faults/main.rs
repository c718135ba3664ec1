//! What clients see when edges are killed, freeze, come back, join, disagree and
//! lose sight of one another: the binary as processes, under load.
//!
//! Each test loads the whole machine, so they run one at a time. They judge answers and
//! origin fetches; times are printed, and judged in the benches, for they depend on the
//! machine: `cargo test --test faults -- --nocapture`.

#![allow(missing_docs)]

use tokio::sync::{Mutex, MutexGuard};

// What tests/it is made of, and uses all of.
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

mod body;
mod cluster;
mod coming;
mod contradiction;
mod leaving;
mod load;
mod partition;

/// Holds the machine for one test.
async fn by_itself() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::const_new(());
    MACHINE.lock().await
}
