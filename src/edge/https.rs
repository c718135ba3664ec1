//! Answers to requests that are not served on their connection: cleartext ones that belong to
//! HTTPS, and those for a host with another certificate.

use http::header::LOCATION;
use http::{HeaderValue, Method, StatusCode, Uri};

use super::forwarding::Requester;
use super::parts::Edge;
use super::request::{Answer, target};
use super::respond::{answer_options, refuse};
use crate::error::Error;
use crate::observe::metrics::Source;
use crate::semantics::scheme::Scheme;

impl Requester {
    /// Returns true if the client speaks HTTPS to the edge or to a trusted proxy in front of it.
    pub(crate) fn is_secure(&self) -> bool {
        self.scheme == Scheme::Https
    }
}

impl Edge {
    /// Redirects a client's request to `location`.
    pub(crate) fn redirect(&self, method: Method, uri: &Uri, location: HeaderValue) -> Answer {
        let mut answer = answer_options(&self.settings, Source::Client, target(uri));
        *answer.response.status_mut() = StatusCode::PERMANENT_REDIRECT;
        answer.response.headers_mut().remove(http::header::ALLOW);
        answer.response.headers_mut().insert(LOCATION, location);
        (answer.record.method, answer.record.reason) = (method, Some("redirect-to-https"));
        answer
    }

    /// Rejects a request whose host has another certificate than the connection.
    pub(crate) fn refuse_misdirected(&self, method: Method, uri: &Uri) -> Answer {
        refuse(&self.settings, Source::Client, method, Err(target(uri)), Error::Misdirected)
    }
}
