//! HTTP/1.1 beside hyper: the fast path for hits, and informational responses.

pub(crate) mod fast_path;
pub(crate) mod informational;
