//! What the functions on a request's way cost: `cargo bench --bench functions`.

#![allow(missing_docs)] // of what criterion's macros make

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use peerage::AssetKey;
use peerage::cluster::ring::Ring;
use peerage::digest::Algorithm;
use peerage::naming::Rule;
use peerage::semantics::cache_status::{CacheStatus, Handled};
use peerage::semantics::freshness::{self, Case, Credentials, Name};
use peerage::semantics::range;

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
        bencher.iter(|| rule.hash_in(black_box("/assets/logo-0123456789abcdef.png")).is_some());
    });
}

fn ring(criterion: &mut Criterion) {
    for members in [3, 100, 1000] {
        let names: Vec<_> = (0..members).map(|i| format!("10.0.{}.{}:7001", i / 250, i % 250)).collect();
        let ring = Ring::new(names.iter().map(String::as_str));
        criterion.bench_function(&format!("ring/owner/{members}"), |bencher| {
            bencher.iter(|| ring.owner(black_box(7)).is_some());
        });
        criterion
            .bench_function(&format!("ring/rank/{members}"), |bencher| bencher.iter(|| ring.rank(black_box(7)).len()));
    }
}

/// What verification costs a fill: bytes per second on one core.
fn digests(criterion: &mut Criterion) {
    let data = vec![7; 256 * 1024];
    let mut group = criterion.benchmark_group("digest");
    group.throughput(Throughput::Bytes(data.len() as u64));
    for algorithm in Algorithm::ALL {
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
        let (negative, heuristic) = (Duration::ZERO, Duration::ZERO);
        let case = Case { name: Name::Plain, credentials: Credentials::None, negative, heuristic };
        let judge = |headers| freshness::verdict(case, StatusCode::OK, headers, Duration::ZERO);
        bencher.iter(|| judge(black_box(&response)));
    });
    let mut request = HeaderMap::new();
    request.insert("range", HeaderValue::from_static("bytes=1000-1999"));
    criterion
        .bench_function("range", |bencher| bencher.iter(|| range::evaluate(black_box(&request), &response, 1 << 20)));
    let hit = CacheStatus { handled: Handled::Hit, ttl: Some(31_535_990), ..CacheStatus::default() };
    criterion.bench_function("cache-status", |bencher| bencher.iter(|| hit.value(black_box("edge-1"))));
}

criterion_group!(benches, keys, ring, digests, rules);
criterion_main!(benches);
