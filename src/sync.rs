//! The primitives of the flight's body, under one name, so that `tests/loom`
//! can put loom's in their place.

pub(crate) use std::sync::{Arc, Mutex, MutexGuard};
