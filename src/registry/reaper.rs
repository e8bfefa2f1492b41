//! Deletes what nobody needs any more, many objects in one request, off every client's path.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::{
    runtime::Tasks,
    storage::{Key, SharedStorage},
};

/// Keys that wait to be deleted. Beyond it they are left to the purge of unfinished uploads.
const QUEUE_KEYS: usize = 10_000;

/// Most keys of one request, as S3 has it.
const BATCH_KEYS: usize = 1_000;

/// How long a key waits for others to share its request.
const GATHER_FOR: Duration = Duration::from_secs(1);

/// The way to have objects deleted a little later.
#[derive(Debug)]
pub(super) struct Reaper(mpsc::Sender<Key>);

impl Reaper {
    /// Starts the task. It ends, with an empty queue, when the reaper is dropped.
    pub(super) fn start(storage: SharedStorage, tasks: &Tasks) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE_KEYS);
        tasks.spawn("reaper", reap(storage, receiver));
        Self(sender)
    }

    /// Has `keys` deleted. They may survive a crash, or a queue that is full.
    pub(super) fn remove(&self, keys: Vec<Key>) {
        for key in keys {
            if let Err(error) = self.0.try_send(key) {
                tracing::debug!(%error, "left to the purge of unfinished uploads");
            }
        }
    }
}

async fn reap(storage: SharedStorage, mut queue: mpsc::Receiver<Key>) {
    while let Some(first) = queue.recv().await {
        let mut batch = vec![first];
        let deadline = tokio::time::Instant::now() + GATHER_FOR;
        while batch.len() < BATCH_KEYS {
            match tokio::time::timeout_at(deadline, queue.recv()).await {
                Ok(Some(key)) => batch.push(key),
                Ok(None) | Err(_) => break,
            }
        }
        if let Err(error) = storage.delete(&batch).await {
            tracing::warn!(keys = batch.len(), %error, "left to the purge of unfinished uploads");
        }
    }
}
