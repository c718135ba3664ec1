//! `cargo bench --features allocators --bench memory-jemalloc`: an edge's memory with jemalloc.

mod measure;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    measure::measure("jemalloc", &[None]);
}
