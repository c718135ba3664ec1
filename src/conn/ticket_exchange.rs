//! The answer to a peer that sends its session ticket secrets.

use std::net::IpAddr;
use std::time::SystemTime;

use crate::body::Body;
use crate::peer::ticket_exchange::read_message;
use crate::tls::TicketSecrets;

/// Adds the secrets in `body`, which the edge at `peer` sent, to `secrets`. Returns the message
/// with the union; `None` if the body is not such a message, which is logged.
pub(super) async fn answer(secrets: &TicketSecrets, body: Body, peer: IpAddr) -> Option<Vec<u8>> {
    let received = read_message(body).await.map_err(|error| error.to_string());
    let now = SystemTime::now();
    match received.and_then(|message| secrets.merge(&message, now).map_err(|error| error.to_string())) {
        Ok(..) => Some(secrets.encode(now)),
        Err(error) => {
            tracing::warn!(%peer, %error, "ticket secrets of a peer rejected");
            None
        }
    }
}
