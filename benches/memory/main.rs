//! `cargo bench --bench memory`: an edge's memory with the system's allocator.

mod measure;

fn main() {
    measure::measure("system", &[None, Some(("MALLOC_ARENA_MAX", "2"))]);
}
