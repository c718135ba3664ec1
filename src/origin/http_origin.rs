//! An origin behind HTTP.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::uri::{Authority, InvalidUri};
use http::{HeaderValue, Request, Response, Uri};

use crate::body::Body;
use crate::error::Error;
use crate::origin::{Origin, Places};
use crate::semantics::forward::MAX_HEADERS;
use crate::semantics::location;
use crate::upstream::{Blame, Outgoing, Patience};

const BLAME: Blame = Blame {
    unreachable: Error::OriginUnreachable,
    late: Error::OriginTimeout,
    garbage: Error::OriginGarbage,
    broke: Error::OriginBroke,
};

/// The HTTP server that `origin.url` names. Its authority is the Host of every
/// request to it: what a client asked for chooses nothing.
pub struct HttpOrigin {
    authority: Authority,
    site: Arc<Site>,
    outgoing: Outgoing,
    places: Places,
    locations: Locations,
}

/// What becomes of Location and Content-Location where they name the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Locations {
    AsSent,
    Rewritten,
}

/// How the origin calls itself: it goes with the answers to writes, which may name what
/// else they have changed.
pub(crate) struct Site {
    pub(crate) host: HeaderValue,
    /// The URL's path, without a slash at its end.
    pub(crate) prefix: String,
}

impl HttpOrigin {
    /// `url` is `http://host[:port][/prefix]`; at most `requests` wait for its
    /// answers at a time, each for the time of `first_byte`.
    ///
    /// # Errors
    /// What is wrong with `url`, and what would be right.
    pub(crate) fn new(url: &Uri, patience: Patience, first_byte: Duration, requests: usize) -> Result<Self, String> {
        let authority = check_url(url)?;
        let host = HeaderValue::from_str(authority.as_str()).map_err(|error| error.to_string())?;
        Ok(Self {
            authority,
            site: Arc::new(Site { host, prefix: url.path().trim_end_matches('/').to_owned() }),
            outgoing: Outgoing::new(patience, BLAME, MAX_HEADERS),
            places: Places::new(requests, first_byte),
            locations: Locations::AsSent,
        })
    }

    /// Has Location and Content-Location name the site as clients know it.
    pub(crate) fn rewriting_locations(self) -> Self {
        Self { locations: Locations::Rewritten, ..self }
    }

    /// The path at the origin of what is asked for by `uri`.
    fn prefixed(&self, uri: &Uri) -> Result<Uri, Error> {
        let prefixed = format!("{}{uri}", self.site.prefix).parse();
        prefixed.map_err(|error: InvalidUri| Error::OriginUnreachable(error.to_string()))
    }
}

impl Origin for HttpOrigin {
    fn fetch(&self, mut request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, Error>> {
        Box::pin(async move {
            if !self.site.prefix.is_empty() {
                *request.uri_mut() = self.prefixed(request.uri())?;
            }
            let (_place, left) = self.places.take(&request).await?;
            let safe = request.method().is_safe();
            let mut response = self.outgoing.send(self.authority.as_str(), request, left).await?;
            if self.locations == Locations::Rewritten {
                location::rewrite(&self.site.host, &self.site.prefix, response.headers_mut());
            }
            if !safe {
                response.extensions_mut().insert(Arc::clone(&self.site));
            }
            Ok(response)
        })
    }
}

/// The authority of an origin's URL, if all of the URL can be used.
pub(crate) fn check_url(url: &Uri) -> Result<Authority, String> {
    let example = "such as `http://127.0.0.1:9000`";
    match url.scheme_str() {
        Some("http") => {}
        Some("https") => {
            return Err(format!("`{url}`: TLS to the origin is not built in yet; an http:// URL is needed, {example}"));
        }
        _ => return Err(format!("`{url}` is not a URL {example}")),
    }
    if url.query().is_some() {
        return Err(format!("`{url}` has a query; the URL of a server or of a folder on it is needed, {example}"));
    }
    if url.path().split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(format!("`{url}` has a dot segment; the folder itself is needed, {example}"));
    }
    match url.authority() {
        Some(authority) if authority.as_str().contains('@') => {
            Err("has a user name in it; credentials are not sent to an origin".to_owned())
        }
        Some(authority) if has_port(authority) && !matches!(authority.port_u16(), Some(1..)) => {
            Err(format!("`{url}` has a port that is none; one from 1 to 65535 is needed, {example}"))
        }
        Some(authority) if !authority.host().is_empty() => Ok(authority.clone()),
        _ => Err(format!("`{url}` names no host; a URL is needed {example}")),
    }
}

/// Whether something stands where a port does.
fn has_port(authority: &Authority) -> bool {
    authority.as_str().len() > authority.host().len()
}
