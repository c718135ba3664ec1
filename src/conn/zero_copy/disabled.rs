//! [`Splicer`] without the feature `zero-copy`: copies everything into the socket.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

use super::Io;
use crate::body::zero_copy::Arena;
use crate::config::ZeroCopy;

/// Gives each new connection its [`Splicer`].
pub(crate) struct Splicers;

impl Splicers {
    pub(crate) fn new(_arena: Arc<Arena>, _zero_copy: ZeroCopy) -> Self {
        Self
    }

    #[allow(clippy::unused_self)] // as with the feature
    pub(crate) fn splicer(&self) -> Splicer {
        Splicer
    }
}

/// Writes to the socket of one connection.
pub(crate) struct Splicer;

impl Splicer {
    pub(crate) fn none() -> Self {
        Self
    }

    #[allow(clippy::unused_self)] // as with the feature
    pub(in crate::conn) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Io,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(io).poll_write_vectored(cx, bufs)
    }
}
