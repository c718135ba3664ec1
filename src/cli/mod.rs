//! The commands of the `peerage` binary, one file each.

mod arguments;
mod client;
mod command;
mod contents;
mod demo;
mod failure;
mod log;
mod manifest;
mod origin;
mod owner;
mod peers;
mod process;
mod publish;
mod route;
mod run;
mod validate;
mod verify;

pub use command::main;
