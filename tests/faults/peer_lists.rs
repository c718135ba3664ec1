//! Contradicting peer lists.

use std::time::Duration;

use crate::cluster::{Edge, KEYS, free_addresses, listing, slow_origin};
use crate::load::{Load, assert_coalesced, fetches};
use crate::reserve_machine;

const MINUTE: Duration = Duration::from_mins(1);

/// Maps a request to a key. Four fifths of the requests cycle over all keys; one fifth is for new
/// keys, or there would soon be hits only.
fn key(request: usize) -> usize {
    let pair = request / 2;
    if pair.is_multiple_of(5) { KEYS + pair / 5 } else { pair * 617 % KEYS }
}

/// Puts three edges under load for a minute. Edge `i` lists the edges at the positions
/// `lists[i]`.
async fn contradict(case: &str, lists: [&[usize]; 3], more: &str) {
    let origin = slow_origin().await;
    let all_addresses = free_addresses(3);
    let mut edges = Vec::new();
    for (i, list) in lists.into_iter().enumerate() {
        let more = listing(list.iter().map(|at| &all_addresses[*at])) + more;
        edges.push(Edge::new(i + 1, all_addresses[i].clone(), &origin.url(), &more));
        edges[i].start().await;
    }
    let load = Load::begin(&edges, key);
    tokio::time::sleep(MINUTE).await;
    let report = load.end().await;
    let seen = origin.seen();
    let fetches = fetches(&seen, |_, _| true);
    let most = *fetches.values().max().unwrap();
    println!(
        "contradicting lists, {case}: {report}; {} keys, {} origin fetches, at most {most} of one key",
        fetches.len(),
        seen.len()
    );
    report.assert_well();
    // Each edge may take another one for the owner.
    assert_coalesced(&seen, edges.len(), |_| 3);
}

/// Runs two clusters at the same time, which saves a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contradicting_peer_lists_fail_no_request() {
    let _machine = reserve_machine().await;
    // Each edge takes another one for the owner of every key, or knows a single peer.
    let no_gossip = contradict("each lists only the next, no gossip", [&[1], &[2], &[0]], "gossip = false\n");
    let gossip = contradict("each lists itself and the next, gossip, no secret", [&[0, 1], &[1, 2], &[2, 0]], "");
    tokio::join!(no_gossip, gossip);
}
