//! [`Discovery`]: follows a registry.

use std::future::Future;
use std::pin::pin;
#[cfg(feature = "dns")]
use std::time::Duration;

#[cfg(feature = "dns")]
use super::dns;
#[cfg(feature = "etcd")]
use super::etcd::Etcd;
use super::file;
use super::list::checked;
use super::registry::Registry;
use super::settings::Settings;

/// The least timeout of one read; it is longer if `refresh` is.
#[cfg(feature = "dns")]
const MIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The outcome of one read of a registry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Finding<'a> {
    /// A list that differs from the last one: sorted, without duplicates.
    Changed(&'a [String]),
    /// The same list.
    Same,
    /// No valid list.
    Failed,
}

/// Reads a registry and reports changes of its list.
pub(crate) struct Discovery {
    registry: Registry,
    settings: Settings,
}

impl Discovery {
    pub(crate) fn new(registry: Registry, settings: Settings) -> Self {
        Self { registry, settings }
    }

    /// Reads the list of members once: sorted, without duplicates.
    ///
    /// # Errors
    /// Returns why there is no valid list.
    pub(crate) async fn find(&self) -> Result<Vec<String>, String> {
        #[cfg(feature = "dns")]
        let (nameserver, timeout) = (self.settings.nameserver, self.settings.refresh.max(MIN_TIMEOUT));
        let found = match &self.registry {
            Registry::File(path) => file::read(path).await?,
            #[cfg(feature = "dns")]
            Registry::Addresses { name, port } => dns::addresses(name, *port, nameserver, timeout).await?,
            #[cfg(feature = "dns")]
            Registry::Service(name) => dns::service(name, nameserver, timeout).await?,
            #[cfg(feature = "etcd")]
            Registry::Etcd { endpoints, prefix } => Etcd::new(endpoints, prefix, &self.settings).list().await?,
        };
        checked(found)
    }

    /// Passes each outcome to `report` until `leave` resolves. With etcd, then revokes this edge's
    /// lease.
    pub(crate) async fn run(self, report: impl FnMut(Finding<'_>) + Send, leave: impl Future<Output = ()>) {
        let mut reporter =
            Reporter { source: self.registry.to_string(), list: Vec::new(), failing: Failing::No, report };
        let mut leave = pin!(leave);
        #[cfg(feature = "etcd")]
        if let Registry::Etcd { endpoints, prefix } = &self.registry {
            let mut etcd = Etcd::new(endpoints, prefix, &self.settings);
            tokio::select! {
                () = etcd.follow(|found| reporter.take(found)) => {}
                () = &mut leave => {}
            }
            return etcd.leave().await;
        }
        loop {
            let read = async {
                reporter.take(self.find().await);
                tokio::time::sleep(self.settings.refresh).await;
            };
            tokio::select! {
                () = read => {}
                () = &mut leave => return,
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failing {
    No,
    Yes,
}

/// Reports outcomes and remembers the last list. A failure is logged when it begins and when it
/// is over.
struct Reporter<F> {
    source: String,
    list: Vec<String>,
    failing: Failing,
    report: F,
}

impl<F: FnMut(Finding<'_>)> Reporter<F> {
    fn take(&mut self, found: Result<Vec<String>, String>) {
        let source = &self.source;
        match found.and_then(checked) {
            Ok(list) => {
                if std::mem::replace(&mut self.failing, Failing::No) == Failing::Yes {
                    tracing::info!(%source, members = list.len(), "discovery recovered");
                }
                if list == self.list {
                    return (self.report)(Finding::Same);
                }
                tracing::info!(%source, members = list.len(), "member list changed");
                self.list = list;
                (self.report)(Finding::Changed(&self.list));
            }
            Err(error) => {
                match std::mem::replace(&mut self.failing, Failing::Yes) {
                    Failing::No => tracing::warn!(%source, %error, "discovery failed, keeping the last member list"),
                    Failing::Yes => tracing::debug!(%source, %error, "discovery still fails"),
                }
                (self.report)(Finding::Failed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_keeps_the_list() {
        let mut outcomes = Vec::new();
        let report = |finding: Finding<'_>| {
            outcomes.push(match finding {
                Finding::Changed(list) => list.join(" "),
                Finding::Same => "same".to_owned(),
                Finding::Failed => "failed".to_owned(),
            });
        };
        let mut reporter = Reporter { source: String::new(), list: Vec::new(), failing: Failing::No, report };
        let list = |text: &str| Ok(text.split(' ').map(str::to_owned).collect());
        reporter.take(list("b:1 a:1"));
        reporter.take(Err("gone".to_owned()));
        reporter.take(Ok(Vec::new()));
        reporter.take(list("a:1 nonsense"));
        reporter.take(list("a:1 b:1"));
        reporter.take(list("a:1"));
        assert_eq!(outcomes, ["a:1 b:1", "failed", "failed", "failed", "same", "a:1"]);
    }
}
