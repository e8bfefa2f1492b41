//! A storage that fails on purpose, and a caller that does not give up.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use millpond::{
    oci::ByteRange,
    storage::{
        Error, Fault, Key, ListQuery, Listing, ObjectBytes, ObjectMeta, Opened, Piece, Purge,
        ReadCost, SharedStorage, Spool, Storage, WriteOptions, Writer,
    },
};

/// Fails every n-th operation of the storage it wraps, in turn before it took effect and after, and
/// cuts every n-th stream short. So an operation that is repeated succeeds, if n is at least 2.
pub(crate) struct FaultyStorage {
    inner: SharedStorage,
    faults: Faults,
}

/// Which operations fail. Cloning shares the count.
#[derive(Clone)]
struct Faults {
    every: usize,
    count: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    Before,
    After,
}

impl Faults {
    fn next(&self) -> Option<Moment> {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let before = (count / self.every).is_multiple_of(2);
        let moment = if before { Moment::Before } else { Moment::After };
        count.is_multiple_of(self.every).then_some(moment)
    }

    async fn run<T>(
        &self,
        operation: &'static str,
        key: &Key,
        work: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let moment = self.next();
        if moment == Some(Moment::Before) {
            return Err(injected(operation, key));
        }
        let result = work.await;
        if moment == Some(Moment::After) { Err(injected(operation, key)) } else { result }
    }
}

fn injected(operation: &'static str, key: &Key) -> Error {
    Error::failed(operation, key, Fault::Unavailable, "the test wants it so")
}

impl FaultyStorage {
    /// Fails every n-th operation of `inner`.
    pub(crate) fn new(inner: SharedStorage, every: usize) -> Self {
        Self { inner, faults: Faults { every, count: Arc::default() } }
    }

    /// How many operations there were.
    pub(crate) fn operations(&self) -> usize {
        self.faults.count.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for FaultyStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStorage({:?})", self.inner)
    }
}

impl fmt::Display for FaultyStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

#[async_trait]
impl Storage for FaultyStorage {
    fn read_cost(&self) -> ReadCost {
        self.inner.read_cost()
    }

    fn get(&self, _: &Key) -> Option<Result<Bytes, Error>> {
        // So that every reading passes by the faults.
        None
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta, Error> {
        self.faults.run("head", key, self.inner.head(key)).await
    }

    async fn open(&self, key: &Key, range: Option<ByteRange>) -> Result<Opened, Error> {
        let opened = self.faults.run("open", key, self.inner.open(key, range)).await?;
        if self.faults.next().is_none() {
            return Ok(opened);
        }
        // Half of what there is, then the end of the world.
        let mut left = usize::try_from((opened.range.end - opened.range.start) / 2).unwrap_or(0);
        let kept = opened.bytes.into_stream().await?.map_ok(move |mut bytes| {
            bytes.truncate(left);
            left -= bytes.len();
            bytes
        });
        let kept = kept.try_filter(|bytes| std::future::ready(!bytes.is_empty()));
        let key = key.clone();
        let end = stream::once(async move { Err(injected("read", &key)) });
        let bytes = ObjectBytes::Stream(Box::pin(kept.chain(end)));
        Ok(Opened { meta: opened.meta, range: opened.range, bytes })
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), Error> {
        self.faults.run("put", key, self.inner.put(key, bytes)).await
    }

    async fn write(&self, key: &Key, options: WriteOptions) -> Result<Box<dyn Writer>, Error> {
        let inner = self.faults.run("write", key, self.inner.write(key, options)).await?;
        Ok(Box::new(FaultyWriter { inner, key: key.clone(), faults: self.faults.clone() }))
    }

    async fn compose(&self, pieces: &[Piece], to: &Key) -> Result<(), Error> {
        self.faults.run("compose", to, self.inner.compose(pieces, to)).await
    }

    async fn spool(&self) -> Result<Spool, Error> {
        self.inner.spool().await
    }

    async fn adopt(&self, spool: &Spool, to: &Key) -> Result<(), Error> {
        self.faults.run("adopt", to, self.inner.adopt(spool, to)).await
    }

    async fn list(&self, prefix: &Key, query: ListQuery) -> Result<Listing, Error> {
        self.faults.run("list", prefix, self.inner.list(prefix, query)).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), Error> {
        let Some(first) = keys.first() else { return self.inner.delete(keys).await };
        self.faults.run("delete", first, self.inner.delete(keys)).await
    }

    async fn purge_unfinished(&self, before: SystemTime, purge: Purge) -> Result<u64, Error> {
        // Not before the operation or after it: what was found is counted once.
        self.inner.purge_unfinished(before, purge).await
    }
}

struct FaultyWriter {
    inner: Box<dyn Writer>,
    key: Key,
    faults: Faults,
}

impl fmt::Debug for FaultyWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl Writer for FaultyWriter {
    fn batch_bytes(&self) -> usize {
        self.inner.batch_bytes()
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        self.faults.run("write", &self.key, self.inner.write(bytes)).await
    }

    async fn commit(self: Box<Self>) -> Result<(), Error> {
        self.faults.run("commit", &self.key, self.inner.commit()).await
    }
}
