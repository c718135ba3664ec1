//! Counters and histograms for updates from many threads.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// The number of cells of a counter. Each thread updates one cell, and each cell has cache
/// lines of its own.
const CELLS: usize = 16;

#[derive(Default)]
#[repr(align(128))]
struct Cell(AtomicU64);

/// A sharded counter: threads rarely contend for a cache line.
#[derive(Default)]
pub(super) struct Counter([Cell; CELLS]);

impl Counter {
    pub(super) fn add(&self, amount: u64) {
        self.0[cell_index()].0.fetch_add(amount, Ordering::Relaxed);
    }

    pub(super) fn total(&self) -> u64 {
        self.0.iter().map(|cell| cell.0.load(Ordering::Relaxed)).sum()
    }
}

/// Returns the cell of the calling thread.
fn cell_index() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static CELL: usize = NEXT.fetch_add(1, Ordering::Relaxed) % CELLS;
    }
    CELL.with(|cell| *cell)
}

/// Upper bounds of the histograms' buckets, in seconds.
pub(super) const BOUNDS: [f64; 16] = [
    0.000_1,
    0.000_25,
    0.000_5,
    0.001,
    0.002_5,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    10.0,
    f64::INFINITY,
];

/// A histogram of durations.
#[derive(Default)]
pub(super) struct Histogram {
    pub(super) buckets: [Counter; BOUNDS.len()],
    pub(super) nanos: Counter,
}

impl Histogram {
    pub(super) fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = BOUNDS.iter().position(|&bound| seconds <= bound).unwrap_or(BOUNDS.len() - 1);
        self.buckets[bucket].add(1);
        self.nanos.add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }
}
