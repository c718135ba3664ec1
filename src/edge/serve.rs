//! [`Edge::respond`]: the entry of each request that the fast path does not answer.

use std::time::SystemTime;

use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Version};

use super::forwarding::{Requester, SITE};
use super::invalidate::{is_purge, is_purge_of_everything};
use super::key_list::WANTED;
use super::lookup::Route;
use super::parts::Edge;
use super::policies::Addressed;
use super::request::{Answer, Inbound, head_size, target};
use super::request_class::RequestClass;
use super::respond::{answer_options, refuse};
use super::upgrade;
use crate::body::Body;
use crate::body::informational::Relay;
use crate::error::Error;
use crate::key::AssetKey;
use crate::observe::metrics::Source;
use crate::semantics::cache_status::Handled;
use crate::semantics::forward::{self, MAX_HEADERS};
use crate::semantics::methods::MethodRejection;
use crate::semantics::request_headers::RequestKind;
use crate::semantics::{authority, cdn_loop, content_length};

impl Edge {
    /// Answers one request that came by `source` from `requester`. Informational responses go by
    /// `relay`.
    pub(crate) async fn respond(
        &self,
        source: Source,
        requester: Requester,
        relay: Option<Relay>,
        request: Request<Body>,
    ) -> Answer {
        let (mut parts, body) = request.into_parts();
        forward::drop_ambiguous(&mut parts.headers, self.settings.limits.underscores);
        if parts.version >= Version::HTTP_2 {
            forward::join_cookies(&mut parts.headers);
        }
        let class = RequestClass::of(&parts.headers);
        let key = match self.check(source, class, &parts) {
            Ok(()) if is_for_this_hop(&parts) => {
                return Box::pin(self.answer_for_this_hop(source, &parts)).await;
            }
            Ok(()) if is_purge_of_everything(source, &parts) => {
                return self.invalidator.answer_purge_of_everything(source, parts.method);
            }
            Ok(()) => self.key(source, &requester, &parts),
            Err(error) => Err(error),
        };
        let body = body.at_most(self.settings.limits.body);
        let upgrade = upgrade::wanted(source, &mut parts, &body);
        let key = match key {
            Ok(key) if upgrade.is_none() && matches!(parts.method, Method::GET | Method::HEAD) => {
                self.settings.policy(&key).trim(key)
            }
            Ok(key) => key,
            Err(error) => return refuse(&self.settings, source, parts.method.clone(), Err(target(&parts.uri)), error),
        };
        let (method, version, headers) = (parts.method, parts.version, parts.headers);
        let authority = parts.uri.into_parts().authority;
        let now = SystemTime::now();
        let inbound = Inbound {
            source,
            requester,
            method,
            version,
            authority,
            key,
            headers,
            class,
            kind: RequestKind::Common,
            body,
            upgrade,
            relay,
            now,
            tries: 2,
        };
        if inbound.upgrade.is_some() {
            Box::pin(self.go(inbound, Route::Pass(Handled::Request))).await
        } else if matches!(inbound.method, Method::GET | Method::HEAD) {
            self.get(inbound).await
        } else if is_purge(&inbound) {
            self.invalidator.answer_purge(&inbound)
        } else {
            Box::pin(self.go(inbound, Route::Pass(Handled::Method))).await
        }
    }

    /// Returns the key of a checked request.
    fn key(&self, source: Source, requester: &Requester, request: &http::request::Parts) -> Result<AssetKey, Error> {
        let authority = request.uri.authority().map(|authority| authority.as_str().as_bytes());
        let host = || request.headers.get(HOST).map(HeaderValue::as_bytes);
        let addressed = Addressed {
            source,
            scheme: requester.scheme,
            stated_host: requester.host(),
            own_host: authority.or_else(host),
            site: request.headers.get(SITE).map(HeaderValue::as_bytes),
        };
        let policies = self.settings.policies.load();
        let site = policies.site(&addressed)?;
        addressed.key(site, |scope| AssetKey::of_uri(scope, &request.uri, self.settings.limits.uri))
    }

    /// Checks that a request can be served at all, independent of its target.
    fn check(&self, source: Source, class: RequestClass, request: &http::request::Parts) -> Result<(), Error> {
        if matches!(request.method, Method::CONNECT | Method::TRACE) {
            return Err(Error::MethodNotAllowed);
        }
        let mut hosts = request.headers.get_all(HOST).iter();
        let (host, more) = (hosts.next(), hosts.next());
        let is_good = |host: &HeaderValue| authority::is_host(host.as_bytes());
        let named = request.uri.authority().is_none_or(|authority| authority::is_host(authority.as_str().as_bytes()));
        // RFC 9113 §8.3.1. Over HTTP/1.1 an absolute target replaces Host (RFC 9112 §3.2.2).
        let contradicts = |host: &HeaderValue| {
            let authority = request.uri.authority().filter(|_| request.version >= Version::HTTP_2);
            authority.is_some_and(|authority| !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()))
        };
        if request.version == Version::HTTP_11 && host.is_none()
            || more.is_some()
            || !host.is_none_or(is_good)
            || host.is_some_and(contradicts)
            || !named
        {
            return Err(Error::BadHost);
        }
        if class == RequestClass::Particular {
            self.check_particulars(&request.headers)?;
        }
        match source {
            Source::Client | Source::Program => {
                self.settings.policies.load().methods.admit(&request.method).map_err(|refused| match refused {
                    MethodRejection::NotAllowed => Error::MethodNotAllowed,
                    MethodRejection::NotImplemented => Error::MethodNotImplemented,
                })?;
                self.check_size(&request.headers)
            }
            // The first edge has checked it against its limits, and has added headers to it.
            Source::Peer => Ok(()),
        }
    }

    fn check_size(&self, headers: &HeaderMap) -> Result<(), Error> {
        if headers.len() > MAX_HEADERS || head_size(headers) > self.settings.limits.header {
            return Err(Error::HeaderTooLarge);
        }
        Ok(())
    }

    fn check_particulars(&self, headers: &HeaderMap) -> Result<(), Error> {
        if headers.get_all(cdn_loop::CDN_LOOP).iter().any(|id| cdn_loop::lists(id, &self.settings.loop_id)) {
            return Err(Error::Loop);
        }
        if forward::has_unknown_expectation(headers) {
            return Err(Error::Expectation);
        }
        if !forward::has_supported_transfer_coding(headers) {
            return Err(Error::TransferCoding);
        }
        let length = content_length::of_request(headers).map_err(|content_length::Invalid| Error::BadLength)?;
        if length.is_some_and(|length| length > self.settings.limits.body) {
            return Err(Error::ContentTooLarge);
        }
        Ok(())
    }

    /// Answers a request for this hop. A peer may also ask in it for a list of stored keys.
    async fn answer_for_this_hop(&self, source: Source, request: &http::request::Parts) -> Answer {
        let mut answer = answer_options(&self.settings, source, target(&request.uri));
        if let Some(address) = request.headers.get(WANTED).filter(|_| source == Source::Peer)
            && let Some(list) = self.key_list.list_for(address).await
        {
            answer.response.headers_mut().insert(CONTENT_LENGTH, list.len().into());
            *answer.response.body_mut() = list.into();
        }
        answer
    }
}

/// Returns true if a request asks for the capabilities of this edge: OPTIONS for no asset, or
/// with Max-Forwards 0 (RFC 9110 §9.3.7, §7.6.2).
fn is_for_this_hop(request: &http::request::Parts) -> bool {
    request.method == Method::OPTIONS
        && (request.uri.path() == "*" || forward::max_forwards(&request.headers) == Some(0))
}
