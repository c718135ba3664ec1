//! Asking the owners of assets: over HTTP, or through a pipeline of short questions.

pub(crate) mod client;
pub(crate) mod peek_codec;
pub(crate) mod pipeline;
