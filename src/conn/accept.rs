//! What operators are told of a listener: when something begins, and when it is over.

use std::io;
use std::time::Duration;

/// How long nothing is accepted after a failure: a loop would spin.
const PAUSE: Duration = Duration::from_millis(50);

/// What is told when it begins and when it is over, and not each time in between.
#[derive(Debug, Default)]
pub(crate) struct LogLatch(bool);

impl LogLatch {
    /// Whether that is news.
    pub(crate) fn begins(&mut self) -> bool {
        !std::mem::replace(&mut self.0, true)
    }

    /// Whether that is news.
    pub(crate) fn ends(&mut self) -> bool {
        std::mem::take(&mut self.0)
    }
}

/// What has been accepted at the listener of the key `listener`. A failure (out of
/// files, or the like) is told once in `failing`, and makes a pause.
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
                tracing::error!(listener, %error, "accepting a connection failed, open connections continue");
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
    async fn what_lasts_is_told_once() {
        let mut failing = LogLatch::default();
        for _ in 0..3 {
            let error = io::Error::from_raw_os_error(24);
            assert_eq!(accepted::<()>("edge.listen", Err(error), &mut failing).await, None);
            assert!(!failing.begins(), "it has begun, and been told");
        }
        assert_eq!(accepted("edge.listen", Ok(1), &mut failing).await, Some(1));
        assert!(!failing.ends() && failing.begins());
    }
}
