//! The entries of the fuzz targets in `fuzz/`. Each one panics where a parser breaks one of
//! its promises. Compiled for fuzzing only.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderValue};

use crate::cluster::membership::Admission;
use crate::cluster::ring::PLACEMENT_VERSION;
use crate::cluster::seal::Seal;
use crate::cluster::swim::{Parameters, Swim, wire};
use crate::http1::fast_path::NextRequest;
use crate::key::{AssetKey, Scope};
use crate::peer::peek_codec::{self, Parsed};
use crate::semantics::cache_control::{self, CacheControl, RequestControl};
use crate::store::codec::StoredHead;

/// Reads the head of a request as the fast path does. No head is longer than the data.
pub fn request_head(data: &[u8]) {
    match NextRequest::parse(data) {
        NextRequest::Plain(request, length) | NextRequest::Peek(request, length) => {
            assert!(length <= data.len() && request.target.starts_with('/'));
        }
        NextRequest::Head(length) => assert!(length <= data.len()),
        NextRequest::Partial | NextRequest::Other => {}
    }
}

/// Reads responses to peeks until the data is used up. Each response takes bytes.
pub fn peek_codec(data: &[u8]) {
    let mut received = BytesMut::from(data);
    loop {
        let before = received.len();
        match peek_codec::parse_response(&mut received) {
            Ok(Parsed::Partial { needed }) => return assert!(needed > received.len()),
            Ok(Parsed::Hit(_) | Parsed::Miss) => assert!(received.len() < before),
            Err(_) => return,
        }
    }
}

/// Makes the key of a request target. The key of a canonical name is the same key.
pub fn key(data: &[u8]) {
    let Ok(target) = std::str::from_utf8(data) else { return };
    let scope = Scope::of_default();
    let Ok(key) = AssetKey::of_target(&scope, target, usize::MAX) else { return };
    assert!(key.path().starts_with('/') && key.path().is_ascii());
    let again = AssetKey::of_target(&scope, key.as_str(), usize::MAX).expect("a canonical name is a target");
    assert_eq!((again.as_str(), again.hash()), (key.as_str(), key.hash()));
}

/// Gives a member the data as a datagram, as the payload of a valid one, and as a sealed one. No
/// data is sealed under a secret by chance.
pub fn gossip(data: &[u8]) {
    let parameters = Parameters {
        probe_interval: Duration::from_millis(500),
        probe_timeout: Duration::from_millis(100),
        suspicion: Duration::from_secs(2),
        admission: Admission::Authenticated,
    };
    let mut swim = Swim::new(parameters, "127.0.0.1:1", "edge-1", 1, 1);
    swim.list(Duration::ZERO, [Arc::from("127.0.0.1:2")]);
    let valid = [b"peer", &[wire::PROTOCOL][..], &PLACEMENT_VERSION.to_le_bytes(), &[0; 8], data].concat();
    for datagram in [data, &valid] {
        let _ = swim.receive(Duration::ZERO, datagram);
    }
    swim.wake(Duration::from_secs(1));
    let mut seal = Seal::new(["0123456789abcdef"], 1, Duration::MAX, Duration::ZERO);
    assert!(seal.open(&mut [&[2], data].concat(), Duration::ZERO).is_err());
    assert!(swim.take_outgoing().all(|datagram| datagram.bytes.len() <= wire::MAX_DATAGRAM));
}

/// Reads Cache-Control, with a header line for each line of the data.
pub fn cache_control(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok()) {
        headers.append(CACHE_CONTROL, line);
    }
    let _ = (CacheControl::of(&headers), RequestControl::of(&headers), cache_control::withheld(&headers));
}

/// Decodes the head of an entry. A decoded head survives another round.
pub fn entry(data: &[u8]) {
    if let Ok(head) = StoredHead::decode(data) {
        assert_eq!(StoredHead::decode(&head.encode()), Ok(head));
    }
}
