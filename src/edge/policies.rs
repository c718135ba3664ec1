//! [`Policies`]: the settings that a reload can change.

use http::HeaderValue;
#[cfg(feature = "cli")]
use http::Uri;

use super::forwarding::Forwarding;
use crate::error::Error;
use crate::key::{AssetKey, Scope};
use crate::observe::metrics::Source;
use crate::semantics::authority;
use crate::semantics::methods::Methods;
use crate::semantics::scheme::Scheme;
use crate::site::policy::ToldHost;
use crate::site::{Site, Sites};

/// The settings that a reload can change.
pub(crate) struct Policies {
    pub(crate) forwarding: Forwarding,
    /// The methods that clients may use.
    pub(crate) methods: Methods,
    /// The number of requests that one client may have at the origin.
    pub(crate) requests_per_client: usize,
    pub(crate) sites: Sites,
}

/// The parts of a request that decide its scope.
pub(super) struct Addressed<'a> {
    pub(super) source: Source,
    pub(super) scheme: Scheme,
    /// The host that a trusted proxy or a peer stated.
    pub(super) stated_host: Option<&'a HeaderValue>,
    /// The host of the request itself.
    pub(super) own_host: Option<&'a [u8]>,
    /// The site that a peer names.
    pub(super) site: Option<&'a [u8]>,
}

impl Addressed<'_> {
    /// Calls `key` with the scope of a request for `site`.
    pub(super) fn key(
        &self,
        site: &Site,
        key: impl FnOnce(&Scope<'_>) -> Result<AssetKey, Error>,
    ) -> Result<AssetKey, Error> {
        let Addressed { scheme, stated_host, own_host, .. } = *self;
        let stated = stated_host.map(HeaderValue::as_bytes);
        let (host, otherwise) = match (&site.policy.told_host, self.source) {
            (ToldHost::OfRequest(default), Source::Client | Source::Program) => (stated.or(own_host), Some(&**default)),
            (ToldHost::OfProxy | ToldHost::OfRequest(_), _) => (stated, None),
        };
        let host = host.map(|host| authority::normalized(host, scheme.default_port()));
        let host = host.as_deref().filter(|host| !host.is_empty() && !host.starts_with(':')).or(otherwise);
        key(&Scope { site: site.key, scheme, host })
    }
}

impl Policies {
    /// Returns the site of a request.
    ///
    /// # Errors
    /// [`Error::UnknownSite`]
    pub(super) fn site(&self, addressed: &Addressed<'_>) -> Result<&Site, Error> {
        match addressed.source {
            Source::Client | Source::Program => Ok(self.sites.of_request()),
            Source::Peer => self.sites.of_peer(addressed.site),
        }
    }

    /// Returns the key of a URL or path, as for a client without a proxy.
    ///
    /// # Errors
    /// Those of [`AssetKey::from_uri`], and [`Error::BadHost`].
    #[cfg(feature = "cli")]
    pub(crate) fn key_of_url(&self, url: &Uri, limit: usize) -> Result<AssetKey, Error> {
        if url.authority().is_some_and(|authority| !authority::is_host(authority.as_str().as_bytes())) {
            return Err(Error::BadHost);
        }
        let scheme = match url.scheme_str() {
            Some(name) => {
                Scheme::of_name(name.as_bytes()).ok_or(Error::BadRequest("the scheme is neither http nor https"))?
            }
            None => self.forwarding.scheme_of_clients(),
        };
        let addressed = Addressed {
            source: Source::Client,
            scheme,
            stated_host: None,
            own_host: url.authority().map(|authority| authority.as_str().as_bytes()),
            site: None,
        };
        let site = self.site(&addressed)?;
        addressed.key(site, |scope| AssetKey::of_uri(scope, url, limit))
    }
}
