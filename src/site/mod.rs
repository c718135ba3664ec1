//! One site: the operator's rules for the names of its assets.

pub mod rules;
