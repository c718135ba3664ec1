//! Rules of `[[query]]`: the part of a query that belongs to the name of an asset.

use std::borrow::Cow;

use regex::Regex;

use super::pattern::compile;

/// A rule of `[[query]]`: for paths that match its pattern, the part of the query that
/// belongs to the name of an asset.
///
/// The pattern has `*` and `**`, as in a [`Rule`](super::Rule), but no `{hash}`.
#[derive(Debug, Clone)]
pub struct QueryRule {
    regex: Regex,
    keep: Keep,
}

/// The part of a query that belongs to the name of an asset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// The whole query, as received.
    All,
    /// No part: all queries address the same asset.
    None,
    /// The parameters with these names (percent-decoded), in the order received.
    Only(Vec<String>),
}

impl QueryRule {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// A text that names the pattern, its mistake, and the correction.
    pub fn parse(pattern: &str, keep: Keep) -> Result<Self, String> {
        if pattern.contains("{hash}") {
            return Err(format!(
                "`{pattern}` contains `{{hash}}`; the pattern of a query rule may contain only `*` and `**`"
            ));
        }
        Ok(Self { regex: compile(pattern, "")?, keep })
    }

    /// Returns true if the rule applies to `path` (canonical, without a query).
    pub fn matches(&self, path: &str) -> bool {
        self.regex.is_match(path)
    }

    /// Returns the part of `query` (without its question mark) that belongs to the name;
    /// `None` if no part does.
    ///
    /// ```
    /// use peerage::site::rules::{Keep, QueryRule};
    ///
    /// let rule = QueryRule::parse("/img/**", Keep::Only(vec!["w".to_owned()]))?;
    /// assert_eq!(rule.kept("utm=x&w=100").as_deref(), Some("w=100"));
    /// assert_eq!(rule.kept("utm=x"), None);
    /// # Ok::<_, String>(())
    /// ```
    pub fn kept<'a>(&self, query: &'a str) -> Option<Cow<'a, str>> {
        let names = match &self.keep {
            Keep::All => return Some(query.into()),
            Keep::None => return None,
            Keep::Only(names) => names,
        };
        let is_kept = |parameter: &&str| {
            let name = parameter.split('=').next().unwrap_or_default().replace('+', " ");
            let name = percent_encoding::percent_decode_str(&name).decode_utf8_lossy();
            names.iter().any(|known| *known == name)
        };
        let kept: Vec<_> = query.split('&').filter(is_kept).collect();
        (!kept.is_empty()).then(|| kept.join("&").into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_query_rule_keeps_the_listed_parameters() {
        let rule = |keep| QueryRule::parse("/img/**", keep).unwrap();
        let only = rule(Keep::Only(vec!["w".to_owned(), "h".to_owned()]));
        for (query, kept) in [
            ("w=1&h=2", Some("w=1&h=2")),
            ("utm=x&h=2&w=1&w=3", Some("h=2&w=1&w=3")),
            ("w", Some("w")),
            ("ww=1&W=1", None),
            ("%77=%7e&x=1", Some("%77=%7e")),
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

    proptest! {
        #[test]
        fn a_canonical_path_is_a_pattern_that_matches_it(target in "/[ -~]{0,20}") {
            if let Ok(key) = crate::key::AssetKey::parse(&target, 1000)
                && !key.path().contains('*')
            {
                let rule = QueryRule::parse(key.path(), Keep::None).unwrap();
                prop_assert!(rule.matches(key.path()));
            }
        }
    }
}
