//! [`Identity`]: a member of the cluster in SWIM.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::cluster::is_address;
use crate::cluster::view::State;

/// One version of a member; the member changes it when it starts, drains or comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// The member's name on the ring.
    #[serde(serialize_with = "write", deserialize_with = "address")]
    pub(super) address: Arc<str>,
    /// The member's `edge.name`, for operators.
    #[serde(serialize_with = "write", deserialize_with = "edge")]
    pub(super) edge: Arc<str>,
    /// The version; grows whenever the member starts, drains, or comes back after it was declared
    /// dead. Of two identities at one address, the one with the greater bump wins.
    pub(super) bump: u64,
    pub(super) role: Role,
}

/// The role of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Role {
    Serving,
    /// The member is about to leave and owns nothing.
    Draining,
}

impl Role {
    pub(super) fn state(self) -> State {
        match self {
            Self::Serving => State::Alive,
            Self::Draining => State::Draining,
        }
    }
}

impl Identity {
    /// The longest `edge.name` in bytes; longer ones are cut.
    const MAX_EDGE: usize = 64;

    pub(super) fn new(address: &str, edge: &str, bump: u64) -> Self {
        let edge: String = edge.chars().take_while(char::is_ascii_graphic).take(Self::MAX_EDGE).collect();
        Self { address: address.into(), edge: edge.into(), bump, role: Role::Serving }
    }

    /// Returns a placeholder for the member at this address with any name and bump.
    pub(super) fn unknown(address: &str) -> Self {
        Self::new(address, "", 0)
    }

    /// Returns this identity with a greater bump than `bump`.
    pub(super) fn after(&self, bump: u64) -> Self {
        Self { bump: bump.saturating_add(1), ..self.clone() }
    }

    pub(super) fn fingerprint(&self) -> u64 {
        xxh3_64_with_seed(self.address.as_bytes(), self.bump << 1 | u64::from(self.role == Role::Draining))
    }
}

pub(super) fn hash(address: &str) -> u64 {
    xxh3_64_with_seed(address.as_bytes(), 0)
}

impl foca::Identity for Identity {
    type Addr = Arc<str>;

    fn renew(&self) -> Option<Self> {
        Some(self.after(self.bump))
    }

    fn addr(&self) -> Arc<str> {
        Arc::clone(&self.address)
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.bump > adversary.bump
    }
}

fn write<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

/// Deserializes an address. It must be valid, because it goes to log lines and connections.
fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    let text = <&str>::deserialize(deserializer)?;
    if is_address(text) { Ok(text.into()) } else { Err(D::Error::custom("not an address")) }
}

fn edge<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    let text = <&str>::deserialize(deserializer)?;
    let fits = text.len() <= Identity::MAX_EDGE && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(text.into()) } else { Err(D::Error::custom("not a name")) }
}
