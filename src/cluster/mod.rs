//! The edges that act as one cache: who they are, who owns what, how to ask.

pub mod membership;
pub mod peer;
pub mod ring;
pub(crate) mod seal;
pub(crate) mod swim;
