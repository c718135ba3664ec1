//! HTTP/1.1 where hyper is passed by: hits, and informational responses.

pub(crate) mod fast_path;
pub(crate) mod informational;
