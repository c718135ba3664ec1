//! [`Supervisor`]: detects the end of a task that must last as long as the edge.
//!
//! Without such a task the edge would be up but not do its work.

use std::future::Future;

use tokio::sync::mpsc;

use crate::error::RunError;

/// Reports the first supervised task that ends.
pub(super) struct Supervisor {
    ended: mpsc::Sender<&'static str>,
    reports: mpsc::Receiver<&'static str>,
}

impl Supervisor {
    pub(super) fn new() -> Self {
        let (ended, reports) = mpsc::channel(1);
        Self { ended, reports }
    }

    /// Wraps `task` so that its end is reported, whether it returns, panics or is dropped.
    /// `name` identifies the task to operators.
    pub(super) fn watch<T: Future<Output = ()>>(
        &self,
        name: &'static str,
        task: T,
    ) -> impl Future<Output = ()> + use<T> {
        let report = ReportOnDrop { name, ended: self.ended.clone() };
        async move {
            task.await;
            drop(report);
        }
    }

    /// Resolves when a task has ended.
    pub(super) async fn fault(&mut self) -> RunError {
        match self.reports.recv().await {
            Some(task) => RunError { task },
            // The supervisor holds a sender itself, so the channel is never closed.
            None => std::future::pending().await,
        }
    }
}

struct ReportOnDrop {
    name: &'static str,
    ended: mpsc::Sender<&'static str>,
}

impl Drop for ReportOnDrop {
    fn drop(&mut self) {
        // If the channel is full, another task ended first, and caused this end.
        let _ = self.ended.try_send(self.name);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn the_first_task_to_end_is_reported_however_it_ends() {
        let mut supervisor = Supervisor::new();
        let fault = |task| RunError { task };
        let lasts = tokio::spawn(supervisor.watch("lasts", pending()));

        tokio::spawn(supervisor.watch("returns", ready(())));
        assert_eq!(supervisor.fault().await, fault("returns"));

        tokio::spawn(supervisor.watch("panics", async { panic!("the test expects this") }));
        assert_eq!(supervisor.fault().await, fault("panics"));

        lasts.abort();
        assert_eq!(supervisor.fault().await, fault("lasts"));

        drop((supervisor.watch("first", pending()), supervisor.watch("second", pending())));
        assert!(["first", "second"].map(fault).contains(&supervisor.fault().await));
        assert!(supervisor.reports.try_recv().is_err(), "only one end is reported");
    }
}
