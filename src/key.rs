//! [`AssetKey`]: the canonical name of an asset.
//!
//! One form serves the cache key, the placement on the ring and the request to the
//! origin, so no two of them can disagree about a request. The path is canonical; what
//! cannot be brought into that form without a guess is refused. The query goes as it
//! came, for signatures are made over its bytes; all its spellings have one hash.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use http::Uri;
use http::uri::PathAndQuery;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::Error;
use crate::semantics::vary::Variant;

/// The canonical path and query of an asset, with its hash.
///
/// Canonical means, after RFC 3986 §6.2.2: escapes of unreserved characters
/// are decoded, all other escapes have upper-case digits, and a character that
/// the grammar does not allow bare is escaped. Characters that the grammar
/// reserves keep the form they came in, for `+` and `%2B` are different names; an
/// escaped slash stays inside its segment.
///
/// Equality is that of the name, whose query is kept byte for byte. The hash is XXH3-64 of
/// the name with a canonical query: spellings of one query have the same owner, and one
/// write invalidates all of them. Two names whose hashes collide never share a response.
///
/// A key may also name one variant of the asset, by the request fields that
/// select it (RFC 9111 §4.1): equal then are those with the same variant. Where
/// the asset belongs on the ring is for all its variants the same.
#[derive(Clone)]
pub struct AssetKey {
    hash: u64,
    /// In memory of its own: as it came, it is a part of a connection's buffer.
    name: Arc<str>,
    variant: Option<Variant>,
}

/// The longest name, in bytes: more is no target of a [`Uri`].
const LONGEST: usize = u16::MAX as usize - 1;

impl AssetKey {
    /// The key of a request target; `limit` is its greatest length in bytes.
    ///
    /// Only the path and the query count: an absolute-form target's scheme and
    /// authority choose nothing, for the origin is the configuration's alone.
    ///
    /// # Errors
    /// [`Error::UriTooLong`] above `limit`; [`Error::BadRequest`] for a target
    /// without a path, and for a dot segment, NUL or a malformed escape in the path.
    pub fn from_uri(uri: &Uri, limit: usize) -> Result<Self, Error> {
        match uri.path_and_query() {
            Some(target) => Self::from_target(target.as_str(), limit),
            None => Err(Error::BadRequest("the request target has no path")),
        }
    }

    /// As [`AssetKey::from_uri`], of the path and the query alone, as they came.
    pub(crate) fn from_target(target: &str, limit: usize) -> Result<Self, Error> {
        let limit = limit.min(LONGEST);
        if target.len() > limit {
            return Err(Error::UriTooLong);
        }
        if target.starts_with('?') {
            // In absolute form, no path is the same as `/` (RFC 3986 §6.2.3).
            return Self::from_target(&format!("/{target}"), limit);
        }
        if !target.starts_with('/') {
            return Err(Error::BadRequest("the request target is not a path"));
        }
        if target.bytes().all(|byte| PLAIN[byte as usize]) {
            // Nothing in it is escaped.
            if target.contains("/.") {
                refuse_dot_segments(split(target).0)?;
            }
            return Ok(Self { hash: xxh3_64(target.as_bytes()), name: target.into(), variant: None });
        }
        let target = PathAndQuery::try_from(target).map_err(|_| Error::BadRequest("the path cannot be parsed"))?;
        refuse_dot_segments(target.path())?;
        let mut name = canonical_path(target.path())?;
        if let Some(query) = target.query() {
            name.push('?');
            name.push_str(query);
        }
        // Escaping makes it longer, and the next edge counts the longer form.
        if name.len() > limit { Err(Error::UriTooLong) } else { Ok(Self::of(name.into())) }
    }

    /// The key of a path given as text, as on a command line.
    ///
    /// # Errors
    /// As [`AssetKey::from_uri`], and [`Error::BadRequest`] for what is no
    /// request target at all.
    pub fn parse(text: &str, limit: usize) -> Result<Self, Error> {
        // On a command line a space or a control character may stand bare;
        // in a request target it cannot.
        let mut target = Vec::with_capacity(text.len());
        for byte in text.bytes() {
            if byte <= b' ' || byte == 0x7f || byte == b'#' {
                escape(byte, &mut target);
            } else {
                target.push(byte);
            }
        }
        let uri =
            Uri::from_maybe_shared(Bytes::from(target)).map_err(|_| Error::BadRequest("the path cannot be parsed"))?;
        Self::from_uri(&uri, limit)
    }

    fn of(name: Arc<str>) -> Self {
        let hash = match split(&name) {
            (path, Some(query)) if !query.bytes().all(|byte| PLAIN[byte as usize]) => {
                xxh3_64(format!("{path}?{}", canonical_query(query)).as_bytes())
            }
            _ => xxh3_64(name.as_bytes()),
        };
        Self { hash, name, variant: None }
    }

    /// The key of a variant of the same asset.
    pub(crate) fn of_variant(&self, variant: Variant) -> Self {
        Self { hash: self.hash, name: Arc::clone(&self.name), variant: Some(variant) }
    }

    /// The key of the asset itself, whatever its variants.
    pub(crate) fn asset(&self) -> Self {
        Self { hash: self.hash, name: Arc::clone(&self.name), variant: None }
    }

    /// Returns true if both are of the same asset, whatever the variant and the spelling of
    /// the query. For invalidation alone: a collision of hashes invalidates one more.
    pub(crate) fn is_of(&self, other: &Self) -> bool {
        self.hash == other.hash
    }

    /// The variant that it is of, if it is of one.
    pub(crate) fn variant(&self) -> Option<Variant> {
        self.variant
    }

    /// A hash that tells variants apart, too.
    #[allow(clippy::cast_possible_truncation)] // as much of it as a hash takes
    pub(crate) fn variant_hash(&self) -> u64 {
        self.hash ^ self.variant.map_or(0, |variant| variant.bits() as u64)
    }

    /// The same name, with another's hash.
    #[cfg(test)]
    pub(crate) fn colliding_with(self, other: &Self) -> Self {
        Self { hash: other.hash, ..self }
    }

    /// How many bytes it is [packed](Self::pack) in.
    pub(crate) fn packed_len(&self) -> usize {
        self.as_str().len() + self.variant.map_or(0, |_| 1 + size_of::<u128>())
    }

    /// Appends it as it is kept with what is stored: the name. Of a variant, also what
    /// tells it from others, behind the end of a line: no name has one.
    pub(crate) fn pack(&self, packed: &mut Vec<u8>) {
        packed.extend_from_slice(self.as_str().as_bytes());
        if let Some(variant) = &self.variant {
            packed.push(b'\n');
            packed.extend_from_slice(&variant.bits().to_le_bytes());
        }
    }

    /// Whether this is what it is packed as.
    pub(crate) fn is_packed_as(&self, packed: &[u8]) -> bool {
        let behind = packed.strip_prefix(self.as_str().as_bytes());
        behind.is_some_and(|behind| match &self.variant {
            Some(variant) => behind.split_first() == Some((&b'\n', &variant.bits().to_le_bytes())),
            None => behind.is_empty(),
        })
    }

    /// The name that a key is packed as; of one of a variant, `None`.
    pub(crate) fn unpacked_name(packed: &[u8]) -> Option<&str> {
        str::from_utf8(packed).ok().filter(|name| !name.contains('\n'))
    }

    /// The canonical name of the asset that a key is packed for, whatever its variant.
    pub(crate) fn unpacked_asset(packed: &[u8]) -> &str {
        let name = packed.split(|&byte| byte == b'\n').next().unwrap_or_default();
        str::from_utf8(name).expect("a name is packed from text")
    }

    /// XXH3-64 of the name with a canonical query: what the ring uses.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The canonical path and query.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The canonical path, without the query.
    pub fn path(&self) -> &str {
        split(&self.name).0
    }

    /// The query, without its question mark.
    pub fn query(&self) -> Option<&str> {
        split(&self.name).1
    }

    /// The key of the same path with another query, which must be a part of
    /// this one's.
    pub(crate) fn with_query(&self, query: Option<&str>) -> Self {
        Self::of(match query {
            Some(query) => format!("{}?{query}", self.path()).into(),
            None => self.path().into(),
        })
    }

    /// The request target to send upstream.
    pub(crate) fn target(&self) -> PathAndQuery {
        PathAndQuery::try_from(&*self.name).expect("a canonical name is a request target")
    }
}

/// The path, and the query without its question mark.
fn split(name: &str) -> (&str, Option<&str>) {
    name.split_once('?').map_or((name, None), |(path, query)| (path, Some(query)))
}

impl PartialEq for AssetKey {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.variant == other.variant && self.as_str() == other.as_str()
    }
}

impl Eq for AssetKey {}

impl Hash for AssetKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.variant_hash());
    }
}

impl fmt::Display for AssetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for AssetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AssetKey({self})")
    }
}

/// RFC 3986 §2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What may stand bare in a path or a query: RFC 3986 §3.3 and §3.4.
const fn is_bare(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',')
        || matches!(byte, b';' | b'=' | b':' | b'@' | b'/' | b'?')
}

/// The bytes that are canonical as they stand.
static PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0u8;
    loop {
        table[byte as usize] = is_bare(byte);
        if byte == u8::MAX {
            break table;
        }
        byte += 1;
    }
};

/// Refuses `.` and `..` as segments, in any spelling: a server that resolves them after
/// this edge would find another asset than the one that the key names. Servers also take
/// an escaped slash, and a backslash, for the end of a segment.
///
/// # Errors
/// [`Error::BadRequest`] for a path that has one.
pub(crate) fn refuse_dot_segments(path: &str) -> Result<(), Error> {
    let mut plain = path.replace('\\', "/");
    for (escape, meant) in [("%2e", "."), ("%2E", "."), ("%2f", "/"), ("%2F", "/"), ("%5c", "/"), ("%5C", "/")] {
        plain = plain.replace(escape, meant);
    }
    if plain.split('/').any(|segment| segment == "." || segment == "..") {
        return Err(Error::BadRequest("the path has a dot segment"));
    }
    Ok(())
}

/// Returns the canonical form of a path, or of a part of one.
///
/// # Errors
/// [`Error::BadRequest`] for a malformed escape, and for an escaped NUL.
pub(crate) fn canonical_path(path: &str) -> Result<String, Error> {
    let mut out = Vec::with_capacity(path.len() + 16);
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'%' => {
                let meant = escaped(after).ok_or(Error::BadRequest("the path has a malformed escape"))?;
                if meant == 0 {
                    return Err(Error::BadRequest("the path has an escaped NUL"));
                }
                put(meant, &mut out);
                rest = &after[2..];
            }
            byte if PLAIN[byte as usize] => out.push(byte),
            byte => escape(byte, &mut out),
        }
    }
    String::from_utf8(out).map_err(|_| Error::BadRequest("the path cannot be parsed"))
}

/// Returns the one spelling that stands for all of a query. A malformed escape stays as it
/// is: a bare `%` means itself to many servers.
fn canonical_query(query: &str) -> String {
    let mut out = Vec::with_capacity(query.len() + 16);
    let mut rest = query.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match escaped(after).filter(|_| byte == b'%') {
            Some(meant) => {
                put(meant, &mut out);
                rest = &after[2..];
            }
            None if PLAIN[byte as usize] || byte == b'%' => out.push(byte),
            None => escape(byte, &mut out),
        }
    }
    String::from_utf8(out).expect("escaping leaves ASCII")
}

/// Returns the byte that two hexadecimal digits behind a `%` stand for.
fn escaped(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*digits.get(at)?).to_digit(16);
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

/// Appends a byte that came escaped, in its canonical form.
fn put(meant: u8, out: &mut Vec<u8>) {
    if is_unreserved(meant) { out.push(meant) } else { escape(meant, out) }
}

fn escape(byte: u8, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 16 * 1024;

    fn key(target: &str) -> Result<String, Error> {
        let uri = Uri::from_maybe_shared(Bytes::copy_from_slice(target.as_bytes()))
            .map_err(|_| Error::BadRequest("not a target"))?;
        AssetKey::from_uri(&uri, LIMIT).map(|key| key.to_string())
    }

    #[test]
    fn spellings_of_one_name_are_one_key() {
        for (target, name) in [
            ("/a/b.png", "/a/b.png"),
            ("/%61/b%2Epng", "/a/b.png"),
            ("/%7euser/%c3%a9", "/~user/%C3%A9"),
            ("/\u{e9}", "/%C3%A9"),
            ("/a%20b", "/a%20b"),
            ("/a?x=%41&y=[1]", "/a?x=%41&y=[1]"),
            ("/a%2fb/%5c", "/a%2Fb/%5C"),
            ("/@scope%2fname", "/@scope%2Fname"),
            ("/a?sig=a%2fb&x=%7e&y=100%", "/a?sig=a%2fb&x=%7e&y=100%"),
            ("/a?%g1", "/a?%g1"),
            ("http://elsewhere/a?b", "/a?b"),
            ("http://elsewhere?b", "/?b"),
        ] {
            assert_eq!(key(target).as_deref(), Ok(name), "{target}");
        }
    }

    #[test]
    fn spellings_of_one_query_have_one_hash_and_stay_apart() {
        let key = |name| AssetKey::parse(name, LIMIT).unwrap();
        for (a, b) in [("/a?x=%7e", "/a?x=~"), ("/a?x=%2f", "/a?x=%2F"), ("/a?x=[", "/a?x=%5b"), ("/%7e?%41", "/~?A")] {
            let (a, b) = (key(a), key(b));
            assert!(a.hash() == b.hash() && a.is_of(&b) && a != b, "{a} {b}");
        }
        for (a, b) in [("/a?x=%2f", "/a?x=/"), ("/a?x=+", "/a?x=%20"), ("/a?100%", "/a?100%25"), ("/a%2Fb", "/a/b")] {
            assert_ne!(key(a).hash(), key(b).hash(), "{a} {b}");
        }
    }

    #[test]
    fn a_key_is_found_by_itself_alone() {
        let key = |name| AssetKey::parse(name, LIMIT).unwrap();
        let names = [key("/a"), key("/ab"), key("/a?b")];
        let by = [HeaderName::from_static("x-a")];
        let variant = |value: &'static str| {
            Variant::of(&by, &HeaderMap::from_iter([(by[0].clone(), HeaderValue::from_static(value))]))
        };
        let variants = ["b", "", "c"].map(variant);
        let of_variants = names.iter().flat_map(|name| variants.map(|variant| name.of_variant(variant)));
        let keys: Vec<_> = names.iter().cloned().chain(of_variants).collect();
        for (i, key) in keys.iter().enumerate() {
            let mut packed = Vec::new();
            key.pack(&mut packed);
            assert_eq!(packed.len(), key.packed_len());
            let name = Some(key.as_str()).filter(|_| key.variant().is_none());
            assert_eq!(AssetKey::unpacked_name(&packed), name);
            let found: Vec<_> = (0..keys.len()).filter(|&other| keys[other].is_packed_as(&packed)).collect();
            assert_eq!(found, [i]);
        }
    }

    #[test]
    fn different_names_stay_apart() {
        let names = ["/a+b", "/a%20b", "/a%2Bb", "/a//b", "/a/b", "/a/b/", "/a/b?", "/a/b?x", "/a/B", "/a%3Fx"];
        for (i, a) in names.iter().enumerate() {
            for b in &names[i + 1..] {
                assert_ne!(key(a).unwrap(), key(b).unwrap());
            }
        }
    }

    #[test]
    fn what_could_name_two_things_is_refused() {
        for target in ["/../a", "/a/./b", "/a/%2e%2E/b", "/a/.%2e", "/a%00", "/a%zz", "/a%4", "*"].into_iter().chain([
            "/a%2f..%2fb",
            "/a%2F%2e%2e",
            "/a/..%5cb",
            "/a%5C.%2fb",
            "/a/x%5c..",
            "/..%2f",
        ]) {
            assert!(matches!(key(target), Err(Error::BadRequest(_))), "{target}");
        }
        assert_eq!(key("/a/..b/.well-known/...").as_deref(), Ok("/a/..b/.well-known/..."));
    }

    #[test]
    fn length_is_bounded() {
        assert!(key(&format!("/{}", "a".repeat(8192))).is_ok());
        assert_eq!(key(&format!("/{}", "a".repeat(LIMIT))), Err(Error::UriTooLong));
        assert_eq!(key(&format!("/{}", "\u{e9}".repeat(LIMIT / 3))), Err(Error::UriTooLong));
        // Whatever the limit is, a key can be asked for.
        let longest = AssetKey::from_target(&format!("/{}", "a".repeat(LONGEST - 1)), usize::MAX).unwrap();
        assert_eq!(longest.target().as_str().len(), LONGEST);
        for longer in ["a".repeat(LONGEST), "\u{e9}".repeat(LONGEST / 4)] {
            assert_eq!(AssetKey::from_target(&format!("/{longer}"), usize::MAX), Err(Error::UriTooLong));
        }
    }

    proptest! {
        #[test]
        fn any_target_is_refused_or_canonical(target in "[/?]?[ -~é]{0,60}") {
            let as_it_came = AssetKey::from_target(&target, LIMIT).map(|key| {
                assert_eq!(key.target().as_str(), key.as_str());
                assert_eq!(key.target().query(), key.query());
                key.to_string()
            });
            if let Ok(uri) = Uri::from_maybe_shared(Bytes::copy_from_slice(target.as_bytes()))
                && target.starts_with('/')
            {
                prop_assert_eq!(&as_it_came, &AssetKey::from_uri(&uri, LIMIT).map(|key| key.to_string()));
            }
            if let Ok(once) = as_it_came {
                prop_assert_eq!(key(&once), Ok(once.clone()));
                prop_assert!(split(&once).0.bytes().all(|byte| is_bare(byte) || byte == b'%'));
                // The query is the one that came, but for a fragment.
                let target = target.split('#').next().unwrap();
                prop_assert_eq!(split(&once).1, target.split_once('?').map(|(_, query)| query));
            }
        }

        #[test]
        fn escaping_any_byte_of_a_name_keeps_its_meaning(segment in proptest::collection::vec(1u8..=255, 1..40)) {
            prop_assume!(!segment.contains(&b'/') && !segment.contains(&b'\\'));
            let mut lower = String::from("/x");
            for byte in &segment {
                lower.push_str(&format!("%{byte:02x}"));
            }
            let named = key(&lower).unwrap();
            let decoded: Vec<u8> = percent_encoding::percent_decode_str(&named[2..]).collect();
            prop_assert_eq!(decoded, segment);
        }

        #[test]
        fn arbitrary_bytes_never_panic(target in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(uri) = Uri::from_maybe_shared(Bytes::from(target)) {
                let _ = AssetKey::from_uri(&uri, LIMIT);
            }
        }
    }
}
