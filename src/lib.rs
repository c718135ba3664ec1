//! An HTTP caching reverse proxy whose edges act as one cache.
//!
//! An edge sits in front of an origin and stores its responses. Each asset has one owner among
//! the edges of a cluster: an edge that misses asks the owner, and only the owner asks the
//! origin. So the origin sends each asset once, however many edges and clients request it at
//! the same moment. HTTP is the interface on every side.
//!
//! This crate is the library behind the `peerage` program. With it a program runs an edge
//! inside itself, in front of an HTTP server or of its own [`Origin`].
//!
//! # A first program
//!
//! The origin is a closure from key to bytes. Concurrent requests for one key call it once, and
//! its values are stored until they are evicted: like groupcache's, they never change.
//!
//! ```
//! use http_body_util::BodyExt;
//! use peerage::{AssetKey, Edge};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let origin = |key: AssetKey| async move {
//!     Ok::<_, std::io::Error>(Some(format!("this is {key}\n").into()))
//! };
//! let edge = Edge::builder().name("web-1").memory(64 << 20).origin(origin).build()?;
//!
//! let response = edge.cache().get("/logo.png").await?;
//! assert_eq!(response.into_body().collect().await?.to_bytes(), "this is /logo.png\n");
//! # Ok(())
//! # }
//! ```
//!
//! # An edge in an HTTP server
//!
//! [`Edge::service`] responds to requests that the program's own server has received. With the
//! feature `tower` it is a `tower::Service`; `examples/axum.rs` is a complete program:
//!
//! ```text
//! let app = Router::new().route("/", get(page)).nest_service("/assets", edge.service());
//! ```
//!
//! # An edge with listeners
//!
//! [`Server`] adds the listeners for clients, for peers and for operators, and drains them at its
//! end. Its [`edge`](Server::edge) has the same methods. `examples/embed.rs` is a complete program.
//!
//! ```no_run
//! use peerage::{AssetKey, Config, Server};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut config = Config::default();
//! config.edge.listen = "127.0.0.1:8001".parse()?;
//!
//! let origin = |key: AssetKey| async move {
//!     Ok::<_, std::io::Error>(Some(format!("this is {key}\n").into()))
//! };
//! let server = Server::bind_with(config, origin).await?;
//! println!("listening on http://{}", server.addresses().clients);
//! server.run(async { drop(tokio::signal::ctrl_c().await) }).await?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Server::bind`] takes the HTTP origin from the configuration instead
//! ([`config::OriginConfig::url`]).
//!
//! # Configuration
//!
//! Change the fields of [`Config::default`], or deserialize a [`Config`] with serde. `config.toml`
//! in the repository explains each key. [`Server`] and [`EdgeBuilder`] check the configuration; an
//! error names the key and the accepted values.
//!
//! # A cluster
//!
//! Set [`Config::cluster`] and list all members in `peers`. A program that knows the members
//! itself can replace the list at any time:
//!
//! ```no_run
//! # async fn start(config: peerage::Config) -> Result<(), Box<dyn std::error::Error>> {
//! # use peerage::{AssetKey, Server};
//! # let origin = |_: AssetKey| async { Ok::<_, std::io::Error>(None) };
//! # let mut lists = tokio::sync::mpsc::channel::<Vec<String>>(1).1;
//! let server = Server::bind_with(config, origin).await?;
//! let edge = server.edge().clone();
//! tokio::spawn(async move {
//!     while let Some(members) = lists.recv().await {
//!         edge.membership().replace(members.iter().map(String::as_str));
//!     }
//! });
//! server.run(std::future::pending()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! An edge without listeners can be a [guest](cluster::membership::Membership::guest) of the
//! cluster: see [`EdgeBuilder::membership`] and `examples/membership.rs`.
//!
//! # Features
//!
//! All are on by default. A configuration that needs a missing one is rejected with its name.
//!
//! | feature | adds |
//! |---|---|
//! | `cli` | the `peerage` program; `Config::load` from a file, the environment and `--set`; the logs |
//! | `digests` | SHA-1, MD5 and BLAKE3 in names, besides SHA-2 and XXH3 |
//! | `dns`, `etcd` | member lists from DNS or etcd (`cluster.discover`) |
//! | `gossip` | failure detection among edges (`cluster.gossip`) |
//! | `observe` | `/metrics` and `/peers` on the admin listener |
//! | `tls` | HTTPS for clients (`[tls]`) |
//! | `tower` | [`EdgeService`] as a `tower::Service` |
//! | `zero-copy` | large bodies sent without a copy (`edge.zero_copy`) |
//!
//! # How it works
//!
//! 1. The server accepts a request on the listener for clients or on the listener for peers, or
//!    the program that embeds the edge passes one on.
//! 2. [`Edge`] decides on the response. Methods other than GET and HEAD go to the origin.
//! 3. [`AssetKey`] is the canonical name of the asset in the cache, on the ring and at the origin.
//! 4. A fresh entry in the store is a hit. A small entry of the owner is fetched by a peek.
//! 5. A miss starts a flight, or joins one: each key has at most one fill at a time.
//! 6. The fill asks the owner on the [ring](cluster::ring), then its successors, then the
//!    [`Origin`].
//! 7. The response's head decides, by the rules of [`semantics`]: all readers stream from the
//!    growing [`Body`], or each sends its own request.
//! 8. The response gets conditions, ranges, Age, Cache-Status and Via applied.
//!
//! `ARCHITECTURE.md` in the repository describes the modules and their invariants.

// Each feature uses some items that are dead without it; the default build checks them all.
#![cfg_attr(not(feature = "default"), allow(dead_code))]

mod admin;
mod body;
#[cfg(feature = "cli")]
pub mod cli;
mod clients;
pub mod cluster;
pub mod config;
mod conn;
mod edge;
mod embed;
mod error;
mod flight;
#[cfg(fuzzing)]
pub mod fuzz;
mod http1;
mod key;
mod observe;
mod origin;
mod peer;
mod random;
pub mod semantics;
mod server;
pub mod site;
mod store;
mod sync;
mod tls;
mod upstream;

pub use body::Body;
pub use config::Config;
pub use edge::Edge;
pub use embed::{Cache, EdgeBuilder, EdgeService};
pub use error::{Error, Fault, RunError, StartError};
pub use key::AssetKey;
pub use origin::{Call, Origin};
pub use server::{Addresses, Reloading, Server};
pub use upstream::{Framing, Reply};
