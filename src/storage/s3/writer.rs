//! Writing objects whose length is not known.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    bucket::Bucket,
    config::MAX_PART_BYTES,
    multipart::{self, Multipart},
};
use crate::{
    runtime::{Permit, Pieces},
    storage::{Error, Fault, Key, Spool, Writer},
};

/// After how many parts they double. Ten steps to 10,000 parts reach beyond the largest object.
const PARTS_PER_SIZE: u64 = 1000;

/// Nothing happens before a part is full; so this is only a size that others do well with.
const BATCH_BYTES: usize = 256 << 10;

const OPERATION: &str = "write";

/// An object in the making: a buffer that becomes one request, or the parts of many.
pub(super) struct ObjectWriter {
    bucket: Arc<Bucket>,
    key: Key,
    expected_bytes: Option<u64>,
    /// Bytes of all parts but the buffer.
    sent_bytes: u64,
    sent_parts: u64,
    buffer: Pieces,
    /// What pays for the buffer, and up to which length of it.
    paid: Option<(Permit, u64)>,
    upload: Option<Multipart>,
    /// Set while bytes are taken in: a call that failed or was dropped half way leaves a hole.
    in_doubt: bool,
}

impl ObjectWriter {
    pub(super) fn new(bucket: Arc<Bucket>, key: Key, expected_bytes: Option<u64>) -> Self {
        Self {
            bucket,
            key,
            expected_bytes,
            sent_bytes: 0,
            sent_parts: 0,
            buffer: Pieces::default(),
            paid: None,
            upload: None,
            in_doubt: false,
        }
    }

    async fn take_in(&mut self, mut bytes: Bytes) -> Result<(), Error> {
        while !bytes.is_empty() {
            let part_bytes = part_bytes(self.sent_parts, self.bucket.config.part_bytes);
            let room = part_bytes - self.buffer.len() as u64;
            if room == 0 {
                self.send().await?;
                continue;
            }
            let room = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
            self.pay_for(self.buffer.len() as u64 + room as u64, part_bytes).await;
            self.buffer.push(bytes.split_to(room));
        }
        Ok(())
    }

    /// Pays for a buffer of `length`, with the first byte for all that is expected of the part.
    async fn pay_for(&mut self, length: u64, part_bytes: u64) {
        let expected = self.expected_bytes.map(|total| total.saturating_sub(self.sent_bytes));
        let want = match &self.paid {
            Some((_permit, paid_bytes)) if *paid_bytes >= length => return,
            // More came than was expected. The old permit goes back first: nobody waits for memory
            // with memory in hand.
            Some(_) => part_bytes,
            None => expected.filter(|expected| *expected >= length).unwrap_or(part_bytes),
        };
        let want = want.min(part_bytes);
        self.paid = None;
        self.paid = Some((self.bucket.reserve(want).await, want));
    }

    /// Sends the buffer as the next part.
    async fn send(&mut self) -> Result<(), Error> {
        let upload = match &mut self.upload {
            Some(upload) => upload,
            none => none.insert(
                Multipart::begin(
                    &self.bucket,
                    OPERATION,
                    &self.key,
                    self.bucket.config.write_concurrency,
                )
                .await?,
            ),
        };
        let permit = self.paid.take().map(|(permit, _bytes)| permit);
        let pieces = std::mem::take(&mut self.buffer);
        self.sent_bytes += pieces.len() as u64;
        self.sent_parts += 1;
        upload.add(|target| multipart::send(target, pieces, permit)).await
    }
}

/// Makes an object of a spool.
pub(super) async fn adopt(bucket: &Arc<Bucket>, spool: &Spool, to: &Key) -> Result<(), Error> {
    let size_bytes = spool.file().size_bytes();
    let size_bytes = size_bytes.map_err(|error| Error::failed("adopt", to, Fault::Other, error))?;
    let mut writer = Box::new(ObjectWriter::new(Arc::clone(bucket), to.clone(), Some(size_bytes)));
    let window = spool.window(size_bytes).await?;
    let mut offset = 0;
    while offset < size_bytes {
        let bytes = window.read(offset, size_bytes - offset).await?;
        offset += bytes.len() as u64;
        // A part keeps its bytes until it is sent, and pays for them; a buffer of the window would be missed.
        writer.write(Bytes::copy_from_slice(&bytes)).await?;
    }
    drop(window);
    writer.commit().await
}

/// Bytes of the part after `parts` others.
fn part_bytes(parts: u64, first_bytes: u64) -> u64 {
    (first_bytes << (parts / PARTS_PER_SIZE).min(9)).min(MAX_PART_BYTES)
}

#[async_trait]
impl Writer for ObjectWriter {
    fn batch_bytes(&self) -> usize {
        BATCH_BYTES
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        if self.in_doubt {
            return Err(Error::failed(OPERATION, &self.key, Fault::Other, InDoubt));
        }
        self.in_doubt = true;
        self.take_in(bytes).await?;
        self.in_doubt = false;
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<(), Error> {
        if self.in_doubt {
            return Err(Error::failed(OPERATION, &self.key, Fault::Other, InDoubt));
        }
        if self.upload.is_some() && !self.buffer.is_empty() {
            self.send().await?;
        }
        match self.upload.take() {
            Some(upload) => upload.complete(self.sent_bytes).await,
            None => self.bucket.put(OPERATION, &self.key, std::mem::take(&mut self.buffer)).await,
        }
    }
}

impl fmt::Debug for ObjectWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectWriter")
            .field("key", &self.key)
            .field("sent_bytes", &self.sent_bytes)
            .field("buffered_bytes", &self.buffer.len())
            .finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("an earlier write failed or was dropped half way")]
struct InDoubt;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_object_fits_into_ten_thousand_parts() {
        let reach: u64 = (0..10_000).map(|parts| part_bytes(parts, 8 << 20)).sum();
        assert!(reach >= 5 << 40);
        assert_eq!(part_bytes(999, 8 << 20), 8 << 20);
        assert_eq!(part_bytes(1000, 8 << 20), 16 << 20);
        assert!(part_bytes(9_999, 8 << 20) <= 5 << 30);
    }
}
