use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body_util::BodyExt;
use proptest::prelude::*;

use super::content::{Body, Resume};
use super::growing::{Growing, Next, Reader};
use super::room::Room;
use super::zero_copy::Arena;
use crate::error::Error;
use crate::store::budget::{Budget, Charge};
use crate::store::chunks::CHUNK;
use crate::store::entry::tests::stored;

fn charge() -> Charge {
    Budget::new(u64::MAX).charge(1).unwrap()
}

/// Completes a body, and returns its chunks.
fn complete(body: &Growing) -> Option<Vec<Bytes>> {
    let mut kept = None;
    body.complete(Bytes::new(), |chunks| kept = Some(chunks));
    kept
}

fn read(reader: &mut Reader) -> (Vec<u8>, Option<Next>) {
    let mut cx = Context::from_waker(Waker::noop());
    let mut bytes = Vec::new();
    loop {
        match reader.poll_next(usize::MAX, &mut cx) {
            Poll::Ready(Next::Data(data)) => bytes.extend_from_slice(&data),
            Poll::Ready(other) => return (bytes, Some(other)),
            Poll::Pending => return (bytes, None),
        }
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_reader_gets_the_bytes_written_whenever_it_joins(
        sizes in proptest::collection::vec(0usize..100_000, 1..20),
        joins in proptest::collection::vec(0usize..20, 0..6),
    ) {
        let body = Growing::new(Arena::none());
        let whole = pattern(sizes.iter().sum());
        let mut readers = Vec::new();
        let mut sent = 0;
        for (i, size) in sizes.iter().enumerate() {
            for _ in joins.iter().filter(|&&join| join == i) {
                readers.push((Reader::new(body.clone()), Vec::new()));
            }
            body.append(Bytes::copy_from_slice(&whole[sent..sent + size]));
            sent += size;
            if let Some((reader, got)) = readers.get_mut(i % 3) {
                got.extend(read(reader).0);
            }
        }
        let chunks = complete(&body).unwrap();
        prop_assert!(chunks.iter().rev().skip(1).all(|chunk| chunk.len() == CHUNK));
        prop_assert_eq!(&chunks.concat(), &whole);
        for (mut reader, mut got) in readers {
            let (rest, end) = read(&mut reader);
            got.extend(rest);
            prop_assert!(matches!(end, Some(Next::End)));
            prop_assert_eq!(&got, &whole);
        }
    }
}

#[tokio::test]
async fn skipping_counts_bytes_not_frames() {
    let whole = pattern(3 * CHUNK);
    let rest = Body::skipping(Body::stored(stored(&whole), 0, whole.len() as u64), CHUNK as u64 + 7);
    assert_eq!(rest.collect().await.unwrap().to_bytes(), &whole[CHUNK + 7..]);
}

#[test]
fn a_body_sent_byte_by_byte_is_merged() {
    let body = Growing::new(Arena::none());
    let mut reader = Reader::new(body.clone());
    for byte in pattern(5000) {
        body.append(Bytes::copy_from_slice(&[byte]));
    }
    assert_eq!(read(&mut reader).0, pattern(5000));
    assert_eq!(complete(&body).unwrap().concat(), pattern(5000));
}

#[test]
fn a_failure_follows_the_bytes_received_before_it() {
    let body = Growing::new(Arena::none());
    let mut reader = Reader::new(body.clone());
    reader.narrow(0, Some(10));
    body.append(Bytes::from_static(b"1234"));
    body.fail(Error::OriginTimeout(String::new()));
    body.fail(Error::Panicked);
    let (bytes, end) = read(&mut reader);
    assert_eq!(bytes, b"1234");
    assert!(matches!(end, Some(Next::Failed(Error::OriginTimeout(_)))));
}

#[test]
fn a_body_shorter_than_its_declared_length_ends_with_an_error() {
    let body = Growing::new(Arena::none());
    let mut reader = Reader::new(body.clone());
    reader.narrow(0, Some(10));
    body.append(Bytes::from_static(b"1234"));
    complete(&body);
    assert!(matches!(read(&mut reader).1, Some(Next::Failed(Error::OriginBroke(_)))));
}

#[test]
fn a_window_is_written_at_the_pace_of_its_fastest_reader() {
    let mut cx = Context::from_waker(Waker::noop());
    let body = Growing::new(Arena::none());
    let mut fast = Reader::new(body.clone());
    let mut slow = Reader::new(body.clone());
    let chunk = Bytes::from(vec![7; CHUNK]);
    body.become_window(2 * CHUNK as u64);
    for _ in 0..20 {
        assert!(matches!(body.poll_room(&mut cx), Poll::Ready(Ok(()))));
        body.append(chunk.clone());
        assert_eq!(read(&mut fast).0.len(), CHUNK);
    }
    assert!(matches!(slow.poll_next(usize::MAX, &mut cx), Poll::Ready(Next::Lost(0))));
    let mut ahead = 0;
    while body.poll_room(&mut cx).is_ready() {
        body.append(chunk.clone());
        ahead += CHUNK;
    }
    assert!(ahead <= 1024 * 1024 + CHUNK, "{ahead} bytes ahead of its fastest reader");
    drop((fast, slow));
    assert!(matches!(body.poll_room(&mut cx), Poll::Ready(Err(Error::Abandoned))));
    assert!(complete(&body).is_none());
}

#[tokio::test]
async fn a_reader_that_falls_out_of_the_window_resumes() {
    let body = Growing::new(Arena::none());
    let resume: Resume = Arc::new(|position| Box::pin(async move { Ok(Body::from(format!("from {}", position.at))) }));
    let lost = Body::flight(Reader::new(body.clone()), Room::new(charge()), Some(resume), None);
    body.append(Bytes::from(vec![7; 3 * CHUNK]));
    body.become_window(CHUNK as u64);
    assert_eq!(lost.collect().await.unwrap().to_bytes(), "from 0");
    let failed = Body::flight(Reader::new(body.clone()), Room::new(charge()), None, None);
    assert!(failed.collect().await.is_err());
}
