//! What the RFCs say, as pure functions: they take `now`, and answer with enums.

pub mod cache_control;
pub mod cache_status;
pub mod conditional;
pub mod forward;
pub mod freshness;
pub mod invalidation;
pub mod range;
pub mod validation;
pub mod vary;
