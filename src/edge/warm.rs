//! Starting warm: the keys that will be wanted most are pulled from those who have
//! owned them, before clients are sent here.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use http::{HeaderName, HeaderValue};
use tokio::sync::oneshot;

use super::Edge;
use super::admission::Landed;
use super::fill::{Leading, Order};
use super::probe::for_this_hop;
use crate::body::next_data;
use crate::cluster::ring::Ring;
use crate::error::Error;
use crate::flight::{Joining, Outcome, Reach};
use crate::key::AssetKey;
use crate::semantics::storing::Credentials;
use crate::store::tiers::Tier;

/// Asks a peer, in a request for that hop, what it holds that the edge at this address
/// would own. The answer has a line for each path: how often it was used, and the path.
pub(super) const WANTED: HeaderName = HeaderName::from_static("peerage-wanted");

/// How many keys are pulled at a time.
const AT_ONCE: usize = 16;
/// How many lists of keys are read at a time.
const LISTS: usize = 4;
/// How long one list may take to be read.
const LISTING: Duration = Duration::from_secs(10);
/// A line of a list is no longer than this on average, in bytes.
const LINE: usize = 512;
/// How long it takes from one line of progress to the next.
const PROGRESS: Duration = Duration::from_secs(1);
/// How much of the main tier is filled: what is asked for meanwhile needs room too.
const FULL_PERCENT: u64 = 90;

/// What has been pulled so far.
#[derive(Default)]
struct Pulled {
    keys: AtomicU64,
    tried: AtomicU64,
}

impl Edge {
    /// Pulls what this edge owns, and others hold, the most wanted first, for the
    /// time of `patience` at most.
    pub(crate) async fn warm_up(self: &Arc<Self>, patience: Duration) {
        let began = Instant::now();
        let pulled = Pulled::default();
        let ended = tokio::time::timeout(patience, async {
            self.membership.joined().await;
            let wanted = self.wanted_of_all().await;
            tracing::info!(keys = wanted.len(), "warm-up started, pulling the most requested keys from peers");
            let pull =
                stream::iter(&wanted).for_each_concurrent(AT_ONCE, |(key, holder)| self.pull(key, holder, &pulled));
            tokio::select! {
                () = pull => {}
                () = self.tell_progress(&pulled, wanted.len()) => {}
            }
        });
        let ended = if ended.await.is_ok() { "all was tried" } else { "cluster.warm_time is over" };
        let keys = pulled.keys.load(Ordering::Relaxed);
        let (bytes, ..) = self.store.figures(Tier::Main);
        tracing::info!(keys, bytes, seconds = began.elapsed().as_secs_f32(), ended, "warm");
    }

    async fn tell_progress(&self, pulled: &Pulled, of: usize) {
        loop {
            tokio::time::sleep(PROGRESS).await;
            let (keys, tried) = (pulled.keys.load(Ordering::Relaxed), pulled.tried.load(Ordering::Relaxed));
            tracing::info!(keys, tried, of, bytes = self.store.figures(Tier::Main).0, "warming");
        }
    }

    /// Every key that a peer holds and this edge owns, with one that holds it; the
    /// most wanted in all first.
    async fn wanted_of_all(&self) -> Vec<(AssetKey, Arc<str>)> {
        let peers = self.membership.reachable();
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
        wanted.truncate(self.warm_keys);
        wanted.into_iter().map(|(key, (_, holder))| (key, holder)).collect()
    }

    async fn wanted_of(&self, peer: &str) -> Option<Vec<(u32, AssetKey)>> {
        let mut request = for_this_hop();
        request.headers_mut().insert(WANTED, HeaderValue::from_str(self.membership.own()).ok()?);
        let list = tokio::time::timeout(LISTING, async {
            let mut body = self.peers.ask(peer, request).await?.response.into_body();
            let mut list = Vec::new();
            // The rest of a longer list was used less.
            while list.len() < self.warm_keys.saturating_mul(LINE)
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
                tracing::warn!(%peer, %error, "peer did not list its keys, none is pulled from it");
                None
            }
        }
    }

    fn wanted_key(&self, line: &str) -> Option<(u32, AssetKey)> {
        let (uses, path) = line.split_once(' ')?;
        Some((uses.parse().ok()?, AssetKey::parse(path, self.limits.uri).ok()?))
    }

    async fn pull(self: &Arc<Self>, key: &AssetKey, holder: &Arc<str>, pulled: &Pulled) {
        let full = self.store.figures(Tier::Main).0 >= self.plan.main / 100 * FULL_PERCENT;
        if !full && self.take_over(key, holder).await {
            pulled.keys.fetch_add(1, Ordering::Relaxed);
        }
        pulled.tried.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a key over from who holds it; whether it came.
    async fn take_over(self: &Arc<Self>, key: &AssetKey, holder: &Arc<str>) -> bool {
        let order = Order::of_this_edge(self.policy.load().name(key));
        let Joining::Lead(lead) = self.flights.join(key, Reach::Holder, Credentials::None) else {
            return false;
        };
        if self.has_landed(key, &order) || self.store.has_changed(key) {
            lead.settle(Outcome::Landed);
            return false;
        }
        let Some(arrival) = self.ask_holder(Arc::clone(holder), key, &order).await else {
            lead.fail(Error::NotCached);
            return false;
        };
        // Nobody leads this flight but this edge itself.
        let (first, _) = oneshot::channel();
        match self.receive(Leading { lead, first }, &order, arrival).await {
            Landed::Done => self.has_landed(key, &order),
            Landed::Broken(Leading { lead, .. }, error) => {
                lead.fail(error);
                false
            }
        }
    }

    /// What is here that the edge at `address` would own, the most used first.
    pub(super) async fn list_wanted(self: &Arc<Self>, address: &HeaderValue) -> Option<String> {
        let address = address.to_str().ok()?.to_owned();
        let edge = Arc::clone(self);
        // It looks at all that is stored: one of them at a time.
        let _turn = self.listing.acquire().await.ok()?;
        let list = tokio::task::spawn_blocking(move || {
            let view = edge.membership.view();
            let members = view.ring.members().iter().map(|member| &**member.name());
            let ring = Ring::new(members.chain([&*address]));
            let owned = |hash| ring.owner(hash).is_some_and(|owner| **owner.name() == *address);
            let wanted = edge.store.most_used(edge.warm_keys, owned);
            wanted.into_iter().map(|(uses, name)| format!("{uses} {name}\n")).collect()
        });
        list.await.ok()
    }
}
