//! Every blob once, whatever number of images have it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OnceCell, Semaphore};

use super::{
    daemon::Daemon,
    download::{self, Blob},
    error::Error,
    progress::Progress,
    repository::Repository,
};
use crate::oci::Digest;

/// The blobs of a run, and the slots in which they are pulled.
#[derive(Debug)]
pub(super) struct Blobs {
    daemon: Arc<Daemon>,
    progress: Arc<Progress>,
    slots: Semaphore,
    known: Mutex<Known>,
}

/// What has been asked for: it grows with the number of blobs in the images of one command line.
#[derive(Debug, Default)]
struct Known {
    /// Set when the bytes have been pulled from one repository or another.
    bytes: HashMap<Digest, Arc<OnceCell<()>>>,
    /// What came of a blob of a repository.
    outcomes: HashMap<(Repository, Digest), Arc<OnceCell<Outcome>>>,
}

type Outcome = Result<(), Arc<Error>>;

impl Blobs {
    /// No blobs yet; at most `concurrency` of them will be pulled at once.
    pub(super) fn new(daemon: Arc<Daemon>, progress: Arc<Progress>, concurrency: usize) -> Self {
        Self { daemon, progress, slots: Semaphore::new(concurrency), known: Mutex::default() }
    }

    /// Counts those that are new towards what is to be pulled.
    pub(super) fn announce(&self, blobs: &[Blob]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for blob in blobs {
            known.bytes.entry(blob.digest).or_insert_with(|| {
                self.progress.expect(blob.size_bytes.unwrap_or_default());
                Arc::default()
            });
        }
    }

    /// Makes sure that the daemon serves `blob` from `repository`. Bytes that came before, also from another
    /// repository, do not come again; the daemon is then asked only whether the blob is there.
    ///
    /// # Errors
    /// The error of the one attempt that is made for each repository.
    pub(super) async fn warm(&self, repository: &Repository, blob: Blob) -> Outcome {
        let (bytes, outcome) = self.cells(repository, blob.digest);
        let attempt = || async {
            let pulled = self.pull(&bytes, repository, blob).await;
            pulled.map_err(Arc::new)
        };
        outcome.get_or_init(attempt).await.clone()
    }

    fn cells(
        &self,
        repository: &Repository,
        digest: Digest,
    ) -> (Arc<OnceCell<()>>, Arc<OnceCell<Outcome>>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = Arc::clone(known.bytes.entry(digest).or_default());
        let outcome = known.outcomes.entry((repository.clone(), digest)).or_default();
        (bytes, Arc::clone(outcome))
    }

    async fn pull(
        &self,
        bytes: &OnceCell<()>,
        repository: &Repository,
        blob: Blob,
    ) -> Result<(), Error> {
        let mut came = Came::Before;
        let attempt = async {
            let _slot = self.slots.acquire().await;
            came = Came::Now;
            download::blob(&self.daemon, repository, blob, &self.progress).await
        };
        bytes.get_or_try_init(|| attempt).await?;
        match came {
            Came::Now => Ok(()),
            Came::Before => {
                let _slot = self.slots.acquire().await;
                download::presence(&self.daemon, repository, blob.digest).await
            }
        }
    }
}

/// When the bytes of a blob came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    Now,
    Before,
}
