//! Random numbers for unique names.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Returns 64 unpredictable bits.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
