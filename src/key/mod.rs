//! [`AssetKey`]: the canonical name of an asset.
//!
//! The cache key, the placement on the ring and the request to the origin use the same form, so
//! they cannot disagree about a request. The path is canonical; a path with an ambiguous
//! canonical form is rejected. The query is kept byte for byte, since signatures cover its bytes; all
//! its spellings have the same hash.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use http::Uri;
use http::uri::PathAndQuery;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::Error;
use crate::semantics::scheme::Scheme;
use crate::semantics::vary::Variant;
pub(crate) use scope::{DEFAULT_SITE, Scope, SiteId, SiteRef, split as split_scope};

mod scope;

/// The canonical path and query of an asset, its scope (site, scheme and host), and its hash.
///
/// Canonical means, after RFC 3986 §6.2.2: escapes of unreserved characters are decoded, all
/// other escapes have upper-case digits, and a character that the grammar does not allow bare is
/// escaped. Reserved characters keep the form in which they were received, since `+` and `%2B`
/// are different names; an escaped slash stays inside its segment.
///
/// Equality compares the scope and the name, with the query byte for byte. The hash is XXH3-64 of
/// the name with a canonical query, seeded by the site and the host of the scope: all spellings of
/// a query, under both schemes, have the same owner, and one write invalidates all of them. Two
/// names with the same hash never share a response.
///
/// A key may also name one variant of the asset, by the request headers that select it
/// (RFC 9111 §4.1); equality then includes the variant. All variants have the same place on the
/// ring.
#[derive(Clone)]
pub struct AssetKey {
    hash: u64,
    site: SiteRef,
    scheme: Scheme,
    /// The scope, then the name from `start`. A copy, so that it does not keep a connection's read
    /// buffer alive.
    text: Arc<str>,
    start: u16,
    variant: Option<Variant>,
}

/// The longest name in bytes: the limit of a [`Uri`].
const LONGEST: usize = u16::MAX as usize - 1;

impl AssetKey {
    /// Returns the key of a request target of at most `limit` bytes, requested in cleartext from
    /// the default site.
    ///
    /// Only the path and the query count. The scheme and authority of an absolute-form target
    /// are ignored: the configuration alone chooses the origin.
    ///
    /// # Errors
    /// [`Error::UriTooLong`] above `limit`; [`Error::BadRequest`] for a target
    /// without a path, and for a dot segment, NUL or a malformed escape in the path.
    pub fn from_uri(uri: &Uri, limit: usize) -> Result<Self, Error> {
        Self::of_uri(&Scope::of_default(), uri, limit)
    }

    /// Returns the key of a request target in `scope`, by the rules of
    /// [`from_uri`](Self::from_uri).
    pub(crate) fn of_uri(scope: &Scope<'_>, uri: &Uri, limit: usize) -> Result<Self, Error> {
        match uri.path_and_query() {
            Some(target) => Self::of_target(scope, target.as_str(), limit),
            None => Err(Error::BadRequest("the request target has no path")),
        }
    }

    /// Returns the key of a path and query as received, by the rules of
    /// [`from_uri`](Self::from_uri).
    pub(crate) fn of_target(scope: &Scope<'_>, target: &str, limit: usize) -> Result<Self, Error> {
        let limit = limit.min(LONGEST);
        if target.len() > limit {
            return Err(Error::UriTooLong);
        }
        if target.starts_with('?') {
            // In absolute form an empty path equals `/` (RFC 3986 §6.2.3).
            return Self::of_target(scope, &format!("/{target}"), limit);
        }
        if !target.starts_with('/') {
            return Err(Error::BadRequest("the request target is not a path"));
        }
        if target.bytes().all(|byte| PLAIN[byte as usize]) {
            // Canonical already: it has no escape.
            if target.contains("/.") {
                refuse_dot_segments(split(target).0)?;
            }
            let hash = xxh3_64_with_seed(target.as_bytes(), scope.seed());
            return Ok(Self::hashed(hash, scope, target));
        }
        let target = PathAndQuery::try_from(target).map_err(|_| Error::BadRequest("the path cannot be parsed"))?;
        refuse_dot_segments(target.path())?;
        let mut name = canonical_path(target.path())?;
        if let Some(query) = target.query() {
            name.push('?');
            name.push_str(query);
        }
        // Escaping makes the name longer, and the next edge checks the longer form.
        if name.len() > limit { Err(Error::UriTooLong) } else { Ok(Self::of_name(scope, &name)) }
    }

    /// Returns the key of a path given as text, as on a command line, requested in cleartext from
    /// the default site.
    ///
    /// # Errors
    /// Those of [`AssetKey::from_uri`], and [`Error::BadRequest`] for text that is not a request
    /// target.
    pub fn parse(text: &str, limit: usize) -> Result<Self, Error> {
        Self::from_uri(&uri_of_text(text)?, limit)
    }

    /// Returns the key of a canonical name.
    fn of_name(scope: &Scope<'_>, name: &str) -> Self {
        let hash = match split(name) {
            (path, Some(query)) if !query.bytes().all(|byte| PLAIN[byte as usize]) => {
                xxh3_64_with_seed(format!("{path}?{}", canonical_query(query)).as_bytes(), scope.seed())
            }
            _ => xxh3_64_with_seed(name.as_bytes(), scope.seed()),
        };
        Self::hashed(hash, scope, name)
    }

    /// Returns the key of a canonical name with this hash.
    fn hashed(hash: u64, scope: &Scope<'_>, name: &str) -> Self {
        let Scope { site, scheme, host } = *scope;
        let (text, start) = if (site.index, scheme, host) == (0, Scheme::Http, None) {
            (name.into(), 0)
        } else {
            let mut text = String::new();
            scope.write(&mut text);
            let start = u16::try_from(text.len()).expect("a host has at most 261 bytes");
            text.push_str(name);
            (text.into(), start)
        };
        Self { hash, site, scheme, text, start, variant: None }
    }

    /// Returns the scope of the key.
    pub(crate) fn scope(&self) -> Scope<'_> {
        let (site, scheme) = (self.site, self.scheme);
        let host = if self.start == 0 { None } else { split_scope(&self.text).2 };
        Scope { site, scheme, host }
    }

    /// Returns the site of the asset.
    pub(crate) fn site(&self) -> SiteRef {
        self.site
    }

    /// Returns the keys of the asset under every scheme. One write invalidates all of them.
    pub(crate) fn under_each_scheme(&self) -> [Self; Scheme::ALL.len()] {
        Scheme::ALL.map(|scheme| Self::hashed(self.hash, &Scope { scheme, ..self.scope() }, self.as_str()))
    }

    /// Returns the key of a variant of the same asset.
    pub(crate) fn of_variant(&self, variant: Variant) -> Self {
        Self { variant: Some(variant), ..self.clone() }
    }

    /// Returns the key of the asset, without the variant.
    pub(crate) fn asset(&self) -> Self {
        Self { variant: None, ..self.clone() }
    }

    /// Returns true if both keys are of the same asset, in any variant, under any scheme and in
    /// any spelling of the query. For invalidation only: it compares hashes, so a collision
    /// invalidates one asset more.
    pub(crate) fn is_same_asset(&self, other: &Self) -> bool {
        self.hash == other.hash
    }

    /// Returns the variant, if the key names one.
    pub(crate) fn variant(&self) -> Option<Variant> {
        self.variant
    }

    /// Returns a hash that differs between schemes, and not between variants.
    pub(crate) fn asset_hash(&self) -> u64 {
        match self.scheme {
            Scheme::Http => self.hash,
            Scheme::Https => !self.hash,
        }
    }

    /// Returns a hash that differs between schemes and between variants.
    #[allow(clippy::cast_possible_truncation)] // the low half is as good as any
    pub(crate) fn variant_hash(&self) -> u64 {
        self.asset_hash() ^ self.variant.map_or(0, |variant| variant.bits() as u64)
    }

    /// Returns the [`hash`](Self::hash) of a key from its [`asset_hash`](Self::asset_hash) and its
    /// text.
    pub(crate) fn hash_of_stored(asset_hash: u64, text: &str) -> u64 {
        match split_scope(text).1 {
            Scheme::Http => asset_hash,
            Scheme::Https => !asset_hash,
        }
    }

    /// Returns the key with the hash of another.
    #[cfg(test)]
    pub(crate) fn colliding_with(self, other: &Self) -> Self {
        Self { hash: other.hash, ..self }
    }

    /// Returns the length in bytes of the [packed](Self::pack) key.
    pub(crate) fn packed_len(&self) -> usize {
        self.text.len() + self.variant.map_or(0, |_| 1 + size_of::<u128>())
    }

    /// Appends the key as an entry keeps it: the scope and the name, and for a variant a line feed,
    /// which no name contains, and the digest of the variant.
    pub(crate) fn pack(&self, packed: &mut Vec<u8>) {
        packed.extend_from_slice(self.text.as_bytes());
        if let Some(variant) = &self.variant {
            packed.push(b'\n');
            packed.extend_from_slice(&variant.bits().to_le_bytes());
        }
    }

    /// Returns true if `packed` is this key, packed.
    pub(crate) fn is_packed_as(&self, packed: &[u8]) -> bool {
        let rest = packed.strip_prefix(self.text.as_bytes());
        rest.is_some_and(|rest| match &self.variant {
            Some(variant) => rest.split_first() == Some((&b'\n', &variant.bits().to_le_bytes())),
            None => rest.is_empty(),
        })
    }

    /// Returns the text of a packed key, for [`split_scope`], or `None` if it names a variant.
    pub(crate) fn unpacked_name(packed: &[u8]) -> Option<&str> {
        str::from_utf8(packed).ok().filter(|name| !name.contains('\n'))
    }

    /// Returns the text of a packed key, for [`split_scope`], with or without a variant.
    pub(crate) fn unpacked_asset(packed: &[u8]) -> &str {
        let name = packed.split(|&byte| byte == b'\n').next().unwrap_or_default();
        str::from_utf8(name).expect("a name is packed from text")
    }

    /// Returns XXH3-64 of the name with a canonical query, seeded by site and host. The ring uses
    /// it.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Returns the canonical path, and the query as received.
    pub fn as_str(&self) -> &str {
        &self.text[usize::from(self.start)..]
    }

    /// Returns the canonical path without the query.
    pub fn path(&self) -> &str {
        split(self.as_str()).0
    }

    /// Returns the query without its question mark.
    pub fn query(&self) -> Option<&str> {
        split(self.as_str()).1
    }

    /// Returns the key of the same path with another query, which must be a part of this key's
    /// query.
    pub(crate) fn with_query(&self, query: Option<&str>) -> Self {
        match query {
            Some(query) => Self::of_name(&self.scope(), &format!("{}?{query}", self.path())),
            None => Self::of_name(&self.scope(), self.path()),
        }
    }

    /// Returns the request target to send upstream.
    pub(crate) fn target(&self) -> PathAndQuery {
        PathAndQuery::try_from(self.as_str()).expect("a canonical name is a request target")
    }
}

/// Returns the URI of a path or URL given as text. A command line may contain a bare space or
/// control character, a request target may not.
///
/// # Errors
/// [`Error::BadRequest`] for text that is not a request target.
pub(crate) fn uri_of_text(text: &str) -> Result<Uri, Error> {
    let mut target = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        if byte <= b' ' || byte == 0x7f || byte == b'#' {
            escape(byte, &mut target);
        } else {
            target.push(byte);
        }
    }
    Uri::from_maybe_shared(Bytes::from(target)).map_err(|_| Error::BadRequest("the path cannot be parsed"))
}

/// Splits a name into the path, and the query without its question mark.
fn split(name: &str) -> (&str, Option<&str>) {
    name.split_once('?').map_or((name, None), |(path, query)| (path, Some(query)))
}

impl PartialEq for AssetKey {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
            && self.site.id == other.site.id
            && self.variant == other.variant
            && self.text == other.text
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

/// Returns true if a byte is unreserved (RFC 3986 §2.3).
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Returns true if a byte may stand bare in a path or a query (RFC 3986 §3.3 and §3.4).
const fn is_bare(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',')
        || matches!(byte, b';' | b'=' | b':' | b'@' | b'/' | b'?')
}

/// The bytes that are canonical without an escape.
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

/// Rejects the segments `.` and `..` in any spelling. A server that resolves them after this
/// edge would find another asset than the key names. Servers also treat an escaped slash and a
/// backslash as the end of a segment.
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
                let byte = escaped(after).ok_or(Error::BadRequest("the path has a malformed escape"))?;
                if byte == 0 {
                    return Err(Error::BadRequest("the path has an escaped NUL"));
                }
                put(byte, &mut out);
                rest = &after[2..];
            }
            byte if PLAIN[byte as usize] => out.push(byte),
            byte => escape(byte, &mut out),
        }
    }
    String::from_utf8(out).map_err(|_| Error::BadRequest("the path cannot be parsed"))
}

/// Returns the canonical spelling of a query. A malformed escape is left unchanged: to many
/// servers a bare `%` means itself.
fn canonical_query(query: &str) -> String {
    let mut out = Vec::with_capacity(query.len() + 16);
    let mut rest = query.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match escaped(after).filter(|_| byte == b'%') {
            Some(byte) => {
                put(byte, &mut out);
                rest = &after[2..];
            }
            None if PLAIN[byte as usize] || byte == b'%' => out.push(byte),
            None => escape(byte, &mut out),
        }
    }
    String::from_utf8(out).expect("escaping leaves ASCII")
}

/// Returns the byte of the two hexadecimal digits after a `%`.
fn escaped(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*digits.get(at)?).to_digit(16);
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

/// Appends an unescaped byte in its canonical form.
fn put(byte: u8, out: &mut Vec<u8>) {
    if is_unreserved(byte) { out.push(byte) } else { escape(byte, out) }
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
    fn spellings_of_one_path_have_one_key() {
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
    fn spellings_of_one_query_have_one_hash_and_different_keys() {
        let key = |name| AssetKey::parse(name, LIMIT).unwrap();
        for (a, b) in [("/a?x=%7e", "/a?x=~"), ("/a?x=%2f", "/a?x=%2F"), ("/a?x=[", "/a?x=%5b"), ("/%7e?%41", "/~?A")] {
            let (a, b) = (key(a), key(b));
            assert!(a.hash() == b.hash() && a.is_same_asset(&b) && a != b, "{a} {b}");
        }
        for (a, b) in [("/a?x=%2f", "/a?x=/"), ("/a?x=+", "/a?x=%20"), ("/a?100%", "/a?100%25"), ("/a%2Fb", "/a/b")] {
            assert_ne!(key(a).hash(), key(b).hash(), "{a} {b}");
        }
    }

    #[test]
    fn a_packed_key_equals_only_its_own_key() {
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

    /// Returns the scopes of two sites, with each scheme and with hosts.
    fn scopes() -> Vec<Scope<'static>> {
        let other = SiteRef { id: SiteId::of_name("shop"), index: 7 };
        let hosts = [None, Some("a.example"), Some("b.example:8443")];
        let sites = [SiteRef::of_default(), other].into_iter();
        sites
            .flat_map(|site| Scheme::ALL.map(|scheme| (site, scheme)))
            .flat_map(|(site, scheme)| hosts.map(|host| Scope { site, scheme, host }))
            .collect()
    }

    #[test]
    fn a_name_has_a_different_key_in_each_scope() {
        for name in ["/", "/a?b", "/%C3%A9?x=%7e"] {
            let of = |scope: &Scope<'_>| AssetKey::of_target(scope, name, LIMIT).unwrap();
            let keys: Vec<_> = scopes().iter().map(of).collect();
            for (key, scope) in keys.iter().zip(scopes()) {
                let mut packed = Vec::new();
                key.pack(&mut packed);
                assert_eq!((key.as_str(), key.scope(), key.target().as_str()), (name, scope.clone(), name));
                assert_eq!(keys.iter().filter(|other| *other == key && other.is_packed_as(&packed)).count(), 1);
                assert_eq!(keys.iter().filter(|other| other.variant_hash() == key.variant_hash()).count(), 1);
                let (index, scheme, host, unpacked) = split_scope(AssetKey::unpacked_name(&packed).unwrap());
                assert_eq!((index, scheme, host, unpacked), (scope.site.index, scope.scheme, scope.host, name));
                assert_eq!(AssetKey::hash_of_stored(key.asset_hash(), AssetKey::unpacked_asset(&packed)), key.hash());
                assert_eq!(key.with_query(Some("q")).scope(), scope);
            }
        }
    }

    #[test]
    fn schemes_share_an_owner_and_invalidations_and_sites_and_hosts_do_not() {
        let keys: Vec<_> = scopes().iter().map(|scope| AssetKey::of_target(scope, "/a?x=~", LIMIT).unwrap()).collect();
        for (i, a) in keys.iter().enumerate() {
            for b in &keys[i + 1..] {
                let only_scheme = a.scope().site == b.scope().site && a.scope().host == b.scope().host;
                assert_eq!(a.hash() == b.hash() && a.is_same_asset(b), only_scheme, "{a:?} {b:?}");
            }
            assert!(a.under_each_scheme().contains(a) && a.under_each_scheme().iter().all(|b| a.is_same_asset(b)));
        }
    }

    /// Computed with another implementation of XXH3 (Python's xxhash), as the golden values of the
    /// ring are, which cover the default site.
    #[test]
    fn hash_of_another_site_and_host_is_golden() {
        let site = SiteRef { id: SiteId::of_name("shop"), index: 1 };
        let scope = Scope { site, scheme: Scheme::Https, host: Some("a.example") };
        assert_eq!(AssetKey::of_target(&scope, "/", LIMIT).unwrap().hash(), 2_230_573_037_464_188_188);
        assert_eq!(SiteId::of_name(DEFAULT_SITE).to_string(), "2f3561a904d9e51f75e1ccc767e28b41");
    }

    #[test]
    fn different_names_have_different_keys() {
        let names = ["/a+b", "/a%20b", "/a%2Bb", "/a//b", "/a/b", "/a/b/", "/a/b?", "/a/b?x", "/a/B", "/a%3Fx"];
        for (i, a) in names.iter().enumerate() {
            for b in &names[i + 1..] {
                assert_ne!(key(a).unwrap(), key(b).unwrap());
            }
        }
    }

    #[test]
    fn ambiguous_paths_are_rejected() {
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
    fn longer_targets_than_the_limit_are_rejected() {
        assert!(key(&format!("/{}", "a".repeat(8192))).is_ok());
        assert_eq!(key(&format!("/{}", "a".repeat(LIMIT))), Err(Error::UriTooLong));
        assert_eq!(key(&format!("/{}", "\u{e9}".repeat(LIMIT / 3))), Err(Error::UriTooLong));
        // Any key is a valid request target, whatever the limit.
        let longest =
            AssetKey::of_target(&Scope::of_default(), &format!("/{}", "a".repeat(LONGEST - 1)), usize::MAX).unwrap();
        assert_eq!(longest.target().as_str().len(), LONGEST);
        for longer in ["a".repeat(LONGEST), "\u{e9}".repeat(LONGEST / 4)] {
            assert_eq!(
                AssetKey::of_target(&Scope::of_default(), &format!("/{longer}"), usize::MAX),
                Err(Error::UriTooLong)
            );
        }
    }

    proptest! {
        #[test]
        fn any_target_is_rejected_or_canonical(target in "[/?]?[ -~é]{0,60}") {
            let key_of_target = AssetKey::of_target(&Scope::of_default(), &target, LIMIT).map(|key| {
                assert_eq!(key.target().as_str(), key.as_str());
                assert_eq!(key.target().query(), key.query());
                key.to_string()
            });
            if let Ok(uri) = Uri::from_maybe_shared(Bytes::copy_from_slice(target.as_bytes()))
                && target.starts_with('/')
            {
                prop_assert_eq!(&key_of_target, &AssetKey::from_uri(&uri, LIMIT).map(|key| key.to_string()));
            }
            if let Ok(once) = key_of_target {
                prop_assert_eq!(key(&once), Ok(once.clone()));
                prop_assert!(split(&once).0.bytes().all(|byte| is_bare(byte) || byte == b'%'));
                // The query is unchanged, without a fragment.
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
        fn arbitrary_bytes_do_not_panic(target in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(uri) = Uri::from_maybe_shared(Bytes::from(target)) {
                let _ = AssetKey::from_uri(&uri, LIMIT);
            }
        }
    }
}
