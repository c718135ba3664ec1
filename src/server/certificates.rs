//! The task that keeps the certificates of an edge up to date, and reports on them.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use tokio::task::spawn_blocking;
use tokio::time::Instant;

use crate::edge::Edge;
use crate::observe::metrics::{Metrics, Source};
use crate::tls::{PeerTls, TlsAcceptor};

/// The interval between two warnings of certificates that expire soon.
const WARNINGS: Duration = Duration::from_hours(24);

/// Reads the files of certificates again when they change; looks for that every `period`.
pub(super) async fn follow(tls: Arc<TlsAcceptor>, metrics: Arc<Metrics>, period: Duration) {
    metrics.set_certificates(Source::Client, tls.report());
    blocking(&tls, TlsAcceptor::check_keys).await;
    let mut warned: Option<Instant> = None;
    loop {
        metrics.set_certificates(Source::Client, tls.report());
        if warned.is_none_or(|warned| warned.elapsed() >= WARNINGS) {
            tls.warn_of_expiry(SystemTime::now());
            warned = Some(Instant::now());
        }
        tokio::time::sleep(period).await;
        blocking(&tls, TlsAcceptor::follow_files).await;
    }
}

/// Reads the files of the certificate for peers again when they change; looks for that every
/// `period`. Ends with the edge.
pub(crate) async fn follow_for_peers(edge: Weak<Edge>, tls: Weak<PeerTls>, period: Duration) {
    let mut warned: Option<Instant> = None;
    while let (Some(edge), Some(tls)) = (edge.upgrade(), tls.upgrade()) {
        blocking(&tls, PeerTls::follow_files).await;
        edge.metrics().set_certificates(Source::Peer, tls.report());
        if warned.is_none_or(|warned| warned.elapsed() >= WARNINGS) {
            tls.warn_of_expiry(SystemTime::now());
            warned = Some(Instant::now());
        }
        drop((edge, tls));
        tokio::time::sleep(period).await;
    }
}

/// Runs `work` outside the threads that serve connections.
async fn blocking<T: Send + Sync + 'static>(tls: &Arc<T>, work: impl FnOnce(&T) + Send + 'static) {
    let tls = Arc::clone(tls);
    spawn_blocking(move || work(&tls)).await.expect("the work does not panic");
}
