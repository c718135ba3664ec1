//! Complete responses, in two tiers of memory.

pub(crate) mod budget;
pub(crate) mod chunks;
pub(crate) mod entry;
pub(crate) mod headers;
pub(crate) mod metadata;
mod sharding;
pub(crate) mod tiers;
mod variants;
mod varint;
