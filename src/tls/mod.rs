//! TLS on the connections of clients: certificates and their selection by name, handshakes, and
//! the resumption of sessions.
//!
//! No other module names a type of rustls, whose interface changes with its next version.

#[cfg_attr(not(feature = "tls"), path = "disabled.rs")]
mod acceptor;
#[cfg(feature = "tls")]
mod certificate;
#[cfg(feature = "tls")]
mod client_policy;
#[cfg(feature = "tls")]
mod files;
#[cfg(feature = "tls")]
mod inventory;
#[cfg(feature = "tls")]
mod names;
#[cfg(feature = "tls")]
mod resolver;
#[cfg(feature = "tls")]
mod selection;
mod settings;
#[cfg(feature = "tls")]
mod stream;
#[cfg(feature = "tls")]
mod tickets;

pub(crate) use acceptor::TlsAcceptor;
#[cfg(not(feature = "tls"))]
pub(crate) use acceptor::{Selection, TlsStream};
#[cfg(feature = "tls")]
pub(crate) use selection::Selection;
pub(crate) use settings::{HandshakeError, PairPaths, Report, Resumption, Session, Settings, TlsVersion};
#[cfg(feature = "tls")]
pub(crate) use stream::TlsStream;
