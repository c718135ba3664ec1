//! [`HttpOrigin`]: an origin over HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Uri;
use http::uri::InvalidUri;

use crate::error::Error;
use crate::origin::permits::Permits;
use crate::origin::{Call, Origin};
use crate::semantics::forward::MAX_HEADERS;
use crate::semantics::location;
use crate::semantics::scheme::Scheme;
use crate::tls::{ClientSettings, TlsConnector};
use crate::upstream::{BaseUrl, Client, Endpoint, ErrorKinds, Reply, Timeouts};

const ERRORS: ErrorKinds = ErrorKinds {
    unreachable: Error::OriginUnreachable,
    timeout: Error::OriginTimeout,
    malformed: Error::OriginGarbage,
    broken: Error::OriginBroke,
};

/// The HTTP server that `origin.url` names. Every request carries its authority as Host; the
/// client's Host is not used.
pub struct HttpOrigin {
    endpoint: Endpoint,
    base: Arc<BaseUrl>,
    client: Client,
    permits: Permits,
    locations: Locations,
}

/// The treatment of Location and Content-Location that name the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Locations {
    Unchanged,
    Rewritten,
}

impl HttpOrigin {
    /// Creates an origin for `url`, `http[s]://host[:port][/prefix]`, which is reached by `tls` if
    /// its scheme is `https`. At most `requests` wait for a response at a time, each for at most
    /// `first_byte`.
    ///
    /// # Errors
    /// Returns an error message about `url`, with an example of a correct one, or about a file
    /// that `tls` names.
    pub(crate) fn new(
        url: &Uri,
        tls: &ClientSettings,
        timeouts: Timeouts,
        first_byte: Duration,
        requests: usize,
    ) -> Result<Self, String> {
        let (endpoint, prefix) = (check_url(url)?, url.path().trim_end_matches('/'));
        let client = match endpoint.scheme() {
            Scheme::Http => Client::new(timeouts, ERRORS, MAX_HEADERS),
            Scheme::Https => {
                let tls = TlsConnector::load(tls).map_err(|error| error.to_string())?;
                Client::secure(tls, timeouts, ERRORS, MAX_HEADERS)
            }
        };
        Ok(Self::with_base(endpoint, prefix, client, first_byte, requests))
    }

    /// Creates an origin for a server without TLS and without a path prefix; the limits are those
    /// of [`new`](Self::new).
    pub(crate) fn at(address: SocketAddr, timeouts: Timeouts, first_byte: Duration, requests: usize) -> Self {
        Self::with_base(address.into(), "", Client::new(timeouts, ERRORS, MAX_HEADERS), first_byte, requests)
    }

    fn with_base(endpoint: Endpoint, prefix: &str, client: Client, first_byte: Duration, requests: usize) -> Self {
        Self {
            base: Arc::new(BaseUrl { host: endpoint.host().clone(), prefix: prefix.to_owned() }),
            endpoint,
            client,
            permits: Permits::new(requests, first_byte),
            locations: Locations::Unchanged,
        }
    }

    /// Rewrites Location and Content-Location to the host and path that clients use.
    pub(crate) fn rewriting_locations(self) -> Self {
        Self { locations: Locations::Rewritten, ..self }
    }

    /// Puts the URL's path prefix before the path and query in `uri`.
    fn with_prefix(&self, uri: &Uri) -> Result<Uri, Error> {
        let prefixed = format!("{}{uri}", self.base.prefix).parse();
        prefixed.map_err(|error: InvalidUri| Error::OriginUnreachable(error.to_string()))
    }
}

impl Origin for HttpOrigin {
    fn fetch(&self, call: Call) -> BoxFuture<'_, Result<Reply, Error>> {
        Box::pin(async move {
            let Call { mut request, client } = call;
            if !self.base.prefix.is_empty() {
                *request.uri_mut() = self.with_prefix(request.uri())?;
            }
            let (_permit, timeout) = self.permits.acquire(&request, client).await?;
            let safe = request.method().is_safe();
            let mut reply = self.client.send(&self.endpoint, request, timeout).await?;
            if self.locations == Locations::Rewritten {
                let headers = reply.response.headers_mut();
                location::rewrite(self.endpoint.scheme(), &self.base.host, &self.base.prefix, headers);
            }
            if !safe {
                reply.base = Some(Arc::clone(&self.base));
            }
            Ok(reply)
        })
    }
}

/// Returns the endpoint of an origin's URL.
///
/// # Errors
/// Returns an error message about the URL's scheme, user name, port, host, query or dot segments.
pub(crate) fn check_url(url: &Uri) -> Result<Endpoint, String> {
    let endpoint = Endpoint::of_url(url)?;
    if url.query().is_some() {
        return Err(format!("`{url}` has a query; use the URL of a server or of a folder on it"));
    }
    if url.path().split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(format!("`{url}` has a dot segment (`.` or `..`); use the resolved path"));
    }
    Ok(endpoint)
}
