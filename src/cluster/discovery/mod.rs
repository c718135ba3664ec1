//! Discovery of members in a file, in DNS or in etcd.
//!
//! Discovery only lists candidates; gossip finds out which of them are alive. So a new list is
//! never urgent and a bad one does no harm: when a registry cannot be read, or gives an invalid or
//! empty list, the last list stays.

#[cfg(feature = "dns")]
mod dns;
#[cfg(feature = "etcd")]
mod etcd;
mod file;
mod follow;
mod list;
mod registry;
mod settings;

pub(crate) use follow::{Discovery, Finding};
pub(crate) use registry::Registry;
pub(crate) use settings::{Credentials, EtcdSettings, Password, Settings};
