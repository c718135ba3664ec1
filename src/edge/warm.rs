//! Warm-up: a starting edge pulls the most requested keys that it owns from the previous owners,
//! before clients are sent to it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use http::HeaderValue;
use tokio::sync::oneshot;

use super::admission::Attempt;
use super::filler::Filler;
use super::key_list::{WANTED, parse_line};
use super::order::{Leading, Order};
use super::parts::Edge;
use super::probe::for_this_hop;
use crate::body::next_data;
use crate::error::Error;
use crate::flight::{Joining, Outcome, Reach};
use crate::key::AssetKey;
use crate::semantics::storing::Credentials;
use crate::store::tiers::Tier;

/// The number of keys that are pulled at a time.
const AT_ONCE: usize = 16;
/// The number of lists that are read at a time.
const LISTS: usize = 4;
/// The time limit for one list.
const LISTING: Duration = Duration::from_secs(10);
/// The longest average line of a list, in bytes.
const LINE: usize = 512;
/// The time between two log lines about progress.
const PROGRESS: Duration = Duration::from_secs(1);
/// The share of the main tier that a warm-up fills: requests meanwhile need room too.
const FULL_PERCENT: u64 = 90;

/// The progress of a warm-up.
#[derive(Default)]
struct Pulled {
    keys: AtomicU64,
    tried: AtomicU64,
}

impl Edge {
    /// Pulls the keys that this edge owns and peers hold, the most requested first, for at most
    /// `patience`.
    pub(crate) async fn warm_up(&self, patience: Duration) {
        let began = Instant::now();
        let pulled = Pulled::default();
        let ended = tokio::time::timeout(patience, async {
            self.peering.membership.joined().await;
            let wanted = self.wanted_of_all().await;
            tracing::info!(keys = wanted.len(), "warm-up started, pulling the most requested keys from peers");
            let pull =
                stream::iter(&wanted).for_each_concurrent(AT_ONCE, |(key, holder)| self.pull(key, holder, &pulled));
            tokio::select! {
                () = pull => {}
                () = self.tell_progress(&pulled, wanted.len()) => {}
            }
        });
        let ended = if ended.await.is_ok() { "all keys tried" } else { "cluster.warm_time elapsed" };
        let keys = pulled.keys.load(Ordering::Relaxed);
        let (bytes, ..) = self.cache.store.figures(Tier::Main);
        tracing::info!(keys, bytes, seconds = began.elapsed().as_secs_f32(), ended, "warm-up finished");
    }

    async fn tell_progress(&self, pulled: &Pulled, of: usize) {
        loop {
            tokio::time::sleep(PROGRESS).await;
            let (keys, tried) = (pulled.keys.load(Ordering::Relaxed), pulled.tried.load(Ordering::Relaxed));
            tracing::info!(keys, tried, of, bytes = self.cache.store.figures(Tier::Main).0, "warm-up in progress");
        }
    }

    /// Returns every key that a peer holds and this edge owns, with one peer that holds it; the
    /// most requested first.
    async fn wanted_of_all(&self) -> Vec<(AssetKey, Arc<str>)> {
        let peers = self.peering.membership.reachable();
        let asking = peers.into_iter().map(|peer| async move { (self.wanted_of(&peer).await, peer) });
        let mut lists = stream::iter(asking).buffer_unordered(LISTS);
        let mut wanted: HashMap<AssetKey, (u64, Arc<str>)> = HashMap::new();
        while let Some((list, peer)) = lists.next().await {
            for (uses, key) in list.unwrap_or_default() {
                wanted.entry(key).or_insert_with(|| (0, Arc::clone(&peer))).0 += u64::from(uses);
            }
        }
        let mut wanted: Vec<_> = wanted.into_iter().collect();
        wanted.sort_unstable_by(|(a, (uses, _)), (b, (others, _))| {
            others.cmp(uses).then_with(|| a.as_str().cmp(b.as_str()))
        });
        wanted.truncate(self.key_list.most);
        wanted.into_iter().map(|(key, (_, holder))| (key, holder)).collect()
    }

    async fn wanted_of(&self, peer: &str) -> Option<Vec<(u32, AssetKey)>> {
        let mut request = for_this_hop();
        request.headers_mut().insert(
            WANTED,
            HeaderValue::from_str(self.peering.membership.own()).expect("an address is a header value"),
        );
        let list = tokio::time::timeout(LISTING, async {
            let mut body = self.peering.client.ask(peer, request).await?.response.into_body();
            let mut list = Vec::new();
            // The rest of a longer list was used less.
            while list.len() < self.key_list.most.saturating_mul(LINE)
                && let Some(data) = next_data(&mut body).await
            {
                list.extend_from_slice(&data?);
            }
            list.truncate(list.iter().rposition(|byte| *byte == b'\n').unwrap_or_default());
            Ok(list)
        });
        match list.await.unwrap_or(Err(Error::PeerTimeout)) {
            Ok(list) => Some(String::from_utf8_lossy(&list).lines().filter_map(|line| self.wanted_key(line)).collect()),
            Err(error) => {
                tracing::warn!(%peer, %error, "key list request failed, pulling nothing from this peer");
                None
            }
        }
    }

    fn wanted_key(&self, line: &str) -> Option<(u32, AssetKey)> {
        parse_line(&self.settings.policies.load().sites, line, self.settings.limits.uri)
    }

    async fn pull(&self, key: &AssetKey, holder: &Arc<str>, pulled: &Pulled) {
        let full = self.cache.store.figures(Tier::Main).0 >= self.cache.plan.main / 100 * FULL_PERCENT;
        if !full && take_over(&self.filler, key, holder).await {
            pulled.keys.fetch_add(1, Ordering::Relaxed);
        }
        pulled.tried.fetch_add(1, Ordering::Relaxed);
    }
}

/// Pulls a key from its holder. Returns true if it was stored.
async fn take_over(filler: &Arc<Filler>, key: &AssetKey, holder: &Arc<str>) -> bool {
    let order = Order::of_this_edge(filler.settings.policy(key).name(key));
    let Joining::Lead(lead) = filler.cache.flights.join(key, Reach::Handoff, Credentials::None) else {
        return false;
    };
    if filler.has_landed(key, &order) || filler.cache.store.has_changed(key) {
        lead.settle(Outcome::Landed);
        return false;
    }
    let Some(arrival) = filler.ask_holder(Arc::clone(holder), key, &order).await else {
        lead.fail(Error::NotCached);
        return false;
    };
    // No request leads this flight.
    let (leader, _) = oneshot::channel();
    match filler.receive(Leading { lead, leader }, &order, arrival).await {
        Attempt::Done => filler.has_landed(key, &order),
        Attempt::Unusable(Leading { lead, .. }, error) => {
            lead.fail(error);
            false
        }
    }
}
