//! [`Names`]: the certificates by the name that a client requests (SNI, RFC 6066 §3).

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::certificate::Certificate;

/// The certificates by name. Several may have one name, such as one with an RSA key and one with
/// an ECDSA key: the first that suits the client is used.
#[derive(Debug, Default)]
pub(super) struct Names {
    exact: HashMap<Arc<str>, Vec<Arc<Certificate>>>,
    /// By the part after `*.`; the wildcard stands for exactly one label (RFC 9525 §6.3).
    wildcard: HashMap<Box<str>, Vec<Arc<Certificate>>>,
    /// For clients that request no name or an unknown one.
    default: Vec<Arc<Certificate>>,
}

impl Names {
    /// Lists the certificates in order of preference.
    pub(super) fn new<'a>(
        certificates: impl Iterator<Item = &'a Arc<Certificate>>,
        default: Option<&Arc<Certificate>>,
    ) -> Self {
        let mut names = Self { default: default.cloned().into_iter().collect(), ..Self::default() };
        for certificate in certificates {
            for name in &certificate.names {
                let list = match name.strip_prefix("*.") {
                    Some(rest) => names.wildcard.entry(rest.into()).or_default(),
                    None => names.exact.entry(Arc::clone(name)).or_default(),
                };
                list.push(Arc::clone(certificate));
            }
        }
        names
    }

    /// Returns the certificates for a requested name, then the default.
    pub(super) fn candidates(&self, name: Option<&str>) -> impl Iterator<Item = &Arc<Certificate>> {
        name.map(|name| self.of(name)).unwrap_or_default().iter().chain(&self.default)
    }

    /// Returns the certificates that have `name`, without the default: those with a wildcard for it, if
    /// all others were rejected.
    pub(super) fn of(&self, name: &str) -> &[Arc<Certificate>] {
        let name = lower_case(name);
        let wildcard = || self.wildcard.get(name.split_once('.')?.1);
        let usable = |list: &&Vec<Arc<Certificate>>| list.iter().any(|certificate| !certificate.is_rejected());
        self.exact.get(&*name).filter(usable).or_else(wildcard).map_or(&[], Vec::as_slice)
    }
}

fn lower_case(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name.into() }
}
