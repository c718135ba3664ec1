//! `cargo bench --features allocators --bench memory-mimalloc`: an edge's memory with mimalloc.

mod measure;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    measure::measure("mimalloc", &[None]);
}
