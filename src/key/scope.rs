//! [`Scope`]: the part of a key that is neither path nor query.

use std::fmt;
use std::str::FromStr;

use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128};

use crate::semantics::scheme::Scheme;

/// The name of the site of a configuration without sites.
pub(crate) const DEFAULT_SITE: &str = "default";

/// The identifier of a site on the wire and in the hashes of its keys: XXH3-128 of its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SiteId([u8; 16]);

impl SiteId {
    /// Returns the identifier of the site with this name.
    pub(crate) fn of_name(name: &str) -> Self {
        Self(xxh3_128(name.as_bytes()).to_be_bytes())
    }

    /// Returns the low half of the identifier: the seed of the hashes of the site's keys.
    fn seed(self) -> u64 {
        #[allow(clippy::cast_possible_truncation)] // the low half
        let low = u128::from_be_bytes(self.0) as u64;
        low
    }
}

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SiteId({self})")
    }
}

impl FromStr for SiteId {
    type Err = ();

    /// Parses 32 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, ()> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let bits = u128::from_str_radix(text, 16).ok().filter(|_| is_hex);
        bits.map(|bits| Self(bits.to_be_bytes())).ok_or(())
    }
}

/// A site, as the keys of this process name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SiteRef {
    pub(crate) id: SiteId,
    /// The place of the site in the table of sites, 0 for the default site. Stored keys hold it
    /// in place of the identifier, because it is shorter.
    pub(crate) index: u32,
}

impl SiteRef {
    /// Returns the default site.
    pub(crate) fn of_default() -> Self {
        Self { id: SiteId::of_name(DEFAULT_SITE), index: 0 }
    }
}

/// The site of an asset, and the scheme and host that the origin is told with each request for it.
/// Responses for different scopes are never mixed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope<'a> {
    pub(crate) site: SiteRef,
    pub(crate) scheme: Scheme,
    /// A normalized host, if the origin is told one. It contains neither a slash nor a space.
    pub(crate) host: Option<&'a str>,
}

impl Scope<'_> {
    /// Returns the scope of a cleartext request for the default site.
    pub(crate) fn of_default() -> Self {
        Self { site: SiteRef::of_default(), scheme: Scheme::Http, host: None }
    }

    /// Returns the seed of the hashes of the keys of this scope. The scheme is not in the seed: an
    /// asset has the same owner under both schemes.
    pub(super) fn seed(&self) -> u64 {
        match self.host {
            Some(host) => xxh3_64_with_seed(host.as_bytes(), self.site.id.seed()),
            None => self.site.id.seed(),
        }
    }

    /// Appends the scope in front of the name that it qualifies. A name begins with a slash, so
    /// the first slash ends the scope. The scope of [`of_default`](Self::of_default) is empty.
    pub(super) fn write(&self, text: &mut String) {
        if self.site.index != 0 {
            text.push_str(itoa::Buffer::new().format(self.site.index));
            text.push(' ');
        }
        if self.scheme != Scheme::Http || self.host.is_some() {
            text.push_str(self.scheme.name());
            text.push(':');
            text.push_str(self.host.unwrap_or_default());
        }
    }
}

/// Splits the text of a key into the index of the site, the scheme, the host, and the name: the
/// inverse of [`Scope::write`].
pub(crate) fn split(text: &str) -> (u32, Scheme, Option<&str>, &str) {
    let (scope, name) = text.split_at(text.find('/').expect("a name begins with a slash"));
    let (index, rest) = scope.split_once(' ').unwrap_or(("0", scope));
    let index = index.parse().expect("the text of a key was written by this process");
    let (scheme, host) = rest.split_once(':').unwrap_or(("http", ""));
    let scheme = Scheme::of_name(scheme.as_bytes()).expect("the text of a key was written by this process");
    (index, scheme, Some(host).filter(|host| !host.is_empty()), name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scope_has_its_own_text_and_is_split_from_it() {
        let other = SiteRef { id: SiteId::of_name("other"), index: 7 };
        let hosts = [None, Some("a"), Some("a:8443"), Some("http:"), Some("https:"), Some("[::1]"), Some("7")];
        let mut texts = Vec::new();
        for site in [SiteRef::of_default(), other] {
            for scheme in Scheme::ALL {
                for host in hosts {
                    let mut text = String::new();
                    Scope { site, scheme, host }.write(&mut text);
                    text.push_str("/a?b=/c d");
                    assert_eq!(split(&text), (site.index, scheme, host, "/a?b=/c d"), "{text}");
                    texts.push(text);
                }
            }
        }
        let count = texts.len();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), count);
        assert_eq!(texts[0], "/a?b=/c d", "cleartext of the default site needs no text");
    }

    #[test]
    fn identifiers_of_sites_are_32_digits() {
        let id = SiteId::of_name("shop");
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in ["", "+0000000000000000000000000000000", "0", &format!("{id}0"), &format!("{id}")[1..]] {
            assert_eq!(wrong.parse::<SiteId>(), Err(()), "{wrong}");
        }
    }
}
