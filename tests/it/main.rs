//! Integration tests: real edges on real sockets, and an origin that follows a script.

#![allow(missing_docs)]

mod client;
mod clients;
mod commands;
mod discovery;
mod embedding;
mod fast_path;
mod flights;
mod forwarding;
mod framing;
mod gossip;
mod handoff;
mod harness;
mod http_server;
mod informational;
mod invalidation;
mod isolation;
mod keys;
mod limits;
mod location;
mod nginx;
mod origin;
mod origin_policy;
mod origin_tls;
mod ownership;
mod package_managers;
mod peek;
mod peer_tls;
mod process;
mod programs;
mod publish;
mod raw_connection;
mod readme;
mod restart;
mod revalidation;
mod rules;
mod scope;
mod storage;
mod tls;
mod use_cases;
mod variants;
mod verification;
mod websocket;
mod zero_copy;
