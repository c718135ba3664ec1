//! [`Selection`]: the certificate that a connection was given, by the name that its client requested.

use std::sync::Arc;

use super::resolver::Resolver;

/// The name that a client requested, and the certificates of that time.
pub(crate) struct Selection {
    name: Option<Box<str>>,
    resolver: Arc<Resolver>,
}

impl Selection {
    pub(super) fn new(name: Option<String>, resolver: Arc<Resolver>) -> Self {
        Self { name: name.map(String::into_boxed_str), resolver }
    }

    /// Returns true unless a handshake for `host` would have selected another certificate. A
    /// client may request all names of a certificate on one connection (RFC 9113 §9.1.1).
    pub(crate) fn serves(&self, host: &str) -> bool {
        self.name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(host))
            || self.resolver.are_alike(self.name.as_deref(), host)
    }
}
