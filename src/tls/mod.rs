//! TLS: on the connections of clients, with certificates and their selection by name, and the
//! resumption of sessions; and on the connections to an origin.
//!
//! No other module names a type of rustls, whose interface changes with its next version.

#[cfg_attr(not(feature = "tls"), path = "disabled.rs")]
mod acceptor;
#[cfg(feature = "tls")]
mod certificate;
#[cfg(feature = "tls")]
mod client_policy;
#[cfg(feature = "tls")]
mod connector;
#[cfg(feature = "tls")]
mod files;
#[cfg(feature = "tls")]
mod inventory;
#[cfg(feature = "tls")]
mod names;
#[cfg(feature = "tls")]
mod records;
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
pub(crate) use acceptor::{ClientStream, Selection, TlsConnector, TlsStream};
#[cfg(feature = "tls")]
pub(crate) use connector::{ClientStream, TlsConnector};
#[cfg(feature = "tls")]
pub(crate) use selection::Selection;
pub(crate) use settings::{
    ClientSettings, HandshakeError, PairPaths, Report, Resumption, Session, Settings, TlsVersion, Verification,
};
#[cfg(feature = "tls")]
pub(crate) use stream::TlsStream;
