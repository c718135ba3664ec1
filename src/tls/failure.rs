//! The causes of failed handshakes, in words.

use std::io::{self, ErrorKind};

use rustls::{AlertDescription, CertificateError, InvalidMessage};

use super::settings::HandshakeError;

/// Returns the TLS error in an I/O error.
pub(super) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

/// Returns the cause of a failed handshake with `remote`, a client or a peer that has connected.
pub(super) fn of_accepted(remote: &str, error: &io::Error) -> HandshakeError {
    match (tls_error(error), error.kind()) {
        (Some(error), _) => of_tls(remote, error),
        (None, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => HandshakeError::Closed,
        (None, _) => HandshakeError::Failed(error.to_string()),
    }
}

/// Returns the cause in words of TLS; see [`of_accepted`].
pub(super) fn of_tls(remote: &str, error: &rustls::Error) -> HandshakeError {
    match error {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => HandshakeError::NotTls,
        rustls::Error::NoCertificatesPresented => HandshakeError::ClientCertificate("none was sent".to_owned()),
        rustls::Error::InvalidCertificate(error) => HandshakeError::ClientCertificate(of_certificate(remote, error)),
        rustls::Error::AlertReceived(AlertDescription::UnknownCA | AlertDescription::BadCertificate) => {
            HandshakeError::Failed(format!("the {remote} does not trust the certificate"))
        }
        error => HandshakeError::Failed(error.to_string()),
    }
}

/// Returns the reason for which the certificate of `owner` was rejected.
pub(super) fn of_certificate(owner: &str, error: &CertificateError) -> String {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("the {owner}'s certificate has expired")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("the {owner}'s certificate is not valid yet; check the clock")
        }
        CertificateError::UnknownIssuer => format!("the issuer of the {owner}'s certificate is not trusted"),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("the {owner}'s certificate is for another name: {error}")
        }
        CertificateError::BadSignature => {
            format!("the {owner}'s certificate is not signed by the trusted issuer that it names")
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            format!("the extended key usage of the {owner}'s certificate does not allow this use: {error}")
        }
        CertificateError::Other(other) => format!("the {owner}'s certificate {}", other.0),
        error => format!("the {owner}'s certificate cannot be verified: {error}"),
    }
}
