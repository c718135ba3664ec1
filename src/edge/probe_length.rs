//! The length of a body that does not state one, where it decides whether the body may be shared.

use std::time::Duration;

use bytes::BytesMut;
use http::StatusCode;
use hyper::body::Body as _;
use tokio::time::{Instant, timeout_at};

use super::memory::Memory;
use crate::body::{Body, next_data};
use crate::error::Error;
use crate::semantics::storing::Verdict;
use crate::store::chunks::CHUNK;
use crate::upstream::Framing;

/// The longest time that a head waits until the length of its body is known.
const PATIENCE: Duration = Duration::from_secs(1);

/// Returns true if a reader that falls out of the window cannot resume: the length is unknown, and
/// only a 200 can be requested again with Range.
pub(super) fn may_outgrow(parts: &http::response::Parts, framing: Framing, length: Option<u64>) -> bool {
    // A body that ends with its connection has no length, and probing shows none.
    length.is_none() && parts.status != StatusCode::OK && framing != Framing::UntilClose
}

/// Reads up to one chunk of a body that [may outgrow](may_outgrow) the memory for it and that
/// others may share. If that is the whole body, and it arrives in time, the returned body has a
/// length.
pub(super) async fn measured(
    cache: &Memory,
    verdict: Verdict,
    parts: &http::response::Parts,
    framing: Framing,
    mut body: Body,
) -> Result<Body, Error> {
    let alone = matches!(verdict, Verdict::Pass(_)) || !may_outgrow(parts, framing, body.size_hint().exact());
    let Some(room) = Some(CHUNK as u64).filter(|_| !alone).and_then(|chunk| cache.budget.charge(chunk)) else {
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
