//! Rules of `[[immutable]]`: names that contain a hash of the contents, so that the contents
//! never change.

use std::fmt;

use regex::Regex;

use super::bundle;
use super::date::{DAY, is_date, is_day};
use super::pattern::compile;
use crate::semantics::digest::{Algorithm, Encoding, Expected};

/// Minimum length of a hash in a name, in characters.
pub const MIN_HASH: usize = 8;

/// A rule of `[[immutable]]`: a pattern for paths, and the format of the hash in them.
///
/// `*` matches any characters within one segment, `**` any number of whole segments,
/// `{hash}` the hash. A run of digits that is a date (`20240131`, also followed by a time)
/// is not a hash: files named by date do change.
#[derive(Debug, Clone)]
pub struct Rule {
    pattern: String,
    finder: Finder,
    format: HashFormat,
}

/// The method by which a rule finds the hash in a path.
#[derive(Debug, Clone)]
enum Finder {
    /// A pattern. The first group of the expression is the hash.
    Pattern(Regex),
    /// The file names of build tools (see [`bundle`]).
    Bundle,
}

/// The format of the hash in a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashFormat {
    /// The digest of the contents of which the hash is the whole or the beginning; `None` if
    /// the hash cannot be verified, as with many bundlers.
    pub digest: Option<Algorithm>,
    /// The encoding of the hash.
    pub encoding: Encoding,
    /// The length of the hash in characters; `None` for any length from [`MIN_HASH`] on, or
    /// for the length of the whole digest in encodings other than hex.
    pub length: Option<usize>,
}

impl HashFormat {
    /// Eight or more hexadecimal digits that cannot be verified.
    pub const UNKNOWN: Self = Self { digest: None, encoding: Encoding::Hex, length: None };

    /// Returns the format of a whole digest.
    const fn whole(digest: Algorithm, encoding: Encoding) -> Self {
        Self { digest: Some(digest), encoding, length: Some(encoding.length(digest.bytes())) }
    }
}

/// The set for the file names of build tools and frameworks. Their hashes are hints: they
/// cannot be verified.
const ASSETS: &str = "assets";

/// The predefined sets of rules: the name of each set, and its patterns and hash formats.
///
/// Each set covers the naming scheme of a widely used store. All sets but `assets` are
/// verified by whole digests; `assets` has no patterns (see [`Rule::set`]).
pub const SETS: [(&str, &[(&str, HashFormat)]); 7] = {
    const fn hex(digest: Algorithm) -> HashFormat {
        HashFormat::whole(digest, Encoding::Hex)
    }
    const NIX: HashFormat = HashFormat::whole(Algorithm::Sha256, Encoding::Nix32);
    [
        (ASSETS, &[]),
        (
            "blobref",
            &[
                ("/**/sha224-{hash}", hex(Algorithm::Sha224)),
                #[cfg(feature = "digests")]
                ("/**/sha1-{hash}", hex(Algorithm::Sha1)),
            ],
        ),
        (
            "oci",
            &[
                ("/v2/**/blobs/sha256:{hash}", hex(Algorithm::Sha256)),
                ("/v2/**/blobs/sha512:{hash}", hex(Algorithm::Sha512)),
            ],
        ),
        (
            "by-hash",
            &[
                ("/**/by-hash/SHA256/{hash}", hex(Algorithm::Sha256)),
                ("/**/by-hash/SHA512/{hash}", hex(Algorithm::Sha512)),
                #[cfg(feature = "digests")]
                ("/**/by-hash/SHA1/{hash}", hex(Algorithm::Sha1)),
                #[cfg(feature = "digests")]
                ("/**/by-hash/MD5Sum/{hash}", hex(Algorithm::Md5)),
            ],
        ),
        (
            "git-lfs",
            &[
                ("/**/lfs/objects/{hash}", hex(Algorithm::Sha256)),
                ("/**/lfs/objects/*/*/{hash}", hex(Algorithm::Sha256)),
            ],
        ),
        ("cas", &[("/**/cas/{hash}", hex(Algorithm::Sha256))]),
        ("nix", &[("/**/nar/{hash}.nar", NIX), ("/**/nar/{hash}.nar.*", NIX)]),
    ]
};

/// The sets that are enabled by default. Those with verified hashes cannot be wrong, because the
/// path itself states the algorithm.
///
/// The other sets can be wrong: a `/cas/` may contain BLAKE3 digests, some Nix caches do not name
/// archives by the file's digest, and an older Git LFS API serves descriptions of files at
/// the paths where others serve the files.
pub const DEFAULT_SETS: [&str; 4] = ["assets", "blobref", "oci", "by-hash"];

impl Rule {
    /// Compiles a pattern for names with hashes that cannot be verified
    /// ([`HashFormat::UNKNOWN`]).
    ///
    /// ```
    /// use peerage::site::rules::Rule;
    ///
    /// let rule = Rule::parse("/**/*-{hash}.*")?;
    /// assert_eq!(rule.hash_in("/img/logo-0492830483.png"), Some("0492830483"));
    /// assert_eq!(rule.hash_in("/img/logo-20240131.png"), None);
    /// # Ok::<_, String>(())
    /// ```
    ///
    /// # Errors
    /// The same as those of [`Rule::new`].
    pub fn parse(pattern: &str) -> Result<Self, String> {
        Self::new(pattern, HashFormat::UNKNOWN)
    }

    /// Compiles a pattern for names with hashes of the given format.
    ///
    /// # Errors
    /// A text that names the pattern, its mistake, and the correction.
    pub fn new(pattern: &str, format: HashFormat) -> Result<Self, String> {
        let hashes = pattern.matches("{hash}").count();
        if hashes != 1 {
            return Err(format!(
                "`{pattern}` contains `{{hash}}` {hashes} times; exactly one is needed, because the hash makes the name immutable"
            ));
        }
        if pattern.contains("*{hash}") || pattern.contains("{hash}*") {
            return Err(format!(
                "`{pattern}` is ambiguous: a `*` next to `{{hash}}` could match a part of the hash; put a separator between them, as in `*-{{hash}}.*`"
            ));
        }
        let lengths = format.quantifier().map_err(|error| format!("`{pattern}`: {error}"))?;
        let regex = compile(pattern, &format!("([{}]{lengths})", format.encoding.class()))?;
        Ok(Self { pattern: pattern.to_owned(), finder: Finder::Pattern(regex), format })
    }

    /// Returns the rules of one of the [`SETS`].
    ///
    /// # Errors
    /// A text that lists the names of the sets, if `name` is not one of them.
    pub fn set(name: &str) -> Result<Vec<Self>, String> {
        let Some((_, rules)) = SETS.iter().find(|(set, _)| *set == name) else {
            let known: Vec<_> = SETS.iter().map(|(set, _)| *set).collect();
            return Err(format!("`{name}` is not a set of rules; use one of {}", known.join(", ")));
        };
        if name == ASSETS {
            return Ok(vec![Self { pattern: ASSETS.to_owned(), finder: Finder::Bundle, format: HashFormat::UNKNOWN }]);
        }
        rules.iter().map(|&(pattern, format)| Self::new(pattern, format)).collect()
    }

    /// Returns true if the rule matches `path` (canonical, without a query).
    pub fn matches(&self, path: &str) -> bool {
        if !self.permits_escaped_slashes(path) {
            return false;
        }
        let Finder::Pattern(regex) = &self.finder else {
            return self.hash_in(path).is_some();
        };
        // `captures` costs twenty times as much as `is_match`, and the hash itself is needed
        // only if it may be a date.
        let may_be_date = || path.as_bytes().windows(DAY).any(is_day);
        regex.is_match(path) && (!may_be_date() || self.hash_in(path).is_some())
    }

    /// Returns the hash in `path` (canonical, without a query), if the rule matches.
    pub fn hash_in<'a>(&self, path: &'a str) -> Option<&'a str> {
        if !self.permits_escaped_slashes(path) {
            return None;
        }
        let regex = match &self.finder {
            Finder::Pattern(regex) => regex,
            Finder::Bundle => return bundle::hash_in(path),
        };
        // `captures` allocates even without a match, so test first.
        if !regex.is_match(path) {
            return None;
        }
        let hash = regex.captures(path)?.get(1)?.as_str();
        (!is_date(hash)).then_some(hash)
    }

    /// Returns true if `path` has no escaped slash, or the pattern has one, too. Servers differ
    /// on whether an escaped slash separates segments.
    fn permits_escaped_slashes(&self, path: &str) -> bool {
        !path.contains("%2F") || self.pattern.contains("%2F")
    }

    /// Returns true if both rules match the same paths and expect the same hash format.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.pattern == other.pattern && self.format == other.format
    }

    /// Returns true if the contents are verified against the hash.
    pub fn proves(&self) -> bool {
        self.format.digest.is_some()
    }

    /// Returns the digest that the contents of `path` must have, if the rule matches and its
    /// hash can be verified.
    pub fn expected(&self, path: &str) -> Option<Expected> {
        let algorithm = self.format.digest?;
        Some(Expected { algorithm, encoding: self.format.encoding, text: self.hash_in(path)?.into() })
    }

    /// Returns the pattern as configured.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }
}

impl HashFormat {
    /// Returns the quantifier of the hash's characters in a regular expression, such as `{8,}`.
    fn quantifier(self) -> Result<String, String> {
        let whole = self.digest.map(|digest| self.encoding.length(digest.bytes()));
        match (self.length, whole) {
            (Some(length), _) if length < MIN_HASH => {
                Err(format!("a hash of {length} characters is too short; at least {MIN_HASH} are needed"))
            }
            (Some(length), Some(whole)) if length > whole => Err(format!(
                "no name matches: a {} digest in {} has {whole} characters, not {length}",
                self.digest.map_or("", Algorithm::name),
                self.encoding.name()
            )),
            (Some(length), _) => Ok(format!("{{{length}}}")),
            // Hex is distinctive. Words match the other alphabets, so the whole digest is
            // required.
            (None, Some(whole)) if self.encoding != Encoding::Hex => Ok(format!("{{{whole}}}")),
            (None, Some(whole)) => Ok(format!("{{{MIN_HASH},{whole}}}")),
            (None, None) if self.encoding != Encoding::Hex => {
                Err(format!("ambiguous: any word is valid {}; add `length` or `digest`", self.encoding.name()))
            }
            (None, None) => Ok(format!("{{{MIN_HASH},}}")),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pattern)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn matches_is_true_if_hash_in_finds_a_hash(
            path in "/(a/)?(b[-.])?[12][09][0-9]{2}[01][0-9][0-3][0-9]([0-9]{0,6}|[a-f]{1,2})([-.]1)?[.]?c?",
        ) {
            for pattern in ["/**/*-{hash}.*", "/**/*.{hash}.*", "/{hash}", "/1{hash}", "/**/{hash}.c"] {
                let rule = Rule::parse(pattern).unwrap();
                prop_assert_eq!(rule.matches(&path), rule.hash_in(&path).is_some(), "{} {}", pattern, path);
            }
        }
    }

    #[test]
    fn patterns_find_the_hash_and_skip_dates() {
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
            assert_eq!(rule.matches(path), hash.is_some(), "{path}");
        }
        let rule = Rule::parse("/cas/{hash}").unwrap();
        assert_eq!(rule.hash_in("/cas/0123456789abcdef"), Some("0123456789abcdef"));
        assert_eq!(rule.hash_in("/x/cas/0123456789abcdef"), None);
        let rule = Rule::parse("/blobs/{hash}/**").unwrap();
        assert!(rule.hash_in("/blobs/0123456789abcdef/a/b").is_some());
    }

    #[test]
    fn a_path_with_an_escaped_slash_matches_only_a_pattern_with_one() {
        let hash = "0123456789abcdef";
        for (pattern, path, matches) in [
            ("/**/{hash}", format!("/a%2Fb/{hash}"), false),
            ("/**/*-{hash}.*", format!("/a%2Fb-{hash}.png"), false),
            ("/a%2Fb/{hash}", format!("/a%2Fb/{hash}"), true),
            ("/a%2Fb/{hash}", format!("/a/b/{hash}"), false),
        ] {
            assert_eq!(Rule::parse(pattern).unwrap().matches(&path), matches, "{pattern} {path}");
        }
        let assets = &Rule::set("assets").unwrap()[0];
        assert!(assets.matches("/a/b-BxYz12Ab.js") && !assets.matches("/a%2Fb-BxYz12Ab.js"));
    }

    #[test]
    fn patterns_without_exactly_one_distinct_hash_are_rejected() {
        for pattern in ["", "x-{hash}", "/a/*.png", "/{hash}/{hash}", "/a**/{hash}", "/{digest}-{hash}", "/*{hash}"] {
            assert!(Rule::parse(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn hash_formats_that_are_too_short_too_long_or_ambiguous_are_rejected() {
        let (sha256, hex) = (Some(Algorithm::Sha256), Encoding::Hex);
        for (format, reason) in [
            (HashFormat { digest: sha256, encoding: hex, length: Some(7) }, "too short"),
            (HashFormat { digest: sha256, encoding: hex, length: Some(65) }, "64 characters"),
            (HashFormat { digest: sha256, encoding: Encoding::Nix32, length: Some(53) }, "52 characters"),
            (HashFormat { digest: None, encoding: Encoding::Base64Url, length: None }, "ambiguous"),
        ] {
            let error = Rule::new("/{hash}", format).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_hash_has_the_length_and_alphabet_of_its_format() {
        let rule =
            |digest, encoding, length| Rule::new("/**/*-{hash}.*", HashFormat { digest, encoding, length }).unwrap();
        let (sha256, hex) = (Some(Algorithm::Sha256), Encoding::Hex);
        let name = |hash: &str| format!("/a/big-logo-{hash}.png");
        for (rule, hash, matches) in [
            (rule(sha256, hex, None), "0123456789abcdef", true),
            (rule(sha256, hex, Some(16)), "0123456789abcdef", true),
            (rule(sha256, hex, Some(16)), "0123456789abcde", false),
            (rule(sha256, hex, Some(16)), "0123456789abcdef0", false),
            (rule(sha256, hex, None), &"a".repeat(64), true),
            (rule(sha256, hex, None), &"a".repeat(65), false),
            (rule(Some(Algorithm::Xxh3), hex, None), &"a".repeat(17), false),
            (rule(sha256, Encoding::Base64Url, None), &"-_".repeat(21), false),
            (rule(sha256, Encoding::Base64Url, None), &format!("{}x", "-_".repeat(21)), true),
            (rule(sha256, Encoding::Nix32, None), &"x".repeat(52), true),
            (rule(sha256, Encoding::Nix32, None), &"e".repeat(52), false),
        ] {
            let path = name(hash);
            assert_eq!(rule.hash_in(&path), matches.then_some(hash), "{path}");
            assert_eq!(rule.matches(&path), matches, "{path}");
            let expected = rule.expected(&path).map(|expected| expected.text.to_string());
            assert_eq!(expected.as_deref(), matches.then_some(hash));
        }
        assert_eq!(rule(None, hex, None).expected(&name("0123456789abcdef")), None);
    }

    #[test]
    fn sets_match_the_naming_schemes_of_their_stores() {
        let digits = |count: usize| "0123456789abcdef".repeat(8)[..count].to_owned();
        for (set, path, algorithm) in [
            ("assets", "/assets/index-BxYz12Ab.js".to_owned(), None),
            ("assets", "/js/app.0123abcd.js".to_owned(), None),
            ("blobref", format!("/camli/sha224-{}", digits(56)), Some(Algorithm::Sha224)),
            #[cfg(feature = "digests")]
            ("blobref", format!("/sha1-{}", digits(40)), Some(Algorithm::Sha1)),
            ("oci", format!("/v2/library/debian/blobs/sha256:{}", digits(64)), Some(Algorithm::Sha256)),
            ("oci", format!("/v2/x/blobs/sha512:{}", digits(128)), Some(Algorithm::Sha512)),
            (
                "by-hash",
                format!("/debian/dists/stable/main/binary-amd64/by-hash/SHA256/{}", digits(64)),
                Some(Algorithm::Sha256),
            ),
            #[cfg(feature = "digests")]
            ("by-hash", format!("/dists/by-hash/MD5Sum/{}", digits(32)), Some(Algorithm::Md5)),
            ("git-lfs", format!("/me/repo.git/info/lfs/objects/{}", digits(64)), Some(Algorithm::Sha256)),
            ("git-lfs", format!("/lfs/objects/01/23/{}", digits(64)), Some(Algorithm::Sha256)),
            ("cas", format!("/cas/{}", digits(64)), Some(Algorithm::Sha256)),
            ("nix", format!("/nar/{}.nar.xz", "0123456789abcdfg".repeat(4)[..52].to_owned()), Some(Algorithm::Sha256)),
        ] {
            let rules = Rule::set(set).unwrap();
            let rule = rules.iter().find(|rule| rule.hash_in(&path).is_some()).unwrap_or_else(|| panic!("{path}"));
            assert_eq!(rule.expected(&path).map(|expected| expected.algorithm), algorithm, "{path}");
            // These stores never cut a digest short.
            let short =
                Rule::set(set).unwrap().iter().filter_map(|rule| rule.expected(&path.replace("0123", ""))).count();
            assert_eq!(short, 0, "{path}");
        }
        assert!(Rule::set("no-such").unwrap_err().contains("by-hash"));
        assert!(DEFAULT_SETS.iter().all(|set| Rule::set(set).is_ok()));
    }
}
