//! Tasks that last as long as an edge: one that ends before leaves an edge that is up,
//! and does not what it is there for.

use std::future::Future;

use tokio::sync::mpsc;

use crate::error::RunError;

/// Where the first task is told of that ended.
pub(super) struct Watch {
    tell: mpsc::Sender<&'static str>,
    told: mpsc::Receiver<&'static str>,
}

impl Watch {
    pub(super) fn new() -> Self {
        let (tell, told) = mpsc::channel(1);
        Self { tell, told }
    }

    /// `task`, whose end is told of, whichever way it comes: it returns, it panics, or it
    /// is dropped. `name` says for operators what it does.
    pub(super) fn over<T: Future<Output = ()>>(
        &self,
        name: &'static str,
        task: T,
    ) -> impl Future<Output = ()> + use<T> {
        let end = End { name, tell: self.tell.clone() };
        async move {
            task.await;
            drop(end);
        }
    }

    /// Resolves when a task has ended.
    pub(super) async fn fault(&mut self) -> RunError {
        match self.told.recv().await {
            Some(task) => RunError { task },
            // This holds a sender itself.
            None => std::future::pending().await,
        }
    }
}

struct End {
    name: &'static str,
    tell: mpsc::Sender<&'static str>,
}

impl Drop for End {
    fn drop(&mut self) {
        // The others end because of the first.
        let _ = self.tell.try_send(self.name);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn any_end_is_told_and_the_first_is_to_blame() {
        let mut watch = Watch::new();
        let fault = |task| RunError { task };
        let lasts = tokio::spawn(watch.over("lasts", pending()));

        tokio::spawn(watch.over("returns", ready(())));
        assert_eq!(watch.fault().await, fault("returns"));

        tokio::spawn(watch.over("panics", async { panic!("as a test wants it") }));
        assert_eq!(watch.fault().await, fault("panics"));

        lasts.abort();
        assert_eq!(watch.fault().await, fault("lasts"));

        drop((watch.over("first", pending()), watch.over("second", pending())));
        assert!(["first", "second"].map(fault).contains(&watch.fault().await));
        assert!(watch.told.try_recv().is_err(), "one is enough");
    }
}
