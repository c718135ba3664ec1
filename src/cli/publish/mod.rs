//! `peerage publish`: stores the files of a folder under names that hold a hash of their
//! contents.

mod command;
mod progress;
mod source;
mod store;

pub(super) use command::Publish;
