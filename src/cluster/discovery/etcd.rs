//! Members in an etcd: this edge puts its address there under a lease, and
//! watches the others come and go, by the JSON gateway of etcd's v3 API.
//!
//! Whatever fails (no answer, a watch that ends, a revision that was compacted,
//! a lease that was lost) has one cure: go to the next endpoint, register if need
//! be, read the list again, watch from there. Who has been listed before stays
//! so for one lease after that: an etcd that has forgotten everybody is told
//! again within that time.

use std::collections::BTreeSet;
use std::time::Duration;

use data_encoding::BASE64;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{MOST, Settings, checked};
use crate::body::Body;
use crate::error::Error;
use crate::semantics::forward::MAX_HEADERS;
use crate::upstream::{Blame, LIFETIME, Outgoing, Patience};

/// The largest answer: so many members, with the longest keys, take less.
const LARGEST: u64 = 16 * 1024 * 1024;
/// The longest line of a watch.
const LONGEST_LINE: usize = 1024 * 1024;
/// How long an answer is waited for, or a third of the lease, if that is less.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause after a first failure; it doubles with each that follows.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// After how many leases a watch is begun anew: it may have died in silence.
const LEASES_WATCHED: u32 = 6;

const BLAME: Blame = Blame {
    unreachable: Error::OriginUnreachable,
    late: Error::OriginTimeout,
    garbage: Error::OriginGarbage,
    broke: Error::OriginBroke,
};

/// A client of an etcd, in which it registers this edge and finds the others.
pub(super) struct Etcd {
    outgoing: Outgoing,
    endpoints: Vec<String>,
    /// Which of them is asked.
    at: usize,
    /// What all members' keys begin with, up to and with a slash.
    prefix: String,
    own: String,
    edge: String,
    term: Duration,
    /// The lease that this edge holds, if it holds one.
    lease: Option<String>,
    /// Whether this edge is listed under that lease.
    registered: Registered,
    renew_at: Instant,
    found: BTreeSet<String>,
    /// Who was listed before the last failure, and is not known to have left.
    kept: BTreeSet<String>,
    /// How many endpoints have failed since the last list.
    failures: usize,
    pause: Duration,
    longest_pause: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Registered {
    Yes,
    No,
}

/// What an event has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Applied {
    Changed,
    Nothing,
}

impl Etcd {
    pub(super) fn new(endpoints: &[String], prefix: &str, settings: &Settings) -> Self {
        let term = settings.lease;
        let patience = Patience { connect: settings.connect, idle: term * (LEASES_WATCHED + 1), lifetime: LIFETIME };
        Self {
            outgoing: Outgoing::new(patience, BLAME, MAX_HEADERS),
            endpoints: endpoints.to_vec(),
            at: 0,
            prefix: format!("{prefix}/"),
            own: settings.own.to_string(),
            edge: settings.edge.clone(),
            term,
            lease: None,
            registered: Registered::No,
            renew_at: Instant::now(),
            found: BTreeSet::new(),
            kept: BTreeSet::new(),
            failures: 0,
            pause: FIRST_PAUSE,
            // A lease must be renewed meanwhile.
            longest_pause: settings.refresh.min(term / 3),
        }
    }

    /// Who is listed, by the first endpoint that answers.
    ///
    /// # Errors
    /// Why the last of them did not.
    pub(super) async fn list(&mut self) -> Result<Vec<String>, String> {
        let mut outcome = Ok(0);
        for _ in 0..self.endpoints.len() {
            outcome = self.range().await;
            if outcome.is_ok() {
                break;
            }
            self.go_on();
        }
        outcome.map(|_| self.listed())
    }

    /// Registers this edge, and hands over each list, and a failure where all
    /// endpoints have failed. Ends with its future only.
    pub(super) async fn follow(&mut self, mut take: impl FnMut(Result<Vec<String>, String>)) {
        loop {
            let Err(error) = self.attend(&mut take).await;
            let endpoint = &self.endpoints[self.at];
            self.failures += 1;
            if self.failures.is_multiple_of(self.endpoints.len()) {
                take(Err(format!("{endpoint}: {error}")));
            } else if self.failures < self.endpoints.len() {
                tracing::info!(%endpoint, %error, "etcd request failed, asking the next endpoint");
            } else {
                tracing::debug!(%endpoint, %error, "etcd request failed again, asking the next endpoint");
            }
            self.go_on();
            self.keep();
            sleep(self.pause).await;
            self.pause = (self.pause * 2).min(self.longest_pause);
        }
    }

    /// Says that this edge is gone. If nobody hears that, its lease runs out.
    pub(super) async fn leave(&mut self) {
        let Some(lease) = self.lease.take() else {
            return;
        };
        let patience = self.patience();
        let revoked = async {
            for _ in 0..self.endpoints.len() {
                if self.call::<Value>("/v3/lease/revoke", &json!({ "ID": lease })).await.is_ok() {
                    return;
                }
                self.go_on();
            }
        };
        let _ = timeout(patience, revoked).await;
    }

    fn patience(&self) -> Duration {
        PATIENCE.min(self.term / 3)
    }

    fn go_on(&mut self) {
        self.at = (self.at + 1) % self.endpoints.len();
    }

    /// Who is listed stays so for a while, whatever is read next; a list that was
    /// refused is not kept.
    fn keep(&mut self) {
        if let Ok(list) = checked(self.listed()) {
            self.kept = list.into_iter().collect();
        }
        self.found.clear();
    }

    fn listed(&self) -> Vec<String> {
        self.found.union(&self.kept).cloned().collect()
    }

    async fn attend(
        &mut self,
        take: &mut impl FnMut(Result<Vec<String>, String>),
    ) -> Result<std::convert::Infallible, String> {
        self.register().await?;
        loop {
            let revision = self.range().await?;
            if !self.found.contains(&self.own) {
                self.registered = Registered::No;
                return Err("it does not list this edge".to_owned());
            }
            self.kept.retain(|entry| !self.found.contains(entry));
            take(Ok(self.listed()));
            self.failures = 0;
            let leases = if self.kept.is_empty() { LEASES_WATCHED } else { 1 };
            let until = Instant::now() + self.term * leases;
            let mut watch = self.watch(revision + 1).await?;
            loop {
                tokio::select! {
                    line = watch.next() => match self.apply(&line?)? {
                        Applied::Changed => take(Ok(self.listed())),
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

    /// Has a lease, and this edge's address under it.
    async fn register(&mut self) -> Result<(), String> {
        if self.lease.is_some() {
            self.renew().await?;
        }
        let lease = if let Some(lease) = &self.lease {
            lease.clone()
        } else {
            let seconds = self.term.as_millis().div_ceil(1000).to_string();
            let granted: Granted = self.call("/v3/lease/grant", &json!({ "TTL": seconds })).await?;
            self.renew_at = Instant::now() + self.term / 3;
            self.lease.insert(granted.id).clone()
        };
        if self.registered == Registered::No {
            let key = BASE64.encode(format!("{}{}", self.prefix, self.own).as_bytes());
            let put = json!({ "key": key, "value": BASE64.encode(self.edge.as_bytes()), "lease": lease });
            self.call::<Value>("/v3/kv/put", &put).await?;
            self.registered = Registered::Yes;
        }
        Ok(())
    }

    async fn renew(&mut self) -> Result<(), String> {
        let alive: Streamed<Alive> = self.call("/v3/lease/keepalive", &json!({ "ID": self.lease })).await?;
        // What has run out has no time to live.
        if alive.taken()?.ttl.is_none_or(|ttl| ttl == "0") {
            (self.lease, self.registered) = (None, Registered::No);
            return Err("this edge's lease was lost; it registers again".to_owned());
        }
        self.renew_at = Instant::now() + self.term / 3;
        Ok(())
    }

    /// Reads the list; the revision of the store that it is of.
    async fn range(&mut self) -> Result<u64, String> {
        let (first, end) = self.keys();
        let range = json!({ "key": first, "range_end": end, "keys_only": true, "limit": (MOST + 1).to_string() });
        let listing: Listing = self.call("/v3/kv/range", &range).await?;
        self.found = listing.kvs.iter().map(|pair| self.entry(pair)).collect::<Result<_, _>>()?;
        Ok(listing.header.revision)
    }

    async fn watch(&self, revision: u64) -> Result<Lines, String> {
        let (first, end) = self.keys();
        let create = json!({ "key": first, "range_end": end, "start_revision": revision.to_string() });
        let response = self.send("/v3/watch", &json!({ "create_request": create })).await?;
        match response.status() {
            StatusCode::OK => Ok(Lines { body: response.into_body(), buffer: Vec::new() }),
            status => Err(format!("/v3/watch: it answers {status}")),
        }
    }

    /// Takes one line of a watch.
    fn apply(&mut self, line: &[u8]) -> Result<Applied, String> {
        let Watched { events, canceled, cancel_reason, compact_revision } =
            parse::<Streamed<Watched>>("/v3/watch", line)?.taken()?;
        if canceled || compact_revision.is_some() {
            return Err(format!("the watch was cancelled: {}", shown(&cancel_reason)));
        }
        let mut applied = Applied::Nothing;
        for event in events {
            let entry = self.entry(&event.kv)?;
            let changed = match event.kind {
                Kind::Put if self.found.len() > MOST => return Err(format!("it lists more than {MOST} members")),
                Kind::Put => self.found.insert(entry),
                Kind::Delete if entry == self.own => {
                    self.registered = Registered::No;
                    return Err("this edge's entry was removed; it registers again".to_owned());
                }
                Kind::Delete => self.found.remove(&entry) | self.kept.remove(&entry),
            };
            if changed {
                applied = Applied::Changed;
            }
        }
        Ok(applied)
    }

    /// The first of the members' keys, and the first that is behind them all: `0`
    /// comes after `/`.
    fn keys(&self) -> (String, String) {
        let end = format!("{}0", self.prefix.trim_end_matches('/'));
        (BASE64.encode(self.prefix.as_bytes()), BASE64.encode(end.as_bytes()))
    }

    /// Whether it is an address is seen later, where all lists are checked.
    fn entry(&self, pair: &Pair) -> Result<String, String> {
        let key = BASE64.decode(pair.key.as_bytes()).map_err(|error| format!("a key is not base64: {error}"))?;
        let key = String::from_utf8_lossy(&key);
        let entry = key.strip_prefix(&self.prefix);
        Ok(entry.ok_or_else(|| format!("`{}` was not asked for", shown(&key)))?.to_owned())
    }

    /// Asks, and waits for all of the answer.
    async fn call<T: DeserializeOwned>(&self, path: &str, content: &Value) -> Result<T, String> {
        let answer = async {
            let response = self.send(path, content).await?;
            let status = response.status();
            let body = response.into_body().at_most(LARGEST).collect().await.map_err(|error| told(&error))?.to_bytes();
            if status == StatusCode::OK {
                return parse(path, &body);
            }
            let why = serde_json::from_slice(&body).map(|failure: Failure| failure.message).unwrap_or_default();
            Err(format!("{path}: it answers {status} {}", shown(&why)))
        };
        timeout(self.patience(), answer).await.unwrap_or_else(|_| Err(LATE.to_owned()))
    }

    async fn send(&self, path: &str, content: &Value) -> Result<Response<Body>, String> {
        let endpoint = &self.endpoints[self.at];
        let mut request = Request::post(Uri::default()).body(Body::from(content.to_string())).unwrap_or_default();
        *request.uri_mut() = path.parse().map_err(|error| format!("{error}"))?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.outgoing.send(endpoint, request, self.patience()).await.map_err(|error| told(&error))
    }
}

const LATE: &str = "it did not answer in time";

/// An error in words. (The HTTP client's own speak of an origin, which an etcd is not.)
fn told(error: &Error) -> String {
    match error {
        Error::OriginUnreachable(why) => format!("it cannot be reached: {why}"),
        Error::OriginTimeout(_) => LATE.to_owned(),
        Error::OriginGarbage(why) => format!("its answer is not HTTP: {why}"),
        Error::OriginBroke(why) => format!("its answer broke off: {why}"),
        other => other.to_string(),
    }
}

/// What comes from elsewhere, as it goes to the log.
fn shown(text: &str) -> String {
    text.chars().take(200).collect::<String>().escape_debug().to_string()
}

fn parse<T: DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("{path}: its answer makes no sense: {error}"))
}

/// The lines of a body that does not end.
struct Lines {
    body: Body,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next whole line. Nothing is lost when its future is dropped.
    async fn next(&mut self) -> Result<Vec<u8>, String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                return Ok(std::mem::replace(&mut self.buffer, rest));
            }
            if self.buffer.len() > LONGEST_LINE {
                return Err(format!("a line of the watch is longer than {LONGEST_LINE} bytes"));
            }
            let frame = self.body.frame().await.ok_or_else(|| "the watch ended".to_owned())?;
            if let Ok(data) = frame.map_err(|error| told(&error))?.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    message: String,
}

/// An item of a stream: what was asked for, or why there is none.
#[derive(Deserialize)]
struct Streamed<T> {
    result: Option<T>,
    error: Option<Failure>,
}

impl<T> Streamed<T> {
    fn taken(self) -> Result<T, String> {
        let why = self.error.map_or_else(|| "nothing".to_owned(), |error| shown(&error.message));
        self.result.ok_or_else(|| format!("it answers: {why}"))
    }
}

#[derive(Deserialize)]
struct Granted {
    #[serde(rename = "ID")]
    id: String,
}

#[derive(Deserialize)]
struct Alive {
    #[serde(rename = "TTL")]
    ttl: Option<String>,
}

#[derive(Deserialize)]
struct Listing {
    header: Header,
    #[serde(default)]
    kvs: Vec<Pair>,
}

#[derive(Deserialize)]
struct Header {
    /// The gateway writes 64-bit numbers as text.
    #[serde(deserialize_with = "number")]
    revision: u64,
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

#[derive(Deserialize)]
struct Pair {
    /// In base64.
    key: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Watched {
    events: Vec<Event>,
    canceled: bool,
    cancel_reason: String,
    compact_revision: Option<String>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type", default)]
    kind: Kind,
    kv: Pair,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "UPPERCASE")]
enum Kind {
    /// What the gateway leaves out.
    #[default]
    Put,
    Delete,
}
