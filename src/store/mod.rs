//! The store: complete responses in two tiers of memory, and the memory budget of all bodies.

pub(crate) mod budget;
pub(crate) mod chunks;
#[cfg(any(test, fuzzing))]
pub(crate) mod codec;
pub(crate) mod entry;
pub(crate) mod headers;
pub(crate) mod metadata;
mod sharding;
pub(crate) mod tiers;
mod ttl_set;
mod variants;
mod varint;
