//! Random numbers, for names that nobody else has.

use std::hash::{BuildHasher, Hasher, RandomState};

/// 64 bits that nobody can foresee.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
