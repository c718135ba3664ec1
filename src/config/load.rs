//! Where values come from: a file, the environment, `--set`; and what is said
//! when one of them cannot be used.

use std::path::Path;

use figment::providers::{Env, Format, Serialized, Toml};
use figment::value::{Dict, UncasedStr, Value};
use figment::{Figment, Metadata, Profile, Source};

use super::{Config, ENV_PREFIX, KEYS};
use crate::error::StartError;

/// The values that a configuration sets, before the defaults of all others.
pub(crate) struct Given(Figment);

impl Given {
    /// Reads `file`, then the environment, then `sets` (`key=value`, in order); each
    /// overrides the values before it.
    pub(crate) fn read(file: Option<&Path>, sets: &[String]) -> Result<Self, StartError> {
        let mut figment = Figment::new();
        if let Some(file) = file {
            let text = std::fs::read_to_string(file).map_err(|error| {
                bad(format!("{}: cannot be read: {error}; name another file with --config", file.display()))
            })?;
            // Parsed here first: its own errors show the line, but not one with a secret.
            Toml::from_str::<Dict>(&text).map_err(|error| {
                let told = error.to_string();
                let told = if told.contains("secret") { error.message() } else { &told };
                bad(format!("{}: {}", file.display(), one_line(told)))
            })?;
            figment = figment.merge(Toml::file_exact(file));
        }
        // Others set variables with this prefix too: Kubernetes does, for a
        // service of this name. Every key but the lists of rules has a table.
        let ours = |name: &UncasedStr| name.as_str().contains("__") || name == "immutable" || name == "query";
        figment = figment.merge(Env::prefixed(ENV_PREFIX).filter(ours).split("__"));
        for (name, _) in std::env::vars_os() {
            refuse_misspelt(&name.to_string_lossy())?;
        }
        for key in TEXT {
            // As it stands: a number's zeros would not come back.
            if let Ok(value) = std::env::var(variable(key)) {
                figment = figment.merge(text_of(key, &value));
            }
        }
        for set in sets {
            figment = figment.merge(parse_set(set)?);
        }
        Ok(Self(figment))
    }

    /// Returns true if the configuration sets `key` itself.
    pub(crate) fn sets(&self, key: &str) -> bool {
        self.0.contains(key)
    }

    /// The checked configuration, for a program that needs no origin.
    pub(crate) fn config(&self) -> Result<Config, StartError> {
        Config::extract(&self.0).map_err(bad)
    }

    /// The checked configuration of an edge, which has to name its origin: the default is
    /// for an embedded edge, and a wrong origin is worse than none.
    pub(crate) fn edge_config(&self) -> Result<Config, StartError> {
        let config = self.config()?;
        if self.sets("origin.url") {
            return Ok(config);
        }
        Err(bad(format!(
            "origin.url: missing in the file, in the environment ({}) and in --set; name the origin, such as `http://127.0.0.1:9000`",
            variable("origin.url")
        )))
    }
}

impl Config {
    /// Loads and checks the configuration of an edge: defaults, then `file`, then the
    /// environment, then `sets` (`key=value`, in order). One of the three has to set
    /// `origin.url`.
    ///
    /// # Errors
    /// [`StartError::Config`], with one line that names the key.
    pub fn load(file: Option<&Path>, sets: &[String]) -> Result<Self, StartError> {
        Given::read(file, sets)?.edge_config()
    }

    /// As [`load`](Self::load), for a program that embeds an edge and gives it its origin
    /// ([`Server::bind_with`](crate::Server::bind_with)): `origin.url` may be missing.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_embedded(file: Option<&Path>, sets: &[String]) -> Result<Self, StartError> {
        Given::read(file, sets)?.config()
    }

    pub(super) fn extract(figment: &Figment) -> Result<Self, String> {
        let given: Dict = figment.extract().map_err(|error| one_line(&error.to_string()))?;
        refuse_unknown(figment, &given, "")?;
        let config: Self = figment.extract().map_err(|error| explain(&error))?;
        config.check()?;
        Ok(config)
    }
}

/// Keys of earlier versions, with their names of today.
const RENAMED: [(&str, &str); 3] = [
    ("cache.negative", "cache.negative_ttl"),
    ("cache.wrong", "cache.wrong_content_ttl"),
    ("cache.fill_alone", "cache.detached_fill_timeout"),
];

/// Keys that are text, also where they look like numbers.
const TEXT: [&str; 2] = ["edge.name", "cluster.secret"];

/// The variable of the environment that sets `key`.
fn variable(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.to_uppercase().replace('.', "__"))
}

/// A value of one of [`TEXT`], in quotes or not.
fn text_of(key: &str, value: &str) -> Serialized<Value> {
    let Ok(parsed) = value.parse::<Value>();
    let value = if let Value::String(..) = parsed { parsed } else { Value::from(value) };
    Serialized::from(figment::util::nest(key, value), Profile::Default)
}

/// With one underscore between table and key, a variable would go unheard.
fn refuse_misspelt(name: &str) -> Result<(), StartError> {
    let upper = name.to_uppercase();
    if !upper.starts_with(ENV_PREFIX) {
        return Ok(());
    }
    let meant = KEYS.iter().find(|key| key.contains('.') && variable(key).replace("__", "_") == upper);
    match meant {
        Some(key) => {
            Err(bad(format!("{name}: between table and key stand two underscores; did you mean `{}`?", variable(key))))
        }
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
            "--set {set}: `key=value` is needed, such as `--set origin.url=http://127.0.0.1:9000`"
        )));
    };
    let key = key.trim();
    if key.split('.').any(str::is_empty) {
        return Err(bad(format!("--set {set}: the name of a key is needed before `=`, such as `origin.url`")));
    }
    if TEXT.contains(&key) {
        return Ok(text_of(key, value));
    }
    let Ok(value) = value.parse::<Value>();
    Ok(Serialized::from(figment::util::nest(key, value), Profile::Default))
}

/// Says what an extraction failed on, with the key first.
fn explain(error: &figment::Error) -> String {
    use figment::error::Kind;
    let mut path = error.path.join(".");
    let list = path.split('.').next().filter(|table| matches!(*table, "immutable" | "query"));
    let list = list.unwrap_or_default().to_owned();
    if !list.is_empty() {
        path = format!("{list}.{}", path.split('.').nth(2).unwrap_or("path"));
    }
    let source = origin_of(error.metadata.as_ref());
    let what = match &error.kind {
        Kind::InvalidType(found, wanted) => {
            let wanted = match wanted.as_str() {
                "usize" | "u32" | "u64" => "a whole number",
                "a string" => "text in quotes",
                "f64" => "a number",
                wanted if wanted.starts_with("struct ") => "a table",
                "a sequence" => "a list, such as [\"10.0.0.5:7001\"],",
                wanted => wanted,
            };
            format!("{} is of the wrong type; {wanted} is needed", found_type(found))
        }
        Kind::UnknownVariant(found, known) => format!("`{found}` is unknown; one of {} is needed", known.join(", ")),
        Kind::MissingField(field) => {
            path = format!("{list}.{field}");
            let example = match (&*list, &**field) {
                ("query", "keep") => "keep = \"all\", \"none\" or a list of names",
                _ => "path = \"/**\"",
            };
            format!("is missing; each [[{list}]] rule needs one, such as {example}")
        }
        other => other.to_string(),
    };
    format!("{path}: {}{source}", one_line(&what))
}

/// A value of the wrong type, in the words of TOML.
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

fn refuse_unknown(figment: &Figment, given: &Dict, table: &str) -> Result<(), String> {
    for (name, value) in given {
        let path = if table.is_empty() { name.clone() } else { format!("{table}.{name}") };
        if KEYS.contains(&path.as_str()) {
            continue;
        }
        if path == "immutable.set" {
            return Err(
                "immutable.set: sets have a list of their own now; cache.immutable_sets = [\"assets\", …] is needed"
                    .to_owned(),
            );
        }
        if let Some((_, new)) = RENAMED.iter().find(|(old, _)| *old == path) {
            return Err(format!("{path}: renamed to `{new}`{}", origin_of(figment.get_metadata(value.tag()))));
        }
        let inside = format!("{path}.");
        if !KEYS.iter().any(|key| key.starts_with(&inside)) {
            let advice = advice(&path, value);
            return Err(format!("{path}: unknown key{}; {advice}", origin_of(figment.get_metadata(value.tag()))));
        }
        let tables = match value {
            Value::Dict(_, dict) => vec![dict],
            Value::Array(_, items) => items.iter().filter_map(Value::as_dict).collect(),
            _ => Vec::new(),
        };
        for table in tables {
            refuse_unknown(figment, table, &path)?;
        }
    }
    Ok(())
}

/// Where a value came from, for an error.
fn origin_of(metadata: Option<&Metadata>) -> String {
    let Some(metadata) = metadata else {
        return String::new();
    };
    match &metadata.source {
        Some(Source::File(file)) => format!(" (from {})", file.display()),
        // What is merged as a value has the name of the type.
        _ if metadata.name.contains("figment::") => " (from --set)".to_owned(),
        _ => format!(" (from {})", metadata.name.replace('`', "")),
    }
}

/// Returns what to do about an unknown key: the known name that is most like it. If none is
/// near, the names that are known where it stands.
fn advice(path: &str, given: &Value) -> String {
    let known = candidates(path, given.as_dict().is_some());
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let distance = |key: &&str| {
        let whole = strsim::damerau_levenshtein(path, key);
        whole.min(strsim::damerau_levenshtein(&last(path), &last(key)))
    };
    let nearest = known.iter().copied().min_by_key(distance).unwrap_or_default();
    if distance(&nearest) <= last(path).len().max(last(nearest).len()) / 2 {
        return format!("did you mean `{nearest}`?");
    }
    match path.split_once('.') {
        Some((table, _)) => {
            let names: Vec<_> = known.into_iter().map(last).collect();
            format!("the keys of {table} are {}", names.join(", "))
        }
        None => format!("the tables are {}", tables().join(", ")),
    }
}

/// Returns the names that may stand where `path` does: the keys of its table, or the tables,
/// or every key if the table was forgotten.
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
