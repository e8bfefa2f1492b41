//! An object that is made of parts.

use std::{future::Future, sync::Arc};

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use tokio::{runtime::Handle, task::JoinSet};

use super::{
    body,
    bucket::{Bucket, nonsense, signed},
    fault::{Failure, failed},
    journal,
};
use crate::{
    runtime::{Permit, Pieces},
    storage::{Error, Fault, Key},
};

/// Most parts of an object.
pub(super) const MAX_PARTS: usize = 10_000;

/// A multipart upload. Dropped before [`Multipart::complete`] it is aborted in the background.
pub(super) struct Multipart {
    target: Target,
    /// Where the upload is noted down.
    note: Key,
    running: JoinSet<Result<CompletedPart, Error>>,
    done: Vec<CompletedPart>,
    begun: i32,
    concurrency: usize,
    published: bool,
}

/// Where a part goes.
#[derive(Clone)]
pub(super) struct Target {
    bucket: Arc<Bucket>,
    operation: &'static str,
    key: Key,
    upload_id: Arc<str>,
    number: i32,
}

impl Multipart {
    /// Begins an upload.
    ///
    /// # Cancel safety
    /// Runs detached: what was begun is noted down or aborted, whoever is there to see it.
    pub(super) async fn begin(
        bucket: &Arc<Bucket>,
        operation: &'static str,
        key: &Key,
        concurrency: usize,
    ) -> Result<Self, Error> {
        let (tasks, owned, name) = (bucket.tasks.clone(), Arc::clone(bucket), key.clone());
        let begin = async move { create(owned, operation, name, concurrency).await };
        let begun = tasks.detached("begin a multipart upload", begin).await;
        begun
            .unwrap_or_else(|abandoned| Err(Error::failed(operation, key, Fault::Other, abandoned)))
    }

    /// Starts work on the next part. Waits while as many as allowed are under way.
    pub(super) async fn add<F, Work>(&mut self, work: F) -> Result<(), Error>
    where
        F: FnOnce(Target) -> Work,
        Work: Future<Output = Result<CompletedPart, Error>> + Send + 'static,
    {
        while self.running.len() >= self.concurrency {
            self.collect().await?;
        }
        while let Some(part) = self.running.try_join_next() {
            self.keep(part)?;
        }
        self.begun += 1;
        let target = Target { number: self.begun, ..self.target.clone() };
        self.running.spawn(work(target));
        Ok(())
    }

    /// Waits for all parts and makes the object visible.
    pub(super) async fn complete(mut self, size_bytes: u64) -> Result<(), Error> {
        while !self.running.is_empty() {
            self.collect().await?;
        }
        if usize::try_from(self.begun) != Ok(self.done.len()) {
            return Err(self.failed(Fault::Other, LostPart));
        }
        self.done.sort_by_key(CompletedPart::part_number);
        self.publish(size_bytes).await?;
        self.published = true;
        journal::forget(&self.target.bucket, &self.note).await;
        Ok(())
    }

    async fn collect(&mut self) -> Result<(), Error> {
        match self.running.join_next().await {
            Some(part) => self.keep(part),
            None => Ok(()),
        }
    }

    fn keep(
        &mut self,
        part: Result<Result<CompletedPart, Error>, tokio::task::JoinError>,
    ) -> Result<(), Error> {
        self.done.push(part.map_err(|panicked| self.failed(Fault::Other, panicked))??);
        Ok(())
    }

    async fn publish(&mut self, size_bytes: u64) -> Result<(), Error> {
        let Target { bucket, operation, key, upload_id, .. } = &self.target;
        let parts = CompletedMultipartUpload::builder().set_parts(Some(self.done.clone())).build();
        let request = bucket
            .client
            .complete_multipart_upload()
            .bucket(bucket.name())
            .key(bucket.path(key))
            .upload_id(upload_id.as_ref())
            .multipart_upload(parts)
            .customize()
            .config_override(bucket.server_side());
        let Err(error) = request.send().await else { return Ok(()) };
        // A first attempt may have been carried out although its answer was lost; and some servers
        // answer success in words of their own.
        let failure = Failure::of(&error);
        let unreadable = failure.status() == Some(200) && failure.code().is_empty();
        let in_doubt = failure.code() == "NoSuchUpload" || unreadable;
        if in_doubt && self.is_published(size_bytes).await {
            return Ok(());
        }
        Err(failed(operation, key, &error))
    }

    /// Whether the object at the key looks like the one of this upload. A multipart entity tag ends in
    /// the number of parts. Large objects are named by their digest, so another writer's is the same.
    async fn is_published(&self, size_bytes: u64) -> bool {
        let Target { bucket, operation, key, .. } = &self.target;
        let Ok(head) = bucket.head(operation, key).await else { return false };
        let suffix = format!("-{}", self.done.len());
        head.meta.size_bytes == size_bytes && head.tag.trim_matches('"').ends_with(&suffix)
    }

    fn failed(
        &self,
        fault: Fault,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        Error::failed(self.target.operation, &self.target.key, fault, source)
    }
}

async fn create(
    bucket: Arc<Bucket>,
    operation: &'static str,
    key: Key,
    concurrency: usize,
) -> Result<Multipart, Error> {
    let (encryption, kms_key) = bucket.encryption();
    let answer = bucket
        .client
        .create_multipart_upload()
        .bucket(bucket.name())
        .key(bucket.path(&key))
        .set_server_side_encryption(encryption)
        .set_ssekms_key_id(kms_key)
        .set_storage_class(bucket.storage_class())
        .send()
        .await
        .map_err(|error| failed(operation, &key, &error))?;
    let upload_id = answer.upload_id.ok_or_else(|| nonsense(operation, &key, "no upload id"))?;
    let (note, entry) = journal::entry(&key, &upload_id);
    let target = Target { bucket, operation, key, upload_id: upload_id.into(), number: 0 };
    let upload = Multipart {
        target,
        note,
        running: JoinSet::new(),
        done: Vec::new(),
        begun: 0,
        concurrency,
        published: false,
    };
    journal::note(&upload.target.bucket, operation, &upload.note, entry).await?;
    Ok(upload)
}

impl Drop for Multipart {
    fn drop(&mut self) {
        // Without a runtime there is nothing to ask S3 with; the journal has the upload.
        if self.published || Handle::try_current().is_err() {
            return;
        }
        self.running.abort_all();
        let (target, note) = (self.target.clone(), self.note.clone());
        let bucket = Arc::clone(&target.bucket);
        let tasks = bucket.tasks.clone();
        drop(tasks.spawn("abort a multipart upload", async move {
            if abort(&bucket, &bucket.path(&target.key), &target.upload_id).await.is_ok() {
                journal::forget(&bucket, &note).await;
            }
        }));
    }
}

/// Aborts an upload. One that is gone is no error.
pub(super) async fn abort(bucket: &Bucket, path: &str, upload_id: &str) -> Result<(), Failure> {
    let request = bucket.client.abort_multipart_upload().bucket(bucket.name());
    let Err(error) = request.key(path).upload_id(upload_id).send().await else { return Ok(()) };
    let failure = Failure::of(&error);
    if matches!(failure.code(), "NoSuchUpload" | "NoSuchKey") || failure.status() == Some(404) {
        return Ok(());
    }
    tracing::warn!(path, error = %failure, "a multipart upload could not be aborted");
    Err(failure)
}

/// Sends a part.
pub(super) async fn send(
    target: Target,
    pieces: Pieces,
    permit: Option<Permit>,
) -> Result<CompletedPart, Error> {
    let Target { bucket, operation, key, upload_id, number } = target;
    let size_bytes = pieces.len() as u64;
    let answer = bucket
        .client
        .upload_part()
        .bucket(bucket.name())
        .key(bucket.path(&key))
        .upload_id(upload_id.as_ref())
        .part_number(number)
        .content_length(signed(size_bytes))
        .body(body::of(pieces))
        .customize()
        // The SDK would hash all of it; the registry has, and checks what it reads.
        .disable_payload_signing()
        .config_override(bucket.sending(size_bytes))
        .send()
        .await
        .map_err(|error| failed(operation, &key, &error))?;
    drop(permit);
    let part = CompletedPart::builder()
        .part_number(number)
        .set_e_tag(answer.e_tag)
        .set_checksum_crc32(answer.checksum_crc32)
        .set_checksum_crc32_c(answer.checksum_crc32_c)
        .set_checksum_crc64_nvme(answer.checksum_crc64_nvme)
        .set_checksum_sha1(answer.checksum_sha1)
        .set_checksum_sha256(answer.checksum_sha256);
    Ok(part.build())
}

/// Has S3 copy a part.
pub(super) async fn copy(target: Target, source: Source) -> Result<CompletedPart, Error> {
    let Target { bucket, operation, key, upload_id, number } = target;
    let answer = bucket
        .client
        .upload_part_copy()
        .bucket(bucket.name())
        .key(bucket.path(&key))
        .upload_id(upload_id.as_ref())
        .part_number(number)
        .copy_source(source.path(&bucket))
        .set_copy_source_range(
            source.range.map(|range| format!("bytes={}-{}", range.start, range.end - 1)),
        )
        .customize()
        .config_override(bucket.server_side())
        .send()
        .await
        .map_err(|error| failed(operation, &source.key, &error))?;
    let result = answer.copy_part_result;
    let result = result.ok_or_else(|| nonsense(operation, &source.key, "no result of a copy"))?;
    let part = CompletedPart::builder()
        .part_number(number)
        .set_e_tag(result.e_tag)
        .set_checksum_crc32(result.checksum_crc32)
        .set_checksum_crc32_c(result.checksum_crc32_c)
        .set_checksum_crc64_nvme(result.checksum_crc64_nvme)
        .set_checksum_sha1(result.checksum_sha1)
        .set_checksum_sha256(result.checksum_sha256);
    Ok(part.build())
}

/// What a part is copied from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) key: Key,
    /// Which of its bytes; all where there is none.
    pub(super) range: Option<std::ops::Range<u64>>,
}

impl Source {
    /// The source as its header wants it: URL-encoded, but for the slashes.
    pub(super) fn path(&self, bucket: &Bucket) -> String {
        const PLAIN: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
            .remove(b'/')
            .remove(b'-')
            .remove(b'.')
            .remove(b'_')
            .remove(b'~');
        let path = bucket.path(&self.key);
        format!("{}/{}", bucket.name(), percent_encoding::utf8_percent_encode(&path, PLAIN))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("a part of the object was lost before")]
struct LostPart;
