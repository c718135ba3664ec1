//! Finding out how long a body is, where that decides whether others may have it too.

use std::time::Duration;

use bytes::BytesMut;
use http::StatusCode;
use http_body::Body as _;
use tokio::time::{Instant, timeout_at};

use super::Edge;
use crate::body::{Body, next_data};
use crate::error::Error;
use crate::semantics::storing::Verdict;
use crate::store::chunks::CHUNK;
use crate::upstream::Framing;

/// A head waits for so long at the most until the length of its body is known.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether who falls behind in the body of this answer could not go on, for a part can be
/// asked for of a 200 alone, and nothing says how long it is: it may outgrow what may be
/// held.
pub(super) fn may_outgrow(parts: &http::response::Parts, framing: Framing, length: Option<u64>) -> bool {
    // What ends where its connection does has no length before, and shows none after.
    length.is_none() && parts.status != StatusCode::OK && framing != Framing::UntilClose
}

impl Edge {
    /// `body`, of which others may have a share: one that [may outgrow](may_outgrow) what
    /// may be held is taken in as far as a piece, if that comes soon, and has a length if that
    /// is all of it.
    pub(super) async fn measured(
        &self,
        verdict: Verdict,
        parts: &http::response::Parts,
        framing: Framing,
        mut body: Body,
    ) -> Result<Body, Error> {
        let alone = matches!(verdict, Verdict::Pass(_)) || !may_outgrow(parts, framing, body.size_hint().exact());
        let Some(room) = Some(CHUNK as u64).filter(|_| !alone).and_then(|chunk| self.budget.charge(chunk)) else {
            return Ok(body);
        };
        let (mut came, deadline) = (BytesMut::new(), Instant::now() + PATIENCE);
        while came.len() < CHUNK
            && let Ok(data) = timeout_at(deadline, next_data(&mut body)).await
        {
            let Some(data) = data else {
                body = Body::empty();
                break;
            };
            came.extend_from_slice(&data?);
        }
        Ok(Body::chain([Body::charged(came.freeze().into(), room), body]))
    }
}
