//! The fast path of a peek: a plain GET that the owner of its key answers.

use std::sync::Arc;
use std::time::SystemTime;

use http::Method;
use http::header::AGE;

use super::parts::Edge;
use super::peek::AtHand;
use super::settings::Settings;
use crate::body::Body;
use crate::flight::{Kept, Streaming};
use crate::key::AssetKey;
use crate::observe::access::{Record, ServedFrom};
use crate::observe::metrics::{Served, Source};
use crate::semantics::cache_status::{CACHE_STATUS, CacheStatus, Handled};
use crate::semantics::vary::Accepted;

/// The header lines of a 200, and its body.
pub(crate) struct Peeked {
    pub(crate) lines: Vec<u8>,
    pub(crate) body: Body,
    pub(crate) record: Record,
}

impl Edge {
    /// Asks the owner of `key` for it. Nothing is stored here for the key. The future yields the
    /// response to a [plain](super::FastRequest) request, or `None` if the peek fails. Returns
    /// `None` if no peek is possible.
    pub(crate) fn peek_fast(
        &self,
        key: AssetKey,
        accepted: Accepted,
    ) -> Option<impl Future<Output = Option<Peeked>> + Send + use<>> {
        let (settings, peek) = (Arc::clone(&self.settings), self.filler.peek(&key, accepted)?);
        Some(async move { Some(response(&settings, key, peek.await?)) })
    }
}

fn response(settings: &Settings, key: AssetKey, (mut reader, streaming): AtHand) -> Peeked {
    let Streaming { head, provider, kept, room, .. } = streaming;
    let (handled, stored) = (Handled::UriMiss, kept == Kept::Stored);
    let status = CacheStatus { handled, stored, ..CacheStatus::default() };
    let status = settings.status_behind(head.upstream_status.as_ref(), &status);
    let age = head.facts.age(SystemTime::now()).as_secs();
    let mut lines = Vec::with_capacity(512);
    let mut append = |name: &str, value: &[u8]| {
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            lines.extend_from_slice(part);
        }
    };
    for (name, value) in &head.headers {
        match name {
            name if *name == AGE && age == 0 => {}
            name if *name == AGE => append(name.as_str(), itoa::Buffer::new().format(age).as_bytes()),
            name if *name == CACHE_STATUS => append(name.as_str(), status.as_bytes()),
            name => append(name.as_str(), value.as_bytes()),
        }
    }
    reader.narrow(0, head.length);
    let (served, from) = (Served::Miss, ServedFrom::from(&provider));
    let record =
        Record { source: Source::Client, method: Method::GET, key: Ok(key), served, from, reason: None, error: None };
    Peeked { lines, body: Body::flight(reader, room, None, None), record }
}
