//! Tasks that have an owner, and the signal that ends them.

use std::{future::Future, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

/// The signal to stop. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// A signal that has not been given.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the signal, for good.
    pub fn begin(&self) {
        self.0.cancel();
    }

    /// Whether the signal has been given.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits for the signal.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn begun(&self) {
        self.0.cancelled().await;
    }
}

/// The tasks of the process: each has a name in the logs, and [`Tasks::finish`] waits for all of them.
#[derive(Clone, Debug, Default)]
pub struct Tasks(TaskTracker);

/// A detached task ended without an answer: it panicked, or the runtime is going down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work was abandoned before it was done")]
pub struct Abandoned;

impl Tasks {
    /// No tasks yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts `future` as a task of its own.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.0.spawn(future.instrument(tracing::debug_span!("task", name)))
    }

    /// Runs `future` to its end, whether or not the caller stays to see it: a client that hangs up
    /// does not stop a change half way.
    ///
    /// # Errors
    /// [`Abandoned`] if the task panicked.
    ///
    /// # Cancel safety
    /// Dropping the returned future leaves the task running.
    pub async fn detached<F>(&self, name: &'static str, future: F) -> Result<F::Output, Abandoned>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.spawn(name, future).await.map_err(|_panicked| Abandoned)
    }

    /// Waits until no task is left, for at most `grace`. Returns how many are.
    pub async fn finish(&self, grace: Duration) -> usize {
        self.0.close();
        let _timed_out = tokio::time::timeout(grace, self.0.wait()).await;
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn detached_work_goes_on_when_its_caller_is_gone() {
        let tasks = Tasks::new();
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let (done, result) = tokio::sync::oneshot::channel();
        {
            let work = tasks.detached("test", async move {
                let _ = wait.await;
                let _ = done.send(7);
            });
            tokio::pin!(work);
            assert!(futures_util::poll!(&mut work).is_pending());
        }
        go.send(()).unwrap();
        assert_eq!(result.await, Ok(7));
        assert_eq!(tasks.finish(Duration::from_secs(5)).await, 0);
    }
}
