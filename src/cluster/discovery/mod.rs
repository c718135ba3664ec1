//! Who might be a member, as a file, DNS or etcd has it.
//!
//! Who of them is alive is another question, which gossip answers. So a finding
//! is never urgent, and a bad one never harms: whatever cannot be read, asked or
//! understood, and whatever names nobody, leaves the last list as it is.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
#[cfg(feature = "dns")]
use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::is_address;
#[cfg(feature = "etcd")]
use etcd::Etcd;

#[cfg(feature = "dns")]
mod dns;
#[cfg(feature = "etcd")]
mod etcd;
mod file;

/// A list of more members is taken for a mistake.
const MOST: usize = 10_000;
/// One look may take as long as the time from one to the next, but never less than
/// this.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);

/// Where the list of members is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Registry {
    /// A file with a `host:port` on each line.
    File(PathBuf),
    /// The addresses of a name, each with the same port.
    #[cfg(feature = "dns")]
    Addresses {
        /// A name in DNS.
        name: String,
        port: u16,
    },
    /// The targets of a service (RFC 2782), each with its port.
    #[cfg(feature = "dns")]
    Service(String),
    /// The keys of an etcd that begin with a prefix.
    #[cfg(feature = "etcd")]
    Etcd {
        /// Each as `host:port`.
        endpoints: Vec<String>,
        /// Begins with a slash, and ends without one.
        prefix: String,
    },
}

const FORMS: &str = "one of `file:/etc/peerage/peers`, `dns:edges.example.net:7001`, `srv:_peerage._tcp.example.net`, `etcd:10.0.0.1:2379/peerage/members` is needed";

impl FromStr for Registry {
    type Err = String;

    /// # Errors
    /// What is wrong, and what would be right.
    fn from_str(text: &str) -> Result<Self, String> {
        let Some((kind, rest)) = text.split_once(':') else {
            return Err(format!("`{text}` does not say where to look; {FORMS}"));
        };
        match kind {
            "file" if !rest.is_empty() => Ok(Self::File(rest.into())),
            "file" => Err("a path is needed, such as `file:/etc/peerage/peers`".to_owned()),
            #[cfg(feature = "dns")]
            "dns" => addresses(rest),
            #[cfg(feature = "dns")]
            "srv" if is_name(rest) => Ok(Self::Service(rest.to_owned())),
            #[cfg(feature = "dns")]
            "srv" => Err(format!(
                "`{rest}` is not the name of a service; one without a port, such as `srv:_peerage._tcp.example.net`, is needed"
            )),
            #[cfg(not(feature = "dns"))]
            "dns" | "srv" => Err(format!("`{text}` needs the feature `dns` of peerage, and this build lacks it")),
            #[cfg(feature = "etcd")]
            "etcd" => endpoints(rest),
            #[cfg(not(feature = "etcd"))]
            "etcd" => Err(format!("`{text}` needs the feature `etcd` of peerage, and this build lacks it")),
            _ => Err(format!("`{kind}` is not known; {FORMS}")),
        }
    }
}

#[cfg(feature = "dns")]
fn addresses(text: &str) -> Result<Registry, String> {
    let parsed = text.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse().ok()?)));
    match parsed.filter(|(name, port)| is_name(name) && *port > 0) {
        Some((name, port)) => Ok(Registry::Addresses { name: name.to_owned(), port }),
        None => Err(format!("`{text}` is not a name with a port, such as `dns:edges.example.net:7001`")),
    }
}

#[cfg(feature = "etcd")]
fn endpoints(text: &str) -> Result<Registry, String> {
    let example = "such as `etcd:10.0.0.1:2379,10.0.0.2:2379/peerage/members`";
    let (endpoints, prefix) = text.split_once('/').unwrap_or((text, ""));
    let endpoints: Vec<_> = endpoints.split(',').map(|endpoint| endpoint.trim().to_owned()).collect();
    if let Some(bad) = endpoints.iter().find(|endpoint| !is_address(endpoint)) {
        return Err(format!("`{bad}` is not the address of an etcd; `host:port` is needed, {example}"));
    }
    let prefix = prefix.trim_end_matches('/');
    if prefix.is_empty() || prefix.len() > 255 || !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!(
            "the prefix of the members' keys is missing, too long or not of plain characters; {example}"
        ));
    }
    Ok(Registry::Etcd { endpoints, prefix: format!("/{prefix}") })
}

/// Whether `text` can be asked for in DNS (RFC 1035 §2.3.4; `_` by RFC 2782).
#[cfg(feature = "dns")]
fn is_name(text: &str) -> bool {
    let bare = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    bare.len() <= 253 && bare.split('.').all(is_label) && text.parse::<IpAddr>().is_err()
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
            Self::Etcd { endpoints, prefix } => write!(f, "etcd:{}{prefix}", endpoints.join(",")),
        }
    }
}

/// How a registry is asked.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Between two looks; a pause after a failure grows up to it.
    pub(crate) refresh: Duration,
    /// The nameserver to ask, when it is not the system's.
    pub(crate) nameserver: Option<SocketAddr>,
    /// How long an etcd remembers an edge that says nothing.
    pub(crate) lease: Duration,
    /// How long it may take to have a connection to an etcd.
    pub(crate) connect: Duration,
    /// This edge's name on the ring.
    pub(crate) own: Arc<str>,
    /// This edge's `edge.name`.
    pub(crate) edge: String,
}

/// What has come of asking once more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Finding<'a> {
    /// Another list than the last: sorted, nobody twice.
    Changed(&'a [String]),
    /// The same.
    Same,
    /// No list that could be used.
    Failed,
}

/// Follows a registry.
pub(crate) struct Discovery {
    registry: Registry,
    settings: Settings,
}

impl Discovery {
    pub(crate) fn new(registry: Registry, settings: Settings) -> Self {
        Self { registry, settings }
    }

    /// Asks once: who might be a member, sorted, nobody twice.
    ///
    /// # Errors
    /// Why there is no such list.
    pub(crate) async fn find(&self) -> Result<Vec<String>, String> {
        #[cfg(feature = "dns")]
        let (nameserver, patience) = (self.settings.nameserver, self.settings.refresh.max(LEAST_PATIENCE));
        let found = match &self.registry {
            Registry::File(path) => file::read(path).await?,
            #[cfg(feature = "dns")]
            Registry::Addresses { name, port } => dns::addresses(name, *port, nameserver, patience).await?,
            #[cfg(feature = "dns")]
            Registry::Service(name) => dns::service(name, nameserver, patience).await?,
            #[cfg(feature = "etcd")]
            Registry::Etcd { endpoints, prefix } => Etcd::new(endpoints, prefix, &self.settings).list().await?,
        };
        checked(found)
    }

    /// Hands each finding to `tell`, until `leave` resolves; an etcd is told then
    /// that this edge has gone.
    pub(crate) async fn run(self, tell: impl FnMut(Finding<'_>) + Send, leave: impl Future<Output = ()>) {
        let mut told = Told { source: self.registry.to_string(), list: Vec::new(), failing: Failing::No, tell };
        let mut leave = pin!(leave);
        #[cfg(feature = "etcd")]
        if let Registry::Etcd { endpoints, prefix } = &self.registry {
            let mut etcd = Etcd::new(endpoints, prefix, &self.settings);
            tokio::select! {
                () = etcd.follow(|found| told.take(found)) => {}
                () = &mut leave => {}
            }
            return etcd.leave().await;
        }
        loop {
            let look = async {
                told.take(self.find().await);
                tokio::time::sleep(self.settings.refresh).await;
            };
            tokio::select! {
                () = look => {}
                () = &mut leave => return,
            }
        }
    }
}

/// A list that can be used: sorted, nobody twice.
fn checked(found: impl IntoIterator<Item = String>) -> Result<Vec<String>, String> {
    let list: BTreeSet<_> = found.into_iter().collect();
    if list.is_empty() {
        return Err("it names nobody".to_owned());
    }
    if list.len() > MOST {
        return Err(format!("it names {} members, and more than {MOST} are taken for a mistake", list.len()));
    }
    if let Some(bad) = list.iter().find(|entry| !is_address(entry)) {
        return Err(not_an_address(bad));
    }
    Ok(list.into_iter().collect())
}

/// What is said of an entry; it comes from elsewhere, and goes to the log.
fn not_an_address(entry: &str) -> String {
    let shown: String = entry.chars().take(80).collect();
    format!("`{}` is not an address; `host:port` is needed, such as `10.0.0.5:7001`", shown.escape_debug())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failing {
    No,
    Yes,
}

/// What has been told so far. A failure is logged when it begins, and when it
/// is over.
struct Told<F> {
    source: String,
    list: Vec<String>,
    failing: Failing,
    tell: F,
}

impl<F: FnMut(Finding<'_>)> Told<F> {
    fn take(&mut self, found: Result<Vec<String>, String>) {
        let source = &self.source;
        match found.and_then(checked) {
            Ok(list) => {
                if std::mem::replace(&mut self.failing, Failing::No) == Failing::Yes {
                    tracing::info!(%source, members = list.len(), "discovery works again");
                }
                if list == self.list {
                    return (self.tell)(Finding::Same);
                }
                tracing::info!(%source, members = list.len(), "member list changed");
                self.list = list;
                (self.tell)(Finding::Changed(&self.list));
            }
            Err(error) => {
                match std::mem::replace(&mut self.failing, Failing::Yes) {
                    Failing::No => tracing::warn!(%source, %error, "discovery failed, keeping the last member list"),
                    Failing::Yes => tracing::debug!(%source, %error, "discovery still fails"),
                }
                (self.tell)(Finding::Failed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn registries() {
        for text in [
            "file:/etc/peerage/peers",
            "file:peers",
            "dns:edges.example.net:7001",
            "dns:edges.example.net.:7001",
            "srv:_peerage._tcp.example.net",
            "etcd:10.0.0.1:2379/peerage/members",
            "etcd:10.0.0.1:2379,[::1]:2379,etcd.example.net:2379/p",
        ] {
            assert_eq!(text.parse::<Registry>().map(|registry| registry.to_string()), Ok(text.to_owned()));
        }
        let slashes: Registry = "etcd:a:1, b:2/p/".parse().unwrap();
        assert_eq!(slashes.to_string(), "etcd:a:1,b:2/p");
        for (text, told) in [
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
            ("etcd:10.0.0.1/p", "host:port"),
            ("etcd:http://10.0.0.1:2379/p", "host:port"),
            ("etcd:a:1,,b:1/p", "host:port"),
        ] {
            let error = text.parse::<Registry>().unwrap_err();
            assert!(error.contains(told) && !error.contains('\n'), "{text}: {error}");
        }
    }

    fn entries(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("10.0.{}.{}:7001", i / 250, i % 250)).collect()
    }

    #[test]
    fn a_list_is_sorted_and_has_nobody_twice() {
        let found = ["b:1", "a:1", "b:1"].map(str::to_owned);
        assert_eq!(checked(found), Ok(vec!["a:1".to_owned(), "b:1".to_owned()]));
        assert_eq!(checked(entries(MOST)).map(|list| list.len()), Ok(MOST));
        assert!(checked(entries(MOST + 1)).unwrap_err().contains("10001"));
        assert!(checked(Vec::new()).unwrap_err().contains("nobody"));
        let error = checked(["a:1".to_owned(), "b\n:1".to_owned()]).unwrap_err();
        assert!(error.contains("`b\\n:1`"), "{error}");
    }

    #[test]
    fn a_failure_keeps_the_list() {
        let mut heard = Vec::new();
        let tell = |finding: Finding<'_>| {
            heard.push(match finding {
                Finding::Changed(list) => list.join(" "),
                Finding::Same => "same".to_owned(),
                Finding::Failed => "failed".to_owned(),
            });
        };
        let mut told = Told { source: String::new(), list: Vec::new(), failing: Failing::No, tell };
        let list = |text: &str| Ok(text.split(' ').map(str::to_owned).collect());
        told.take(list("b:1 a:1"));
        told.take(Err("gone".to_owned()));
        told.take(Ok(Vec::new()));
        told.take(list("a:1 nonsense"));
        told.take(list("a:1 b:1"));
        told.take(list("a:1"));
        assert_eq!(heard, ["a:1 b:1", "failed", "failed", "failed", "same", "a:1"]);
    }

    proptest! {
        #[test]
        fn what_is_displayed_parses(text in "(file:[a-z/]{1,9}|dns:[a-z_.]{1,9}:[0-9]{1,6}|srv:[a-z_.-]{0,9}|etcd:([a-z0-9.]{1,3}:[0-9]{1,3},?){1,3}/[a-z/]{0,5})") {
            if let Ok(registry) = text.parse::<Registry>() {
                prop_assert_eq!(registry.to_string().parse(), Ok(registry));
            }
        }

        #[test]
        fn no_text_panics(text in "((file|dns|srv|etcd):)?.{0,30}") {
            let _ = text.parse::<Registry>();
            let _ = checked([text]);
        }
    }
}
