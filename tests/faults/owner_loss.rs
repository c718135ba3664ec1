//! An owner that is killed, and one that freezes.

use std::time::{Duration, Instant};

use crate::cluster::{KEYS, NOTICED, agree, owner, path, slow_origin, three};
use crate::load::{Load, assert_coalesced, assert_doubts, fetches, warm};
use crate::origin::Seen;
use crate::reserve_machine;

/// The time in which the load requests every key at both remaining edges.
const WHILE: Duration = Duration::from_secs(12);

fn most(seen: &[Seen], count: impl Fn(&str, &str) -> bool) -> usize {
    fetches(seen, count).into_values().max().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_owner_fails_no_request_and_its_successor_fetches_each_key_once() {
    let _machine = reserve_machine().await;
    let origin = slow_origin().await;
    let mut edges = three(&origin, "").await;
    let moved: Vec<_> = (0..KEYS).map(path).filter(|path| owner(&edges, path).name == "edge-1").collect();
    // Half of the keys are stored nowhere, before and after the kill.
    warm(&edges, (0..KEYS).step_by(2)).await;
    let load = Load::over_all(&edges);
    tokio::time::sleep(Duration::from_secs(2)).await;
    load.leave(&edges[0]).await;
    let before = origin.seen().len();
    let killed = Instant::now();
    edges[0].kill();
    let noticed = agree(&edges[1..]).await;
    tokio::time::sleep(WHILE.saturating_sub(killed.elapsed())).await;
    let report = load.end().await;

    let seen = origin.seen();
    let has_moved = |path: &str| moved.iter().any(|it| it == path);
    let again = most(&seen[before..], |path, by| has_moved(path) && by != "edge-1");
    let (of_moved, of_others) = (most(&seen, |path, _| has_moved(path)), most(&seen, |path, _| !has_moved(path)));
    println!(
        "owner killed: {report}; detected in {noticed:.2?}; {} keys moved; {} origin fetches, {} of them afterwards; \
          of a moved key at most {again} afterwards, {of_moved} in all; of any other key at most {of_others}",
        moved.len(),
        seen.len(),
        seen.len() - before,
    );
    report.assert_well();
    // A moved key may have been fetched by the killed owner, and then by its successor.
    assert_coalesced(&seen, edges.len(), |path| 1 + usize::from(has_moved(path)));
    assert_coalesced(&seen[before..], edges.len() - 1, |_| 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_owner_fails_no_request_and_its_successor_owns_its_keys() {
    let _machine = reserve_machine().await;
    let origin = slow_origin().await;
    let edges = three(&origin, "").await;
    let moved: Vec<_> = (0..KEYS).map(path).filter(|path| owner(&edges, path).name == "edge-1").collect();
    warm(&edges, (0..KEYS).step_by(2)).await;
    let load = Load::over_all(&edges);
    tokio::time::sleep(Duration::from_secs(2)).await;
    load.leave(&edges[0]).await;
    let before = origin.seen().len();
    let frozen = Instant::now();
    edges[0].freeze();
    let noticed = agree(&edges[1..]).await;
    let agreed = origin.seen().len();
    tokio::time::sleep(WHILE.saturating_sub(frozen.elapsed())).await;
    let report = load.end().await;

    let seen = origin.seen();
    let after = report.slowest_after(Some(frozen + NOTICED));
    println!(
        "owner frozen: {report}; detected in {noticed:.2?}; after {NOTICED:?} slowest {after:.2?}; {} origin fetches, {} \
          of them afterwards, at most {} of one key",
        seen.len(),
        seen.len() - before,
        most(&seen[before..], |_, _| true)
    );
    report.assert_well();
    assert_coalesced(&seen, edges.len(), |path| 1 + usize::from(moved.iter().any(|it| it == path)));
    // From then on the successor is the owner, and no request waits for the frozen edge.
    let misplaced = seen[agreed..].iter().filter(|seen| owner(&edges[1..], &seen.target).name != seen.via());
    assert_doubts(misplaced.count(), edges.len());
}
