//! [`Costs`]: the CPU time that sending a byte took so far, lent and copied.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tracing::info;

/// Bytes that are sent each way before the cheaper one is chosen. A hundred bodies of
/// 640 KiB: some 20 ms of CPU time, so that single interruptions do not decide.
const SAMPLE: u64 = 64 * 1024 * 1024;
/// Bytes that are sent one way before the other one is tried: work that a send leaves to
/// the kernel for later is charged to the sends after it.
const RUN: u64 = 4 * 1024 * 1024;

/// A way to hand the bytes of a body to a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendMethod {
    /// The socket is lent the pages.
    Lend,
    Copy,
}

/// Measures both ways in turns, then names the cheaper one, for all connections of an edge.
#[derive(Debug, Default)]
pub(crate) struct Costs {
    lent: Cost,
    copied: Cost,
}

#[derive(Debug, Default)]
struct Cost {
    bytes: AtomicU64,
    /// CPU time of the thread, in nanoseconds.
    nanos: AtomicU64,
}

impl Cost {
    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn per_mebibyte(&self) -> u64 {
        (self.nanos.load(Ordering::Relaxed) << 20) / self.bytes().max(1)
    }
}

impl Costs {
    /// Returns the way of the next send, and true if that send is to be measured.
    pub(crate) fn next(&self) -> (SendMethod, Measured) {
        let (lent, copied) = (self.lent.bytes(), self.copied.bytes());
        if lent >= SAMPLE && copied >= SAMPLE {
            // Below a tenth, the difference is not worth the memory that sockets hold.
            let lends = self.lent.per_mebibyte() * 10 < self.copied.per_mebibyte() * 9;
            return (if lends { SendMethod::Lend } else { SendMethod::Copy }, Measured::No);
        }
        let lends = (lent + copied) / RUN % 2 == 1;
        (if lends { SendMethod::Lend } else { SendMethod::Copy }, Measured::Yes)
    }

    /// Adds a send of `bytes` bytes that took `spent` of the thread's CPU time.
    pub(crate) fn add(&self, way: SendMethod, bytes: usize, spent: Duration) {
        let (cost, other) = match way {
            SendMethod::Lend => (&self.lent, &self.copied),
            SendMethod::Copy => (&self.copied, &self.lent),
        };
        cost.nanos.fetch_add(u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let before = cost.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if before < SAMPLE && before + bytes as u64 >= SAMPLE && other.bytes() >= SAMPLE {
            info!(
                lent_ns_per_mib = self.lent.per_mebibyte(),
                copied_ns_per_mib = self.copied.per_mebibyte(),
                choice = ?self.next().0,
                "zero-copy measured"
            );
        }
    }
}

/// Whether a send is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measured {
    Yes,
    No,
}

/// Returns the CPU time that the calling thread has taken since it began.
pub(crate) fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("a thread's CPU time is not negative")
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: usize = 256 * 1024;

    /// Sends until the costs are known; each byte costs so many picoseconds.
    fn known(lent: u64, copied: u64) -> (Costs, [u64; 2]) {
        let costs = Costs::default();
        let mut sent = [0; 2];
        while let (way, Measured::Yes) = costs.next() {
            let (index, each) = match way {
                SendMethod::Lend => (0, lent),
                SendMethod::Copy => (1, copied),
            };
            sent[index] += WRITE as u64;
            costs.add(way, WRITE, Duration::from_nanos(each * WRITE as u64 / 1000));
        }
        (costs, sent)
    }

    #[test]
    fn the_cheaper_way_is_chosen_after_a_sample_of_both() {
        for (lent, copied, way) in [
            (100, 200, SendMethod::Lend),
            (400, 200, SendMethod::Copy),
            (200, 200, SendMethod::Copy),
            (190, 200, SendMethod::Copy),
        ] {
            let (costs, sent) = known(lent, copied);
            assert_eq!(costs.next(), (way, Measured::No), "{lent} {copied}");
            assert!(sent.iter().all(|sent| (SAMPLE..SAMPLE + 2 * RUN).contains(sent)), "{sent:?}");
        }
    }

    #[test]
    fn the_first_send_is_a_copy() {
        assert_eq!(Costs::default().next(), (SendMethod::Copy, Measured::Yes));
    }

    #[test]
    fn the_time_of_a_thread_grows_with_its_work() {
        let before = thread_time();
        while thread_time() == before {}
    }
}
