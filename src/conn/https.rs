//! [`HttpsPolicy`]: the answers that lead clients to HTTPS, and keep them there.

use std::time::Duration;

use http::header::{HeaderMap, STRICT_TRANSPORT_SECURITY};
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};

use crate::config::Scheme;
use crate::semantics::authority::split_port;

/// The paths of ACME's HTTP-01 challenge (RFC 8555 §8.3). Its client requests them in cleartext.
const ACME: &str = "/.well-known/acme-challenge/";

/// `edge.redirect_to_https` and `tls.hsts`.
#[derive(Debug, Clone, Default)]
pub(crate) struct HttpsPolicy {
    pub(crate) redirect: Redirect,
    hsts: Option<Hsts>,
}

/// The answer to cleartext requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Redirect {
    /// They are served.
    #[default]
    Off,
    /// They are redirected to `https`. The port is that of `tls.listen`, if there is one.
    On(Option<u16>),
}

/// The header Strict-Transport-Security (RFC 6797).
#[derive(Debug, Clone)]
struct Hsts {
    value: HeaderValue,
    line: String,
}

impl HttpsPolicy {
    pub(crate) fn new(redirect: Redirect, hsts: Duration) -> Self {
        let hsts = (!hsts.is_zero()).then(|| {
            let value = format!("max-age={}", hsts.as_secs());
            let line = format!("{STRICT_TRANSPORT_SECURITY}: {value}\r\n");
            Hsts { value: HeaderValue::try_from(value).expect("digits are a valid value"), line }
        });
        Self { redirect, hsts }
    }

    /// Adds Strict-Transport-Security to a response over `scheme`, unless the origin has set it.
    pub(super) fn add_hsts(&self, scheme: Scheme, headers: &mut HeaderMap) {
        if let Some(hsts) = self.hsts.as_ref().filter(|_| scheme == Scheme::Https) {
            headers.entry(STRICT_TRANSPORT_SECURITY).or_insert_with(|| hsts.value.clone());
        }
    }

    /// Appends Strict-Transport-Security to the header lines of a response; see
    /// [`add_hsts`](Self::add_hsts).
    pub(super) fn append_hsts(&self, scheme: Scheme, lines: &mut Vec<u8>) {
        if let Some(hsts) = self.hsts.as_ref().filter(|_| scheme == Scheme::Https) {
            let name = STRICT_TRANSPORT_SECURITY.as_str().as_bytes();
            let is_hsts = |line: &[u8]| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(b":"));
            if !lines.split(|&byte| byte == b'\n').any(is_hsts) {
                lines.extend_from_slice(hsts.line.as_bytes());
            }
        }
    }
}

impl Redirect {
    /// Returns the target of the redirect for a cleartext request; `None` if it is served.
    pub(super) fn target(self, host: &str, requested: &Uri) -> Option<String> {
        let Self::On(port) = self else { return None };
        let path = requested.path_and_query().map(PathAndQuery::as_str)?;
        if path.starts_with(ACME) || !path.starts_with('/') {
            return None;
        }
        // A client that needs no port for HTTP needs none for HTTPS either, whatever the ports of
        // this machine are.
        Some(match (split_port(host), port) {
            ((name, Some(_)), Some(port)) if port != 443 => format!("https://{name}:{port}{path}"),
            ((name, _), _) => format!("https://{name}{path}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirect_keeps_host_and_path_and_exempts_acme() {
        for (port, host, requested, target) in [
            (Some(443), "a.example", "/b?c=d", Some("https://a.example/b?c=d")),
            (Some(8443), "a.example", "/", Some("https://a.example/")),
            (Some(8443), "a.example:8080", "/", Some("https://a.example:8443/")),
            (Some(443), "a.example:8080", "/", Some("https://a.example/")),
            (None, "a.example:8080", "/", Some("https://a.example/")),
            (Some(8443), "[::1]:80", "/x", Some("https://[::1]:8443/x")),
            (Some(443), "[::1]", "http://[::1]/x", Some("https://[::1]/x")),
            (Some(443), "a.example", "/.well-known/acme-challenge/token", None),
            (Some(443), "a.example", "*", None),
            (Some(443), "a.example:443", "a.example:443", None),
        ] {
            let found = Redirect::On(port).target(host, &requested.parse().unwrap());
            assert_eq!(found.as_deref(), target, "{host} {requested}");
        }
        assert_eq!(Redirect::Off.target("a.example", &Uri::from_static("/")), None);
    }

    #[test]
    fn hsts_is_added_once_and_over_tls_only() {
        let policy = HttpsPolicy::new(Redirect::Off, Duration::from_mins(1));
        for (scheme, lines, with_hsts) in [
            (Scheme::Https, "etag: x\r\n", "etag: x\r\nstrict-transport-security: max-age=60\r\n"),
            (Scheme::Https, "strict-transport-security: own\r\n", "strict-transport-security: own\r\n"),
            (
                Scheme::Https,
                "strict-transport-security-report-only: x\r\n",
                "strict-transport-security-report-only: x\r\nstrict-transport-security: max-age=60\r\n",
            ),
            (Scheme::Http, "", ""),
        ] {
            let mut appended = lines.as_bytes().to_vec();
            policy.append_hsts(scheme, &mut appended);
            assert_eq!(String::from_utf8(appended).unwrap(), with_hsts);
            let mut headers = HeaderMap::new();
            for (name, value) in lines.lines().filter_map(|line| line.split_once(": ")) {
                headers.insert(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
            }
            policy.add_hsts(scheme, &mut headers);
            assert_eq!(headers.len(), with_hsts.lines().count());
        }
    }
}
