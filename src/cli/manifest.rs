//! Names that hold a hash of what they name: how they are made, and what is
//! written down of them.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use data_encoding::BASE64;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde::Serialize;

use crate::semantics::digest::{Algorithm, Encoding};
use crate::site::rules::{HashFormat, Rule};

/// The digest that names and manifests hold.
pub(crate) const DIGEST: Algorithm = Algorithm::Sha256;
/// How many of its hexadecimal digits a name shows.
const LENGTH: usize = 16;
/// Where a name shows them: before its extension, or at its end if it has none.
const PATTERNS: [&str; 2] = ["/**/*-{hash}.*", "/**/*-{hash}"];

/// What a path has to escape: all that RFC 3986 §3.3 does not let stand bare.
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

/// A file that has a name by its contents.
#[derive(Debug, Clone)]
pub(crate) struct Asset {
    /// Where it lies.
    pub(crate) path: PathBuf,
    /// Its own name, below the folder that is published.
    pub(crate) given: String,
    /// The name that holds the hash.
    pub(crate) name: String,
    /// Of the contents, when it was named.
    pub(crate) digest: Vec<u8>,
    /// In bytes, then.
    pub(crate) size: u64,
}

/// The rules that published names obey.
///
/// # Errors
/// None, as long as the patterns above are good.
pub(crate) fn rules() -> Result<Vec<Rule>, String> {
    let form = HashFormat { digest: Some(DIGEST), encoding: Encoding::Hex, length: Some(LENGTH) };
    PATTERNS.iter().map(|pattern| Rule::new(pattern, form)).collect()
}

/// The path by which a server, and so a rule, knows the file: canonical, as
/// that of an [`AssetKey`](crate::AssetKey).
pub(crate) fn target(file: &Path) -> String {
    let segments = file.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.as_bytes()),
        _ => None,
    });
    segments.map(|name| format!("/{}", percent_encode(name, ESCAPED))).collect()
}

/// The name under which `given` is published: with the hash, if it does not
/// hold it yet.
///
/// # Errors
/// A text that says why no name can be made.
pub(crate) fn published_name(given: &str, digest: &[u8], rules: &[Rule]) -> Result<String, String> {
    if agrees(given, digest, rules) {
        return Ok(given.to_owned());
    }
    let hash = &Encoding::Hex.encode(digest)[..LENGTH];
    let (folder, file) = given.split_at(given.rfind('/').map_or(0, |slash| slash + 1));
    let name = match file.rsplit_once('.') {
        Some((stem, extension)) => format!("{folder}{stem}-{hash}.{extension}"),
        None => format!("{folder}{file}-{hash}"),
    };
    // In `a-<another hash>.tar.gz` the rules would go on reading the other.
    if agrees(&name, digest, rules) {
        Ok(name)
    } else {
        Err(format!("{given}: its name holds the hash of something else; give it another"))
    }
}

/// Whether a rule tells what `name` holds, and all that do tell this digest.
fn agrees(name: &str, digest: &[u8], rules: &[Rule]) -> bool {
    let path = target(Path::new(name));
    let told = rules.iter().filter_map(|rule| rule.expected(&path)).map(|expected| expected.is_met_by(digest));
    told.reduce(|all, met| all && met).unwrap_or(false)
}

/// One asset for each published name: files with the same contents may share one.
///
/// # Errors
/// A text that names two files with different contents that would share one.
pub(crate) fn distinct(assets: &[Asset]) -> Result<Vec<&Asset>, String> {
    let mut names: BTreeMap<&str, &Asset> = BTreeMap::new();
    for asset in assets {
        match names.insert(&asset.name, asset) {
            Some(other) if other.digest != asset.digest => {
                return Err(format!(
                    "{} and {} differ, and would both be {}; give one of them another name",
                    other.given, asset.given, asset.name
                ));
            }
            _ => {}
        }
    }
    Ok(names.into_values().collect())
}

/// What the manifest says of one file.
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

/// The manifest: JSON, from each given name to what it was published as.
///
/// Its `integrity` is for HTML's attribute of this name. SHA-384 is what most
/// write there, but browsers take SHA-256 as well, and so one digest, which
/// takes one pass over the contents, serves the name, the manifest and the page.
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
            // What holds its hash keeps its name.
            ("logo-#.png", Some("logo-#.png")),
            ("logo-#.tar.gz", Some("logo-#.tar.gz")),
            ("LICENSE-#", Some("LICENSE-#")),
            ("logo-BA7816BF8F01CFEA.png", Some("logo-BA7816BF8F01CFEA.png")),
            // The hash of something else is a part of the name as any other.
            ("logo-0123456789abcdef.png", Some("logo-0123456789abcdef-#.png")),
            ("LICENSE-0123456789abcdef", Some("LICENSE-0123456789abcdef-#")),
            ("logo-ba7816bf.png", Some("logo-ba7816bf-#.png")),
            // But where it would be read in place of the right one.
            ("logo-0123456789abcdef.tar.gz", None),
            ("logo.x-0123456789abcdef", None),
        ] {
            let given = given.replace('#', HASH);
            let made = published_name(&given, &digest(b"abc"), &rules);
            assert_eq!(made.ok(), name.map(|name| name.replace('#', HASH)), "{given}");
        }
    }

    #[test]
    fn two_contents_never_share_a_name() {
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
        // As `openssl dgst -sha256 -binary | base64` has it.
        assert!(text.contains("\"integrity\": \"sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=\""), "{text}");
    }

    #[test]
    fn only_the_names_in_a_path_count() {
        for (file, path) in [("./a/../b.png", "/a/b.png"), ("/srv/a b?", "/srv/a%20b%3F"), ("sha256:00", "/sha256:00")]
        {
            assert_eq!(target(Path::new(file)), path);
        }
    }

    proptest! {
        #[test]
        fn a_published_name_agrees_and_is_published_as_itself(
            given in "([a-z%ü ]{1,3}/)?[^./\0\\p{Cc}][^/\0]{0,12}(-[0-9a-f]{16})?(\\.[a-z]{0,3})?", contents in any::<[u8; 4]>(),
        ) {
            let (rules, digest) = (rules().unwrap(), digest(&contents));
            if let Ok(name) = published_name(&given, &digest, &rules) {
                prop_assert!(agrees(&name, &digest, &rules));
                prop_assert_eq!(published_name(&name, &digest, &rules).unwrap(), name.clone());
                let target = target(Path::new(&name));
                if let Ok(key) = AssetKey::parse(&target, usize::MAX) {
                    prop_assert_eq!(key.path(), target);
                }
            }
        }
    }
}
