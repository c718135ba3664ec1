//! [`Acceptor`]: accepts the connections of one listener until it drains.

use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::connection;
use super::listeners::Listener;
use super::supervisor::Supervisor;
use crate::clients::{Clients, Counted};
use crate::config::LimitsConfig;
use crate::conn::Splicers;
use crate::conn::accept::{LogLatch, accepted};
use crate::conn::handler::{ListenerContext, ListenerTls, Phase, draining};
use crate::conn::https::HttpsPolicy;
use crate::edge::Edge;
use crate::observe::access::Access;
use crate::observe::metrics::Source;

/// The state that both listeners share.
#[derive(Clone)]
pub(super) struct SharedContext {
    pub(super) edge: Arc<Edge>,
    pub(super) access: Arc<Access>,
    pub(super) limits: Arc<LimitsConfig>,
    pub(super) splicers: Arc<Splicers>,
    pub(super) https: Arc<HttpsPolicy>,
    /// The number of connections of each client, on all listeners for clients together.
    pub(super) clients: Clients,
}

/// A listener with a running accept task.
pub(super) struct RunningListener {
    phase: watch::Sender<Phase>,
    open: Arc<OpenConnections>,
    pub(super) task: JoinHandle<()>,
}

impl RunningListener {
    /// Begins to accept connections.
    pub(super) fn begin(
        (listener, tls): (Listener, ListenerTls),
        source: Source,
        shared: &SharedContext,
        supervisor: &Supervisor,
    ) -> Self {
        let SharedContext { edge, access, limits, splicers, https, clients } = shared.clone();
        // Redirects and HSTS are for clients.
        let https = if source == Source::Client { https } else { Arc::default() };
        let (key, (phase, phases)) = (listener.key, watch::channel(Phase::Serving));
        let context =
            ListenerContext { edge, access, limits, splicers, source, listener: key, tls, https, phase: phases };
        let acceptor = Acceptor { context, clients };
        let open = Arc::new(OpenConnections::default());
        let accepting = acceptor.accept(listener, Arc::clone(&open));
        let task = tokio::spawn(supervisor.watch(key, accepting));
        Self { phase, open, task }
    }

    /// Stops accepting, and tells the connections to drain. Returns the open connections.
    pub(super) async fn drain(self) -> JoinSet<()> {
        self.phase.send_replace(Phase::Draining);
        // The task ends at this change of phase, if it has not ended before.
        let _ = self.task.await;
        std::mem::take(&mut *self.open.lock())
    }
}

/// The tasks of the open connections. They outlive the accept task.
#[derive(Default)]
struct OpenConnections(Mutex<JoinSet<()>>);

impl OpenConnections {
    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when a connection has ended; to `None` if there is none.
    async fn next_end(&self) -> Option<()> {
        poll_fn(|cx| self.lock().poll_join_next(cx)).await.map(drop)
    }
}

/// The accept loop of one listener.
struct Acceptor {
    context: ListenerContext,
    /// Shared with the other listeners for clients.
    clients: Clients,
}

/// The permission to serve a connection.
enum ConnectionPermit {
    /// The connection counts for its client.
    Counted { _until_dropped: Counted },
    /// The connection is a peer's, or a trusted proxy's that forwards for many clients.
    Uncounted,
}

impl Acceptor {
    /// Accepts until the server drains.
    async fn accept(mut self, listener: Listener, open: Arc<OpenConnections>) {
        let (mut failing, mut full) = (LogLatch::default(), LogLatch::default());
        loop {
            let result = tokio::select! {
                result = listener.accept() => result,
                Some(()) = open.next_end() => continue,
                () = draining(&mut self.context.phase) => break,
            };
            if let Some((stream, client)) = accepted(self.context.listener, result, &mut failing).await {
                self.admit(&mut open.lock(), &mut full, stream, client.ip());
            }
        }
        for (stream, client) in listener.close(self.context.limits.connections) {
            self.admit(&mut open.lock(), &mut full, stream, client.ip());
        }
    }

    /// Serves a connection, or drops it if a limit is reached.
    fn admit(&self, open: &mut JoinSet<()>, full: &mut LogLatch, stream: TcpStream, client: IpAddr) {
        // A listener on `[::]` maps IPv4 addresses into IPv6.
        let client = client.to_canonical();
        let (listener, limit) = (self.context.listener, self.context.limits.connections);
        if open.len() >= limit {
            if full.begins() {
                tracing::warn!(listener, connections = limit, "limits.connections reached, rejecting connections");
            }
            return self.context.access.metrics.refused_connection();
        }
        // A few closed connections do not end the condition: the next ones may reach it again.
        if open.len() < limit - limit / 16 && full.ends() {
            tracing::info!(listener, "below limits.connections again, accepting connections");
        }
        let Some(permit) = self.permit(client) else {
            let limit = self.context.limits.most_per_client();
            tracing::warn!(listener, %client, limit, "limits.connections_per_client reached, rejecting connections of this client");
            return self.context.access.metrics.refused_client_connection();
        };
        let connection = connection::serve(self.context.clone(), stream, client);
        open.spawn(async move {
            connection.await;
            drop(permit);
        });
    }

    /// Returns the permit for a connection from `address`; `None` if its client has reached
    /// the limit. All exceptions from that limit are decided here.
    fn permit(&self, address: IpAddr) -> Option<ConnectionPermit> {
        let client = match self.context.source {
            Source::Peer | Source::Program => None,
            Source::Client => self.context.edge.counted_client(address),
        };
        let Some(client) = client else {
            return Some(ConnectionPermit::Uncounted);
        };
        let counted = self.clients.count(client, self.context.limits.most_per_client())?;
        Some(ConnectionPermit::Counted { _until_dropped: counted })
    }
}
