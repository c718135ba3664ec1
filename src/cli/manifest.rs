//! Names that hold a hash of their contents: how they are made, and their manifest.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use data_encoding::BASE64;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde::Serialize;

use crate::semantics::digest::{Algorithm, Encoding};
use crate::site::rules::{HashFormat, Rule};

/// The digest algorithm of names and manifests.
pub(crate) const DIGEST: Algorithm = Algorithm::Sha256;
/// Number of hexadecimal digits of the digest in a name.
const LENGTH: usize = 16;
/// Place of the digits: before the extension, or at the end of a name without one.
const PATTERNS: [&str; 2] = ["/**/*-{hash}.*", "/**/*-{hash}"];

/// Characters that a path must escape (RFC 3986 §3.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// A file named by its contents.
#[derive(Debug, Clone)]
pub(crate) struct Asset {
    /// Path in the file system.
    pub(crate) path: PathBuf,
    /// Original name, relative to the published folder.
    pub(crate) given: String,
    /// Published name, which holds the hash.
    pub(crate) name: String,
    /// Digest of the contents when the file was named.
    pub(crate) digest: Vec<u8>,
    /// Size in bytes when the file was named.
    pub(crate) size: u64,
}

/// Returns the rules that match published names.
///
/// # Errors
/// None, as long as the patterns above are valid.
pub(crate) fn rules() -> Result<Vec<Rule>, String> {
    let form = HashFormat { digest: Some(DIGEST), encoding: Encoding::Hex, length: Some(LENGTH) };
    PATTERNS.iter().map(|pattern| Rule::new(pattern, form)).collect()
}

/// Returns the path of the file on a server, to which rules apply: canonical, as in an
/// [`AssetKey`](crate::AssetKey).
pub(crate) fn target(file: &Path) -> String {
    let segments = file.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.as_bytes()),
        _ => None,
    });
    segments.map(|name| format!("/{}", percent_encode(name, ESCAPED))).collect()
}

/// Returns the published name of `given`: with the hash, unless the name already holds it.
///
/// # Errors
/// The reason for which no name can be made.
pub(crate) fn published_name(given: &str, digest: &[u8], rules: &[Rule]) -> Result<String, String> {
    if matches_digest(given, digest, rules) {
        return Ok(given.to_owned());
    }
    let hash = &Encoding::Hex.encode(digest)[..LENGTH];
    let (folder, file) = given.split_at(given.rfind('/').map_or(0, |slash| slash + 1));
    let name = match file.rsplit_once('.') {
        Some((stem, extension)) => format!("{folder}{stem}-{hash}.{extension}"),
        None => format!("{folder}{file}-{hash}"),
    };
    // In `a-<another hash>.tar.gz` the rules would still match the other hash.
    if matches_digest(&name, digest, rules) {
        Ok(name)
    } else {
        Err(format!("{given}: the name holds the hash of other contents; rename the file"))
    }
}

/// Returns true if a rule matches `name`, and all matching rules expect this digest.
fn matches_digest(name: &str, digest: &[u8], rules: &[Rule]) -> bool {
    let path = target(Path::new(name));
    let matches = rules.iter().filter_map(|rule| rule.expected(&path)).map(|expected| expected.is_met_by(digest));
    matches.reduce(|all, met| all && met).unwrap_or(false)
}

/// Returns one asset for each published name: files with the same contents may share a name.
///
/// # Errors
/// Names two files with different contents that would share a published name.
pub(crate) fn distinct(assets: &[Asset]) -> Result<Vec<&Asset>, String> {
    let mut names: BTreeMap<&str, &Asset> = BTreeMap::new();
    for asset in assets {
        match names.insert(&asset.name, asset) {
            Some(other) if other.digest != asset.digest => {
                return Err(format!(
                    "{} and {} differ, and would both be published as {}; rename one of them",
                    other.given, asset.given, asset.name
                ));
            }
            _ => {}
        }
    }
    Ok(names.into_values().collect())
}

/// The manifest's entry for one file.
#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    digest: String,
    size: u64,
    integrity: String,
}

impl<'a> Entry<'a> {
    fn of(asset: &'a Asset) -> Self {
        Self {
            name: &asset.name,
            digest: format!("{}:{}", DIGEST.name(), Encoding::Hex.encode(&asset.digest)),
            size: asset.size,
            integrity: format!("{}-{}", DIGEST.name(), BASE64.encode(&asset.digest)),
        }
    }
}

/// Returns the manifest: JSON, from original names to entries.
///
/// `integrity` is for the HTML attribute of this name. SHA-384 is common there, but browsers
/// accept SHA-256 too, so one digest (one pass over the contents) serves the name, the
/// manifest and the page.
///
/// # Errors
/// Those of the serializer.
pub(crate) fn manifest(assets: &[Asset]) -> serde_json::Result<String> {
    let entries: BTreeMap<_, _> = assets.iter().map(|asset| (&asset.given, Entry::of(asset))).collect();
    Ok(serde_json::to_string_pretty(&entries)? + "\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::AssetKey;

    /// SHA-256 of "abc".
    const HASH: &str = "ba7816bf8f01cfea";

    fn digest(contents: &[u8]) -> Vec<u8> {
        let mut hashing = DIGEST.hashing();
        hashing.update(contents);
        hashing.finish()
    }

    fn asset(given: &str, name: &str, contents: &[u8]) -> Asset {
        let size = contents.len() as u64;
        Asset { path: given.into(), given: given.to_owned(), name: name.to_owned(), digest: digest(contents), size }
    }

    #[test]
    fn the_hash_stands_before_the_extension() {
        let rules = rules().unwrap();
        for (given, name) in [
            ("logo.png", Some("logo-#.png")),
            ("img/big/logo.png", Some("img/big/logo-#.png")),
            ("app.min.js", Some("app.min-#.js")),
            ("LICENSE", Some("LICENSE-#")),
            ("v1.2/LICENSE", Some("v1.2/LICENSE-#")),
            ("a b/ü%.txt", Some("a b/ü%-#.txt")),
            ("ends.", Some("ends-#.")),
            // A name with its own hash is unchanged.
            ("logo-#.png", Some("logo-#.png")),
            ("logo-#.tar.gz", Some("logo-#.tar.gz")),
            ("LICENSE-#", Some("LICENSE-#")),
            ("logo-BA7816BF8F01CFEA.png", Some("logo-BA7816BF8F01CFEA.png")),
            // The hash of other contents is an ordinary part of the name.
            ("logo-0123456789abcdef.png", Some("logo-0123456789abcdef-#.png")),
            ("LICENSE-0123456789abcdef", Some("LICENSE-0123456789abcdef-#")),
            ("logo-ba7816bf.png", Some("logo-ba7816bf-#.png")),
            // Except where the rules would match it in place of the right one.
            ("logo-0123456789abcdef.tar.gz", None),
            ("logo.x-0123456789abcdef", None),
        ] {
            let given = given.replace('#', HASH);
            let made = published_name(&given, &digest(b"abc"), &rules);
            assert_eq!(made.ok(), name.map(|name| name.replace('#', HASH)), "{given}");
        }
    }

    #[test]
    fn different_contents_never_share_a_name() {
        let (one, same, other) = (asset("a", "x", b"1"), asset("b", "x", b"1"), asset("c", "x", b"2"));
        assert_eq!(distinct(&[one.clone(), same.clone()]).unwrap().len(), 1);
        let error = distinct(&[one, same, other]).unwrap_err();
        assert!(error.contains("b and c differ"), "{error}");
    }

    #[test]
    fn the_manifest_is_sorted() {
        let text = manifest(&[asset("b", "b-1", b"abc"), asset("a/\"c\"", "a/c-1", b"")]).unwrap();
        assert!(
            text.starts_with("{\n  \"a/\\\"c\\\"\": {\n    \"name\": \"a/c-1\"") && text.ends_with("}\n"),
            "{text}"
        );
        // Output of `openssl dgst -sha256 -binary | base64`.
        assert!(text.contains("\"integrity\": \"sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=\""), "{text}");
    }

    #[test]
    fn target_keeps_only_the_names_of_a_path() {
        for (file, path) in [("./a/../b.png", "/a/b.png"), ("/srv/a b?", "/srv/a%20b%3F"), ("sha256:00", "/sha256:00")]
        {
            assert_eq!(target(Path::new(file)), path);
        }
    }

    proptest! {
        #[test]
        fn a_published_name_matches_and_is_published_unchanged(
            given in "([a-z%ü ]{1,3}/)?[^./\0\\p{Cc}][^/\0]{0,12}(-[0-9a-f]{16})?(\\.[a-z]{0,3})?", contents in any::<[u8; 4]>(),
        ) {
            let (rules, digest) = (rules().unwrap(), digest(&contents));
            if let Ok(name) = published_name(&given, &digest, &rules) {
                prop_assert!(matches_digest(&name, &digest, &rules));
                prop_assert_eq!(published_name(&name, &digest, &rules).unwrap(), name.clone());
                let target = target(Path::new(&name));
                if let Ok(key) = AssetKey::parse(&target, usize::MAX) {
                    prop_assert_eq!(key.path(), target);
                }
            }
        }
    }
}
