//! Verification of a body against expected digests.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use crate::error::Error;
use crate::semantics::digest::{Algorithm, Expected, Hashing};

/// Expected digests of a body, with the digests computed so far. A mismatch is the error that
/// `blame` makes.
pub(crate) struct Proof {
    checks: Vec<(Expected, Hashing)>,
    blame: fn(String) -> Error,
    found: ProvenDigests,
}

/// The digests of a body, shared with its sink: empty until the body is verified.
#[derive(Clone, Default)]
pub(crate) struct ProvenDigests(Arc<OnceLock<Digests>>);

type Digests = Vec<(Algorithm, Vec<u8>)>;

impl ProvenDigests {
    pub(crate) fn digests(&self) -> &[(Algorithm, Vec<u8>)] {
        self.0.get().map_or(&[], Vec::as_slice)
    }
}

impl Proof {
    /// Returns `None` if no digest is expected.
    pub(crate) fn of(expected: Vec<Expected>, blame: fn(String) -> Error) -> Option<Self> {
        let check = |expected: Expected| {
            let hashing = expected.algorithm.hashing();
            (expected, hashing)
        };
        let checks: Vec<_> = expected.into_iter().map(check).collect();
        (!checks.is_empty()).then(|| Self { checks, blame, found: ProvenDigests::default() })
    }

    /// Returns the digests that the verification will publish.
    pub(crate) fn found(&self) -> ProvenDigests {
        self.found.clone()
    }

    /// Verifies `data`, all of a body.
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
        // Set here only, and `self` is consumed.
        let _ = self.found.0.set(found);
        Ok(())
    }
}

/// A body with its last bytes withheld until all of it is verified. On a mismatch it ends with
/// an error.
pub(super) struct Proving<B> {
    body: B,
    /// `None` after the end of the body.
    proof: Option<Proof>,
    /// Bytes still to come, if the length is known.
    left: Option<u64>,
    /// The latest bytes of a body of unknown length: they may be its last.
    withheld: Bytes,
}

impl<B: hyper::body::Body<Data = Bytes, Error = Error> + Unpin> Proving<B> {
    pub(super) fn new(body: B, proof: Proof) -> Self {
        let left = body.size_hint().exact();
        Self { body, proof: Some(proof), left, withheld: Bytes::new() }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            let Some(proof) = &mut self.proof else {
                return Poll::Ready(None);
            };
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => {
                    // An empty frame must not replace the withheld bytes.
                    let Some(data) = frame.into_data().ok().filter(|data| !data.is_empty()) else { continue };
                    proof.update(&data);
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    let before = match self.left {
                        Some(0) => return Poll::Ready(Some(self.end(data))),
                        Some(_) => data,
                        None => std::mem::replace(&mut self.withheld, data),
                    };
                    if !before.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(before))));
                    }
                }
                None => {
                    let last = std::mem::take(&mut self.withheld);
                    let last = self.end(last);
                    let is_empty = matches!(&last, Ok(frame) if frame.data_ref().is_some_and(Bytes::is_empty));
                    return Poll::Ready((!is_empty).then_some(last));
                }
            }
        }
    }

    /// Returns the last bytes, or the error of a mismatch.
    fn end(&mut self, last: Bytes) -> Result<Frame<Bytes>, Error> {
        self.proof.take().map_or(Ok(()), Proof::check).map(|()| Frame::data(last))
    }

    /// Returns the partial digests, unless some of the digested bytes are still withheld.
    pub(super) fn into_proof(self) -> Option<Proof> {
        self.proof.filter(|_| self.withheld.is_empty())
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
