//! Members in etcd. This edge writes its address under a lease and watches the keys of the other
//! edges, through the JSON gateway of etcd's v3 API.
//!
//! Every failure (no response, the end of a watch, a compacted revision, a lost lease) is handled
//! in the same way: go to the next endpoint, register if needed, read the list again and watch
//! from its revision. Members that were listed before the failure stay listed for one more lease:
//! if etcd has lost its data, all edges register again within that time.

use std::collections::BTreeSet;
use std::time::Duration;

use data_encoding::BASE64;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::list::{MAX_MEMBERS, checked};
use super::settings::Settings;
use crate::upstream::{DEFAULT_LIFETIME, Endpoint, Timeouts};
use client::{EtcdClient, Lines};
use messages::{Alive, Granted, Kind, Listing, Pair, Streamed, Watched, escaped, parse};

mod client;
mod messages;

/// The longest wait for a response; a third of the lease if that is less.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after the first failure; each further failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The number of leases after which a watch is restarted: it may have ended without notice.
const WATCH_LEASES: u32 = 6;

/// Registers this edge in etcd and lists the others.
pub(super) struct Etcd {
    client: EtcdClient,
    /// The prefix of all members' keys, with a trailing slash.
    prefix: String,
    own: String,
    edge: String,
    lease_term: Duration,
    /// The id of this edge's lease.
    lease: Option<String>,
    /// The state of this edge's key under that lease.
    registered: Registered,
    renew_at: Instant,
    found: BTreeSet<String>,
    /// The members that were listed before the last failure and are not known to have left.
    kept: BTreeSet<String>,
    /// The number of failures since the last list.
    failures: usize,
    pause: Duration,
    max_pause: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Registered {
    Yes,
    No,
}

/// The effect of the events in one line of a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Applied {
    Changed,
    Nothing,
}

impl Etcd {
    pub(super) fn new(endpoints: &[Endpoint], prefix: &str, settings: &Settings) -> Self {
        let lease_term = settings.lease;
        let timeouts =
            Timeouts { connect: settings.connect, idle: lease_term * (WATCH_LEASES + 1), lifetime: DEFAULT_LIFETIME };
        Self {
            client: EtcdClient::new(endpoints, settings.etcd.clone(), timeouts, TIMEOUT.min(lease_term / 3)),
            prefix: format!("{prefix}/"),
            own: settings.own.to_string(),
            edge: settings.edge.clone(),
            lease_term,
            lease: None,
            registered: Registered::No,
            renew_at: Instant::now(),
            found: BTreeSet::new(),
            kept: BTreeSet::new(),
            failures: 0,
            pause: FIRST_PAUSE,
            // The lease must be renewed in time.
            max_pause: settings.refresh.min(lease_term / 3),
        }
    }

    /// Returns the members that are listed by the first endpoint that answers.
    ///
    /// # Errors
    /// Returns the error of the last endpoint if none answers.
    pub(super) async fn list(&mut self) -> Result<Vec<String>, String> {
        let mut outcome = Ok(0);
        for _ in 0..self.client.endpoints() {
            outcome = self.range().await;
            if outcome.is_ok() {
                break;
            }
            self.client.next_endpoint();
        }
        outcome.map(|_| self.listed())
    }

    /// Registers this edge and passes each list to `report`, or an error when all endpoints have
    /// failed. Runs until its future is dropped.
    pub(super) async fn follow(&mut self, mut report: impl FnMut(Result<Vec<String>, String>)) {
        loop {
            let Err(error) = self.register_and_watch(&mut report).await;
            let endpoint = self.client.endpoint();
            self.failures += 1;
            if self.failures.is_multiple_of(self.client.endpoints()) {
                report(Err(format!("{endpoint}: {error}")));
            } else if self.failures < self.client.endpoints() {
                tracing::info!(%endpoint, %error, "etcd request failed, trying the next endpoint");
            } else {
                tracing::debug!(%endpoint, %error, "etcd request failed again, trying the next endpoint");
            }
            self.client.next_endpoint();
            self.keep_listed();
            sleep(self.pause).await;
            self.pause = (self.pause * 2).min(self.max_pause);
        }
    }

    /// Revokes this edge's lease, which removes its key. If no endpoint answers, the lease expires.
    pub(super) async fn leave(&mut self) {
        let Some(lease) = self.lease.take() else {
            return;
        };
        let limit = TIMEOUT.min(self.lease_term / 3);
        let revoked = async {
            for _ in 0..self.client.endpoints() {
                if self.client.call::<Value>("/v3/lease/revoke", &json!({ "ID": lease })).await.is_ok() {
                    return;
                }
                self.client.next_endpoint();
            }
        };
        let _ = timeout(limit, revoked).await;
    }

    /// Keeps the listed members for a while, whatever is read next. An invalid list is not kept.
    fn keep_listed(&mut self) {
        if let Ok(list) = checked(self.listed()) {
            self.kept = list.into_iter().collect();
        }
        self.found.clear();
    }

    fn listed(&self) -> Vec<String> {
        self.found.union(&self.kept).cloned().collect()
    }

    /// Registers this edge, reads the list and watches it until a failure.
    async fn register_and_watch(
        &mut self,
        report: &mut impl FnMut(Result<Vec<String>, String>),
    ) -> Result<std::convert::Infallible, String> {
        self.register().await?;
        loop {
            let revision = self.range().await?;
            if !self.found.contains(&self.own) {
                self.registered = Registered::No;
                return Err("this edge is missing from the list after registration".to_owned());
            }
            self.kept.retain(|entry| !self.found.contains(entry));
            report(Ok(self.listed()));
            self.failures = 0;
            let leases = if self.kept.is_empty() { WATCH_LEASES } else { 1 };
            let until = Instant::now() + self.lease_term * leases;
            let mut watch = self.watch(revision + 1).await?;
            loop {
                tokio::select! {
                    line = watch.next() => match self.apply(&line?)? {
                        Applied::Changed => report(Ok(self.listed())),
                        Applied::Nothing => {}
                    },
                    () = sleep_until(self.renew_at) => {
                        self.renew().await?;
                        self.pause = FIRST_PAUSE;
                    }
                    () = sleep_until(until) => break,
                }
            }
            self.kept.clear();
        }
    }

    /// Renews or requests the lease and writes this edge's key under it.
    async fn register(&mut self) -> Result<(), String> {
        if self.lease.is_some() {
            self.renew().await?;
        }
        let lease = if let Some(lease) = &self.lease {
            lease.clone()
        } else {
            let seconds = self.lease_term.as_millis().div_ceil(1000).to_string();
            let granted: Granted = self.client.call("/v3/lease/grant", &json!({ "TTL": seconds })).await?;
            self.renew_at = Instant::now() + self.lease_term / 3;
            self.lease.insert(granted.id).clone()
        };
        if self.registered == Registered::No {
            let key = BASE64.encode(format!("{}{}", self.prefix, self.own).as_bytes());
            let put = json!({ "key": key, "value": BASE64.encode(self.edge.as_bytes()), "lease": lease });
            self.client.call::<Value>("/v3/kv/put", &put).await?;
            self.registered = Registered::Yes;
        }
        Ok(())
    }

    async fn renew(&mut self) -> Result<(), String> {
        let alive: Streamed<Alive> = self.client.call("/v3/lease/keepalive", &json!({ "ID": self.lease })).await?;
        // An expired lease has a TTL of 0.
        if alive.into_result()?.ttl.is_none_or(|ttl| ttl == "0") {
            (self.lease, self.registered) = (None, Registered::No);
            return Err("the lease of this edge expired, registering again".to_owned());
        }
        self.renew_at = Instant::now() + self.lease_term / 3;
        Ok(())
    }

    /// Reads the list into `found`. Returns its revision.
    async fn range(&mut self) -> Result<u64, String> {
        let (first, end) = self.key_range();
        let range =
            json!({ "key": first, "range_end": end, "keys_only": true, "limit": (MAX_MEMBERS + 1).to_string() });
        let listing: Listing = self.client.call("/v3/kv/range", &range).await?;
        self.found = listing.kvs.iter().map(|pair| self.entry(pair)).collect::<Result<_, _>>()?;
        Ok(listing.header.revision)
    }

    async fn watch(&mut self, revision: u64) -> Result<Lines, String> {
        let (first, end) = self.key_range();
        let create = json!({ "key": first, "range_end": end, "start_revision": revision.to_string() });
        self.client.stream("/v3/watch", &json!({ "create_request": create })).await
    }

    /// Applies one line of a watch.
    fn apply(&mut self, line: &[u8]) -> Result<Applied, String> {
        let Watched { events, canceled, cancel_reason, compact_revision } =
            parse::<Streamed<Watched>>("/v3/watch", line)?.into_result()?;
        if canceled || compact_revision.is_some() {
            return Err(format!("watch cancelled: {}", escaped(&cancel_reason)));
        }
        let mut applied = Applied::Nothing;
        for event in events {
            let entry = self.entry(&event.kv)?;
            let changed = match event.kind {
                Kind::Put if self.found.len() > MAX_MEMBERS => {
                    return Err(format!("more than {MAX_MEMBERS} members are listed"));
                }
                Kind::Put => self.found.insert(entry),
                Kind::Delete if entry == self.own => {
                    self.registered = Registered::No;
                    return Err("the key of this edge was removed, registering again".to_owned());
                }
                Kind::Delete => self.found.remove(&entry) | self.kept.remove(&entry),
            };
            if changed {
                applied = Applied::Changed;
            }
        }
        Ok(applied)
    }

    /// Returns the range of the members' keys in base64: the first key, and the first key after
    /// them all (`0` is the byte after `/`).
    fn key_range(&self) -> (String, String) {
        let end = format!("{}0", self.prefix.trim_end_matches('/'));
        (BASE64.encode(self.prefix.as_bytes()), BASE64.encode(end.as_bytes()))
    }

    /// Returns the address in a member's key. It is validated later, by [`checked`].
    fn entry(&self, pair: &Pair) -> Result<String, String> {
        let key = BASE64.decode(pair.key.as_bytes()).map_err(|error| format!("key is not base64: {error}"))?;
        let key = String::from_utf8_lossy(&key);
        let entry = key.strip_prefix(&self.prefix);
        Ok(entry.ok_or_else(|| format!("key `{}` does not have the prefix", escaped(&key)))?.to_owned())
    }
}
