//! A caller that repeats what failed, as the layers above a storage do.

use std::{fmt, time::SystemTime};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{TryStreamExt, stream};
use millpond::{
    oci::ByteRange,
    storage::{
        Error, Key, ListQuery, Listing, ObjectBytes, ObjectMeta, Opened, Piece, Purge, ReadCost,
        SharedStorage, Spool, Storage, WriteOptions, Writer,
    },
};

/// How often an operation is tried.
const ATTEMPTS: usize = 10;

/// Repeats every operation of the storage it wraps that fails for a reason that may pass. Streams and
/// writers are gathered in memory: this is for tests.
#[derive(Debug)]
pub(crate) struct RetryingStorage {
    inner: SharedStorage,
}

impl RetryingStorage {
    /// Repeats the operations of `inner`.
    pub(crate) fn new(inner: SharedStorage) -> Self {
        Self { inner }
    }
}

impl fmt::Display for RetryingStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "retried {}", self.inner)
    }
}

async fn retry<T, Work: Future<Output = Result<T, Error>>>(
    mut work: impl FnMut() -> Work,
) -> Result<T, Error> {
    for _ in 1..ATTEMPTS {
        match work().await {
            Err(error) if error.is_retryable() => {}
            done => return done,
        }
    }
    work().await
}

#[async_trait]
impl Storage for RetryingStorage {
    fn read_cost(&self) -> ReadCost {
        self.inner.read_cost()
    }

    fn get(&self, key: &Key) -> Option<Result<Bytes, Error>> {
        self.inner.get(key)
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta, Error> {
        retry(|| self.inner.head(key)).await
    }

    async fn open(&self, key: &Key, range: Option<ByteRange>) -> Result<Opened, Error> {
        let read = || async {
            let Opened { meta, range, bytes: unread } = self.inner.open(key, range).await?;
            let mut bytes = BytesMut::new();
            let mut stream = unread.into_stream().await?;
            while let Some(piece) = stream.try_next().await? {
                bytes.extend_from_slice(&piece);
            }
            let stream = stream::iter([Ok(bytes.freeze())]);
            Ok(Opened { meta, range, bytes: ObjectBytes::Stream(Box::pin(stream)) })
        };
        retry(read).await
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), Error> {
        retry(|| self.inner.put(key, bytes.clone())).await
    }

    async fn write(&self, key: &Key, options: WriteOptions) -> Result<Box<dyn Writer>, Error> {
        let (inner, key) = (self.inner.clone(), key.clone());
        Ok(Box::new(RetryingWriter { inner, key, options, pieces: Vec::new() }))
    }

    async fn compose(&self, pieces: &[Piece], to: &Key) -> Result<(), Error> {
        retry(|| self.inner.compose(pieces, to)).await
    }

    async fn spool(&self) -> Result<Spool, Error> {
        retry(|| self.inner.spool()).await
    }

    async fn adopt(&self, spool: &Spool, to: &Key) -> Result<(), Error> {
        retry(|| self.inner.adopt(spool, to)).await
    }

    async fn list(&self, prefix: &Key, query: ListQuery) -> Result<Listing, Error> {
        retry(|| self.inner.list(prefix, query.clone())).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), Error> {
        retry(|| self.inner.delete(keys)).await
    }

    async fn purge_unfinished(&self, before: SystemTime, purge: Purge) -> Result<u64, Error> {
        retry(|| self.inner.purge_unfinished(before, purge)).await
    }
}

#[derive(Debug)]
struct RetryingWriter {
    inner: SharedStorage,
    key: Key,
    options: WriteOptions,
    pieces: Vec<Bytes>,
}

#[async_trait]
impl Writer for RetryingWriter {
    fn batch_bytes(&self) -> usize {
        64 << 10
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        self.pieces.push(bytes);
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<(), Error> {
        let write = || async {
            let mut writer = self.inner.write(&self.key, self.options).await?;
            for piece in &self.pieces {
                writer.write(piece.clone()).await?;
            }
            writer.commit().await
        };
        retry(write).await
    }
}
