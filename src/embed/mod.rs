//! The edge inside another program: its builder, the service for the program's own HTTP server,
//! and the cache without HTTP.

mod builder;
mod cache;
mod exchange;
mod service;
#[cfg(feature = "tower")]
mod tower;

pub use builder::EdgeBuilder;
pub use cache::Cache;
pub use service::EdgeService;
