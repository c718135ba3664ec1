//! The flight's shared body under loom: every interleaving of one writer and
//! its readers that matters. The file under test is the library's own.

#![allow(dead_code, missing_docs, unreachable_pub)]

mod sync {
    pub use loom::sync::{Arc, Mutex, MutexGuard};
}
mod error {
    pub use peerage::Error;
}
#[path = "../../src/body/growing.rs"]
mod growing;

use std::future::poll_fn;

use bytes::Bytes;
use growing::{Growing, Next, PIECE, Reader};
use loom::future::block_on;
use loom::thread;

use error::Error;

async fn read_all(reader: &mut Reader) -> (Vec<u8>, Next) {
    let mut bytes = Vec::new();
    loop {
        match poll_fn(|cx| reader.poll_next(usize::MAX, cx)).await {
            Next::Data(data) => bytes.extend_from_slice(&data),
            end => return (bytes, end),
        }
    }
}

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

#[test]
fn no_wakeup_is_lost() {
    explore(|| {
        let body = Growing::new();
        let mut reader = Reader::new(body.clone());
        let writer = thread::spawn(move || {
            body.append(Bytes::from_static(b"one"));
            body.append(Bytes::from_static(b"two"));
            assert_eq!(body.complete().unwrap().concat(), b"onetwo");
        });
        let (bytes, end) = block_on(read_all(&mut reader));
        assert_eq!(bytes, b"onetwo");
        assert!(matches!(end, Next::End));
        writer.join().unwrap();
    });
}

#[test]
fn a_late_reader_and_a_leaving_one() {
    explore(|| {
        let body = Growing::new();
        let leaving = Reader::new(body.clone());
        let late = {
            let body = body.clone();
            thread::spawn(move || block_on(read_all(&mut Reader::new(body.clone()))).0)
        };
        let leaves = thread::spawn(move || drop(leaving));
        body.append(Bytes::from_static(b"all"));
        body.complete();
        assert_eq!(late.join().unwrap(), b"all");
        leaves.join().unwrap();
        assert_eq!(body.readers(), 0);
    });
}

#[test]
fn failure_reaches_who_waits() {
    explore(|| {
        let body = Growing::new();
        let mut reader = Reader::new(body.clone());
        let writer = thread::spawn(move || {
            body.append(Bytes::from_static(b"half"));
            body.fail(Error::OriginTimeout);
        });
        let (bytes, end) = block_on(read_all(&mut reader));
        assert_eq!(bytes, b"half");
        assert!(matches!(end, Next::Failed(Error::OriginTimeout)));
        writer.join().unwrap();
    });
}

#[test]
fn a_windows_writer_is_woken_by_its_reader() {
    explore(|| {
        let body = Growing::new();
        body.become_window(PIECE as u64);
        let mut reader = Reader::new(body.clone());
        // Beyond what the writer may run ahead: it has to wait for the reader.
        let ahead = Bytes::from(vec![0; 5 * PIECE]);
        body.append(ahead.slice(..PIECE));
        let writer = thread::spawn(move || {
            block_on(async {
                for _ in 0..2 {
                    if poll_fn(|cx| body.poll_room(cx)).await.is_err() {
                        return;
                    }
                    body.append(ahead.clone());
                }
                body.complete();
            });
        });
        // One step, then it leaves: the writer must end either way.
        block_on(async { assert!(!matches!(poll_fn(|cx| reader.poll_next(usize::MAX, cx)).await, Next::End)) });
        drop(reader);
        writer.join().unwrap();
    });
}
