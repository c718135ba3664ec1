//! Accepting connections after failures, with one log line when they begin and one when they end.

use std::io;
use std::time::Duration;

/// The pause after a failed accept, without which the accept loop would spin.
const PAUSE: Duration = Duration::from_millis(50);

/// Limits a log to the first and the last occurrence of a condition that persists.
#[derive(Debug, Default)]
pub(crate) struct LogLatch(bool);

impl LogLatch {
    /// Notes that the condition holds. Returns true if it did not hold before.
    pub(crate) fn begins(&mut self) -> bool {
        !std::mem::replace(&mut self.0, true)
    }

    /// Notes that the condition does not hold. Returns true if it held before.
    pub(crate) fn ends(&mut self) -> bool {
        std::mem::take(&mut self.0)
    }
}

/// Returns the accepted connection, or pauses after a failure such as a lack of file
/// descriptors. `listener` is the listener's configuration key. `failing` limits the log to
/// the first failure and the recovery.
pub(crate) async fn accepted<T>(listener: &'static str, accepted: io::Result<T>, failing: &mut LogLatch) -> Option<T> {
    match accepted {
        Ok(connection) => {
            if failing.ends() {
                tracing::info!(listener, "accepting connections again");
            }
            Some(connection)
        }
        Err(error) => {
            if failing.begins() {
                tracing::error!(listener, %error, "accept failed, open connections continue"
                );
            }
            tokio::time::sleep(PAUSE).await;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lasting_accept_failure_is_logged_once() {
        let mut failing = LogLatch::default();
        for _ in 0..3 {
            let error = io::Error::from_raw_os_error(24);
            assert_eq!(accepted::<()>("edge.listen", Err(error), &mut failing).await, None);
            assert!(!failing.begins(), "the failure is not logged");
        }
        assert_eq!(accepted("edge.listen", Ok(1), &mut failing).await, Some(1));
        assert!(!failing.ends() && failing.begins());
    }
}
