//! [`RecordSizes`]: the sizes of the records in which a connection sends its bytes.

use std::io::{self, IoSlice, Write};
use std::time::{Duration, Instant};

/// The content of a small record, in bytes. With 22 bytes of TLS, the record fits into one TCP
/// segment, also over IPv6 with TCP's timestamps.
const SMALL: usize = 1378;
/// The number of bytes that are sent in small records: about as many as a server may send before the
/// first acknowledgement (RFC 6928).
const FIRST: usize = 10 * SMALL;
/// The idle time after which small records begin again, since TCP then begins slowly again.
const IDLE: Duration = Duration::from_secs(1);

/// Decides the sizes of records. A client can use a record only when all of it has arrived. A record
/// of 16 KiB is longer than the first flight of a connection, so it would cost another round trip
/// before the first byte. Small records for all bytes would cost CPU time and bytes.
pub(super) struct RecordSizes {
    /// The number of bytes that still go into small records.
    small: usize,
    /// The time of the last write of more than a small record.
    last: Option<Instant>,
}

impl Default for RecordSizes {
    fn default() -> Self {
        Self { small: FIRST, last: None }
    }
}

impl RecordSizes {
    /// Encrypts the bytes of `bufs`, or the first of them. Returns the number of bytes; it is zero if
    /// the connection takes no more before it has sent some.
    pub(super) fn encrypt(&mut self, connection: &mut impl Write, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let all: usize = bufs.iter().map(|buf| buf.len()).sum();
        // These are one record in any case.
        if all <= SMALL {
            self.small = self.small.saturating_sub(all);
            return connection.write_vectored(bufs);
        }
        let now = Instant::now();
        if self.last.replace(now).is_some_and(|last| now.duration_since(last) >= IDLE) {
            self.small = FIRST;
        }
        if self.small == 0 {
            return connection.write_vectored(bufs);
        }
        let mut taken = 0;
        while self.small > 0 && taken < all {
            let mut record = [0; SMALL];
            let gathered = gather(bufs, taken, &mut record);
            let written = connection.write(&record[..gathered])?;
            self.small = self.small.saturating_sub(written);
            taken += written;
            if written < gathered {
                break;
            }
        }
        Ok(taken)
    }
}

/// Copies bytes of `bufs`, from the position `start`. Returns the number of bytes.
fn gather(bufs: &[IoSlice<'_>], mut start: usize, space: &mut [u8]) -> usize {
    let mut gathered = 0;
    for buf in bufs {
        let unread = buf.get(start..).unwrap_or_default();
        start = start.saturating_sub(buf.len());
        let fits = unread.len().min(space.len() - gathered);
        space[gathered..gathered + fits].copy_from_slice(&unread[..fits]);
        gathered += fits;
    }
    gathered
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes the sizes of writes, of which each is a record.
    #[derive(Default)]
    struct Records {
        sizes: Vec<usize>,
        bytes: Vec<u8>,
        room: usize,
    }

    impl Write for Records {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            let fits = buf.len().min(self.room - self.bytes.len());
            self.sizes.push(fits);
            self.bytes.extend_from_slice(&buf[..fits]);
            Ok(fits)
        }

        fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
            let bytes: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
            self.write(&bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn records(room: usize) -> Records {
        Records { room, ..Records::default() }
    }

    /// Encrypts `bytes`, in buffers of 1,000 bytes, until all are taken.
    fn encrypt_all(sizes: &mut RecordSizes, records: &mut Records, bytes: &[u8]) {
        let mut taken = 0;
        while taken < bytes.len() {
            let bufs: Vec<_> = bytes[taken..].chunks(1000).map(IoSlice::new).collect();
            taken += sizes.encrypt(records, &bufs).unwrap();
        }
    }

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    #[test]
    fn first_bytes_go_into_small_records_and_the_rest_into_large_ones() {
        let (mut sizes, mut written) = (RecordSizes::default(), records(usize::MAX));
        encrypt_all(&mut sizes, &mut written, &pattern(100_000));
        assert!(written.bytes == pattern(100_000));
        assert_eq!(written.sizes, [[SMALL; 10].as_slice(), &[100_000 - FIRST]].concat());
        encrypt_all(&mut sizes, &mut written, &pattern(50_000));
        assert_eq!(written.sizes.last(), Some(&50_000));
    }

    #[test]
    fn small_writes_are_one_record_each_and_count() {
        let (mut sizes, mut written) = (RecordSizes::default(), records(usize::MAX));
        for _ in 0..=FIRST / 1300 {
            encrypt_all(&mut sizes, &mut written, &pattern(1300));
        }
        assert!(written.sizes.iter().all(|&size| size == 1300), "{:?}", written.sizes);
        encrypt_all(&mut sizes, &mut written, &pattern(50_000));
        assert_eq!(written.sizes.last(), Some(&50_000));
    }

    #[test]
    fn small_records_begin_again_after_idle_time() {
        let (mut sizes, mut written) = (RecordSizes::default(), records(usize::MAX));
        encrypt_all(&mut sizes, &mut written, &pattern(50_000));
        sizes.last = sizes.last.map(|last| last.checked_sub(IDLE).unwrap());
        written.sizes.clear();
        encrypt_all(&mut sizes, &mut written, &pattern(50_000));
        assert_eq!(written.sizes, [[SMALL; 10].as_slice(), &[50_000 - FIRST]].concat());
    }

    #[test]
    fn connection_that_is_full_takes_the_bytes_that_fit() {
        let (mut sizes, mut written) = (RecordSizes::default(), records(3000));
        let bytes = pattern(5000);
        let taken = sizes.encrypt(&mut written, &[IoSlice::new(&bytes)]).unwrap();
        assert_eq!((taken, written.sizes.as_slice()), (3000, &[SMALL, SMALL, 3000 - 2 * SMALL][..]));
        assert_eq!(sizes.encrypt(&mut written, &[IoSlice::new(&bytes[3000..])]).unwrap(), 0);
    }
}
