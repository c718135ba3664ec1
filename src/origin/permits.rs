//! [`Permits`]: the limit on concurrent requests to an origin.

use std::future::Future;
use std::time::Duration;

use http::Request;
use hyper::body::Body as _;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::Instant;

use crate::body::Body;
use crate::error::Error;

/// Permits for requests that wait for an origin's response to begin.
pub(super) struct Permits {
    fetches: Semaphore,
    /// A separate limit for requests with content, so that a slow upload delays only uploads.
    uploads: Semaphore,
    timeout: Duration,
}

impl Permits {
    /// Allows `requests` of either kind; `timeout` covers the wait for a permit and for the
    /// response.
    pub(super) fn new(requests: usize, timeout: Duration) -> Self {
        Self { fetches: Semaphore::new(requests), uploads: Semaphore::new(requests), timeout }
    }

    /// Waits for a permit. Returns with it the time that is left until the response must begin.
    ///
    /// # Errors
    /// [`Error::Overloaded`] after the timeout; [`Error::ClientLeft`] if the client of a write
    /// left before there was a permit.
    pub(super) fn acquire<'a>(
        &'a self,
        request: &Request<Body>,
        client: Option<ClientPresence>,
    ) -> impl Future<Output = Result<(SemaphorePermit<'a>, Duration), Error>> + use<'a> {
        let deadline = Instant::now() + self.timeout;
        let permits = if request.body().is_end_stream() { &self.fetches } else { &self.uploads };
        async move {
            let permit = tokio::select! {
                biased;
                () = departure(client) => return Err(Error::ClientLeft),
                permit = tokio::time::timeout_at(deadline, permits.acquire()) => permit,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            match permit {
                Ok(Ok(permit)) if !left.is_zero() => Ok((permit, left)),
                _ => Err(Error::Overloaded),
            }
        }
    }
}

/// The presence of the client of a write. Once sent, a write continues without its client;
/// before that, a client that leaves cancels it. The client is present as long as the sender
/// exists.
pub(crate) struct ClientPresence(watch::Receiver<()>);

impl ClientPresence {
    /// Returns the presence of a client, which ends when the sender is dropped.
    pub(crate) fn new() -> (watch::Sender<()>, Self) {
        let (sender, receiver) = watch::channel(());
        (sender, Self(receiver))
    }
}

/// Resolves when the client has left. Never resolves for a request that is cancelled with its
/// client.
async fn departure(client: Option<ClientPresence>) {
    match client {
        Some(ClientPresence(mut presence)) => while presence.changed().await.is_ok() {},
        None => std::future::pending().await,
    }
}
