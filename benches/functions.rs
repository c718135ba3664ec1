//! The cost of the functions that handle a request: `cargo bench --bench functions`.
//!
//! Private parts of the library (the tiers, a flight's body) are compiled in from its own files,
//! not all of which is used here.

#![allow(missing_docs)] // in the code of criterion's macros

use std::hint::black_box;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use peerage::cluster::ring::Ring;
use peerage::semantics::cache_control::RequestControl;
use peerage::semantics::cache_status::{CacheStatus, Handled};
use peerage::semantics::digest::Algorithm;
use peerage::semantics::freshness::{self, Lifetime};
use peerage::semantics::range;
use peerage::semantics::storing::{self, Case, Credentials, FallbackTtls, Name, Personal};
use peerage::site::rules::Rule;

use body::growing::{Growing, Next, Reader};
use body::zero_copy::Arena;
use key::AssetKey;
use store::budget::Budget;
use store::entry::{Content, Stored};
use store::headers::{PackedHeaders, Templates};
use store::metadata::{Metadata, Validated};
use store::tiers::{Lookup, Plan, Store, Tier};

#[allow(dead_code, unused_imports)]
#[path = "../src/body"]
mod body {
    pub(crate) mod growing;
    pub(crate) mod zero_copy;
}
#[allow(dead_code, unused_imports)]
#[path = "../src/key/mod.rs"]
mod key;
#[allow(dead_code, unused_imports)]
#[path = "../src/store/mod.rs"]
mod store;
#[path = "../src/sync.rs"]
mod sync;
mod error {
    pub(crate) use peerage::Error;
}
mod semantics {
    pub(crate) use peerage::semantics::{cache_status, date, freshness, scheme, vary};
}

/// Returns the metadata of a response that is stored until it is evicted.
fn metadata(born: SystemTime) -> Metadata {
    let (lifetime, validated) = (Lifetime::UntilEvicted { stated: None }, Validated::Never);
    Metadata { status: StatusCode::OK, born, lifetime, validated }
}

/// Packing and unpacking of the headers that a file server sends.
fn fields(criterion: &mut Criterion) {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("etag", "\"400-99a02d-18ea82a9cb782420\""),
        ("last-modified", "Sun, 22 Nov 2026 23:44:27 GMT"),
        ("content-length", "1024"),
        ("content-type", "application/octet-stream"),
        ("accept-ranges", "bytes"),
        ("cache-control", "public, max-age=31536000, immutable"),
        ("date", "Mon, 23 Nov 2026 00:06:43 GMT"),
        ("age", "0"),
        ("cache-status", "peerage"),
        ("via", "1.1 edge-1"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let metadata = metadata(SystemTime::now());
    let templates = Templates::new(Budget::new(0));
    let packed = templates.pack(metadata, &headers, 1024);
    criterion
        .bench_function("fields/pack", |bencher| bencher.iter(|| templates.pack(metadata, black_box(&headers), 1024)));
    let fields = PackedHeaders::new(&packed.template, packed.times, &packed.values, 1024);
    criterion.bench_function("fields/unpack", |bencher| bencher.iter(|| black_box(fields).unpack()));
}

/// The lookup of a hit: one key repeatedly, and one of so many keys that their entries are not in
/// the processor's caches.
fn memory(criterion: &mut Criterion) {
    const MEMORY: u64 = 1 << 30;
    for objects in [1, 200_000] {
        let budget = Budget::new(MEMORY);
        let tiers = Store::new(&Plan::new(MEMORY, 0.125, 0.25, 1 << 20), Arc::clone(&budget));
        let keys: Vec<_> =
            (0..objects).map(|i| AssetKey::parse(&format!("/asset-{i:016x}.bin"), 100).unwrap()).collect();
        let now = SystemTime::now();
        for key in &keys {
            let head = tiers.pack(metadata(now), &HeaderMap::new(), 1024);
            let charge = budget.charge(2048).unwrap();
            tiers.store(Tier::Main, key, Stored::new(key, head, Content::Small(&[b'x'; 1024]), charge));
        }
        // Steps of a prime: successive lookups are far apart.
        let mut at = 0;
        criterion.bench_function(&format!("memory/find/{objects}"), |bencher| {
            bencher.iter(|| {
                at = (at + 7919) % keys.len();
                let found = tiers.lookup(black_box(&keys[at]));
                assert!(matches!(found, Lookup::Memory(Tier::Main, _)));
            });
        });
    }
}

/// A body of 1 MiB through a flight, in chunks of the size that a connection reads.
fn flight(criterion: &mut Criterion) {
    const CHUNK: usize = 16 * 1024;
    const CHUNKS: usize = 64;
    let chunk = Bytes::from(vec![b'x'; CHUNK]);
    let mut group = criterion.benchmark_group("flight");
    group.throughput(Throughput::Bytes((CHUNKS * CHUNK) as u64));
    let arena = Arena::reserve((CHUNKS * CHUNK) as u64).unwrap();
    group.bench_function("append", |bencher| {
        bencher.iter_batched_ref(
            || Growing::new(Arc::clone(&arena)),
            |body| (0..CHUNKS).for_each(|_| body.append(chunk.clone())),
            BatchSize::LargeInput,
        );
    });
    for readers in [1, 100] {
        group.bench_function(format!("append-and-read/{readers}"), |bencher| {
            let join = || {
                let body = Growing::new(Arc::clone(&arena));
                let readers: Vec<_> = (0..readers).map(|_| Reader::new(Arc::clone(&body))).collect();
                (body, readers)
            };
            let stream = |(body, readers): &mut (Arc<Growing>, Vec<Reader>)| {
                let mut context = Context::from_waker(Waker::noop());
                for _ in 0..CHUNKS {
                    body.append(chunk.clone());
                    for reader in &mut *readers {
                        while let Poll::Ready(Next::Data(data)) = reader.poll_next(usize::MAX, &mut context) {
                            black_box(data);
                        }
                    }
                }
            };
            bencher.iter_batched_ref(join, stream, BatchSize::LargeInput);
        });
    }
}

fn keys(criterion: &mut Criterion) {
    for (name, target) in
        [("plain", "/assets/logo-0123456789abcdef.png"), ("escaped", "/assets/%c3%a9-0123456789abcdef.png")]
    {
        let uri = Uri::from_static(target);
        criterion.bench_function(&format!("key/{name}"), |bencher| {
            bencher.iter(|| AssetKey::from_uri(black_box(&uri), 16 * 1024));
        });
    }
    let rule = Rule::parse("/**/*-{hash}.*").unwrap();
    criterion.bench_function("naming", |bencher| {
        bencher.iter(|| rule.matches(black_box("/assets/logo-0123456789abcdef.png")));
    });
}

fn ring(criterion: &mut Criterion) {
    for members in [3, 100, 1000] {
        let names: Vec<_> = (0..members).map(|i| format!("10.0.{}.{}:7001", i / 250, i % 250)).collect();
        let ring = Ring::new(names.iter().map(String::as_str));
        criterion.bench_function(&format!("ring/owner/{members}"), |bencher| {
            bencher.iter(|| ring.owner(black_box(7)));
        });
        criterion.bench_function(&format!("ring/new/{members}"), |bencher| {
            bencher.iter(|| Ring::new(names.iter().map(String::as_str)));
        });
        criterion.bench_function(&format!("ring/rank/{members}"), |bencher| bencher.iter(|| ring.rank(black_box(7))));
    }
}

/// The speed of the digests that verify a fill, in bytes per second on one core.
fn digests(criterion: &mut Criterion) {
    let data = vec![7; 256 * 1024];
    let mut group = criterion.benchmark_group("digest");
    group.throughput(Throughput::Bytes(data.len() as u64));
    for &algorithm in Algorithm::ALL {
        group.bench_function(algorithm.name(), |bencher| {
            bencher.iter(|| {
                let mut hashing = algorithm.hashing();
                hashing.update(black_box(&data));
                hashing.finish()
            });
        });
    }
}

fn rules(criterion: &mut Criterion) {
    let mut response = HeaderMap::new();
    response.insert("cache-control", HeaderValue::from_static("public, max-age=31536000, immutable"));
    response.insert("etag", HeaderValue::from_static("\"abc\""));
    criterion.bench_function("freshness/verdict", |bencher| {
        let (credentials, personal, ttls) = (Credentials::None, Personal::Absent, FallbackTtls::default());
        let case = Case { name: Name::Plain, credentials, personal, ttls };
        let judge = |headers| storing::verdict(case, StatusCode::OK, headers, Duration::ZERO);
        bencher.iter(|| judge(black_box(&response)));
    });
    let mut request = HeaderMap::new();
    request.insert("accept", HeaderValue::from_static("*/*"));
    criterion.bench_function("freshness/reuse", |bencher| {
        let lifetime = Lifetime::UntilEvicted { stated: Some(Duration::from_hours(1)) };
        bencher.iter(|| {
            let wish = RequestControl::of(black_box(&request));
            freshness::reuse(lifetime, Duration::from_secs(5), &wish)
        });
    });
    for (name, ranges) in [("one", "bytes=1000-1999"), ("three", "bytes=0-99, 1000-1999, -100")] {
        request.insert("range", HeaderValue::from_static(ranges));
        criterion.bench_function(&format!("range/{name}"), |bencher| {
            bencher.iter(|| range::evaluate(black_box(&request), &response, 1 << 20));
        });
    }
    let hit = CacheStatus { handled: Handled::Hit, ttl: Some(31_535_990), ..CacheStatus::default() };
    criterion.bench_function("cache-status", |bencher| bencher.iter(|| hit.value(black_box("edge-1"))));
}

criterion_group!(benches, fields, memory, keys, ring, digests, rules, flight);
criterion_main!(benches);
