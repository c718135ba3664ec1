//! The operator's rules for names.
//!
//! [`Rule`] finds the hash in a name, which makes an asset immutable. [`QueryRule`] decides
//! which part of a query belongs to a name.

mod bundle;
mod date;
mod immutable;
mod pattern;
mod query;

pub use immutable::{DEFAULT_SETS, HashFormat, MIN_HASH, Rule, SETS};
pub use query::{Keep, QueryRule};
