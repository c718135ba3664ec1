//! Timeouts of the HTTP requests that commands send.

use std::time::Duration;

use crate::upstream::{DEFAULT_LIFETIME, Timeouts};

/// Timeouts for a connection, and between two chunks of a response.
pub(super) const TIMEOUTS: Timeouts =
    Timeouts { connect: Duration::from_secs(5), idle: Duration::from_secs(30), lifetime: DEFAULT_LIFETIME };
/// Timeout for the first byte of a response.
pub(super) const FIRST_BYTE: Duration = Duration::from_secs(30);
