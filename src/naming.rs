//! What the operator says of names: which of them hold a hash of what they
//! name, and so never change; and which part of a query belongs to a name.

use std::borrow::Cow;
use std::fmt;

use regex::Regex;

/// A hash in a name has at least this many hexadecimal digits.
pub const MIN_HASH: usize = 8;

/// A rule of `[[immutable]]`: a pattern for paths.
///
/// `*` stands for any characters of one segment, `**` for any number of whole
/// segments, `{hash}` for at least [`MIN_HASH`] hexadecimal digits. A run of
/// digits that is a date (`20240131`, also with a time behind it) is no hash:
/// files named by the day do change.
#[derive(Debug, Clone)]
pub struct Rule {
    pattern: String,
    regex: Regex,
}

impl Rule {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// A text that says what is wrong with the pattern and what would be right.
    pub fn parse(pattern: &str) -> Result<Self, String> {
        let hashes = pattern.matches("{hash}").count();
        if hashes != 1 {
            return Err(format!(
                "`{pattern}` has {hashes} times `{{hash}}`; exactly one is needed, for the hash is what makes a name immutable"
            ));
        }
        Ok(Self { pattern: pattern.to_owned(), regex: compile(pattern)? })
    }

    /// The hash in `path` (canonical, without a query), if the rule matches.
    pub fn hash_in<'a>(&self, path: &'a str) -> Option<&'a str> {
        let hash = self.regex.captures(path)?.get(1)?.as_str();
        (!is_date(hash)).then_some(hash)
    }

    /// The pattern as it was written.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pattern)
    }
}

/// A rule of `[[query]]`: which part of the query belongs to the name of an
/// asset, for the paths that match its pattern (as in [`Rule`], without a hash).
#[derive(Debug, Clone)]
pub struct QueryRule {
    regex: Regex,
    keep: Keep,
}

/// Which part of a query belongs to a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// All of it, as it came.
    All,
    /// None of it: one asset for all queries.
    None,
    /// The parameters of these names, in the order in which they came.
    Only(Vec<String>),
}

impl QueryRule {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// A text that says what is wrong with the pattern and what would be right.
    pub fn parse(pattern: &str, keep: Keep) -> Result<Self, String> {
        if pattern.contains("{hash}") {
            return Err(format!("`{pattern}` has a `{{hash}}`; a rule for queries goes by `*` and `**` alone"));
        }
        Ok(Self { regex: compile(pattern)?, keep })
    }

    /// Whether the rule is for `path` (canonical, without a query).
    pub fn matches(&self, path: &str) -> bool {
        self.regex.is_match(path)
    }

    /// What belongs to the name of `query` (without its question mark).
    pub fn kept<'a>(&self, query: &'a str) -> Option<Cow<'a, str>> {
        let names = match &self.keep {
            Keep::All => return Some(query.into()),
            Keep::None => return None,
            Keep::Only(names) => names,
        };
        let name = |parameter: &&str| parameter.split('=').next().unwrap_or_default().to_owned();
        let kept: Vec<_> = query.split('&').filter(|parameter| names.contains(&name(parameter))).collect();
        (!kept.is_empty()).then(|| kept.join("&").into())
    }
}

/// The expression for a pattern; its first group is the hash, if there is one.
fn compile(pattern: &str) -> Result<Regex, String> {
    let Some(path) = pattern.strip_prefix('/') else {
        return Err(format!("`{pattern}` does not start with `/`; a pattern is a whole path, such as `/**/*.png`"));
    };
    let segments = path.split('/').map(segment).collect::<Result<Vec<_>, _>>()?;
    let mut source = String::from("^/");
    for (i, segment) in segments.iter().enumerate() {
        let last = i + 1 == segments.len();
        match segment {
            Segment::Any if last => source.push_str(".*"),
            Segment::Any => source.push_str("(?:[^/]+/)*"),
            Segment::Matching(text) => {
                source.push_str(text);
                if !last {
                    source.push('/');
                }
            }
        }
    }
    source.push('$');
    Regex::new(&source).map_err(|_| format!("`{pattern}` is too large"))
}

enum Segment {
    Any,
    Matching(String),
}

fn segment(text: &str) -> Result<Segment, String> {
    if text == "**" {
        return Ok(Segment::Any);
    }
    if text.contains("**") {
        return Err(format!("`{text}`: `**` stands for whole segments, so it is a segment of its own"));
    }
    let mut source = String::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("{hash}") {
            // Not lazy, and `*` before it is: the hash is the longest run there is.
            source.push_str(&format!("([0-9A-Fa-f]{{{MIN_HASH},}})"));
            rest = after;
            continue;
        }
        match next {
            '*' => source.push_str("[^/]*?"),
            '{' | '}' => return Err(format!("`{text}`: the only word in braces is `{{hash}}`")),
            other => source.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
        }
        rest = &rest[next.len_utf8()..];
    }
    Ok(Segment::Matching(source))
}

/// Digits that read as a calendar date, alone or with hours, minutes, seconds.
fn is_date(hash: &str) -> bool {
    if !matches!(hash.len(), 8 | 10 | 12 | 14) || !hash.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    let number = |from: usize, to: usize| hash[from..to].parse().unwrap_or(0u32);
    (1970..2100).contains(&number(0, 4)) && (1..=12).contains(&number(4, 6)) && (1..=31).contains(&number(6, 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_find_the_hash() {
        let rule = Rule::parse("/**/*-{hash}.*").unwrap();
        for (path, hash) in [
            ("/logo-0492830483.png", Some("0492830483")),
            ("/a/b/logo-big-0123456789abcdef.tar.gz", Some("0123456789abcdef")),
            ("/deadbeef/app-DEADBEEF.js", Some("DEADBEEF")),
            ("/app-user-settings.js", None),
            ("/app-1234567.js", None),
            ("/app-0123456789abcdef", None),
            ("/app-0123456789abcdeg.js", None),
            ("/report-20240131.pdf", None),
            ("/report-20240131235959.pdf", None),
            ("/report-20249931.pdf", Some("20249931")),
        ] {
            assert_eq!(rule.hash_in(path), hash, "{path}");
        }
        let rule = Rule::parse("/cas/{hash}").unwrap();
        assert_eq!(rule.hash_in("/cas/0123456789abcdef"), Some("0123456789abcdef"));
        assert_eq!(rule.hash_in("/x/cas/0123456789abcdef"), None);
        let rule = Rule::parse("/blobs/{hash}/**").unwrap();
        assert!(rule.hash_in("/blobs/0123456789abcdef/a/b").is_some());
    }

    #[test]
    fn a_query_is_kept_by_rule() {
        let rule = |keep| QueryRule::parse("/img/**", keep).unwrap();
        let only = rule(Keep::Only(vec!["w".to_owned(), "h".to_owned()]));
        for (query, kept) in [
            ("w=1&h=2", Some("w=1&h=2")),
            ("utm=x&h=2&w=1&w=3", Some("h=2&w=1&w=3")),
            ("w", Some("w")),
            ("ww=1&W=1", None),
            ("", None),
        ] {
            assert_eq!(only.kept(query).as_deref(), kept, "{query}");
        }
        assert_eq!(rule(Keep::All).kept("a&b").as_deref(), Some("a&b"));
        assert_eq!(rule(Keep::None).kept("a&b"), None);
        assert!(only.matches("/img/a/b.png") && only.matches("/img/") && !only.matches("/image"));
        assert!(QueryRule::parse("/**", Keep::All).unwrap().matches("/"));
        assert!(QueryRule::parse("/{hash}", Keep::All).is_err() && QueryRule::parse("img", Keep::All).is_err());
    }

    #[test]
    fn useless_patterns_are_refused() {
        for pattern in ["", "x-{hash}", "/a/*.png", "/{hash}/{hash}", "/a**/{hash}", "/{digest}-{hash}"] {
            assert!(Rule::parse(pattern).is_err(), "{pattern}");
        }
    }
}
