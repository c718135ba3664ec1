//! Edges whose lists contradict one another.

use std::time::Duration;

use crate::by_itself;
use crate::cluster::{Edge, KEYS, listing, places, slow_origin};
use crate::load::{Load, assert_coalesced, fetches};

const MINUTE: Duration = Duration::from_mins(1);

/// All names, again and again, but for a fifth of the requests: those are for a
/// new one each, or there would be only hits soon.
fn key(request: usize) -> usize {
    let pair = request / 2;
    if pair.is_multiple_of(5) { KEYS + pair / 5 } else { pair * 617 % KEYS }
}

/// A minute of load at three edges; the edge at a position lists those that
/// `lists` says.
async fn contradict(what: &str, lists: [&[usize]; 3], more: &str) {
    let origin = slow_origin().await;
    let places = places(3);
    let mut edges = Vec::new();
    for (i, list) in lists.into_iter().enumerate() {
        let more = listing(list.iter().map(|at| &places[*at])) + more;
        edges.push(Edge::new(i + 1, places[i].clone(), &origin.url(), &more));
        edges[i].start().await;
    }
    let load = Load::begin(&edges, key);
    tokio::time::sleep(MINUTE).await;
    let report = load.end().await;
    let seen = origin.seen();
    let fetches = fetches(&seen, |_, _| true);
    let most = *fetches.values().max().unwrap();
    println!(
        "contradicting lists, {what}: {report}; {} keys, {} origin fetches, of a key at most {most}",
        fetches.len(),
        seen.len()
    );
    report.assert_well();
    // Each believes one to be the owner.
    assert_coalesced(&seen, edges.len(), |_| 3);
}

/// Two clusters side by side, to spare a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_contradict_one_another() {
    let _machine = by_itself().await;
    // Each believes that another owns everything, or that it has but one peer.
    let no_gossip = contradict("each lists only the next, no gossip", [&[1], &[2], &[0]], "gossip = false\n");
    let gossip = contradict("each lists itself and the next, gossip, no secret", [&[0, 1], &[1, 2], &[2, 0]], "");
    tokio::join!(no_gossip, gossip);
}
