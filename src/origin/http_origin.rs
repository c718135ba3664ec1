//! [`HttpOrigin`]: an origin over HTTP.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::uri::{Authority, InvalidUri};
use http::{HeaderValue, Uri};

use crate::error::Error;
use crate::origin::permits::Permits;
use crate::origin::{Call, Origin};
use crate::semantics::forward::MOST_FIELDS;
use crate::semantics::location;
use crate::upstream::{BaseUrl, Client, ErrorKinds, Reply, Timeouts};

const ERRORS: ErrorKinds = ErrorKinds {
    unreachable: Error::OriginUnreachable,
    timeout: Error::OriginTimeout,
    malformed: Error::OriginGarbage,
    broken: Error::OriginBroke,
};

/// The HTTP server that `origin.url` names. Every request carries its authority as Host; the
/// client's Host is not used.
pub struct HttpOrigin {
    authority: Authority,
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
    /// Creates an origin for `url`, `http://host[:port][/prefix]`. At most `requests` wait for
    /// a response at a time, each for at most `first_byte`.
    ///
    /// # Errors
    /// Returns an error message about `url`, with an example of a correct one.
    pub(crate) fn new(url: &Uri, timeouts: Timeouts, first_byte: Duration, requests: usize) -> Result<Self, String> {
        let authority = check_url(url)?;
        let host = HeaderValue::from_str(authority.as_str()).map_err(|error| error.to_string())?;
        Ok(Self {
            authority,
            base: Arc::new(BaseUrl { host, prefix: url.path().trim_end_matches('/').to_owned() }),
            client: Client::new(timeouts, ERRORS, MOST_FIELDS),
            permits: Permits::new(requests, first_byte),
            locations: Locations::Unchanged,
        })
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
            let mut reply = self.client.send(self.authority.as_str(), request, timeout).await?;
            if self.locations == Locations::Rewritten {
                location::rewrite(&self.base.host, &self.base.prefix, reply.response.headers_mut());
            }
            if !safe {
                reply.base = Some(Arc::clone(&self.base));
            }
            Ok(reply)
        })
    }
}

/// Returns the authority of an origin's URL.
///
/// # Errors
/// Returns an error message about the URL's scheme, query, dot segment, user name, port or host.
pub(crate) fn check_url(url: &Uri) -> Result<Authority, String> {
    let example = "such as `http://127.0.0.1:9000`";
    match url.scheme_str() {
        Some("http") => {}
        Some("https") => {
            return Err(format!("`{url}`: TLS to the origin is not supported yet; use an http:// URL, {example}"));
        }
        _ => return Err(format!("`{url}` is not a URL; use an http:// URL, {example}")),
    }
    if url.query().is_some() {
        return Err(format!("`{url}` has a query; use the URL of a server or of a folder on it, {example}"));
    }
    if url.path().split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(format!("`{url}` has a dot segment (`.` or `..`); use the resolved path, {example}"));
    }
    match url.authority() {
        Some(authority) if authority.as_str().contains('@') => {
            Err("the URL has a user name; credentials are not sent to an origin".to_owned())
        }
        Some(authority) if has_port(authority) && !matches!(authority.port_u16(), Some(1..)) => {
            Err(format!("`{url}` has an invalid port (expected 1 to 65535), {example}"))
        }
        Some(authority) if !authority.host().is_empty() => Ok(authority.clone()),
        _ => Err(format!("`{url}` has no host; use an http:// URL, {example}")),
    }
}

/// Returns true if the authority has a `:` after the host, with a valid port or not.
fn has_port(authority: &Authority) -> bool {
    authority.as_str().len() > authority.host().len()
}
