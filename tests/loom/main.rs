//! The shared body of a flight under loom: the interleavings of one writer and its readers. The file
//! under test is the library's own.

#![allow(dead_code, missing_docs, unreachable_pub)]

mod sync {
    pub use loom::sync::{Arc, Mutex, MutexGuard};
}
mod error {
    pub use peerage::Error;
}
#[path = "../../src/body"]
mod body {
    pub(crate) mod growing;
    pub(crate) mod zero_copy;
}
#[path = "../../src/store"]
mod store {
    pub(crate) mod budget;
    pub(crate) mod chunks;
}

use std::future::poll_fn;

use body::growing::{Growing, Next, Reader};
use body::zero_copy::Arena;
use bytes::Bytes;
use loom::future::block_on;
use loom::thread;
use store::chunks::CHUNK;

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
        let body = Growing::new(Arena::none());
        let mut reader = Reader::new(body.clone());
        let writer = thread::spawn(move || {
            body.append(Bytes::from_static(b"one"));
            body.complete(Bytes::from_static(b"two"), |chunks| assert_eq!(chunks.concat(), b"onetwo"));
        });
        let (bytes, end) = block_on(read_all(&mut reader));
        assert_eq!(bytes, b"onetwo");
        assert!(matches!(end, Next::End));
        writer.join().unwrap();
    });
}

#[test]
fn every_append_wakes_the_reader() {
    explore(|| {
        let body = Growing::new(Arena::none());
        let mut reader = Reader::new(body.clone());
        let reads = thread::spawn(move || {
            let next = block_on(poll_fn(|cx| reader.poll_next(usize::MAX, cx)));
            assert!(matches!(next, Next::Data(data) if data == "one"));
        });
        body.append(Bytes::from_static(b"one"));
        // Nothing else is appended before the reader has this.
        reads.join().unwrap();
        body.complete(Bytes::new(), drop);
    });
}

#[test]
fn late_reader_gets_everything_while_another_leaves() {
    explore(|| {
        let body = Growing::new(Arena::none());
        let leaving = Reader::new(body.clone());
        let late = {
            let body = body.clone();
            thread::spawn(move || block_on(read_all(&mut Reader::new(body.clone()))).0)
        };
        let leaves = thread::spawn(move || drop(leaving));
        body.append(Bytes::from_static(b"all"));
        body.complete(Bytes::new(), drop);
        assert_eq!(late.join().unwrap(), b"all");
        leaves.join().unwrap();
        assert_eq!(body.readers(), 0);
    });
}

#[test]
fn failure_reaches_a_waiting_reader() {
    explore(|| {
        let body = Growing::new(Arena::none());
        let mut reader = Reader::new(body.clone());
        let writer = thread::spawn(move || {
            body.append(Bytes::from_static(b"half"));
            body.fail(Error::OriginTimeout(String::new()));
        });
        let (bytes, end) = block_on(read_all(&mut reader));
        assert_eq!(bytes, b"half");
        assert!(matches!(end, Next::Failed(Error::OriginTimeout(_))));
        writer.join().unwrap();
    });
}

/// Appends four chunks to a window, each as soon as there is room for it.
async fn write_window(body: &Growing, chunk: &Bytes) -> Result<(), Error> {
    for _ in 0..4 {
        poll_fn(|cx| body.poll_room(cx)).await?;
        body.append(chunk.clone());
    }
    body.complete(Bytes::new(), drop);
    Ok(())
}

#[test]
fn progress_of_the_reader_wakes_the_writer_of_a_window() {
    let chunk = Bytes::from(vec![0; CHUNK]);
    explore(move || {
        let body = Growing::new(Arena::none());
        body.become_window(CHUNK as u64);
        let mut reader = Reader::new(body.clone());
        let chunk = chunk.clone();
        let writer = thread::spawn(move || block_on(write_window(&body, &chunk)));
        let mut came = 0;
        let end = block_on(async {
            loop {
                match poll_fn(|cx| reader.poll_next(usize::MAX, cx)).await {
                    Next::Data(data) => came += data.len(),
                    end => break end,
                }
            }
        });
        assert!(matches!(end, Next::End) && came == 4 * CHUNK);
        assert_eq!(writer.join().unwrap(), Ok(()));
    });
}

#[test]
fn leaving_reader_wakes_the_writer_of_a_window() {
    let chunk = Bytes::from(vec![0; CHUNK]);
    explore(move || {
        let body = Growing::new(Arena::none());
        body.become_window(CHUNK as u64);
        let reader = Reader::new(body.clone());
        let chunk = chunk.clone();
        let writer = thread::spawn(move || block_on(write_window(&body, &chunk)));
        drop(reader);
        assert_eq!(writer.join().unwrap(), Err(Error::Abandoned));
    });
}
