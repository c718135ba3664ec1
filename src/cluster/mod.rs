//! The cluster: its members, the owners of keys, and discovery of members.

mod address;
pub(crate) mod discovery;
pub mod health;
pub mod membership;
pub mod ring;
#[cfg(feature = "gossip")]
pub(crate) mod seal;
#[cfg(feature = "gossip")]
pub(crate) mod swim;
pub mod view;

pub(crate) use address::is_address;

/// The maximum number of secrets for gossip.
pub(crate) const MAX_SECRETS: usize = 8;
