use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;

/// Two ends of a connection; the first does not block.
fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    server.set_nonblocking(true).unwrap();
    (server, client)
}

/// Memory for so many places. This system lends it: what these tests are about is there.
fn arena(places: u64) -> Arc<Arena> {
    Arena::reserve(places * CHUNK as u64 / SPREAD).unwrap()
}

fn gather(arena: &Arc<Arena>, byte: u8, len: usize) -> Bytes {
    let parts = [Bytes::from(vec![byte; len / 3]), Bytes::from(vec![byte; len - len / 3])];
    arena.gather(parts.iter(), len)
}

/// As `gather`, of what was sent so often that it is lent from now on.
fn wanted(arena: &Arc<Arena>, byte: u8, len: usize) -> Bytes {
    let bytes = gather(arena, byte, len);
    for _ in 0..COPIES {
        arena.note_sent(&[IoSlice::new(&bytes)], len);
    }
    bytes
}

#[test]
fn what_is_large_is_gathered_where_it_can_be_lent() {
    let arena = arena(2);
    for len in [0, 1, LEAST - 1, LEAST, LEAST + 1, CHUNK, CHUNK + 1] {
        let bytes = wanted(&arena, 7, len);
        assert!(bytes.len() == len && bytes.iter().all(|&byte| byte == 7));
        let large = (LEAST..=CHUNK).contains(&len);
        assert_eq!(arena.lends_any(&[IoSlice::new(b"head"), IoSlice::new(&bytes)]), large, "{len}");
        assert!(!Arena::none().lends_any(&[IoSlice::new(&bytes)]));
        assert!(!arena.lends_any(&[IoSlice::new(&vec![7; len])]));
    }
}

#[test]
fn what_is_sent_often_is_lent_from_its_beginning_on() {
    let arena = arena(2);
    let (server, _client) = connected();
    let bytes = gather(&arena, 7, CHUNK);
    let (whole, rest) = (IoSlice::new(&bytes), IoSlice::new(&bytes[1000..]));
    for _ in 0..COPIES {
        assert!(!arena.lends_any(&[whole, rest]));
        // What is offered in vain, or sent from the middle on, does not count.
        arena.note_sent(&[IoSlice::new(b"head"), whole], 4);
        arena.note_sent(&[rest], rest.len());
        arena.note_sent(&[IoSlice::new(b"head"), whole], 1000);
    }
    // Who was sent the beginning as a copy is sent the rest so.
    assert!(arena.lends_any(&[whole]) && !arena.lends_any(&[rest]));
    assert_eq!(arena.lent(), 0);
    let taken = arena.lend(server.as_fd(), &[whole], 1000).unwrap();
    assert!(taken == Taken::All(1000) && arena.lends_any(&[rest]));
    assert_eq!(arena.lent(), 1000);
    drop(bytes);
    assert!(!arena.lends_any(&[IoSlice::new(&gather(&arena, 7, CHUNK))]), "what comes next is new");
}

#[test]
fn without_a_place_it_is_held_elsewhere() {
    let arena = arena(2);
    let held: Vec<_> = (0..3).map(|i| gather(&arena, i, CHUNK)).collect();
    let lendable = |bytes: &Bytes| arena.place_of(bytes).is_some();
    assert_eq!(held.iter().map(lendable).collect::<Vec<_>>(), [true, true, false]);
    assert!(held.iter().zip(0..).all(|(bytes, i)| bytes.iter().all(|&byte| byte == i)));
    drop(held);
    assert!((0..2).map(|i| gather(&arena, i, LEAST)).collect::<Vec<_>>().iter().all(lendable));
    assert!(Arena::reserve(0).is_err() && Arena::reserve(u64::MAX).is_err());
}

#[test]
fn what_a_socket_was_lent_stays_as_it_was() {
    let arena = arena(1);
    let (server, mut client) = connected();
    let lent = wanted(&arena, b'a', CHUNK);
    let place = lent.as_ptr();
    let (Taken::All(taken) | Taken::Part(taken)) = arena.lend(server.as_fd(), &[IoSlice::new(&lent)], CHUNK).unwrap();
    assert!(taken > 0 && arena.lent() == taken as u64);
    drop(lent);
    let next = gather(&arena, b'b', CHUNK);
    assert!(next.as_ptr() == place && next.iter().all(|&byte| byte == b'b'));
    let mut came = vec![0; taken];
    client.read_exact(&mut came).unwrap();
    assert!(came.iter().all(|&byte| byte == b'a'), "it was sent what came after it");
}

#[test]
fn places_that_are_given_back_take_little_memory() {
    let arena = arena(64);
    // Eight bytes for each page; the highest bit tells whether it is there.
    let resident = || {
        let size = rustix::param::page_size();
        let mut entries = vec![0; 64 * CHUNK / size * 8];
        let map = std::fs::File::open("/proc/self/pagemap").unwrap();
        map.read_exact_at(&mut entries, (arena.start.addr().get() / size * 8) as u64).unwrap();
        entries.chunks(8).filter(|entry| entry[7] & 0x80 != 0).count() * size
    };
    assert_eq!(resident(), 0);
    let [held, lent] = [gather, wanted].map(|get| (0..32).map(|_| get(&arena, 1, LEAST)).collect::<Vec<_>>());
    assert_eq!(resident(), 64 * LEAST);
    let (server, _client) = connected();
    for bytes in &lent {
        arena.lend(server.as_fd(), &[IoSlice::new(bytes)], 1).unwrap();
    }
    drop(lent);
    assert_eq!(resident(), 32 * LEAST);
    drop(held);
    assert_eq!((resident(), arena.kept), (0, 0));
    let arena = Arena::reserve(KEPT * CHUNK as u64).unwrap();
    drop([gather(&arena, 1, CHUNK), gather(&arena, 1, CHUNK)]);
    let free = arena.free();
    assert_eq!((arena.kept, free.kept.len(), free.untouched), (1, 1, 2));
}

#[test]
fn a_socket_that_is_gone_is_an_error() {
    let arena = arena(1);
    let (server, client) = connected();
    drop(client);
    let bytes = wanted(&arena, 1, CHUNK);
    // The first may be taken before the other end says that it is gone.
    let error = (0..1000).find_map(|_| arena.lend(server.as_fd(), &[IoSlice::new(&bytes)], CHUNK).err());
    assert!(matches!(error.unwrap().kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_comes_is_what_was_sent(
        lengths in proptest::collection::vec(prop_oneof![0..2000_usize, LEAST..CHUNK], 1..6),
        skipped in 0..5000_usize,
        most in prop_oneof![1..9000_usize, LEAST..4 * CHUNK],
    ) {
        let arena = arena(8);
        let (server, mut client) = connected();
        let held: Vec<_> = lengths.iter().zip(1..).map(|(&len, byte)| [gather, wanted][len % 2](&arena, byte, len)).collect();
        let whole = held.concat();
        let skipped = skipped.min(whole.len());
        let reader = std::thread::spawn(move || {
            let mut came = Vec::new();
            client.read_to_end(&mut came).unwrap();
            came
        });
        let mut sent = skipped;
        while sent < whole.len() {
            let mut slices: Vec<_> = held.iter().map(|bytes| IoSlice::new(bytes)).collect();
            let mut left = &mut slices[..];
            IoSlice::advance_slices(&mut left, sent);
            match arena.lend(server.as_fd(), left, most) {
                Ok(Taken::All(taken) | Taken::Part(taken)) => {
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
