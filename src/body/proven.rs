//! Verification of a body before its first bytes are sent.

use hyper::body::Body as _;

use super::content::{Body, next_data};
pub(crate) use super::proof::{Proof, ProvenDigests};
use crate::error::Error;

/// Reads `body` ahead, up to `read_ahead` bytes, and returns all of it. A body that is no longer
/// than that is verified by then; a longer one withholds its last bytes until it is.
pub(crate) async fn prove(body: Body, proof: Proof, read_ahead: u64) -> Result<Body, Error> {
    let long = body.size_hint().exact().is_some_and(|length| length > read_ahead);
    let mut body = Body::proving(body, proof);
    if long {
        return Ok(body);
    }
    let (mut read, mut bytes) = (Vec::new(), 0);
    while bytes <= read_ahead {
        match next_data(&mut body).await {
            None => return Ok(Body::chain(read)),
            Some(data) => {
                let data = data?;
                bytes += data.len() as u64;
                read.push(Body::from(data));
            }
        }
    }
    read.push(body);
    Ok(Body::chain(read))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::stream;
    use http_body_util::BodyExt;
    use proptest::prelude::*;

    use super::*;
    use crate::semantics::digest::{Algorithm, Encoding, Expected};

    fn proof_of(data: &[u8]) -> Proof {
        let mut hashing = Algorithm::Sha256.hashing();
        hashing.update(data);
        let text = Encoding::Hex.encode(&hashing.finish()).into();
        let expected = Expected { algorithm: Algorithm::Sha256, encoding: Encoding::Hex, text };
        Proof::of(vec![expected], Error::OriginWrong).unwrap()
    }

    fn streamed(chunks: Vec<Vec<u8>>) -> Body {
        Body::from_stream(stream::iter(chunks.into_iter().map(|chunk| Ok(Bytes::from(chunk)))))
    }

    /// Returns the bytes of a body, and true if it ended without an error.
    async fn read(mut body: Body) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => bytes.extend_from_slice(frame.data_ref().unwrap()),
                Err(_) => return (bytes, false),
            }
        }
        (bytes, true)
    }

    proptest! {
        #[test]
        fn a_correct_body_is_delivered_whole_and_a_wrong_one_never(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..8),
            read_ahead in 0u64..200,
            flip in any::<Option<(u16, u8)>>(),
            known in any::<bool>(),
        ) {
            let whole = chunks.concat();
            let mut sent = chunks;
            let mut wrong = false;
            if let (Some((at, bit)), false) = (flip, whole.is_empty()) {
                let at = usize::from(at) % whole.len();
                let mut left = at;
                for chunk in &mut sent {
                    if left < chunk.len() {
                        chunk[left] ^= 1 << (bit % 8);
                        wrong = true;
                        break;
                    }
                    left -= chunk.len();
                }
            }
            let body = if known { Body::from(Bytes::from(sent.concat())) } else { streamed(sent) };
            let proof = proof_of(&whole);
            let found = proof.found();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (ended_well, received) = runtime.block_on(async {
                match prove(body, proof, read_ahead).await {
                    Ok(body) => {
                        let (received, ended_well) = read(body).await;
                        (ended_well, received)
                    }
                    Err(_) => (false, Vec::new()),
                }
            });
            prop_assert_eq!(ended_well, !wrong);
            prop_assert_eq!(found.digests().len(), usize::from(!wrong));
            if wrong {
                // A reader that ignores the error must not get all of the bytes either, and
                // none of a body that is read ahead completely.
                prop_assert!(received.len() < whole.len());
                prop_assert!(whole.len() as u64 > read_ahead || received.is_empty());
            } else {
                prop_assert_eq!(received, whole);
            }
        }
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_not_verified() {
        let chunks = [Ok(Bytes::from_static(b"abc")), Err(Error::OriginTimeout(String::new()))];
        let body = Body::from_stream(stream::iter(chunks));
        assert_eq!(prove(body, proof_of(b"abc"), 100).await.unwrap_err(), Error::OriginTimeout(String::new()));
    }

    #[tokio::test]
    async fn an_empty_body_is_verified() {
        assert!(prove(Body::empty(), proof_of(b"abc"), 0).await.is_err());
        assert!(prove(Body::empty(), proof_of(b""), 0).await.is_ok());
    }
}
