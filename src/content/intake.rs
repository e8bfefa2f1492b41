//! Bytes on their way into a spool.

use std::sync::Arc;

use bytes::Bytes;

use super::Error;
use crate::{
    runtime::Pieces,
    storage::{Spool, SpoolWrite},
};

/// Bytes gathered while others are being written. An intake holds at most two such batches.
const BATCH_BYTES: usize = 512 << 10;

/// What an intake should have paid for.
pub(super) const WINDOW_BYTES: u64 = 2 * BATCH_BYTES as u64;

/// Hears how many bytes more can be read, as soon as they can.
pub(super) type Written = Arc<dyn Fn(u64) + Send + Sync>;

/// Takes in bytes one after the other. What comes while a write is under way becomes the next write: on a slow
/// line every piece can be read as soon as it is here, on a fast one few writes take many bytes.
pub(super) struct Intake {
    spool: Spool,
    /// Where the next write begins.
    offset: u64,
    gathered: Pieces,
    writing: Option<SpoolWrite>,
    written: Written,
}

impl Intake {
    /// Writes what comes from `offset` on.
    pub(super) fn new(spool: Spool, offset: u64, written: Written) -> Self {
        Self { spool, offset, gathered: Pieces::default(), writing: None, written }
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        self.gathered.push(bytes);
        if self.writing.is_none() {
            self.begin_write();
        }
    }

    /// Whether no more should be pushed for now.
    pub(super) const fn is_full(&self) -> bool {
        self.gathered.len() >= BATCH_BYTES
    }

    pub(super) const fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Where the bytes end that were pushed.
    pub(super) const fn end(&self) -> u64 {
        self.offset + self.gathered.len() as u64
    }

    /// Waits for the write that is under way and begins the next. May be dropped and called again.
    pub(super) async fn written(&mut self) -> Result<(), Error> {
        let Some(writing) = &mut self.writing else { return Ok(()) };
        writing.finish().await?;
        self.writing = None;
        if !self.gathered.is_empty() {
            self.begin_write();
        }
        Ok(())
    }

    /// Waits until all that was pushed is written. May be dropped and called again.
    pub(super) async fn drained(&mut self) -> Result<(), Error> {
        while self.is_writing() {
            self.written().await?;
        }
        Ok(())
    }

    fn begin_write(&mut self) {
        let pieces = std::mem::take(&mut self.gathered);
        let (offset, bytes) = (self.offset, pieces.len() as u64);
        self.offset += bytes;
        let written = Arc::clone(&self.written);
        self.writing = Some(self.spool.write(offset, pieces, move || written(bytes)));
    }
}
