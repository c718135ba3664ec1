//! An owner that is killed in the middle of a large body.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::request;
use crate::cluster::{KEYS, ORIGIN, owner, path, slow_origin, three};
use crate::harness::{pattern, within};
use crate::load::Load;
use crate::origin::Script;
use crate::reserve_machine;

const LENGTH: usize = 100 << 20;
const PACE: f64 = 10e6;

/// Reads all of `path` and compares each byte. The receiver holds the number of bytes so far.
fn read(edge: SocketAddr, path: &str, body: &Bytes) -> (watch::Receiver<usize>, JoinHandle<Result<Duration, String>>) {
    let (at, progress) = watch::channel(0);
    let (path, body) = (path.to_owned(), body.clone());
    let reading = tokio::spawn(async move {
        let began = Instant::now();
        let mut open = request(edge, Method::GET, &path).try_open().await.map_err(|error| error.to_string())?;
        if open.status != 200 {
            return Err(open.status.to_string());
        }
        while let Some(piece) = open.try_chunk().await {
            let from = *at.borrow();
            let piece = piece.map_err(|error| format!("{error} after {from} bytes"))?;
            if body.get(from..from + piece.len()) != Some(&piece[..]) {
                return Err(format!("wrong bytes after {from}"));
            }
            at.send_replace(from + piece.len());
        }
        let length = *at.borrow();
        if length == body.len() { Ok(began.elapsed()) } else { Err(format!("ended after {length} bytes")) }
    });
    (progress, reading)
}

async fn kill_owner_mid_body(case: &str, more: &str) {
    let origin = slow_origin().await;
    let once = pattern(1_000_003);
    let body: Bytes = once.iter().copied().cycle().take(LENGTH).collect();
    let mut edges = three(&origin, more).await;
    let path = (KEYS..2 * KEYS).map(path).find(|path| owner(&edges, path).name == "edge-1").unwrap();
    origin.script(&path, Script::ok(body.clone()).etag("\"v1\"").with_ranges().delay(ORIGIN).pace(PACE));
    let load = Load::over_all(&edges[1..]);
    let mut readings = Vec::new();
    // Four clients start at once, four when 25 MiB have come, four after the owner is killed.
    for megabytes in [0, 25, 50] {
        if let Some((progress, _)) = readings.first_mut() {
            let progress: &mut watch::Receiver<usize> = progress;
            within(60, progress.wait_for(|at| *at >= megabytes << 20)).await.unwrap();
        }
        if megabytes == 50 {
            edges[0].kill();
        }
        for edge in [&edges[1], &edges[1], &edges[2], &edges[2]] {
            readings.push(read(edge.addresses.clients, &path, &body));
        }
    }
    let mut results = Vec::new();
    for (_, reading) in readings {
        results.push(within(120, reading).await.unwrap());
    }
    let report = load.end().await;
    let seen = origin.seen();
    let fetches: Vec<_> = seen.iter().filter(|seen| seen.target == path).collect();
    let fetches: Vec<_> = fetches.iter().map(|seen| (seen.via(), seen.header("range").unwrap_or("all"))).collect();
    let failed: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    println!(
        "owner killed in a body of 100 MiB, {case}: {} of {} clients received all of it, slowest {:.2?}; origin fetches \
          {fetches:?}; load meanwhile: {report}",
        results.len() - failed.len(),
        results.len(),
        results.iter().flatten().max().unwrap_or(&Duration::ZERO)
    );
    assert!(failed.is_empty(), "{failed:?}");
    report.assert_well();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owner_killed_mid_body_truncates_no_response_when_the_body_is_stored() {
    let _machine = reserve_machine().await;
    kill_owner_mid_body("stored", "[cache]\nmemory = \"1GiB\"\nmax_object = \"128MiB\"\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owner_killed_mid_body_truncates_no_response_when_the_body_is_too_large_to_store() {
    let _machine = reserve_machine().await;
    kill_owner_mid_body("too large to store", "").await;
}
