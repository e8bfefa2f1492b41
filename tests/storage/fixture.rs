//! Storages to test.

use std::{any::Any, sync::Arc, time::Duration};

use millpond::{
    runtime::{ByteBudget, Secret},
    storage::{
        SharedStorage,
        fs::Directory,
        s3::{Config, S3},
    },
};
use tempfile::TempDir;

use crate::{
    faulty_storage::FaultyStorage, retrying_storage::RetryingStorage, s3_server::S3Server,
};

/// The smallest part of S3.
pub(crate) const PART_BYTES: usize = 5 << 20;

/// Room for a few parts.
const BUDGET_BYTES: u64 = 48 << 20;

/// A storage and what keeps it alive.
pub(crate) struct Fixture {
    pub(crate) storage: SharedStorage,
    _ground: Box<dyn Any + Send + Sync>,
}

impl Fixture {
    /// An empty directory.
    pub(crate) async fn directory() -> Self {
        let folder = TempDir::new().unwrap();
        let directory = Directory::open(folder.path().to_owned(), ByteBudget::new(BUDGET_BYTES));
        Self { storage: Arc::new(directory.unwrap()), _ground: Box::new(folder) }
    }

    /// An empty bucket.
    pub(crate) async fn s3() -> Self {
        let server = S3Server::start().await;
        let s3 = connect(config(&server)).await;
        Self { storage: Arc::new(s3), _ground: Box::new(server) }
    }

    /// The same, failing every so many operations, for a caller that repeats them.
    pub(crate) fn faulty(self, every: usize) -> (Self, Arc<FaultyStorage>) {
        let faulty = Arc::new(FaultyStorage::new(self.storage, every));
        let storage = Arc::new(RetryingStorage::new(faulty.clone()));
        (Self { storage, ..self }, faulty)
    }
}

/// How to reach a server, with quick retries.
pub(crate) fn config(server: &S3Server) -> Config {
    Config {
        endpoint: Some(server.endpoint().to_owned()),
        access_key: Some(server.access_key().to_owned()),
        secret_key: Some(Secret::new(server.secret_key().to_owned())),
        part_bytes: PART_BYTES as u64,
        spool: server.spool(),
        retry_backoff: Duration::from_millis(5),
        ..Config::new(server.bucket())
    }
}

/// The driver for a configuration.
pub(crate) async fn connect(config: Config) -> S3 {
    S3::connect(config, ByteBudget::new(BUDGET_BYTES)).await.unwrap()
}
