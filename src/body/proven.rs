//! A body that proves to be what it should be before its end is given out.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};

use super::Body;
use crate::error::Error;
use crate::semantics::digest::{Algorithm, Expected, Hashing};

/// What the contents of a body must be, and whom to blame if they are not.
pub(crate) struct Proof {
    checks: Vec<(Expected, Hashing)>,
    blame: fn(String) -> Error,
    found: ProvenDigests,
}

/// The digests of a body that has proven to be right: empty until then.
#[derive(Clone, Default)]
pub(crate) struct ProvenDigests(Arc<OnceLock<Digests>>);

type Digests = Vec<(Algorithm, Vec<u8>)>;

impl ProvenDigests {
    pub(crate) fn digests(&self) -> &[(Algorithm, Vec<u8>)] {
        self.0.get().map_or(&[], Vec::as_slice)
    }
}

impl Proof {
    /// `None` if nothing is expected.
    pub(crate) fn of(expected: Vec<Expected>, blame: fn(String) -> Error) -> Option<Self> {
        let check = |expected: Expected| {
            let hashing = expected.algorithm.hashing();
            (expected, hashing)
        };
        let checks: Vec<_> = expected.into_iter().map(check).collect();
        (!checks.is_empty()).then(|| Self { checks, blame, found: ProvenDigests::default() })
    }

    /// What will be found.
    pub(crate) fn found(&self) -> ProvenDigests {
        self.found.clone()
    }

    /// Holds all of a body to it.
    pub(crate) fn prove_whole(mut self, data: &[u8]) -> Result<(), Error> {
        self.update(data);
        self.check()
    }

    fn update(&mut self, data: &[u8]) {
        for (_, hashing) in &mut self.checks {
            hashing.update(data);
        }
    }

    fn check(self) -> Result<(), Error> {
        let mut found = Vec::with_capacity(self.checks.len());
        for (expected, hashing) in self.checks {
            let digest = hashing.finish();
            if !expected.is_met_by(&digest) {
                let shown = expected.encoding.encode(&digest);
                return Err((self.blame)(format!("expected {expected}, found {shown}")));
            }
            found.push((expected.algorithm, digest));
        }
        // Nobody else sets it.
        let _ = self.found.0.set(found);
        Ok(())
    }
}

/// A body whose last bytes wait until all of it has proven to be right. If it is
/// not, it breaks off.
pub(super) struct Proving {
    body: Body,
    /// Gone when the end has come.
    proof: Option<Proof>,
    /// What is still to come, if that is known.
    left: Option<u64>,
    /// What may be the last bytes of a body of unknown length.
    held: Bytes,
}

impl Proving {
    pub(super) fn new(body: Body, proof: Proof) -> Self {
        let left = body.size_hint().exact();
        Self { body, proof: Some(proof), left, held: Bytes::new() }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            let Some(proof) = &mut self.proof else {
                return Poll::Ready(None);
            };
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => {
                    // A frame without bytes would take the place of the last.
                    let Some(data) = frame.into_data().ok().filter(|data| !data.is_empty()) else { continue };
                    proof.update(&data);
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    let before = match self.left {
                        Some(0) => return Poll::Ready(Some(self.end(data))),
                        Some(_) => data,
                        None => std::mem::replace(&mut self.held, data),
                    };
                    if !before.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(before))));
                    }
                }
                None => {
                    let last = std::mem::take(&mut self.held);
                    let last = self.end(last);
                    let silent = matches!(&last, Ok(frame) if frame.data_ref().is_some_and(Bytes::is_empty));
                    return Poll::Ready((!silent).then_some(last));
                }
            }
        }
    }

    /// The last bytes, if they may be given out.
    fn end(&mut self, last: Bytes) -> Result<Frame<Bytes>, Error> {
        self.proof.take().map_or(Ok(()), Proof::check).map(|()| Frame::data(last))
    }

    /// The proof as far as it has come, if what was taken was given out.
    pub(super) fn into_proof(self) -> Option<Proof> {
        self.proof.filter(|_| self.held.is_empty())
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.proof.is_none()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self.left {
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}

/// Reads ahead up to `first` bytes of `body`, and returns all of it: a body that is no
/// longer has been proven by then.
pub(crate) async fn prove(body: Body, proof: Proof, first: u64) -> Result<Body, Error> {
    let long = body.size_hint().exact().is_some_and(|length| length > first);
    let mut body = Body::proving(body, proof);
    if long {
        return Ok(body);
    }
    let (mut came, mut bytes) = (Vec::new(), 0);
    while bytes <= first {
        match super::next_data(&mut body).await {
            None => return Ok(Body::chain(came)),
            Some(data) => {
                let data = data?;
                bytes += data.len() as u64;
                came.push(Body::from(data));
            }
        }
    }
    came.push(body);
    Ok(Body::chain(came))
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::BodyExt;
    use proptest::prelude::*;

    use super::*;
    use crate::semantics::digest::Encoding;

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

    /// What came of a body, and whether it ended well.
    async fn read(mut body: Body) -> (Vec<u8>, bool) {
        let mut came = Vec::new();
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => came.extend_from_slice(frame.data_ref().unwrap()),
                Err(_) => return (came, false),
            }
        }
        (came, true)
    }

    proptest! {
        #[test]
        fn what_is_right_comes_whole_and_what_is_wrong_never(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..8),
            first in 0u64..200,
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
            let (ended, came) = runtime.block_on(async {
                match prove(body, proof, first).await {
                    Ok(body) => {
                        let (came, ended) = read(body).await;
                        (ended, came)
                    }
                    Err(_) => (false, Vec::new()),
                }
            });
            prop_assert_eq!(ended, !wrong);
            prop_assert_eq!(found.digests().len(), usize::from(!wrong));
            if wrong {
                // Not even all of the bytes, whatever is made of how they end; and
                // of a short body none.
                prop_assert!(came.len() < whole.len());
                prop_assert!(whole.len() as u64 > first || came.is_empty());
            } else {
                prop_assert_eq!(came, whole);
            }
        }
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_proves_nothing() {
        let chunks = [Ok(Bytes::from_static(b"abc")), Err(Error::OriginTimeout(String::new()))];
        let body = Body::from_stream(stream::iter(chunks));
        assert_eq!(prove(body, proof_of(b"abc"), 100).await.unwrap_err(), Error::OriginTimeout(String::new()));
    }

    #[tokio::test]
    async fn an_empty_body_is_proven_too() {
        assert!(prove(Body::empty(), proof_of(b"abc"), 0).await.is_err());
        assert!(prove(Body::empty(), proof_of(b""), 0).await.is_ok());
    }
}
