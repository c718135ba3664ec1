//! The fast path of a connection, which responds to plain requests without hyper.
//!
//! It stands between hyper and the socket. While hyper waits for a request, the fast path
//! parses the received bytes first. It responds to a [plain](crate::edge::FastRequest) GET if
//! this edge stores a fresh response, or if the key's owner has one in memory. It passes all
//! other bytes to hyper unchanged. There is no second HTTP parser to maintain: hyper reads
//! everything that is unusual, valid or not.
//!
//! The fast path leaves the connection to hyper unless hyper certainly waits for a request.
//! That is so if three conditions hold: hyper was passed exactly one request head without
//! content; its response has ended; and hyper has flushed since, which it does only when its
//! write buffer is empty.

mod head;
mod io;
mod responses;
mod trailers;

#[cfg(fuzzing)]
pub(crate) use head::NextRequest;
pub(crate) use io::FastPath;
