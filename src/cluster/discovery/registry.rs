//! [`Registry`]: the value of `cluster.discover`.

use std::fmt;
#[cfg(feature = "dns")]
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

#[cfg(feature = "etcd")]
use crate::cluster::is_address;
use crate::semantics::scheme::Scheme;
#[cfg(feature = "etcd")]
use crate::upstream::Endpoint;

/// The registry in which the members are listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Registry {
    /// A file with a `host:port` on each line.
    File(PathBuf),
    /// The addresses of a DNS name, each with the same port.
    #[cfg(feature = "dns")]
    Addresses { name: String, port: u16 },
    /// The targets of a service (RFC 2782), each with its port.
    #[cfg(feature = "dns")]
    Service(String),
    /// The keys of an etcd that begin with a prefix.
    #[cfg(feature = "etcd")]
    Etcd {
        /// The endpoints, all with one scheme.
        endpoints: Vec<Endpoint>,
        /// The prefix of the keys, with a leading slash and no trailing one.
        prefix: String,
    },
}

const FORMS: &str = "expected `file:/etc/peerage/peers`, `dns:edges.example.net:7001`, `srv:_peerage._tcp.example.net`, `etcd:10.0.0.1:2379/peerage/members`, `etcds:etcd.example.net:2379/peerage/members`";

impl FromStr for Registry {
    type Err = String;

    /// Parses the value of `cluster.discover`.
    ///
    /// # Errors
    /// Returns an error message with an example of a correct value.
    fn from_str(text: &str) -> Result<Self, String> {
        let Some((kind, rest)) = text.split_once(':') else {
            return Err(format!("`{text}` has no registry type; {FORMS}"));
        };
        match kind {
            "file" if !rest.is_empty() => Ok(Self::File(rest.into())),
            "file" => Err("the path is missing; expected a value such as `file:/etc/peerage/peers`".to_owned()),
            #[cfg(feature = "dns")]
            "dns" => addresses(rest),
            #[cfg(feature = "dns")]
            "srv" if is_name(rest) => Ok(Self::Service(rest.to_owned())),
            #[cfg(feature = "dns")]
            "srv" => Err(format!(
                "`{rest}` is not a service name; expected a name without a port, such as `srv:_peerage._tcp.example.net`"
            )),
            #[cfg(not(feature = "dns"))]
            "dns" | "srv" => Err(format!("`{text}` needs the feature `dns` of peerage, and this build lacks it")),
            #[cfg(feature = "etcd")]
            "etcd" => endpoints(Scheme::Http, rest),
            #[cfg(feature = "etcd")]
            "etcds" if cfg!(feature = "tls") => endpoints(Scheme::Https, rest),
            #[cfg(feature = "etcd")]
            "etcds" => Err(format!("`{text}` needs the feature `tls` of peerage, and this build lacks it")),
            #[cfg(not(feature = "etcd"))]
            "etcd" | "etcds" => Err(format!("`{text}` needs the feature `etcd` of peerage, and this build lacks it")),
            _ => Err(format!("unknown registry type `{kind}`; {FORMS}")),
        }
    }
}

#[cfg(feature = "dns")]
fn addresses(text: &str) -> Result<Registry, String> {
    let parsed = text.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse().ok()?)));
    match parsed.filter(|(name, port)| is_name(name) && *port > 0) {
        Some((name, port)) => Ok(Registry::Addresses { name: name.to_owned(), port }),
        None => Err(format!(
            "`{text}` is not a DNS name with a port; expected a value such as `dns:edges.example.net:7001`"
        )),
    }
}

#[cfg(feature = "etcd")]
fn endpoints(scheme: Scheme, text: &str) -> Result<Registry, String> {
    let text = text.strip_prefix("//").unwrap_or(text);
    let example = "such as `etcd:10.0.0.1:2379,10.0.0.2:2379/peerage/members`";
    let (endpoints, prefix) = text.split_once('/').unwrap_or((text, ""));
    let parse = |text: &str| {
        let address = Some(text.trim()).filter(|address| is_address(address));
        let endpoint = address.and_then(|address| Endpoint::with_scheme(scheme, address).ok());
        endpoint.ok_or_else(|| text.trim().to_owned())
    };
    let endpoints = endpoints.split(',').map(parse).collect::<Result<Vec<Endpoint>, _>>();
    let endpoints = endpoints
        .map_err(|bad| format!("`{bad}` is not the address of an etcd endpoint; expected `host:port`, {example}"))?;
    let prefix = prefix.trim_end_matches('/');
    if prefix.is_empty() || prefix.len() > 255 || !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!(
            "the prefix of the members' keys is missing, longer than 255 bytes, or has characters other than printable ASCII; expected a value {example}"
        ));
    }
    Ok(Registry::Etcd { endpoints, prefix: format!("/{prefix}") })
}

#[cfg(feature = "dns")]
/// Returns true if `text` is a valid DNS name (RFC 1035 §2.3.4; `_` by RFC 2782).
fn is_name(text: &str) -> bool {
    let bare = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    bare.len() <= 253 && bare.split('.').all(is_label) && text.parse::<IpAddr>().is_err()
}

impl Registry {
    /// Returns the scheme of the requests to etcd; `None` for other registries.
    pub(crate) fn etcd_scheme(&self) -> Option<Scheme> {
        match self {
            #[cfg(feature = "etcd")]
            Self::Etcd { endpoints, .. } => endpoints.first().map(Endpoint::scheme),
            _ => None,
        }
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            #[cfg(feature = "dns")]
            Self::Addresses { name, port } => write!(f, "dns:{name}:{port}"),
            #[cfg(feature = "dns")]
            Self::Service(name) => write!(f, "srv:{name}"),
            #[cfg(feature = "etcd")]
            Self::Etcd { endpoints, prefix } => {
                let endpoints: Vec<_> = endpoints.iter().map(Endpoint::to_string).collect();
                let is_secure = self.etcd_scheme() == Some(Scheme::Https);
                write!(f, "{}:{}{prefix}", if is_secure { "etcds" } else { "etcd" }, endpoints.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn registries_are_parsed_and_bad_ones_rejected() {
        for text in [
            "file:/etc/peerage/peers",
            "file:peers",
            "dns:edges.example.net:7001",
            "dns:edges.example.net.:7001",
            "srv:_peerage._tcp.example.net",
            "etcd:10.0.0.1:2379/peerage/members",
            "etcd:10.0.0.1:2379,[::1]:2379,etcd.example.net:2379/p",
            "etcds:10.0.0.1:2379,etcd.example.net:2379/p",
        ] {
            assert_eq!(text.parse::<Registry>().map(|registry| registry.to_string()), Ok(text.to_owned()));
        }
        let slashes: Registry = "etcd:a:1, b:2/p/".parse().unwrap();
        assert_eq!(slashes.to_string(), "etcd:a:1,b:2/p");
        let url: Registry = "etcds://a:1,b:2/p".parse().unwrap();
        assert_eq!((url.to_string(), url.etcd_scheme()), ("etcds:a:1,b:2/p".to_owned(), Some(Scheme::Https)));
        for (text, part) in [
            ("", "file:"),
            ("/etc/peerage/peers", "file:"),
            ("consul:a:1", "`consul`"),
            ("file:", "path"),
            ("dns:edges.example.net", "with a port"),
            ("dns:edges.example.net:0", "with a port"),
            ("dns:10.0.0.1:7001", "with a port"),
            ("dns:a..b:7001", "with a port"),
            ("srv:_peerage._tcp.example.net:7001", "without a port"),
            ("srv:", "without a port"),
            ("etcd:10.0.0.1:2379", "prefix"),
            ("etcd:10.0.0.1:2379/", "prefix"),
            ("etcds:10.0.0.1/p", "host:port"),
            ("etcd:10.0.0.1/p", "host:port"),
            ("etcd:http://10.0.0.1:2379/p", "host:port"),
            ("etcd:a:1,,b:1/p", "host:port"),
        ] {
            let error = text.parse::<Registry>().unwrap_err();
            assert!(error.contains(part) && !error.contains('\n'), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_displayed_registry_parses_to_itself(text in "(file:[a-z/]{1,9}|dns:[a-z_.]{1,9}:[0-9]{1,6}|srv:[a-z_.-]{0,9}|etcds?:([a-z0-9.]{1,3}:[0-9]{1,3},?){1,3}/[a-z/]{0,5})") {
            if let Ok(registry) = text.parse::<Registry>() {
                prop_assert_eq!(registry.to_string().parse(), Ok(registry));
            }
        }

        #[test]
        fn no_text_panics(text in "((file|dns|srv|etcds?):)?.{0,30}") {
            let _ = text.parse::<Registry>();
        }
    }
}
