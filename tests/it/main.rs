//! Integration tests: real edges on real sockets, and an origin that follows a script.

#![allow(missing_docs)]

mod client;
mod clients;
mod commands;
mod discovery;
mod ends;
mod fast_path;
mod flights;
mod forwarding;
mod framing;
mod gossip;
mod guesses;
mod harness;
mod interim;
mod invalidating;
mod keys;
mod lending;
mod limits;
mod locations;
mod nginx;
mod origin;
mod ownership;
mod peeking;
mod process;
mod proving;
mod publishing;
mod readme;
mod restarting;
mod rules;
mod serving;
mod storing;
mod tool;
mod tools;
mod trust;
mod upgrading;
mod uses;
mod validating;
mod varying;
mod warm;
