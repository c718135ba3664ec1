//! Requests to peers: ordinary ones over HTTP, peeks through a pipeline, and the exchange of
//! session ticket secrets.

pub(crate) mod client;
pub(crate) mod peek_codec;
pub(crate) mod pipeline;
pub(crate) mod ticket_exchange;
