//! The configuration: a type for each table, with its defaults and its checks.
//!
//! With the feature `cli` it is read from a TOML file, then from the environment, then from
//! `--set`; each overrides the one before, and the defaults. A program can instead change
//! the fields of [`Config::default`].
//!
//! An error is one line that names the key, the fault, and the accepted values.

mod admin;
mod bounds;
mod cache;
mod cluster;
mod cluster_tls;
mod edge;
mod etcd;
mod immutable;
mod keys;
mod limits;
#[cfg(feature = "cli")]
mod load;
mod log;
mod origin;
mod query;
mod tls;
mod tree;
mod values;

pub use crate::semantics::scheme::Scheme;
pub use admin::AdminConfig;
pub use cache::CacheConfig;
pub use cluster::ClusterConfig;
pub use cluster_tls::{ClusterTlsConfig, ClusterTlsMode};
pub use edge::{EdgeConfig, ZeroCopy};
pub use etcd::EtcdConfig;
pub use immutable::ImmutableConfig;
pub use keys::KEYS;
pub use limits::LimitsConfig;
#[cfg(feature = "cli")]
pub use load::ENV_PREFIX;
#[cfg(feature = "cli")]
pub(crate) use load::Layers;
pub use log::{LogConfig, LogFormat, LogLevel};
pub use origin::OriginConfig;
pub use query::{KeepConfig, KeepWord, QueryConfig};
pub use tls::{CertificateConfig, MinVersion, TlsConfig};
pub use tree::Config;
pub use values::{Listen, Network, Period, Secret, Size};

#[cfg(all(test, feature = "cli"))]
mod tests;
