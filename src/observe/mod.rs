//! Observability: metrics, the access log, and the active requests of a connection.

pub(crate) mod access;
pub(crate) mod activity;
pub(crate) mod metrics;
