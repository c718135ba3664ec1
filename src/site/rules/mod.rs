//! What the operator says of names: which of them hold a hash of what they
//! name, and so never change; and which part of a query belongs to a name.

use std::borrow::Cow;
use std::fmt;

use regex::Regex;

use crate::key::{canonical_path, refuse_dot_segments};
use crate::semantics::digest::{Algorithm, Encoding, Expected};

mod bundle;

/// A hash in a name has at least this many characters.
pub const MIN_HASH: usize = 8;

/// A rule of `[[immutable]]`: a pattern for paths, and what its hash is.
///
/// `*` stands for any characters of one segment, `**` for any number of whole
/// segments, `{hash}` for the hash. A run of digits that is a date (`20240131`,
/// also with a time behind it) is no hash: files named by the day do change.
#[derive(Debug, Clone)]
pub struct Rule {
    pattern: String,
    finder: Finder,
    form: Form,
}

/// The way in which a rule finds the hash in a path.
#[derive(Debug, Clone)]
enum Finder {
    /// By a pattern.
    Pattern(Regex),
    /// By the formats of build tools (see [`bundle`]).
    Bundle,
}

/// What a hash in a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// The digest of the contents that it is, or begins; `None` if that cannot
    /// be checked, as with the hashes of many bundlers.
    pub digest: Option<Algorithm>,
    /// How it is written.
    pub encoding: Encoding,
    /// How many characters of it the name shows; `None` for any number from
    /// [`MIN_HASH`] on.
    pub length: Option<usize>,
}

impl Form {
    /// Eight or more hexadecimal digits of anything.
    pub const UNKNOWN: Self = Self { digest: None, encoding: Encoding::Hex, length: None };

    /// A whole digest.
    const fn whole(digest: Algorithm, encoding: Encoding) -> Self {
        Self { digest: Some(digest), encoding, length: Some(encoding.length(digest.bytes())) }
    }
}

/// The set of the names that build tools and frameworks make: hints, which nothing proves.
const ASSETS: &str = "assets";

/// Sets of rules that go by a name: how widely used stores name what they hold. All but
/// `assets` are checked, by whole digests.
pub const SETS: [(&str, &[(&str, Form)]); 7] = {
    const fn hex(digest: Algorithm) -> Form {
        Form::whole(digest, Encoding::Hex)
    }
    const NIX: Form = Form::whole(Algorithm::Sha256, Encoding::Nix32);
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

/// The sets that cannot err: what they check is said by the name itself. (A
/// `/cas/` may hold BLAKE3 digests, not all Nix caches name by the file, and an
/// old API has descriptions of large files where others have the files.)
pub const DEFAULT_SETS: [&str; 4] = ["assets", "blobref", "oci", "by-hash"];

impl Rule {
    /// Compiles a pattern whose hash cannot be checked.
    ///
    /// # Errors
    /// As [`Rule::new`].
    pub fn parse(pattern: &str) -> Result<Self, String> {
        Self::new(pattern, Form::UNKNOWN)
    }

    /// Compiles a pattern.
    ///
    /// # Errors
    /// A text that says what is wrong with the rule and what would be right.
    pub fn new(pattern: &str, form: Form) -> Result<Self, String> {
        let hashes = pattern.matches("{hash}").count();
        if hashes != 1 {
            return Err(format!(
                "`{pattern}` has {hashes} times `{{hash}}`; exactly one is needed, for the hash is what makes a name immutable"
            ));
        }
        if pattern.contains("*{hash}") || pattern.contains("{hash}*") {
            return Err(format!(
                "`{pattern}` is ambiguous: a `*` beside `{{hash}}` could hold a part of it; something must stand between them, as in `*-{{hash}}.*`"
            ));
        }
        let lengths = form.lengths().map_err(|error| format!("`{pattern}`: {error}"))?;
        let regex = compile(pattern, &format!("([{}]{lengths})", form.encoding.class()))?;
        Ok(Self { pattern: pattern.to_owned(), finder: Finder::Pattern(regex), form })
    }

    /// The rules of a set of [`SETS`].
    ///
    /// # Errors
    /// A text that names the sets there are.
    pub fn set(name: &str) -> Result<Vec<Self>, String> {
        let Some((_, rules)) = SETS.iter().find(|(set, _)| *set == name) else {
            let known: Vec<_> = SETS.iter().map(|(set, _)| *set).collect();
            return Err(format!("`{name}` is no set of rules; one of {} is needed", known.join(", ")));
        };
        if name == ASSETS {
            return Ok(vec![Self { pattern: ASSETS.to_owned(), finder: Finder::Bundle, form: Form::UNKNOWN }]);
        }
        rules.iter().map(|&(pattern, form)| Self::new(pattern, form)).collect()
    }

    /// Returns true if the rule matches `path` (canonical, without a query).
    pub fn matches(&self, path: &str) -> bool {
        if !self.speaks_of_escaped_slashes(path) {
            return false;
        }
        let Finder::Pattern(regex) = &self.finder else {
            return self.hash_in(path).is_some();
        };
        // `captures` costs twenty times `is_match`: the hash itself is needed only where
        // it may be a date.
        let may_be_date = || path.as_bytes().windows(DAY).any(is_day);
        regex.is_match(path) && (!may_be_date() || self.hash_in(path).is_some())
    }

    /// The hash in `path`, if the rule matches.
    pub fn hash_in<'a>(&self, path: &'a str) -> Option<&'a str> {
        if !self.speaks_of_escaped_slashes(path) {
            return None;
        }
        let regex = match &self.finder {
            Finder::Pattern(regex) => regex,
            Finder::Bundle => return bundle::hash_in(path),
        };
        // `captures` allocates even when nothing matches, so test first.
        if !regex.is_match(path) {
            return None;
        }
        let hash = regex.captures(path)?.get(1)?.as_str();
        (!is_date(hash)).then_some(hash)
    }

    /// Returns false for a path with an escaped slash of which the rule's own text has none:
    /// servers differ on whether that slash begins a folder.
    fn speaks_of_escaped_slashes(&self, path: &str) -> bool {
        !path.contains("%2F") || self.pattern.contains("%2F")
    }

    /// Returns true if both rules match the same paths and expect the same of them.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.pattern == other.pattern && self.form == other.form
    }

    /// Returns true if the hash is verified against the contents.
    pub fn proves(&self) -> bool {
        self.form.digest.is_some()
    }

    /// What the contents of `path` must be, if the rule matches and can tell.
    pub fn expected(&self, path: &str) -> Option<Expected> {
        let algorithm = self.form.digest?;
        Some(Expected { algorithm, encoding: self.form.encoding, text: self.hash_in(path)?.into() })
    }

    /// The pattern as it was written.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }
}

impl Form {
    /// How often a character of the hash comes, as in a regular expression.
    fn lengths(self) -> Result<String, String> {
        let whole = self.digest.map(|digest| self.encoding.length(digest.bytes()));
        match (self.length, whole) {
            (Some(length), _) if length < MIN_HASH => {
                Err(format!("a hash of {length} characters tells too little; {MIN_HASH} or more are needed"))
            }
            (Some(length), Some(whole)) if length > whole => Err(format!(
                "no name matches: a {} digest in {} has {whole} characters, not {length}",
                self.digest.map_or("", Algorithm::name),
                self.encoding.name()
            )),
            (Some(length), _) => Ok(format!("{{{length}}}")),
            // Hex is distinctive; other alphabets look like words, so the full length
            // is required.
            (None, Some(whole)) if self.encoding != Encoding::Hex => Ok(format!("{{{whole}}}")),
            (None, Some(whole)) => Ok(format!("{{{MIN_HASH},{whole}}}")),
            (None, None) if self.encoding != Encoding::Hex => {
                Err(format!("ambiguous: any word is {}; a `length` or a `digest` is needed", self.encoding.name()))
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
        Ok(Self { regex: compile(pattern, "")?, keep })
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
        let is_kept = |parameter: &&str| {
            let name = parameter.split('=').next().unwrap_or_default().replace('+', " ");
            let name = percent_encoding::percent_decode_str(&name).decode_utf8_lossy();
            names.iter().any(|known| *known == name)
        };
        let kept: Vec<_> = query.split('&').filter(is_kept).collect();
        (!kept.is_empty()).then(|| kept.join("&").into())
    }
}

/// The expression for a pattern, in which `hash` stands for the hash.
fn compile(pattern: &str, hash: &str) -> Result<Regex, String> {
    let Some(path) = pattern.strip_prefix('/') else {
        return Err(format!("`{pattern}` does not start with `/`; a pattern is a whole path, such as `/**/*.png`"));
    };
    let segments = path.split('/').map(|text| segment(text, hash)).collect::<Result<Vec<_>, _>>()?;
    refuse_unmatchable(path).map_err(|error| format!("`{pattern}` matches no path: {error}"))?;
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

/// Refuses a pattern with text that no canonical path has: requests with it are refused, or
/// have another name.
fn refuse_unmatchable(path: &str) -> Result<(), String> {
    if path.contains('?') {
        return Err(
            "it has a `?`, and rules are for paths without their queries; remove it and what follows".to_owned()
        );
    }
    if refuse_dot_segments(path).is_err() {
        return Err("requests with `.` or `..` as a segment are refused; remove it".to_owned());
    }
    for text in path.replace("{hash}", "*").split(['*', '/']) {
        match canonical_path(text) {
            Ok(canonical) if canonical == text => {}
            Ok(canonical) => {
                return Err(format!("paths are matched in canonical form; write `{canonical}` for `{text}`"));
            }
            Err(_) => {
                return Err(format!(
                    "`{text}` has a malformed escape; `%` and two hexadecimal digits are needed, not 00"
                ));
            }
        }
    }
    Ok(())
}

enum Segment {
    Any,
    Matching(String),
}

fn segment(text: &str, hash: &str) -> Result<Segment, String> {
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
            source.push_str(hash);
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

/// How many digits a day has: `20240131`.
const DAY: usize = 8;

/// Digits that read as a calendar date, alone or with hours, minutes, seconds.
fn is_date(hash: &str) -> bool {
    let hash = hash.as_bytes();
    matches!(hash.len(), 8 | 10 | 12 | 14) && hash.iter().all(u8::is_ascii_digit) && is_day(&hash[..DAY])
}

fn is_day(digits: &[u8]) -> bool {
    if !digits.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let number = |digits: &[u8]| digits.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0'));
    let (year, month, day) = (number(&digits[..4]), number(&digits[4..6]), number(&digits[6..]));
    (1970..2100).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_rule_matches_where_it_finds_a_hash(
            path in "/(a/)?(b[-.])?[12][09][0-9]{2}[01][0-9][0-3][0-9]([0-9]{0,6}|[a-f]{1,2})([-.]1)?[.]?c?",
        ) {
            for pattern in ["/**/*-{hash}.*", "/**/*.{hash}.*", "/{hash}", "/1{hash}", "/**/{hash}.c"] {
                let rule = Rule::parse(pattern).unwrap();
                prop_assert_eq!(rule.matches(&path), rule.hash_in(&path).is_some(), "{} {}", pattern, path);
            }
        }
    }

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
            assert_eq!(rule.matches(path), hash.is_some(), "{path}");
        }
        let rule = Rule::parse("/cas/{hash}").unwrap();
        assert_eq!(rule.hash_in("/cas/0123456789abcdef"), Some("0123456789abcdef"));
        assert_eq!(rule.hash_in("/x/cas/0123456789abcdef"), None);
        let rule = Rule::parse("/blobs/{hash}/**").unwrap();
        assert!(rule.hash_in("/blobs/0123456789abcdef/a/b").is_some());
    }

    #[test]
    fn an_escaped_slash_is_matched_by_a_rule_that_has_one() {
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
    fn a_query_is_kept_by_rule() {
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

    #[test]
    fn useless_patterns_are_refused() {
        for pattern in ["", "x-{hash}", "/a/*.png", "/{hash}/{hash}", "/a**/{hash}", "/{digest}-{hash}", "/*{hash}"] {
            assert!(Rule::parse(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn patterns_that_match_no_canonical_path_are_refused() {
        for (pattern, told) in [
            ("/x/?x", "queries"),
            ("/x/?", "queries"),
            ("/x/../y", "remove"),
            ("/./y", "remove"),
            ("/y/.", "remove"),
            ("/y%2F..%5Cz", "remove"),
            ("/a#b", "`a%23b`"),
            ("/a b", "`a%20b`"),
            ("/\u{fc}/*", "`%C3%BC`"),
            ("/a\\b", "`a%5Cb`"),
            ("/a%2fb", "`a%2Fb`"),
            ("/%61", "`a`"),
            ("/%2E%2E/a", "`..`"),
            ("/a%", "malformed"),
            ("/a%4", "malformed"),
            ("/a%4*", "malformed"),
            ("/a%zz", "malformed"),
            ("/a%00", "malformed"),
        ] {
            for error in [
                Rule::parse(&format!("{pattern}/{{hash}}")).unwrap_err(),
                QueryRule::parse(pattern, Keep::None).unwrap_err(),
            ] {
                assert!(error.contains("matches no path") && error.contains(told), "{pattern}: {error}");
            }
        }
        for pattern in ["/", "/**", "//a", "/a/", "/.a/*.", "/...", "/.*", "/a%2Fb", "/%20/~a!$&'()+,;=:@", "/*%C3%BC*"]
        {
            assert!(QueryRule::parse(pattern, Keep::None).is_ok(), "{pattern}");
            assert!(Rule::parse(&format!("{pattern}/{{hash}}")).is_ok(), "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn a_canonical_path_is_a_rule_for_itself(target in "/[ -~]{0,20}") {
            if let Ok(key) = crate::key::AssetKey::parse(&target, 1000)
                && !key.path().contains('*')
            {
                let rule = QueryRule::parse(key.path(), Keep::None).unwrap();
                prop_assert!(rule.matches(key.path()));
            }
        }
    }

    #[test]
    fn forms_that_tell_nothing_are_refused() {
        let (sha256, hex) = (Some(Algorithm::Sha256), Encoding::Hex);
        for (form, why) in [
            (Form { digest: sha256, encoding: hex, length: Some(7) }, "too little"),
            (Form { digest: sha256, encoding: hex, length: Some(65) }, "64 characters"),
            (Form { digest: sha256, encoding: Encoding::Nix32, length: Some(53) }, "52 characters"),
            (Form { digest: None, encoding: Encoding::Base64Url, length: None }, "ambiguous"),
        ] {
            let error = Rule::new("/{hash}", form).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_hash_is_as_long_as_its_form_says() {
        let rule = |digest, encoding, length| Rule::new("/**/*-{hash}.*", Form { digest, encoding, length }).unwrap();
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
    fn sets_know_how_stores_name_what_they_hold() {
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
            // A digest cut short is not what these stores hold.
            let short =
                Rule::set(set).unwrap().iter().filter_map(|rule| rule.expected(&path.replace("0123", ""))).count();
            assert_eq!(short, 0, "{path}");
        }
        assert!(Rule::set("no-such").unwrap_err().contains("by-hash"));
        assert!(DEFAULT_SETS.iter().all(|set| Rule::set(set).is_ok()));
    }
}
