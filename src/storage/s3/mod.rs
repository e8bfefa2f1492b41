//! Objects in a bucket of S3: AWS, `MinIO`, Ceph, Garage, OSS, Swift's s3api, GCS.
//!
//! Requests that every caller pays for are kept few: one to open an object, one to write a small one,
//! one per 1000 entries of a listing. Nothing needs a conditional request or a feature that only some
//! servers have; where one is missing (batch deletes, listing uploads), another way is taken.
//!
//! An object larger than a part is a multipart upload, which becomes visible when it is completed.
//! Uploads that their process cannot end are found again in a journal (see `journal`).

mod body;
mod bookmark;
mod bucket;
mod client;
mod compose;
mod config;
mod delete;
mod fault;
mod journal;
mod list;
mod multipart;
mod purge;
mod read;
mod writer;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;

pub use client::CaError;
pub use config::{Checksums, Config, ConfigError, Encryption};

use super::{
    Error, Fault, Key, ListQuery, Listing, ObjectMeta, Opened, Piece, Purge, ReadCost, Spool,
    Storage, WriteOptions, Writer,
};
use crate::{oci::ByteRange, runtime::ByteBudget};
use bucket::Bucket;
use writer::ObjectWriter;

/// A bucket as a storage. Cloning shares it.
#[derive(Clone)]
pub struct S3 {
    bucket: Arc<Bucket>,
}

impl S3 {
    /// Prepares to use a bucket. The bucket itself is not asked for anything; without a region in the
    /// configuration the AWS environment or the instance may be.
    ///
    /// Buffers for writing are taken from `budget`. It should have room for several parts.
    ///
    /// # Errors
    /// [`Fault::Other`] with a [`ConfigError`] or a [`CaError`], for a configuration that cannot work.
    pub async fn connect(config: Config, budget: ByteBudget) -> Result<Self, Error> {
        let root: Key = "s3".parse().expect("a plain word is a key");
        config.check().map_err(|error| Error::failed("configure", &root, Fault::Other, error))?;
        let bucket = Bucket::connect(config, budget).await;
        let bucket = bucket.map_err(|error| Error::failed("configure", &root, Fault::Other, error));
        Ok(Self { bucket: Arc::new(bucket?) })
    }

    /// Waits until what dropped writers have left behind is removed, for at most `grace`. Returns how
    /// many of them are not done. For the end of the process.
    pub async fn finish(&self, grace: Duration) -> usize {
        self.bucket.tasks.finish(grace).await
    }
}

#[async_trait]
impl Storage for S3 {
    fn read_cost(&self) -> ReadCost {
        ReadCost::Request
    }

    fn get(&self, _: &Key) -> Option<Result<Bytes, Error>> {
        // Only the bucket knows whether an object has changed.
        None
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta, Error> {
        Ok(self.bucket.head("head", key).await?.meta)
    }

    async fn open(&self, key: &Key, range: Option<ByteRange>) -> Result<Opened, Error> {
        read::open(&self.bucket, key, range).await
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), Error> {
        self.bucket.put("put", key, bucket::pieces(bytes)).await
    }

    async fn write(&self, key: &Key, options: WriteOptions) -> Result<Box<dyn Writer>, Error> {
        let bucket = Arc::clone(&self.bucket);
        Ok(Box::new(ObjectWriter::new(bucket, key.clone(), options.expected_bytes)))
    }

    async fn compose(&self, pieces: &[Piece], to: &Key) -> Result<(), Error> {
        compose::compose(&self.bucket, pieces, to).await
    }

    async fn spool(&self) -> Result<Spool, Error> {
        self.bucket.spool().await
    }

    async fn adopt(&self, spool: &Spool, to: &Key) -> Result<(), Error> {
        writer::adopt(&self.bucket, spool, to).await
    }

    async fn list(&self, prefix: &Key, query: ListQuery) -> Result<Listing, Error> {
        list::list(&self.bucket, "list", prefix, &query).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), Error> {
        delete::delete(&self.bucket, keys).await
    }

    async fn purge_unfinished(&self, before: SystemTime, purge: Purge) -> Result<u64, Error> {
        purge::purge(&self.bucket, before, purge).await
    }
}

impl fmt::Display for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bucket.fmt(f)
    }
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3({})", self.bucket)
    }
}
