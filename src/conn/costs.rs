//! [`Costs`]: the CPU time per byte sent, measured for splicing and for copying.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tracing::info;

/// Bytes to send by each method before the cheaper one is chosen. This is a hundred bodies of
/// 640 KiB, or some 20 ms of CPU time, so that single interruptions do not decide.
const SAMPLE: u64 = 64 * 1024 * 1024;
/// Bytes to send by one method before switching to the other. The kernel does some of a
/// send's work later, and that work is charged to the sends that follow.
const RUN: u64 = 4 * 1024 * 1024;

/// The method by which a socket gets the bytes of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendMethod {
    /// The pages of the arena are spliced into the socket.
    Splice,
    /// The bytes are copied into the socket's buffer.
    Copy,
}

/// Measures both methods in turns, then chooses the cheaper one, for all connections of an
/// edge.
#[derive(Debug, Default)]
pub(crate) struct Costs {
    splice: Cost,
    copy: Cost,
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
    /// Returns the method of the next send, and whether that send is to be measured.
    pub(crate) fn next(&self) -> (SendMethod, Measured) {
        let (spliced, copied) = (self.splice.bytes(), self.copy.bytes());
        if spliced >= SAMPLE && copied >= SAMPLE {
            // A gain below a tenth does not justify the memory that sockets hold.
            let is_cheaper = self.splice.per_mebibyte() * 10 < self.copy.per_mebibyte() * 9;
            return (if is_cheaper { SendMethod::Splice } else { SendMethod::Copy }, Measured::No);
        }
        let splices = (spliced + copied) / RUN % 2 == 1;
        (if splices { SendMethod::Splice } else { SendMethod::Copy }, Measured::Yes)
    }

    /// Adds a send of `bytes` bytes that took `spent` of the thread's CPU time.
    pub(crate) fn add(&self, method: SendMethod, bytes: usize, spent: Duration) {
        let (cost, other) = match method {
            SendMethod::Splice => (&self.splice, &self.copy),
            SendMethod::Copy => (&self.copy, &self.splice),
        };
        cost.nanos.fetch_add(u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let before = cost.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if before < SAMPLE && before + bytes as u64 >= SAMPLE && other.bytes() >= SAMPLE {
            info!(
                splice_ns_per_mib = self.splice.per_mebibyte(),
                copy_ns_per_mib = self.copy.per_mebibyte(),
                choice = ?self.next().0,
                "zero-copy measured"
            );
        }
    }
}

/// Tells if a send is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measured {
    Yes,
    No,
}

/// Returns the CPU time that the calling thread has used since its start.
pub(crate) fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("a thread's CPU time is not negative")
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: usize = 256 * 1024;

    /// Sends until a method is chosen. The arguments are the costs of a byte, in picoseconds.
    /// Returns the bytes that were spliced and copied, too.
    fn measure(splice: u64, copy: u64) -> (Costs, [u64; 2]) {
        let costs = Costs::default();
        let mut sent = [0; 2];
        while let (method, Measured::Yes) = costs.next() {
            let (index, each) = match method {
                SendMethod::Splice => (0, splice),
                SendMethod::Copy => (1, copy),
            };
            sent[index] += WRITE as u64;
            costs.add(method, WRITE, Duration::from_nanos(each * WRITE as u64 / 1000));
        }
        (costs, sent)
    }

    #[test]
    fn the_cheaper_method_is_chosen_after_a_sample_of_both() {
        for (splice, copy, chosen) in [
            (100, 200, SendMethod::Splice),
            (400, 200, SendMethod::Copy),
            (200, 200, SendMethod::Copy),
            (190, 200, SendMethod::Copy),
        ] {
            let (costs, sent) = measure(splice, copy);
            assert_eq!(costs.next(), (chosen, Measured::No), "{splice} {copy}");
            assert!(sent.iter().all(|sent| (SAMPLE..SAMPLE + 2 * RUN).contains(sent)), "{sent:?}");
        }
    }

    #[test]
    fn the_first_send_is_a_copy() {
        assert_eq!(Costs::default().next(), (SendMethod::Copy, Measured::Yes));
    }

    #[test]
    fn the_cpu_time_of_a_thread_grows_with_its_work() {
        let before = thread_time();
        while thread_time() == before {}
    }
}
