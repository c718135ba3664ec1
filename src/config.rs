//! The configuration: defaults, then a TOML file, then the environment, then
//! `--set`; each overrides what comes before it.
//!
//! Whatever is wrong is told in one line that names the key, says what is
//! wrong, and what would be right.

use std::net::SocketAddr;
use std::time::Duration;

use http::Uri;
use serde::{Deserialize, Serialize};

use crate::cluster::discovery::Source;
use crate::cluster::is_address;
use crate::digest::{Algorithm, Encoding};
use crate::memory::Plan;
use crate::naming::{self, Form, Keep, QueryRule, Rule};
use crate::origin::http_origin;
use crate::semantics::cache_status;

mod load;
mod values;

pub use values::{Period, Secret, Size};

/// The prefix of environment variables: `PEERAGE_ORIGIN__URL` is `origin.url`.
pub const ENV_PREFIX: &str = "PEERAGE_";

/// Everything that can be set. `config.toml` in the repository holds each key
/// with its default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// This edge.
    pub edge: EdgeConfig,
    /// Where assets come from.
    pub origin: OriginConfig,
    /// What is kept.
    pub cache: CacheConfig,
    /// The other edges; `None` for an edge alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterConfig>,
    /// The listener for operators.
    pub admin: AdminConfig,
    /// What a client may ask of this edge.
    pub limits: LimitsConfig,
    /// What is written down.
    pub log: LogConfig,
    /// Which names hold a hash.
    pub immutable: Vec<ImmutableConfig>,
    /// Which part of a query belongs to a name.
    pub query: Vec<QueryConfig>,
}

/// `[edge]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EdgeConfig {
    /// In Via and Cache-Status; unique in the cluster.
    #[serde(deserialize_with = "values::text")]
    pub name: String,
    /// For clients: HTTP/1.1 and cleartext HTTP/2.
    #[serde(with = "values::address")]
    pub listen: SocketAddr,
    /// How long requests may take to end after SIGTERM.
    pub drain: Period,
    /// Worker threads; 0 is one for each core.
    pub threads: usize,
}

/// `[origin]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OriginConfig {
    /// `http://host[:port][/folder]`
    #[serde(with = "values::url")]
    pub url: Uri,
    /// To have a connection.
    pub connect_timeout: Period,
    /// From a request to the first byte of its answer.
    pub first_byte_timeout: Period,
    /// Between two pieces of a body.
    pub idle_timeout: Period,
    /// How many requests may wait for its answers at a time, and as many uploads.
    pub requests: usize,
}

/// `[cache]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheConfig {
    /// Main, hot and flights together.
    pub memory: Size,
    /// Of memory, for copies of what peers own.
    pub hot_share: f64,
    /// Of memory, for flights and for bodies that are read after they left a tier.
    pub flight_share: f64,
    /// The largest body that is kept.
    pub max_object: Size,
    /// How long a 404 for an immutable name is remembered.
    pub negative: Period,
    /// How long an uncacheable name bypasses request collapsing.
    pub hit_for_miss: Period,
    /// How long a fill goes on when everybody who wanted it has left.
    pub fill_alone: Period,
    /// How many variants (by Vary) of one asset are kept.
    pub variants: usize,
    /// What a name proves is sent when all of it is right, up to this length;
    /// of a longer body the last bytes wait for the proof.
    pub verify_first: Size,
    /// After the origin fails a name's digest check: how long to answer 502 without
    /// asking again.
    pub wrong: Period,
    /// The longest freshness that is guessed from Last-Modified where a
    /// response states none; 0 guesses nothing.
    pub heuristic: Period,
}

/// `[cluster]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterConfig {
    /// For peers.
    #[serde(with = "values::address")]
    pub listen: SocketAddr,
    /// All members, this edge among them, as `host:port`.
    pub peers: Vec<String>,
    /// Where the members are found instead: `file:…`, `dns:…`, `srv:…`, `etcd:…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discover: Option<String>,
    /// Between two looks at a file or at DNS.
    pub refresh: Period,
    /// Of DNS, as `ip:port`, when it is not the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nameserver: Option<String>,
    /// How long an etcd remembers an edge that says nothing.
    pub lease: Period,
    /// How peers reach this edge, when it is not `listen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// To have a connection to a peer.
    pub connect_timeout: Period,
    /// From a request to the first byte of a peer's answer; it includes the
    /// origin's time.
    pub first_byte_timeout: Period,
    /// Between two pieces of a body.
    pub idle_timeout: Period,
    /// How many peers are asked, in order of rank, before the origin is.
    pub attempts: usize,
    /// Whether edges find out among themselves who is alive; without, everybody
    /// on the list is taken to be.
    pub gossip: bool,
    /// What those know who may join, though they are not on the list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    /// Between two probes by one edge.
    pub probe_interval: Period,
    /// How long the answer to a probe may take, before others are asked to probe.
    pub probe_timeout: Period,
    /// How long a peer that did not answer may take to object.
    pub suspicion: Period,
    /// For how long after the ring has changed an owner looks for what it misses at
    /// those who may have it from before; 0 looks nowhere.
    pub warm_window: Period,
    /// The longest that `peerage run --warm` pulls keys before it is ready.
    pub warm_time: Period,
    /// How many keys it pulls at most.
    pub warm_keys: usize,
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdminConfig {
    /// `/metrics`, `/healthz`, `/readyz`, `/peers`.
    #[serde(with = "values::address")]
    pub listen: SocketAddr,
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitsConfig {
    /// Connections at a time, on each listener.
    pub connections: usize,
    /// Requests at a time on one HTTP/2 connection.
    pub streams: u32,
    /// The head of a request.
    pub header: Size,
    /// The target of a request.
    pub uri: Size,
    /// The content of a request.
    pub body: Size,
    /// For a request's head to come; also how long an idle connection is kept.
    pub header_timeout: Period,
    /// How long a client may take nothing of what it asked for.
    pub send_timeout: Period,
    /// How long a client may send nothing of the body that it announced.
    pub body_timeout: Period,
    /// How long an upgraded connection may carry nothing, in either direction.
    pub tunnel_timeout: Period,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// `auto` is text on a terminal and JSON elsewhere.
    pub format: LogFormat,
    /// What happens to the edge itself, on standard error.
    pub level: LogLevel,
    /// A line for each request, on standard output.
    pub access: bool,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// A JSON object a line.
    Json,
    /// For people.
    Text,
}

/// What is logged: this, and all that is worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

/// `[[immutable]]`: either a `set`, or a `path` with what its hash is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImmutableConfig {
    /// The name of one of [`naming::SETS`].
    pub set: Option<String>,
    /// See [`Rule`].
    pub path: Option<String>,
    /// The digest that the hash is; by default none that can be checked.
    #[serde(with = "values::digest")]
    pub digest: Option<Algorithm>,
    /// How it is written.
    pub encoding: Encoding,
    /// How many characters of it the name shows.
    pub length: Option<usize>,
}

impl ImmutableConfig {
    /// The rules of a set.
    pub fn set(name: &str) -> Self {
        Self { set: Some(name.to_owned()), ..Self::default() }
    }

    /// A rule of one's own.
    pub fn path(path: &str, digest: Option<Algorithm>) -> Self {
        Self { path: Some(path.to_owned()), digest, ..Self::default() }
    }

    fn rules(&self) -> Result<Vec<Rule>, String> {
        let form = Form { digest: self.digest, encoding: self.encoding, length: self.length };
        match (&self.set, &self.path) {
            (Some(set), None) if form == Form::UNKNOWN => {
                Rule::set(set).map_err(|error| format!("immutable.set: {error}"))
            }
            (Some(_), None) => {
                Err("immutable.set: a set says itself what its hashes are; leave out digest, encoding and length".to_owned())
            }
            (None, Some(path)) => {
                Ok(vec![Rule::new(path, form).map_err(|error| format!("immutable.path: {error}"))?])
            }
            (Some(_), Some(_)) => {
                Err("immutable.path: this rule has a set too; give each a table of its own".to_owned())
            }
            (None, None) => Err(
                "immutable.path: missing; each [[immutable]] rule needs a path such as \"/**/*-{hash}.*\", or a set such as \"assets\""
                    .to_owned(),
            ),
        }
    }
}

/// `[[query]]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueryConfig {
    /// See [`QueryRule`].
    pub path: String,
    /// See [`Keep`].
    pub keep: KeepConfig,
}

/// `"all"`, `"none"`, or a list of names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "\"all\", \"none\" or a list of names such as [\"w\", \"h\"] is needed")]
pub enum KeepConfig {
    /// All or none of it.
    Word(KeepWord),
    /// The parameters of these names.
    Names(Vec<String>),
}

/// How much of a query is kept, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeepWord {
    /// As it came.
    All,
    /// Nothing of it.
    None,
}

const fn secs(seconds: u64) -> Period {
    Period(Duration::from_secs(seconds))
}

const fn mib(count: u64) -> Size {
    Size(count * 1024 * 1024)
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

impl Default for Config {
    fn default() -> Self {
        Self {
            edge: EdgeConfig::default(),
            origin: OriginConfig::default(),
            cache: CacheConfig::default(),
            cluster: None,
            admin: AdminConfig::default(),
            limits: LimitsConfig::default(),
            log: LogConfig::default(),
            immutable: naming::DEFAULT_SETS.map(ImmutableConfig::set).to_vec(),
            query: vec![QueryConfig { path: "/**".to_owned(), keep: KeepConfig::Word(KeepWord::All) }],
        }
    }
}

impl Default for EdgeConfig {
    fn default() -> Self {
        Self { name: "edge-1".to_owned(), listen: loopback(8001), drain: secs(30), threads: 0 }
    }
}

impl Default for OriginConfig {
    fn default() -> Self {
        Self {
            url: Uri::from_static("http://127.0.0.1:9000"),
            connect_timeout: secs(2),
            first_byte_timeout: secs(30),
            idle_timeout: secs(30),
            requests: 1024,
        }
    }
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            memory: mib(512),
            hot_share: 0.125,
            flight_share: 0.25,
            max_object: mib(64),
            negative: secs(1),
            hit_for_miss: secs(10),
            fill_alone: secs(30),
            variants: 16,
            verify_first: Size(256 * 1024),
            wrong: secs(5),
            heuristic: secs(0),
        }
    }
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            listen: loopback(7001),
            peers: [7001, 7002, 7003].map(|port| loopback(port).to_string()).to_vec(),
            discover: None,
            refresh: secs(5),
            nameserver: None,
            lease: secs(10),
            advertise: None,
            connect_timeout: Period(Duration::from_millis(500)),
            first_byte_timeout: secs(35),
            idle_timeout: secs(30),
            attempts: 3,
            gossip: true,
            secret: None,
            probe_interval: Period(Duration::from_millis(250)),
            probe_timeout: Period(Duration::from_millis(100)),
            suspicion: Period(Duration::from_millis(1500)),
            warm_window: secs(300),
            warm_time: secs(30),
            warm_keys: 10_000,
        }
    }
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: loopback(9901) }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections: 16_384,
            streams: 128,
            header: Size(64 * 1024),
            uri: Size(16 * 1024),
            body: mib(1024),
            header_timeout: secs(60),
            send_timeout: secs(60),
            body_timeout: secs(60),
            tunnel_timeout: secs(60 * 60),
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: LogLevel::Info, access: true }
    }
}

/// Every key, as it is written with dots. `immutable` and `query` are lists of
/// tables.
pub const KEYS: &[&str] = &[
    "edge.name",
    "edge.listen",
    "edge.drain",
    "edge.threads",
    "origin.url",
    "origin.connect_timeout",
    "origin.first_byte_timeout",
    "origin.idle_timeout",
    "origin.requests",
    "cache.memory",
    "cache.hot_share",
    "cache.flight_share",
    "cache.max_object",
    "cache.negative",
    "cache.hit_for_miss",
    "cache.fill_alone",
    "cache.variants",
    "cache.verify_first",
    "cache.wrong",
    "cache.heuristic",
    "cluster.listen",
    "cluster.peers",
    "cluster.discover",
    "cluster.refresh",
    "cluster.nameserver",
    "cluster.lease",
    "cluster.advertise",
    "cluster.connect_timeout",
    "cluster.first_byte_timeout",
    "cluster.idle_timeout",
    "cluster.attempts",
    "cluster.gossip",
    "cluster.secret",
    "cluster.probe_interval",
    "cluster.probe_timeout",
    "cluster.suspicion",
    "cluster.warm_window",
    "cluster.warm_time",
    "cluster.warm_keys",
    "admin.listen",
    "limits.connections",
    "limits.streams",
    "limits.header",
    "limits.uri",
    "limits.body",
    "limits.header_timeout",
    "limits.send_timeout",
    "limits.body_timeout",
    "limits.tunnel_timeout",
    "log.format",
    "log.level",
    "log.access",
    "immutable.set",
    "immutable.path",
    "immutable.digest",
    "immutable.encoding",
    "immutable.length",
    "query.path",
    "query.keep",
];

impl Config {
    /// What no single key's form can tell.
    ///
    /// # Errors
    /// One line that names the key, what is wrong, and what would be right.
    pub fn check(&self) -> Result<(), String> {
        self.check_edge()?;
        self.check_cache()?;
        if let Some(cluster) = &self.cluster {
            cluster.check()?;
        }
        http_origin::check_url(&self.origin.url).map_err(|error| format!("origin.url: {error}"))?;
        self.rules()?;
        self.queries()?;
        Ok(())
    }

    fn check_edge(&self) -> Result<(), String> {
        if self.admin.listen == self.edge.listen && self.edge.listen.port() != 0 {
            return Err(format!(
                "admin.listen: {} is edge.listen's, too; a port of its own is needed",
                self.admin.listen
            ));
        }
        if !cache_status::is_token(&self.edge.name) || self.edge.name.contains(['/', ':']) {
            return Err(format!(
                "edge.name: `{}` cannot stand in Via and Cache-Status; a letter, then letters, digits, `-`, `.` or `_` are needed, such as `edge-1`",
                self.edge.name
            ));
        }
        let (attempts, warm_keys) = self.cluster.as_ref().map_or((1, 1), |it| (it.attempts, it.warm_keys));
        for (key, value, least, most) in [
            ("edge.threads", self.edge.threads, 0, 1024),
            ("origin.requests", self.origin.requests, 1, 1_000_000),
            ("limits.connections", self.limits.connections, 1, 10_000_000),
            ("limits.streams", self.limits.streams as usize, 1, 100_000),
            ("cluster.attempts", attempts, 1, 1000),
            ("cluster.warm_keys", warm_keys, 1, 100_000),
            ("cache.variants", self.cache.variants, 0, 1000),
        ] {
            if !(least..=most).contains(&value) {
                return Err(format!("{key}: {value} is out of bounds; a number between {least} and {most} is needed"));
            }
        }
        for (key, size, least, most) in [
            ("limits.header", self.limits.header, 8 * 1024, 1024 * 1024),
            ("cache.verify_first", self.cache.verify_first, 0, 512 * 1024),
            ("limits.uri", self.limits.uri, 256, 60 * 1024),
        ] {
            if !(least..=most).contains(&size.0) {
                return Err(format!(
                    "{key}: {size} is out of bounds; it must lie between {} and {}",
                    Size(least),
                    Size(most)
                ));
            }
        }
        self.check_timeouts()
    }

    /// A wait of no time would fail everything.
    fn check_timeouts(&self) -> Result<(), String> {
        let cluster = self.cluster.clone().unwrap_or_default();
        let (origin, limits) = (&self.origin, &self.limits);
        for (key, period) in [
            ("origin.connect_timeout", origin.connect_timeout),
            ("origin.first_byte_timeout", origin.first_byte_timeout),
            ("origin.idle_timeout", origin.idle_timeout),
            ("cluster.connect_timeout", cluster.connect_timeout),
            ("cluster.first_byte_timeout", cluster.first_byte_timeout),
            ("cluster.idle_timeout", cluster.idle_timeout),
            ("limits.header_timeout", limits.header_timeout),
            ("limits.send_timeout", limits.send_timeout),
            ("limits.body_timeout", limits.body_timeout),
            ("limits.tunnel_timeout", limits.tunnel_timeout),
        ] {
            if period.0.is_zero() {
                return Err(format!("{key}: no time at all would fail everything; a duration such as `30s` is needed"));
            }
        }
        Ok(())
    }

    fn check_cache(&self) -> Result<(), String> {
        let cache = &self.cache;
        for (key, share) in [("cache.hot_share", cache.hot_share), ("cache.flight_share", cache.flight_share)] {
            if !(0.01..=0.5).contains(&share) {
                return Err(format!("{key}: {share} is out of bounds; a share between 0.01 and 0.5 is needed"));
            }
        }
        if cache.hot_share + cache.flight_share > 0.9 {
            return Err("cache.hot_share and cache.flight_share: a tenth at the least has to be left for what this edge owns; together 0.9 or less is needed".to_owned());
        }
        if cache.memory.0 < mib(4).0 {
            return Err(format!("cache.memory: {} is too little; at least 4MiB is needed", cache.memory));
        }
        let largest = self.plan().largest();
        if cache.max_object.0 > largest {
            let fits = Size(largest / 1024 * 1024);
            return Err(format!(
                "cache.max_object: {} does not fit into cache.memory = {}: two such objects must fit into its flight_share and one into a shard; set max_object to {fits} or less, or raise memory",
                cache.max_object, cache.memory
            ));
        }
        if cache.max_object.0 == 0 {
            return Err("cache.max_object: 0 would store nothing; a size such as 64MiB is needed".to_owned());
        }
        Ok(())
    }

    /// How `cache.memory` is divided.
    pub fn plan(&self) -> Plan {
        Plan::new(self.cache.memory.0, self.cache.hot_share, self.cache.flight_share, self.cache.max_object.0)
    }

    /// The rules of `[[immutable]]`.
    ///
    /// # Errors
    /// As [`Config::check`].
    pub fn rules(&self) -> Result<Vec<Rule>, String> {
        let rules = self.immutable.iter().map(ImmutableConfig::rules).collect::<Result<Vec<_>, _>>()?;
        Ok(rules.into_iter().flatten().collect())
    }

    /// The rules of `[[query]]`.
    ///
    /// # Errors
    /// As [`Config::check`].
    pub fn queries(&self) -> Result<Vec<QueryRule>, String> {
        let keep = |keep: &KeepConfig| match keep {
            KeepConfig::Word(KeepWord::All) => Keep::All,
            KeepConfig::Word(KeepWord::None) => Keep::None,
            KeepConfig::Names(names) => Keep::Only(names.clone()),
        };
        let rules = self.query.iter().map(|rule| QueryRule::parse(&rule.path, keep(&rule.keep)));
        rules.collect::<Result<_, _>>().map_err(|error| format!("query.path: {error}"))
    }
}

impl ClusterConfig {
    fn check(&self) -> Result<(), String> {
        for peer in self.peers.iter().chain(&self.advertise) {
            let key = if Some(peer) == self.advertise.as_ref() { "cluster.advertise" } else { "cluster.peers" };
            if !is_address(peer) {
                return Err(format!(
                    "{key}: `{peer}` is not an address; `host:port` is needed, such as `10.0.0.5:7001`"
                ));
            }
        }
        if self.advertise.is_none() && self.listen.ip().is_unspecified() {
            return Err(format!(
                "cluster.advertise: needed, for nobody can reach {}; set it to the address that peers know this edge by, such as `10.0.0.5:7001`",
                self.listen
            ));
        }
        self.source()?;
        self.nameserver()?;
        bounds("refresh", self.refresh, Duration::from_millis(100), Duration::from_hours(1))?;
        bounds("lease", self.lease, Duration::from_secs(2), Duration::from_mins(10))?;
        self.check_gossip()
    }

    /// Where the members are found, if not in `peers`.
    pub(crate) fn source(&self) -> Result<Option<Source>, String> {
        let source = self.discover.as_deref().map(str::parse).transpose();
        source.map_err(|error| format!("cluster.discover: {error}"))
    }

    /// The nameserver to ask, if not the system's.
    pub(crate) fn nameserver(&self) -> Result<Option<SocketAddr>, String> {
        let parse = |text: &str| {
            text.parse().map_err(|_| {
                format!("cluster.nameserver: `{text}` cannot be asked; an IP address with a port is needed, such as `127.0.0.1:8600`")
            })
        };
        self.nameserver.as_deref().map(parse).transpose()
    }

    fn check_gossip(&self) -> Result<(), String> {
        if self.secret.as_ref().is_some_and(|secret| secret.0.len() < Secret::SHORTEST) {
            return Err(format!(
                "cluster.secret: it can be guessed; {} characters or more are needed, such as `openssl rand -hex 16` gives",
                Secret::SHORTEST
            ));
        }
        let (interval, timeout) = (self.probe_interval.0, self.probe_timeout.0);
        bounds("probe_interval", self.probe_interval, Duration::from_millis(50), Duration::from_mins(1))?;
        // Those who are asked to probe need as long again.
        bounds("probe_timeout", self.probe_timeout, Duration::from_millis(10), interval / 2)?;
        // A suspect is told so each probe_timeout: it must be able to miss most of it.
        bounds("suspicion", self.suspicion, timeout * 5, Duration::from_mins(10))
    }

    /// The name of this edge on the ring, when its listener is at `listening`.
    pub fn own(&self, listening: SocketAddr) -> String {
        self.advertise.clone().unwrap_or_else(|| listening.to_string())
    }
}

fn bounds(key: &str, period: Period, least: Duration, most: Duration) -> Result<(), String> {
    if (least..=most).contains(&period.0) {
        return Ok(());
    }
    let (least, most) = (Period(least), Period(most));
    Err(format!("cluster.{key}: {period} is out of bounds; it must lie between {least} and {most}"))
}

#[cfg(test)]
mod tests;
