//! The addresses of members.

use std::str::FromStr;

use http::uri::Authority;

/// Returns true if `text` is a valid member address: `host:port`, without a user name, of at most
/// 255 bytes.
pub(crate) fn is_address(text: &str) -> bool {
    let address = Authority::from_str(text).ok().filter(|address| address.port_u16().is_some_and(|port| port > 0));
    address.is_some_and(|address| !address.host().is_empty() && !text.contains('@') && text.len() <= 255)
}
