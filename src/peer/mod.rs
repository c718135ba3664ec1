//! Requests to peers: ordinary ones over HTTP, and peeks through a pipeline.

pub(crate) mod client;
pub(crate) mod peek_codec;
pub(crate) mod pipeline;
