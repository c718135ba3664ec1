//! What operators see: metrics, the access log, and the requests under way.

pub(crate) mod access;
pub(crate) mod activity;
pub(crate) mod metrics;
