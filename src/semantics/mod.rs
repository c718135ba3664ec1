//! Rules of the HTTP RFCs, as pure functions.
//!
//! Decisions are enums, and functions take the current time as a parameter. One function
//! reads the clock: [`date::read`], for the century of years with two digits.

pub mod authority;
pub mod cache_control;
pub mod cache_status;
pub mod cdn_loop;
pub mod conditional;
pub mod content_length;
pub mod date;
pub mod digest;
pub mod digest_fields;
pub mod forward;
pub mod forwarded;
pub mod freshness;
pub mod hint;
pub mod invalidation;
pub mod location;
pub mod methods;
pub mod range;
pub mod request_headers;
pub mod scheme;
pub mod storing;
pub mod upgrade;
pub mod validation;
pub mod vary;

use http::{HeaderMap, HeaderName, HeaderValue};

/// Joins the lines of a list header into one (RFC 9110 §5.3); `None` if there are none.
pub(crate) fn combined<'a>(lines: impl IntoIterator<Item = &'a HeaderValue>) -> Option<HeaderValue> {
    let mut lines = lines.into_iter();
    let mut combined = lines.next()?.as_bytes().to_vec();
    for line in lines {
        combined.extend_from_slice(b", ");
        combined.extend_from_slice(line.as_bytes());
    }
    HeaderValue::from_bytes(&combined).ok()
}

/// Returns the members of a list header over all its lines, without empty members (RFC 9110
/// §5.6.1). Not for lists that may contain quoted commas.
pub(crate) fn members<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let members = headers.get_all(name).into_iter().flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    members.map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

#[cfg(test)]
pub(crate) mod tests {
    use http::{HeaderMap, HeaderName};

    /// Returns headers from their lines, in order. A name may be repeated.
    pub(crate) fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }
}
