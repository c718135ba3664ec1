//! What the RFCs say, as pure functions: they take `now`, and answer with enums.

pub mod cache_control;
pub mod cache_status;
pub mod conditional;
pub mod digest_fields;
pub mod forward;
pub mod freshness;
pub mod invalidation;
pub mod range;
pub mod upgrade;
pub mod validation;
pub mod vary;

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName};

    /// Fields as they stand on lines; a name may come again.
    pub(super) fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }
}
