//! HTTP-date: RFC 9110 §5.6.7.

use std::time::SystemTime;

use http::header::DATE;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The time that a field says; `None` if it says none.
pub fn read(headers: &HeaderMap, field: &HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(field)?.to_str().ok()?).ok()
}

/// A time as it is written in a field.
pub fn written(time: SystemTime) -> String {
    httpdate::fmt_http_date(time)
}

/// Adds a Date where there is none, as a recipient with a clock does (§6.6.1).
pub fn add(headers: &mut HeaderMap, now: SystemTime) {
    if !headers.contains_key(DATE)
        && let Ok(date) = HeaderValue::try_from(written(now))
    {
        headers.insert(DATE, date);
    }
}
