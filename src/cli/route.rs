//! `peerage route`: the first matching rule, the key, the owner and the origin of a URL.

use std::fmt::Write;

use super::arguments::ConfigArguments;
use super::failure::Failure;
use super::owner::{key_of_text, members};
use super::process::print;
use crate::cluster::ring::Ring;
use crate::config::{Config, Period};
use crate::key::{AssetKey, DEFAULT_SITE};
use crate::semantics::storing::Name;
use crate::server;
use crate::site::policy::Policy;
use crate::site::rules::Rule;

#[derive(clap::Args)]
pub(super) struct Route {
    /// URLs or paths as clients request them, such as /assets/index-BxYz12Ab.js
    #[arg(required = true, value_name = "URL")]
    urls: Vec<String>,
    #[command(flatten)]
    config: ConfigArguments,
}

impl Route {
    /// Prints a block of lines for each URL.
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.config.load()?;
        let policies = server::policies(&config)?;
        let members = match &config.cluster {
            Some(cluster) => members(&config, cluster)?,
            None => Vec::new(),
        };
        let ring = Ring::new(members.iter().map(String::as_str));
        let limit = usize::try_from(config.limits.uri.0).unwrap_or(usize::MAX);
        let mut blocks = Vec::new();
        for url in &self.urls {
            let requested = key_of_text(&policies, url, limit)?;
            let policy = &policies.sites.of(requested.site()).policy;
            blocks.push(block(url, &requested, &config, policy, &ring));
        }
        print(&blocks.join("\n"))
    }
}

/// Returns the lines for one URL.
fn block(url: &str, requested: &AssetKey, config: &Config, policy: &Policy, ring: &Ring) -> String {
    let key = policy.trim(requested.clone());
    let ranked: Vec<_> = ring.rank(key.hash()).into_iter().map(|member| &**member.name()).collect();
    let owner = if ranked.is_empty() { "this edge, which has no peers".to_owned() } else { ranked.join(", then ") };
    let query = match (requested.query(), key.query()) {
        (None, _) => "none",
        (requested, kept) if requested == kept => "all of it is part of the key",
        (_, None) => "dropped by a [[query]] rule",
        _ => "cut by a [[query]] rule",
    };
    let mut text = format!("{url}\n");
    for (label, value) in [
        ("site", DEFAULT_SITE),
        ("scheme", key.scope().scheme.name()),
        ("host", key.scope().host.unwrap_or("not told to the origin, so all hosts share the entry")),
        ("key", key.as_str()),
        ("query", query),
        ("rule", &rule(&key, config, policy)),
        ("owner", &owner),
        ("origin", &config.origin.url.to_string()),
    ] {
        writeln!(text, "  {label:<7} {value}").expect("writing to a String cannot fail");
    }
    text
}

/// Returns the rule that matches a key, and its effect.
fn rule(key: &AssetKey, config: &Config, policy: &Policy) -> String {
    let Some((rule, hash)) = policy.rules.iter().find_map(|rule| Some((rule, rule.hash_in(key.path())?))) else {
        return "none matches: Cache-Control and Expires of the response decide".to_owned();
    };
    let effect = match policy.name(key) {
        Name::Proven => format!(
            "verified against {}, then stored until evicted",
            rule.expected(key.path()).map_or("its digest", |expected| expected.algorithm.name())
        ),
        Name::Hinted(_) => format!(
            "not verified: a hint, fresh for {} (cache.hint_ttl) where the response states no lifetime",
            Period(policy.times.hint)
        ),
        Name::Plain => "not verified, and no hint: the extension is not that of a static file".to_owned(),
    };
    format!("{}, hash {hash}: {effect}", source_of(rule, config))
}

/// Returns a rule with the part of the configuration that contains it.
fn source_of(rule: &Rule, config: &Config) -> String {
    let is_own = config.immutable.iter().any(|own| own.path.as_deref() == Some(rule.pattern()));
    if is_own { format!("[[immutable]] {rule}") } else { format!("cache.immutable_sets: {rule}") }
}
