use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;

/// Returns both ends of a connection; the first is non-blocking.
fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    server.set_nonblocking(true).unwrap();
    (server, client)
}

/// Reserves an arena of so many slots. The tests need a system that splices pages.
fn arena(slots: u64) -> Arc<Arena> {
    Arena::reserve(slots * CHUNK as u64 / SPREAD).unwrap()
}

fn gather(arena: &Arc<Arena>, byte: u8, len: usize) -> Bytes {
    let parts = [Bytes::from(vec![byte; len / 3]), Bytes::from(vec![byte; len - len / 3])];
    arena.gather(parts.iter(), len)
}

/// Gathers a chunk that was sent by copy often enough to be spliced from now on.
fn gather_popular(arena: &Arc<Arena>, byte: u8, len: usize) -> Bytes {
    let bytes = gather(arena, byte, len);
    for _ in 0..COPIES {
        arena.note_sent(&[IoSlice::new(&bytes)], len);
    }
    bytes
}

#[test]
fn large_chunks_are_gathered_in_slots() {
    let arena = arena(2);
    for len in [0, 1, MIN_SPLICE - 1, MIN_SPLICE, MIN_SPLICE + 1, CHUNK, CHUNK + 1] {
        let bytes = gather_popular(&arena, 7, len);
        assert!(bytes.len() == len && bytes.iter().all(|&byte| byte == 7));
        let large = (MIN_SPLICE..=CHUNK).contains(&len);
        assert_eq!(arena.prefers_splice(&[IoSlice::new(b"head"), IoSlice::new(&bytes)]), large, "{len}");
        assert!(!Arena::none().prefers_splice(&[IoSlice::new(&bytes)]));
        assert!(!arena.prefers_splice(&[IoSlice::new(&vec![7; len])]));
    }
}

#[test]
fn a_chunk_is_spliced_from_its_start_after_enough_copies() {
    let arena = arena(2);
    let (server, _client) = connected();
    let bytes = gather(&arena, 7, CHUNK);
    let (whole, rest) = (IoSlice::new(&bytes), IoSlice::new(&bytes[1000..]));
    for _ in 0..COPIES {
        assert!(!arena.prefers_splice(&[whole, rest]));
        // A send that does not reach the chunk, or begins in its middle, does not count.
        arena.note_sent(&[IoSlice::new(b"head"), whole], 4);
        arena.note_sent(&[rest], rest.len());
        arena.note_sent(&[IoSlice::new(b"head"), whole], 1000);
    }
    // After a copy of the start, the rest is copied too.
    assert!(arena.prefers_splice(&[whole]) && !arena.prefers_splice(&[rest]));
    assert_eq!(arena.spliced(), 0);
    let taken = arena.send(server.as_fd(), &[whole], 1000).unwrap();
    assert!(taken == Sent::All(1000) && arena.prefers_splice(&[rest]));
    assert_eq!(arena.spliced(), 1000);
    drop(bytes);
    assert!(!arena.prefers_splice(&[IoSlice::new(&gather(&arena, 7, CHUNK))]), "the count of copies starts anew");
}

#[test]
fn without_a_free_slot_a_chunk_is_in_the_allocators_memory() {
    let arena = arena(2);
    let held: Vec<_> = (0..3).map(|i| gather(&arena, i, CHUNK)).collect();
    let is_in_slot = |bytes: &Bytes| arena.slot_of(bytes).is_some();
    assert_eq!(held.iter().map(is_in_slot).collect::<Vec<_>>(), [true, true, false]);
    assert!(held.iter().zip(0..).all(|(bytes, i)| bytes.iter().all(|&byte| byte == i)));
    drop(held);
    assert!((0..2).map(|i| gather(&arena, i, MIN_SPLICE)).collect::<Vec<_>>().iter().all(is_in_slot));
    assert!(Arena::reserve(0).is_err() && Arena::reserve(u64::MAX).is_err());
}

#[test]
fn spliced_data_does_not_change_when_its_slot_is_reused() {
    let arena = arena(1);
    let (server, mut client) = connected();
    let spliced = gather_popular(&arena, b'a', CHUNK);
    let slot = spliced.as_ptr();
    let (Sent::All(taken) | Sent::Part(taken)) = arena.send(server.as_fd(), &[IoSlice::new(&spliced)], CHUNK).unwrap();
    assert!(taken > 0 && arena.spliced() == taken as u64);
    drop(spliced);
    let next = gather(&arena, b'b', CHUNK);
    assert!(next.as_ptr() == slot && next.iter().all(|&byte| byte == b'b'));
    let mut received = vec![0; taken];
    client.read_exact(&mut received).unwrap();
    assert!(received.iter().all(|&byte| byte == b'a'), "the client received the data of the next chunk");
}

#[test]
fn free_slots_keep_little_memory() {
    let arena = arena(64);
    // Eight bytes for each page; the highest bit is set if it is resident.
    let resident = || {
        let size = rustix::param::page_size();
        let mut entries = vec![0; 64 * CHUNK / size * 8];
        let map = std::fs::File::open("/proc/self/pagemap").unwrap();
        map.read_exact_at(&mut entries, (arena.start.addr().get() / size * 8) as u64).unwrap();
        entries.chunks(8).filter(|entry| entry[7] & 0x80 != 0).count() * size
    };
    assert_eq!(resident(), 0);
    let [held, spliced] =
        [gather, gather_popular].map(|get| (0..32).map(|_| get(&arena, 1, MIN_SPLICE)).collect::<Vec<_>>());
    assert_eq!(resident(), 64 * MIN_SPLICE);
    let (server, _client) = connected();
    for bytes in &spliced {
        arena.send(server.as_fd(), &[IoSlice::new(bytes)], 1).unwrap();
    }
    drop(spliced);
    assert_eq!(resident(), 32 * MIN_SPLICE);
    drop(held);
    assert_eq!((resident(), arena.kept), (0, 0));
    let arena = Arena::reserve(KEPT * CHUNK as u64).unwrap();
    drop([gather(&arena, 1, CHUNK), gather(&arena, 1, CHUNK)]);
    let free = arena.free();
    assert_eq!((arena.kept, free.kept.len(), free.untouched), (1, 1, 2));
}

#[test]
fn a_closed_socket_is_an_error() {
    let arena = arena(1);
    let (server, client) = connected();
    drop(client);
    let bytes = gather_popular(&arena, 1, CHUNK);
    // The first send may succeed before the reset arrives.
    let error = (0..1000).find_map(|_| arena.send(server.as_fd(), &[IoSlice::new(&bytes)], CHUNK).err());
    assert!(matches!(error.unwrap().kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_client_receives_the_bytes_sent_however_they_are_split(
        lengths in proptest::collection::vec(prop_oneof![0..2000_usize, MIN_SPLICE..CHUNK], 1..6),
        skipped in 0..5000_usize,
        most in prop_oneof![1..9000_usize, MIN_SPLICE..4 * CHUNK],
    ) {
        let arena = arena(8);
        let (server, mut client) = connected();
        let held: Vec<_> = lengths.iter().zip(1..).map(|(&len, byte)| [gather, gather_popular][len % 2](&arena, byte, len)).collect();
        let whole = held.concat();
        let skipped = skipped.min(whole.len());
        let reader = std::thread::spawn(move || {
            let mut received = Vec::new();
            client.read_to_end(&mut received).unwrap();
            received
        });
        let mut sent = skipped;
        while sent < whole.len() {
            let mut slices: Vec<_> = held.iter().map(|bytes| IoSlice::new(bytes)).collect();
            let mut left = &mut slices[..];
            IoSlice::advance_slices(&mut left, sent);
            match arena.send(server.as_fd(), left, most) {
                Ok(Sent::All(taken) | Sent::Part(taken)) => {
                    prop_assert!(taken > 0 && taken <= most);
                    sent += taken;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
        drop(server);
        prop_assert!(reader.join().unwrap() == whole[skipped..]);
    }
}
