//! Peerage as its users have it: real sockets, real edges, and an origin that
//! does what the test tells it to.

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
mod tools;
mod trust;
mod upgrading;
mod uses;
mod validating;
mod varying;
mod warm;
