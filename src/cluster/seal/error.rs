//! [`SealError`]: the rejection of a datagram by its seal.

use std::time::Duration;

/// The reason why a datagram was rejected before its content was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SealError {
    /// The datagram is not sealed: the sender has no secret, or an earlier format.
    Unsealed,
    /// No secret opens the datagram: the sender has another secret, or it was changed on the way.
    Forged,
    /// The datagram arrived before, or so many later ones have arrived that this is unknown.
    Replayed,
    /// The first datagram of this sender was sent before this edge started.
    Early,
    /// The sender's clock differs from this edge's by this much, or the datagram is as old.
    Clock(Duration),
}
