//! Accepting the connections of one listener, until it drains.

use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::connection;
use super::listeners::Listener;
use super::supervisor::Watch;
use crate::clients::{Clients, Counted};
use crate::config::LimitsConfig;
use crate::conn::Splicers;
use crate::conn::accept::{LogLatch, accepted};
use crate::conn::serving::{Context, Phase, draining};
use crate::edge::Edge;
use crate::observe::access::Access;
use crate::observe::metrics::Source;

/// The parts that all listeners share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) edge: Arc<Edge>,
    pub(super) access: Arc<Access>,
    pub(super) limits: Arc<LimitsConfig>,
    pub(super) lender: Arc<Splicers>,
}

/// A listener at work.
pub(super) struct Accepting {
    phase: watch::Sender<Phase>,
    open: Arc<Open>,
    pub(super) task: JoinHandle<()>,
}

impl Accepting {
    /// Begins to accept.
    pub(super) fn begin(listener: Listener, source: Source, shared: &Shared, tasks: &Watch) -> Self {
        let Shared { edge, access, limits, lender } = shared.clone();
        let (phase, watched) = watch::channel(Phase::Serving);
        let context = Context { edge, access, limits, lender, source, phase: watched };
        let acceptor = Acceptor { context, clients: Clients::default() };
        let open = Arc::new(Open::default());
        let task = tokio::spawn(tasks.over(source.listener(), acceptor.accept(listener, Arc::clone(&open))));
        Self { phase, open, task }
    }

    /// Lets nobody new in; returns who is in.
    pub(super) async fn drain(self) -> JoinSet<()> {
        self.phase.send_replace(Phase::Draining);
        // It ends at once: it is told by that, or has ended before.
        let _ = self.task.await;
        std::mem::take(&mut *self.open.lock())
    }
}

/// The connections that are open. They do not end with the task that accepts them.
#[derive(Default)]
struct Open(Mutex<JoinSet<()>>);

impl Open {
    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when one has ended, to `None` if there is none.
    async fn next_to_end(&self) -> Option<()> {
        poll_fn(|cx| self.lock().poll_join_next(cx)).await.map(drop)
    }
}

/// One listener's loop.
struct Acceptor {
    context: Context,
    /// The connections of each client.
    clients: Clients,
}

/// A connection that may be served.
enum Admitted {
    /// It counts for its client.
    Counted { _until_dropped: Counted },
    /// It is a peer's, or a proxy's that speaks for many clients.
    Uncounted,
}

impl Acceptor {
    /// Accepts until the server drains.
    async fn accept(mut self, listener: Listener, open: Arc<Open>) {
        let (mut failing, mut full) = (LogLatch::default(), LogLatch::default());
        loop {
            let came = tokio::select! {
                came = listener.accept() => came,
                Some(()) = open.next_to_end() => continue,
                () = draining(&mut self.context.phase) => break,
            };
            if let Some((stream, client)) = accepted(self.context.source.listener(), came, &mut failing).await {
                self.admit(&mut open.lock(), &mut full, stream, client.ip());
            }
        }
        for (stream, client) in listener.close(self.context.limits.connections) {
            self.admit(&mut open.lock(), &mut full, stream, client.ip());
        }
    }

    fn admit(&self, open: &mut JoinSet<()>, full: &mut LogLatch, stream: TcpStream, client: IpAddr) {
        // A listener on `[::]` has IPv4 addresses mapped into IPv6.
        let client = client.to_canonical();
        let (listener, most) = (self.context.source.listener(), self.context.limits.connections);
        if open.len() >= most {
            if full.begins() {
                tracing::warn!(listener, connections = most, "limits.connections reached, rejecting connections");
            }
            return self.context.access.metrics.refused_connection();
        }
        // Where one goes and the next takes its place, it is not over.
        if open.len() < most - most / 16 && full.ends() {
            tracing::info!(listener, "below limits.connections again, accepting connections");
        }
        let Some(admitted) = self.admit_of(client) else {
            let limit = self.context.limits.most_per_client();
            tracing::warn!(listener, %client, limit, "connection limit of one client reached, rejecting its connections");
            return self.context.access.metrics.refused_client_connection();
        };
        let connection = connection::serve(self.context.clone(), stream, client);
        open.spawn(async move {
            connection.await;
            drop(admitted);
        });
    }

    /// Decides whether a connection from `address` counts for its client, and whether it
    /// may be one more; `None` if not. The one place for exceptions.
    fn admit_of(&self, address: IpAddr) -> Option<Admitted> {
        let client = match self.context.source {
            Source::Peer => None,
            Source::Client => self.context.edge.counted_client(address),
        };
        let Some(client) = client else {
            return Some(Admitted::Uncounted);
        };
        let counted = self.clients.count(client, self.context.limits.most_per_client())?;
        Some(Admitted::Counted { _until_dropped: counted })
    }
}
