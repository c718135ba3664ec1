//! [`TicketSharing`]: the task that shares the secrets of session tickets with the other edges, so
//! that a session resumes on any edge.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep, timeout};

use crate::admin::NotReady;
use crate::cluster::membership::Membership;
use crate::error::Error;
use crate::observe::metrics::{Fetched, Metrics};
use crate::peer::ticket_exchange::TicketExchange;
use crate::tls::TicketSecrets;

/// The interval at which changes of the members and of the secrets are looked for.
const TICK: Duration = Duration::from_secs(1);
/// The longest wait for the members and for their secrets at the start.
const START: Duration = Duration::from_secs(5);
/// The least time between two exchanges with a peer that failed.
const RETRY: Duration = Duration::from_secs(10);
/// The number of attempts at the start, and the pause between two.
const ATTEMPTS: usize = 3;
const PAUSE: Duration = Duration::from_millis(250);
/// The number of exchanges at a time.
const AT_ONCE: usize = 8;
/// One edge after another, in the order of their addresses, makes the secret of the next epoch if
/// none has made it before. The time that each has for that.
const TURN: Duration = Duration::from_secs(10);

/// Shares the secrets of session tickets.
pub(super) struct TicketSharing {
    pub(super) secrets: Arc<TicketSecrets>,
    pub(super) exchange: TicketExchange,
    pub(super) membership: Arc<Membership>,
    pub(super) metrics: Arc<Metrics>,
}

/// The result of the last exchange with a peer.
enum Exchanged {
    /// Both edges had the same secrets, which were this version here.
    At(u64),
    /// The exchange failed at this time.
    Failed(Instant),
}

impl TicketSharing {
    /// Takes over the secrets of the other edges, then shares changes, forever. Holds `starting`
    /// until there can be tickets that the other edges accept.
    pub(super) async fn run(self, starting: NotReady) {
        let mut exchanged = HashMap::new();
        // If that takes longer, the edge makes secrets of its own, and shares them later.
        let _ = timeout(START, async {
            self.membership.joined().await;
            self.share_at_start(&mut exchanged).await;
            self.secrets.fill(SystemTime::now(), self.turn());
            self.share_at_start(&mut exchanged).await;
        })
        .await;
        self.secrets.fill(SystemTime::now(), self.turn());
        self.secrets.adopt(SystemTime::now());
        drop(starting);
        loop {
            sleep(TICK).await;
            self.secrets.fill(SystemTime::now(), self.turn());
            self.share(&mut exchanged, RETRY).await;
            self.secrets.adopt(SystemTime::now());
        }
    }

    /// Exchanges secrets with all peers. A peer may not have heard of this edge yet, and refuse it:
    /// such exchanges are repeated a few times.
    async fn share_at_start(&self, exchanged: &mut HashMap<Arc<str>, Exchanged>) {
        for _ in 0..ATTEMPTS {
            self.share(exchanged, Duration::ZERO).await;
            if exchanged.values().all(|result| matches!(result, Exchanged::At(_))) {
                return;
            }
            sleep(PAUSE).await;
        }
    }

    /// Exchanges secrets with the peers that may have others. Exchanges that failed are repeated
    /// after `retry`.
    async fn share(&self, exchanged: &mut HashMap<Arc<str>, Exchanged>, retry: Duration) {
        let (peers, version) = (self.membership.reachable(), self.secrets.version());
        exchanged.retain(|peer, _| peers.contains(peer));
        let is_due = |peer: &Arc<str>| match exchanged.get(peer) {
            None => true,
            Some(Exchanged::At(shared)) => *shared != version,
            Some(Exchanged::Failed(since)) => since.elapsed() >= retry,
        };
        let due: Vec<_> = peers.into_iter().filter(is_due).collect();
        let exchanges = due.into_iter().map(|peer| async move { (self.exchange_with(&peer).await, peer) });
        let mut results = stream::iter(exchanges).buffer_unordered(AT_ONCE);
        while let Some((result, peer)) = results.next().await {
            exchanged.insert(peer, result);
        }
    }

    async fn exchange_with(&self, peer: &str) -> Exchanged {
        let message = self.secrets.encode(SystemTime::now());
        let result = self.exchange.exchange(peer, message).await;
        let merged = result.and_then(|reply| {
            // A peer without clients over TLS has no secrets.
            if reply.is_empty() {
                return Ok(());
            }
            let merged = self.secrets.merge(&reply, SystemTime::now());
            merged.map(drop).map_err(|error| Error::PeerBroke(error.to_string()))
        });
        self.metrics.ticket_exchange(if merged.is_ok() { Fetched::Ok } else { Fetched::Error });
        match merged {
            Ok(()) => Exchanged::At(self.secrets.version()),
            Err(error) => {
                tracing::info!(%peer, %error, "exchange of ticket secrets failed, trying again");
                Exchanged::Failed(Instant::now())
            }
        }
    }

    /// Returns the age of an epoch at which this edge makes the secret of the next one.
    fn turn(&self) -> Duration {
        let (own, peers) = (self.membership.own(), self.membership.reachable());
        let before = peers.iter().filter(|peer| *peer < own).count();
        TURN * u32::try_from(before.min(1000)).expect("it is at most 1000")
    }
}
