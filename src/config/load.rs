//! Reads the configuration from a file, the environment and `--set`, and explains errors.

use std::path::Path;

use figment::providers::{Env, Format, Serialized, Toml};
use figment::value::{Dict, UncasedStr, Value};
use figment::{Figment, Metadata, Profile, Source};

use super::bounds::invalid;
use super::keys::KEYS;
use super::tree::Config;
use crate::error::StartError;

/// The prefix of environment variables: `PEERAGE_ORIGIN__URL` is `origin.url`.
pub const ENV_PREFIX: &str = "PEERAGE_";

/// The values that the file, the environment and `--set` give, without defaults.
pub(crate) struct Layers(Figment);

impl Layers {
    /// Reads `file`, then the environment, then `sets` (`key=value`, in order); each
    /// overrides the values before it.
    pub(crate) fn read(file: Option<&Path>, sets: &[String]) -> Result<Self, StartError> {
        let mut figment = Figment::new();
        if let Some(file) = file {
            let text = std::fs::read_to_string(file).map_err(|error| {
                bad(format!("cannot read {}: {error}; name another file with --config", file.display()))
            })?;
            // Parsed here first, because toml's own errors show the line. No line of a file with
            // secrets is shown: a list of them may have several lines.
            Toml::from_str::<Dict>(&text).map_err(|error| {
                let shown = error.to_string();
                let shown = if ["secret", "password"].iter().any(|word| text.contains(word)) {
                    error.message()
                } else {
                    &shown
                };
                bad(format!("invalid TOML in {}: {}", file.display(), one_line(shown)))
            })?;
            figment = figment.merge(Toml::file_exact(file));
        }
        // Kubernetes sets variables with this prefix for a service named peerage. Every key but
        // the lists of rules has a table, so it contains two underscores.
        let is_key = |name: &UncasedStr| name.as_str().contains("__") || name == "immutable" || name == "query";
        figment = figment.merge(Env::prefixed(ENV_PREFIX).filter(is_key).split("__"));
        for (name, _) in std::env::vars_os() {
            reject_single_underscore(&name.to_string_lossy())?;
        }
        for key in TEXT_KEYS {
            // Read as text: parsed as a number, it would lose its leading zeros.
            if let Ok(value) = std::env::var(variable(key)) {
                figment = figment.merge(text_of(key, &value));
            }
        }
        for set in sets {
            figment = figment.merge(parse_set(set)?);
        }
        Ok(Self(figment))
    }

    /// Returns true if a layer sets `key`.
    pub(crate) fn sets(&self, key: &str) -> bool {
        self.0.contains(key)
    }

    /// Returns the checked configuration, for a command that needs no origin.
    pub(crate) fn config(&self) -> Result<Config, StartError> {
        Config::extract(&self.0).map_err(bad)
    }

    /// Returns the checked configuration of an edge, which must name its origin: the default
    /// is for an embedded edge, and a wrong origin is worse than an error.
    pub(crate) fn edge_config(&self) -> Result<Config, StartError> {
        let config = self.config()?;
        if self.sets("origin.url") {
            return Ok(config);
        }
        Err(bad(format!(
            "missing value for origin.url: set it in the file, as {} or with --set, such as http://127.0.0.1:9000",
            variable("origin.url")
        )))
    }
}

impl Config {
    /// Loads and checks the configuration of an edge: defaults, then `file`, then the
    /// environment, then `sets` (`key=value`, in order). One of these three must set
    /// `origin.url`.
    ///
    /// # Errors
    /// [`StartError::Config`] with one line that names the key.
    pub fn load(file: Option<&Path>, sets: &[String]) -> Result<Self, StartError> {
        Layers::read(file, sets)?.edge_config()
    }

    /// As [`load`](Self::load), for a program that passes its own origin to
    /// [`Server::bind_with`](crate::Server::bind_with): `origin.url` may be missing.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_embedded(file: Option<&Path>, sets: &[String]) -> Result<Self, StartError> {
        Layers::read(file, sets)?.config()
    }

    pub(super) fn extract(figment: &Figment) -> Result<Self, String> {
        let values: Dict = figment.extract().map_err(|error| one_line(&error.to_string()))?;
        reject_unknown(figment, &values, "")?;
        let config: Self = figment.extract().map_err(|error| explain(&error))?;
        config.check()?;
        Ok(config)
    }
}

/// Keys of earlier versions, with their present names.
const RENAMED: [(&str, &str); 3] = [
    ("cache.negative", "cache.negative_ttl"),
    ("cache.wrong", "cache.wrong_content_ttl"),
    ("cache.fill_alone", "cache.detached_fill_timeout"),
];

/// Keys with values that are text even if they look like numbers.
const TEXT_KEYS: [&str; 5] =
    ["edge.name", "tls.min_version", "cluster.secret", "cluster.etcd.user", "cluster.etcd.password"];

/// Returns the environment variable that sets `key`.
fn variable(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.to_uppercase().replace('.', "__"))
}

/// Returns the value of one of [`TEXT_KEYS`], with or without quotes, as a layer.
fn text_of(key: &str, value: &str) -> Serialized<Value> {
    let Ok(parsed) = value.parse::<Value>();
    let value = if let Value::String(..) = parsed { parsed } else { Value::from(value) };
    Serialized::from(figment::util::nest(key, value), Profile::Default)
}

/// Rejects a variable with a single underscore between table and key: it would be ignored.
fn reject_single_underscore(name: &str) -> Result<(), StartError> {
    let upper = name.to_uppercase();
    if !upper.starts_with(ENV_PREFIX) {
        return Ok(());
    }
    let intended = KEYS.iter().find(|key| key.contains('.') && variable(key).replace("__", "_") == upper);
    match intended {
        Some(key) => Err(bad(format!(
            "unknown variable {name}: table and key are separated by two underscores; did you mean {}?",
            variable(key)
        ))),
        None => Ok(()),
    }
}

fn bad(text: String) -> StartError {
    StartError::Config(text)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub(super) fn parse_set(set: &str) -> Result<Serialized<Value>, StartError> {
    let Some((key, value)) = set.split_once('=') else {
        return Err(bad(format!(
            "invalid value for --set: {set:?} (expected key=value, such as --set origin.url=http://127.0.0.1:9000)"
        )));
    };
    let key = key.trim();
    if key.split('.').any(str::is_empty) {
        return Err(bad(format!(
            "invalid value for --set: {set:?} (expected a key before the `=`, such as origin.url)"
        )));
    }
    if TEXT_KEYS.contains(&key) {
        return Ok(text_of(key, value));
    }
    let Ok(value) = value.parse::<Value>();
    Ok(Serialized::from(figment::util::nest(key, value), Profile::Default))
}

/// Returns the message for a failed extraction: key, value, accepted values, source.
fn explain(error: &figment::Error) -> String {
    use figment::error::Kind;
    // The positions in lists are left out.
    let names = error.path.iter().filter(|name| name.parse::<usize>().is_err());
    let path = names.map(String::as_str).collect::<Vec<_>>().join(".");
    let list = error.path.first().filter(|table| matches!(table.as_str(), "immutable" | "query"));
    let list = list.cloned().unwrap_or_default();
    let source = source_of(error.metadata.as_ref());
    let problem = match &error.kind {
        Kind::InvalidType(found, expected) => {
            let expected = match expected.as_str() {
                "usize" | "u32" | "u64" => "a whole number",
                "a string" => "text in quotes",
                "f64" => "a number",
                expected if expected.starts_with("struct ") => "a table",
                "a sequence" => "a list such as [\"10.0.0.5:7001\"]",
                expected => expected,
            };
            format!("{} has the wrong type (expected {expected})", found_type(found))
        }
        Kind::UnknownVariant(found, known) => format!("{found:?} (expected one of {})", known.join(", ")),
        Kind::MissingField(field) => {
            let example = match (&*list, &**field) {
                ("query", "keep") => "keep = \"all\", \"none\" or a list of names",
                _ => "path = \"/**\"",
            };
            return format!(
                "missing value for {list}.{field}: each [[{list}]] rule needs one, such as {example}{source}"
            );
        }
        other => other.to_string(),
    };
    invalid(&path, format_args!("{}{source}", one_line(&problem)))
}

/// Returns a description of a value of the wrong type, in TOML's terms.
fn found_type(found: &figment::error::Actual) -> String {
    use figment::error::Actual;
    match found {
        Actual::Map => "a table".to_owned(),
        Actual::Seq => "a list".to_owned(),
        Actual::Bool(value) => format!("`{value}`"),
        Actual::Unsigned(value) => format!("`{value}`"),
        Actual::Signed(value) => format!("`{value}`"),
        Actual::Float(value) => format!("`{value}`"),
        Actual::Str(value) => format!("the text `{value}`"),
        other => other.to_string(),
    }
}

/// Rejects keys that do not exist, and names the key that was probably meant.
fn reject_unknown(figment: &Figment, values: &Dict, table: &str) -> Result<(), String> {
    for (name, value) in values {
        let path = if table.is_empty() { name.clone() } else { format!("{table}.{name}") };
        if KEYS.contains(&path.as_str()) {
            continue;
        }
        if path == "immutable.set" {
            return Err(
                "unknown key immutable.set: rule sets are listed in cache.immutable_sets = [\"assets\", …]".to_owned()
            );
        }
        if let Some((_, new)) = RENAMED.iter().find(|(old, _)| *old == path) {
            return Err(format!(
                "unknown key {path}: it was renamed to {new}{}",
                source_of(figment.get_metadata(value.tag()))
            ));
        }
        let prefix = format!("{path}.");
        if !KEYS.iter().any(|key| key.starts_with(&prefix)) {
            let advice = advice(&path, value);
            return Err(format!("unknown key {path}{}; {advice}", source_of(figment.get_metadata(value.tag()))));
        }
        let tables = match value {
            Value::Dict(_, dict) => vec![dict],
            Value::Array(_, items) => items.iter().filter_map(Value::as_dict).collect(),
            _ => Vec::new(),
        };
        for table in tables {
            reject_unknown(figment, table, &path)?;
        }
    }
    Ok(())
}

/// Returns the source of a value, for an error.
fn source_of(metadata: Option<&Metadata>) -> String {
    let Some(metadata) = metadata else {
        return String::new();
    };
    match &metadata.source {
        Some(Source::File(file)) => format!(" (from {})", file.display()),
        // figment names a layer merged as a value after its type.
        _ if metadata.name.contains("figment::") => " (from --set)".to_owned(),
        _ => format!(" (from {})", metadata.name.replace('`', "")),
    }
}

/// Returns the advice for an unknown key: the nearest known name, or all names of its table.
fn advice(path: &str, value: &Value) -> String {
    let known = candidates(path, value.as_dict().is_some());
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let distance =
        |key: &&str| strsim::damerau_levenshtein(path, key).min(strsim::damerau_levenshtein(&last(path), &last(key)));
    // Of names that several tables have, the one in the table at hand.
    let nearest = known.iter().copied().min_by_key(|key| (distance(key), strsim::damerau_levenshtein(path, key)));
    let nearest = nearest.unwrap_or_default();
    if distance(&nearest) <= last(path).len().max(last(nearest).len()) / 2 {
        return format!("did you mean {nearest}?");
    }
    match path.split_once('.') {
        Some((table, _)) => {
            let names: Vec<_> = known.into_iter().map(last).collect();
            format!("the keys of {table} are {}", names.join(", "))
        }
        None => format!("the tables are {}", tables().join(", ")),
    }
}

/// Returns the names to compare `path` with: the keys of its table, or the tables, or every
/// key if the table was omitted.
fn candidates(path: &str, is_table: bool) -> Vec<&'static str> {
    match path.split_once('.') {
        Some((table, _)) => KEYS.iter().copied().filter(|key| table_of(key) == table).collect(),
        None if is_table => tables(),
        None => KEYS.to_vec(),
    }
}

fn table_of(key: &'static str) -> &'static str {
    key.split('.').next().unwrap_or_default()
}

fn tables() -> Vec<&'static str> {
    let mut tables: Vec<_> = KEYS.iter().copied().map(table_of).collect();
    tables.dedup();
    tables
}
