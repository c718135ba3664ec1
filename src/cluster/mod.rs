//! The edges that act as one cache: who they are, who owns what, how to ask.

use std::str::FromStr;

use http::uri::Authority;

pub(crate) mod discovery;
pub mod health;
pub mod membership;
pub mod ring;
#[cfg(feature = "gossip")]
pub(crate) mod seal;
#[cfg(feature = "gossip")]
pub(crate) mod swim;
pub mod view;

/// Whether `text` is `host:port`, as a peer can be reached by.
pub(crate) fn is_address(text: &str) -> bool {
    let address = Authority::from_str(text).ok().filter(|address| address.port_u16().is_some_and(|port| port > 0));
    address.is_some_and(|address| !address.host().is_empty() && !text.contains('@') && text.len() <= 255)
}
