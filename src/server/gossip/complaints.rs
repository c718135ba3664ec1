//! The senders of refused datagrams that the log has named.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// How long a sender is not named again.
const QUIET: Duration = Duration::from_mins(1);
/// How many senders are named in that time.
const SENDERS: usize = 256;

/// The senders that were named within [`QUIET`], at most [`SENDERS`]. A datagram costs the
/// same however many they are, since any address can send tens of thousands a second: each
/// sender is added once and removed once.
#[derive(Default)]
pub(super) struct Complaints {
    named: HashSet<SocketAddr>,
    /// The same senders and when they were named, the oldest first.
    order: VecDeque<(Duration, SocketAddr)>,
}

impl Complaints {
    /// Returns true if a complaint about `sender` is to be logged `now`, and notes it.
    pub(super) fn admit(&mut self, now: Duration, sender: SocketAddr) -> bool {
        while let Some((_, sender)) = self.order.pop_front_if(|(named, _)| now.saturating_sub(*named) >= QUIET) {
            self.named.remove(&sender);
        }
        if self.order.len() >= SENDERS || !self.named.insert(sender) {
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
    fn a_sender_is_named_once_a_minute_and_no_more_senders_than_the_bound() {
        let mut complaints = Complaints::default();
        let second = Duration::from_secs(1);
        assert!(complaints.admit(Duration::ZERO, sender(0)));
        assert!(!complaints.admit(second, sender(0)));
        let named = (1..10_000).filter(|&number| complaints.admit(second, sender(number))).count();
        assert_eq!(named, SENDERS - 1);
        assert_eq!((complaints.named.len(), complaints.order.len()), (SENDERS, SENDERS));
        // The first is forgotten after a minute, and makes room for one.
        assert!(complaints.admit(QUIET, sender(20_000)));
        assert!(!complaints.admit(QUIET, sender(0)));
        assert_eq!((complaints.named.len(), complaints.order.len()), (SENDERS, SENDERS));
        // All others after another second.
        assert!(complaints.admit(QUIET + second, sender(0)));
        assert_eq!((complaints.named.len(), complaints.order.len()), (2, 2));
    }
}
