//! Bytes on their way from the storage into chunks.

use bytes::Bytes;
use futures_util::TryStreamExt;

use super::unavailable;
use crate::{
    cache::ChunkWriter,
    oci::Digest,
    storage::{Error, ObjectStream},
};

/// Bytes that come from the storage, for one chunk after the other.
pub(super) struct Source {
    digest: Digest,
    stream: ObjectStream,
    /// What has come and not been used.
    here: Bytes,
}

impl Source {
    pub(super) const fn new(digest: Digest, stream: ObjectStream) -> Self {
        Self { digest, stream, here: Bytes::new() }
    }

    /// Writes what is missing of a chunk, for which there is memory.
    pub(super) async fn fill(&mut self, writer: &mut ChunkWriter<Error>) -> Result<(), Error> {
        let of = self.digest;
        let failed = move |error| unavailable(&of, error);
        while writer.missing_bytes() > 0 {
            let bytes = self.next(writer.missing_bytes()).await?;
            writer.write(&bytes).map_err(failed)?;
        }
        Ok(())
    }

    pub(super) async fn leave_out(&mut self, mut length: u64) -> Result<(), Error> {
        while length > 0 {
            length -= self.next(length).await?.len() as u64;
        }
        Ok(())
    }

    /// The next bytes, at least one and at most `limit`.
    pub(super) async fn next(&mut self, limit: u64) -> Result<Bytes, Error> {
        while self.here.is_empty() {
            self.here = match self.stream.try_next().await? {
                Some(bytes) => bytes,
                None => return Err(unavailable(&self.digest, "the object ends too early")),
            };
        }
        let length = usize::try_from(limit).unwrap_or(usize::MAX).min(self.here.len());
        Ok(self.here.split_to(length))
    }
}
