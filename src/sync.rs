//! The synchronization primitives of the flight's body. `tests/loom` replaces this module with
//! loom's versions.

pub(crate) use std::sync::{Arc, Mutex, MutexGuard};
