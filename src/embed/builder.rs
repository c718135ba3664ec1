//! [`EdgeBuilder`]: makes an edge without listeners.

use std::sync::Arc;

use http::Uri;
use http::uri::InvalidUri;

use crate::body::zero_copy::Arena;
use crate::cluster::membership::Membership;
use crate::config::{ClusterConfig, Config, Size};
use crate::edge::Edge;
use crate::error::StartError;
use crate::observe::metrics::Metrics;
use crate::origin::Origin;
use crate::server::{self, Supplied};

impl Edge {
    /// Returns a builder of an edge without listeners, for a program that has its own server.
    /// [`Server`](crate::Server) makes an edge with listeners.
    pub fn builder() -> EdgeBuilder {
        EdgeBuilder::default()
    }
}

/// The origin that the program has chosen.
enum ChosenOrigin {
    Embedded(Box<dyn Origin>),
    Url(String),
}

/// Makes an [`Edge`] without listeners. Each setting is optional.
///
/// ```
/// use peerage::cluster::membership::Membership;
/// use peerage::{Config, Edge};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut config = Config::default();
/// config.limits.methods = vec!["GET".into(), "HEAD".into()];
///
/// let edge = Edge::builder()
///     .config(config)
///     .name("web-1")
///     .memory(64 << 20)
///     .origin_url("http://127.0.0.1:9000")
///     .membership(Membership::guest(["10.0.0.5:7001", "10.0.0.6:7001"]))
///     .build()?;
///
/// // The members have changed:
/// edge.membership().replace(["10.0.0.5:7001", "10.0.0.7:7001"]);
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
#[must_use]
pub struct EdgeBuilder {
    config: Config,
    name: Option<String>,
    memory: Option<u64>,
    origin: Option<ChosenOrigin>,
    membership: Option<Arc<Membership>>,
}

impl EdgeBuilder {
    /// Sets everything that has no method here. Listeners (`edge.listen`, `[admin]`) and what
    /// concerns connections do not apply, and of `[cluster]` neither do the listener, the lists of
    /// members and gossip. The other methods take precedence, in any order.
    pub fn config(self, config: Config) -> Self {
        Self { config, ..self }
    }

    /// Sets the name in Via and Cache-Status (`edge.name`), a token that is unique in the cluster.
    pub fn name(self, name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// Sets the memory for stored responses and fills, in bytes (`cache.memory`).
    pub fn memory(self, bytes: u64) -> Self {
        Self { memory: Some(bytes), ..self }
    }

    /// Sets the origin, such as a closure from key to bytes. Of the `[origin]` table,
    /// `first_byte_timeout` and `requests` apply to it.
    pub fn origin(self, origin: impl Origin) -> Self {
        Self { origin: Some(ChosenOrigin::Embedded(Box::new(origin))), ..self }
    }

    /// Sets an HTTP server as the origin (`origin.url`): `http://host[:port][/prefix]`.
    pub fn origin_url(self, url: impl Into<String>) -> Self {
        Self { origin: Some(ChosenOrigin::Url(url.into())), ..self }
    }

    /// Sets the members of the cluster that the edge asks. The program changes the list by
    /// [`Membership::replace`]. A member that does not answer is skipped until it answers a probe.
    ///
    /// An edge without listeners is usually a [guest](Membership::guest): it asks the owner before
    /// the origin, and keeps hot copies. The members cannot reach it. So a write through another
    /// edge does not invalidate those copies: they are served until they are stale. Start a
    /// [`Server`](crate::Server) to own keys, too; its [`edge`](crate::Server::edge) has the same
    /// methods.
    pub fn membership(self, membership: impl Into<Arc<Membership>>) -> Self {
        Self { membership: Some(membership.into()), ..self }
    }

    /// Makes the edge. It lives as long as the last handle to it.
    ///
    /// # Errors
    /// [`StartError`], which names the invalid key.
    ///
    /// # Panics
    /// Outside of a Tokio runtime, if there is a membership: the edge probes the members that do
    /// not answer.
    pub fn build(self) -> Result<Arc<Edge>, StartError> {
        let Self { mut config, name, memory, origin, membership } = self;
        config.edge.name = name.unwrap_or(config.edge.name);
        config.cache.memory = memory.map_or(config.cache.memory, Size);
        if let Some(ChosenOrigin::Url(url)) = &origin {
            config.origin.url = parse_url(url)?;
        }
        check_members(&mut config, membership.as_deref())?;
        config.check().map_err(StartError::Config)?;
        let origin: Box<dyn Origin> = match origin {
            Some(ChosenOrigin::Embedded(origin)) => Box::new(server::embedded_origin(&config, origin)),
            Some(ChosenOrigin::Url(_)) | None => Box::new(server::http_origin(&config)?),
        };
        let is_in_cluster = membership.is_some();
        let membership = membership.unwrap_or_else(|| Arc::new(Membership::alone()));
        let peer_tls = server::peer_tls(&config, &membership)?;
        let supplied = Supplied {
            origin,
            // Only the edge's own connections could send from it.
            arena: Arena::none(),
            membership,
            peer_tls: peer_tls.clone(),
            metrics: Arc::new(Metrics::default()),
        };
        let edge = server::edge(&config, supplied)?;
        if is_in_cluster {
            edge.begin_probes();
        }
        if let Some(tls) = peer_tls {
            let period = config.tls.refresh.0;
            tokio::spawn(server::follow_for_peers(Arc::downgrade(&edge), Arc::downgrade(&tls), period));
        }
        Ok(edge)
    }
}

fn parse_url(url: &str) -> Result<Uri, StartError> {
    url.parse().map_err(|error: InvalidUri| {
        let example = "expected an address such as http://127.0.0.1:9000";
        StartError::Config(format!("invalid value for origin.url: {url:?}: {error} ({example})"))
    })
}

/// Checks that members come from the program alone, and gives the edge a share of the memory for
/// copies from them.
fn check_members(config: &mut Config, membership: Option<&Membership>) -> Result<(), StartError> {
    let problem = match (&config.cluster, membership) {
        (Some(_), None) => {
            "[cluster] of an edge without listeners needs a membership from the program: \
                            call EdgeBuilder::membership, or start a Server"
        }
        (Some(cluster), Some(_)) if cluster.discover.is_some() => {
            "cluster.discover needs a Server: an edge without listeners gets its members from the program"
        }
        (None, Some(_)) => {
            config.cluster = Some(ClusterConfig::default());
            return Ok(());
        }
        _ => return Ok(()),
    };
    Err(StartError::Config(problem.to_owned()))
}
