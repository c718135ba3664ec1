//! TLS: on the connections of clients, with certificates and their selection by name, and the
//! resumption of sessions; on the connections to an origin; and on those between edges.
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
mod failure;
#[cfg(feature = "tls")]
mod files;
#[cfg(feature = "tls")]
mod inventory;
#[cfg(feature = "tls")]
mod names;
#[cfg(feature = "tls")]
mod peer_tls;
#[cfg(feature = "tls")]
mod peer_verifier;
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
mod ticket_secrets;
#[cfg(feature = "tls")]
mod tickets;

pub(crate) use acceptor::TlsAcceptor;
#[cfg(not(feature = "tls"))]
pub(crate) use acceptor::{
    ClientStream, PeerConnection, PeerTls, Selection, TicketSecrets, TlsConnector, TlsStream, selected_http2,
};
#[cfg(feature = "tls")]
pub(crate) use connector::{ClientStream, TlsConnector, selected_http2};
#[cfg(feature = "tls")]
pub(crate) use peer_tls::{PeerConnection, PeerTls};
#[cfg(feature = "tls")]
pub(crate) use selection::Selection;
pub(crate) use settings::{
    Alpn, ClientSettings, DialError, DialOutcome, HandshakeError, PairPaths, PeerIdentity, PeerMode, PeerSettings,
    Report, Resumption, Session, Settings, TicketScope, TlsVersion, Verification,
};
#[cfg(feature = "tls")]
pub(crate) use stream::TlsStream;
#[cfg(feature = "tls")]
pub(crate) use ticket_secrets::TicketSecrets;
