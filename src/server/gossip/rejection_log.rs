//! [`RejectionLog`]: limits the log of rejected datagrams to one line per sender and minute.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// The interval of log lines about one sender.
const INTERVAL: Duration = Duration::from_mins(1);
/// The maximum number of senders to log in one interval.
const MAX_SENDERS: usize = 256;

/// The senders that were logged within [`INTERVAL`], at most [`MAX_SENDERS`]. The cost of a
/// datagram does not depend on their number, since any address can send tens of thousands a
/// second: each sender is added once and removed once.
#[derive(Default)]
pub(super) struct RejectionLog {
    logged: HashSet<SocketAddr>,
    /// The same senders with the times of their lines, the oldest first.
    order: VecDeque<(Duration, SocketAddr)>,
}

impl RejectionLog {
    /// Returns true if a rejection of `sender` is to be logged `now`, and notes it.
    pub(super) fn admit(&mut self, now: Duration, sender: SocketAddr) -> bool {
        while let Some((_, sender)) = self.order.pop_front_if(|(logged, _)| now.saturating_sub(*logged) >= INTERVAL) {
            self.logged.remove(&sender);
        }
        if self.order.len() >= MAX_SENDERS || !self.logged.insert(sender) {
            return false;
        }
        self.order.push_back((now, sender));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(number: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], u16::try_from(number).unwrap()))
    }

    #[test]
    fn a_sender_is_logged_once_a_minute_and_the_number_of_senders_is_limited() {
        let mut log = RejectionLog::default();
        let second = Duration::from_secs(1);
        assert!(log.admit(Duration::ZERO, sender(0)));
        assert!(!log.admit(second, sender(0)));
        let logged = (1..10_000).filter(|&number| log.admit(second, sender(number))).count();
        assert_eq!(logged, MAX_SENDERS - 1);
        assert_eq!((log.logged.len(), log.order.len()), (MAX_SENDERS, MAX_SENDERS));
        // The first sender expires after a minute, and one more is admitted.
        assert!(log.admit(INTERVAL, sender(20_000)));
        assert!(!log.admit(INTERVAL, sender(0)));
        assert_eq!((log.logged.len(), log.order.len()), (MAX_SENDERS, MAX_SENDERS));
        // All others expire after another second.
        assert!(log.admit(INTERVAL + second, sender(0)));
        assert_eq!((log.logged.len(), log.order.len()), (2, 2));
    }
}
