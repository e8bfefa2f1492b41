//! A storage that counts what is asked of it.

use std::{fmt, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};
use tokio::time::Instant;

use super::{
    Error, Key, ListQuery, Listing, ObjectMeta, Opened, Piece, Purge, ReadCost, SharedStorage,
    Spool, Storage, WriteOptions, Writer,
};
use crate::oci::ByteRange;

/// Counts, times and classifies every operation of the storage it wraps.
///
/// Metrics: `millpond_storage_operation_seconds{operation}` and
/// `millpond_storage_errors_total{operation,fault}`. An object that is not there is no error.
pub struct Metered {
    inner: SharedStorage,
    seconds: HistogramVec,
    errors: IntCounterVec,
}

/// Buckets from a page-cache hit to a stalled server, in seconds.
const SECONDS_BUCKETS: [f64; 12] =
    [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

impl Metered {
    /// Wraps `inner` and registers the metrics.
    ///
    /// # Panics
    /// If the metrics are already registered: there is one storage in a process.
    #[must_use]
    pub fn new(inner: SharedStorage, registry: &Registry) -> Self {
        let seconds = HistogramOpts::new(
            "millpond_storage_operation_seconds",
            "Time until a storage operation was answered; streams until their first byte",
        )
        .buckets(SECONDS_BUCKETS.to_vec());
        let seconds =
            HistogramVec::new(seconds, &["operation"]).expect("the metric is well formed");
        let errors = Opts::new(
            "millpond_storage_errors_total",
            "Failed storage operations by kind of fault",
        );
        let errors =
            IntCounterVec::new(errors, &["operation", "fault"]).expect("the metric is well formed");
        registry.register(Box::new(seconds.clone())).expect("the metric is registered once");
        registry.register(Box::new(errors.clone())).expect("the metric is registered once");
        Self { inner, seconds, errors }
    }

    async fn measure<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let started = Instant::now();
        let result = work.await;
        self.count(operation, started, &result);
        result
    }

    fn count<T>(&self, operation: &'static str, started: Instant, result: &Result<T, Error>) {
        self.seconds.with_label_values(&[operation]).observe(started.elapsed().as_secs_f64());
        if let Err(Error::Failed { fault, .. }) = result {
            self.errors.with_label_values(&[operation, fault.name()]).inc();
        }
    }
}

#[async_trait]
impl Storage for Metered {
    fn read_cost(&self) -> ReadCost {
        self.inner.read_cost()
    }

    fn get(&self, key: &Key) -> Option<Result<Bytes, Error>> {
        let started = Instant::now();
        let result = self.inner.get(key)?;
        self.count("get", started, &result);
        Some(result)
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta, Error> {
        self.measure("head", self.inner.head(key)).await
    }

    async fn open(&self, key: &Key, range: Option<ByteRange>) -> Result<Opened, Error> {
        self.measure("open", self.inner.open(key, range)).await
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), Error> {
        self.measure("put", self.inner.put(key, bytes)).await
    }

    async fn write(&self, key: &Key, options: WriteOptions) -> Result<Box<dyn Writer>, Error> {
        self.measure("write", self.inner.write(key, options)).await
    }

    async fn compose(&self, pieces: &[Piece], to: &Key) -> Result<(), Error> {
        self.measure("compose", self.inner.compose(pieces, to)).await
    }

    async fn spool(&self) -> Result<Spool, Error> {
        self.measure("spool", self.inner.spool()).await
    }

    async fn adopt(&self, spool: &Spool, to: &Key) -> Result<(), Error> {
        self.measure("adopt", self.inner.adopt(spool, to)).await
    }

    async fn list(&self, prefix: &Key, query: ListQuery) -> Result<Listing, Error> {
        self.measure("list", self.inner.list(prefix, query)).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), Error> {
        self.measure("delete", self.inner.delete(keys)).await
    }

    async fn purge_unfinished(&self, before: SystemTime, purge: Purge) -> Result<u64, Error> {
        self.measure("purge_unfinished", self.inner.purge_unfinished(before, purge)).await
    }
}

impl fmt::Debug for Metered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metered").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl fmt::Display for Metered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}
