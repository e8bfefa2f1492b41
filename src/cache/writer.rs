//! Filling a chunk.

use std::{
    collections::hash_map::Entry,
    fmt, io,
    sync::{Arc, Weak},
};

use tokio::{sync::watch, time::Instant};

use super::{
    Block, ChunkKey, ChunkLayout,
    chunk::{Come, Progress},
    metrics::Origin,
    pond::{Coming, Kept, Shared},
    reads::{Purpose, Reads},
};
use crate::runtime::Permit;

/// Fills a chunk, byte by byte from its beginning; each can be read when it is published. Unless it ends by
/// [`ChunkWriter::finish`] nothing stays in memory, and whoever waits for the rest is told.
pub struct ChunkWriter<E> {
    shared: Arc<Shared<E>>,
    key: ChunkKey,
    blob_bytes: u64,
    chunk_bytes: u64,
    sender: watch::Sender<Progress<E>>,
    reads: Arc<Reads>,
    /// The memory, once it is paid for.
    taken: Option<(Arc<Block>, Arc<Permit>)>,
    written: u64,
    /// Where the bytes end that others read.
    published: u64,
    /// Where those end that other nodes may have.
    offered: u64,
    origin: Origin,
    since: Instant,
}

impl<E: Send + Sync + 'static> ChunkWriter<E> {
    /// Fills the chunk with what is on this machine's disk. Returns the writer if that was not all of it.
    ///
    /// # Errors
    /// If the system has no memory.
    ///
    /// # Cancel safety
    /// Dropping the future drops the writer, now or when the disk has answered.
    pub async fn restore(mut self) -> io::Result<Option<Self>> {
        let disk = self.shared.disk.clone().filter(|disk| disk.may_have(&self.key));
        let Some(disk) = disk else { return Ok(Some(self)) };
        self.begin().await?;
        self.origin = Origin::Disk;
        let name = (self.key, self.blob_bytes);
        let restored = disk.read(name, self, Self::write_checked).await;
        let mut writer = restored.ok_or_else(|| io::Error::other("the reading was abandoned"))?;
        if writer.missing_bytes() == 0 {
            writer.reads.mark.set();
            writer.finish();
            return Ok(None);
        }
        writer.origin = Origin::Storage;
        Ok(Some(writer))
    }
}

impl<E> ChunkWriter<E> {
    pub(super) fn new(
        shared: &Arc<Shared<E>>,
        key: ChunkKey,
        blob_bytes: u64,
    ) -> (Self, Coming<E>) {
        let range = ChunkLayout::of(blob_bytes).range(key.index);
        assert!(!range.is_empty(), "a chunk is looked for that its blob has");
        let (sender, progress) = watch::channel(Progress::Waiting);
        let is_on_disk = shared.disk.as_ref().is_some_and(|disk| disk.may_have(&key));
        let reads = Arc::new(Reads::of(is_on_disk));
        if shared.read_before.contains(&key) {
            reads.add(Purpose::Reading);
        }
        let writer = Self {
            shared: Arc::clone(shared),
            key,
            blob_bytes,
            chunk_bytes: range.end - range.start,
            sender,
            reads: Arc::clone(&reads),
            taken: None,
            written: 0,
            published: 0,
            offered: 0,
            origin: Origin::Storage,
            since: Instant::now(),
        };
        (writer, Coming { progress, reads })
    }

    /// Length of the chunk in bytes.
    #[must_use]
    pub const fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// Bytes still to be written.
    #[must_use]
    pub const fn missing_bytes(&self) -> u64 {
        self.chunk_bytes - self.written
    }

    /// Waits for memory. To be called before the bytes are fetched, which then lie nowhere else.
    ///
    /// # Errors
    /// If the system has none.
    pub async fn begin(&mut self) -> io::Result<()> {
        if self.taken.is_none() {
            let permit = self.shared.coming_budget.acquire(self.chunk_bytes).await;
            self.begin_with(&Arc::new(permit))?;
        }
        Ok(())
    }

    /// The same with memory that was waited for, maybe for several chunks at once ([`Pond::memory`]).
    ///
    /// # Errors
    /// If the system has none.
    ///
    /// [`Pond::memory`]: super::Pond::memory
    pub fn begin_with(&mut self, permit: &Arc<Permit>) -> io::Result<()> {
        let block = Block::reserve(self.chunk_bytes)?;
        self.taken = Some((Arc::new(block), Arc::clone(permit)));
        Ok(())
    }

    /// As [`ChunkWriter::begin`] if there is memory now; says whether.
    pub fn begin_now(&mut self) -> bool {
        if self.taken.is_some() {
            return true;
        }
        let permit = self.shared.coming_budget.try_acquire(self.chunk_bytes).map(Arc::new);
        permit.is_some_and(|permit| self.begin_with(&permit).is_ok())
    }

    /// Counts what is written and published from now on as bytes from there. Unless it is told otherwise they come from the storage.
    pub const fn comes_from(&mut self, origin: Origin) {
        self.origin = origin;
    }

    /// Takes in the next bytes, which nobody reads before they are published.
    ///
    /// # Errors
    /// If the system has no memory.
    ///
    /// # Panics
    /// If there are more than are missing, or before [`ChunkWriter::begin`].
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (block, _) = self.taken.as_ref().expect("memory was taken before the bytes came");
        block.write(self.written, bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Lets everybody read the bytes before `end`.
    ///
    /// # Panics
    /// If they have not been written.
    pub fn publish(&mut self, end: u64) {
        assert!(end <= self.written, "what is read was written");
        if self.taken.is_some() && end > self.published {
            // Not when they are written: what is taken back would count again when it has come again.
            self.shared.metrics.filled(self.origin, end - self.published);
            self.published = end;
            self.offered = self.offered.max(end);
            self.tell();
        }
    }

    /// Lets other nodes have all that was written: they need not wait until it is known whether it is right, because
    /// they find out themselves.
    pub fn offer(&mut self) {
        if self.taken.is_some() && self.written > self.offered {
            self.offered = self.written;
            self.tell();
        }
    }

    /// Forgets what was written and not published, because it is not what it should be. Nodes that were offered it find
    /// out themselves.
    pub fn take_back(&mut self) {
        self.written = self.published;
        if self.offered > self.published {
            self.offered = self.published;
            self.tell();
        }
    }

    fn tell(&self) {
        let Some((block, _)) = &self.taken else { return };
        let (right_end, maybe_end) = (self.published, self.offered);
        let come = Come { block: Arc::clone(block), right_end, maybe_end };
        self.sender.send_replace(Progress::Partial(come));
    }

    fn write_checked(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write(bytes)?;
        self.publish(self.written);
        Ok(())
    }

    /// Publishes all of the chunk and keeps it. Returns where it is, as long as it is kept.
    ///
    /// # Panics
    /// If bytes are missing.
    pub fn finish(mut self) -> Weak<Block> {
        assert_eq!(self.missing_bytes(), 0, "a chunk is kept when all of it is there");
        let Some((block, permit)) = self.taken.take() else { return Weak::new() };
        let shared = &self.shared;
        shared.metrics.filled(self.origin, self.chunk_bytes - self.published);
        shared.metrics.finished(self.origin, self.since.elapsed());
        let (blob_bytes, reads) = (self.blob_bytes, Arc::clone(&self.reads));
        let kept = Kept { block, blob_bytes, reads };
        // First to where it is looked for first: at every moment it is in one of the two.
        shared.memory.insert(self.key, kept.clone());
        shared.coming().remove(&self.key);
        self.sender.send_replace(Progress::Complete(Arc::downgrade(&kept.block)));
        // Who reads it from now on sees to this; who did while it came could not.
        shared.keep_on_disk(self.key, &kept);
        if shared.disk.is_some() {
            shared.read_before.insert(self.key, ());
        }
        drop(permit);
        Arc::downgrade(&kept.block)
    }

    /// Tells whoever waits why the rest does not come.
    pub fn fail(self, error: E) {
        // Whoever looks from now on tries again.
        self.shared.coming().remove(&self.key);
        self.sender.send_replace(Progress::Failed(error));
    }
}

impl<E> Drop for ChunkWriter<E> {
    fn drop(&mut self) {
        let mut coming = self.shared.coming();
        // Another writer may have taken its place after this one has ended.
        if let Entry::Occupied(there) = coming.entry(self.key)
            && self.sender.subscribe().same_channel(&there.get().progress)
        {
            there.remove();
        }
        drop(coming);
        // Whoever still waits keeps no memory of what does not come.
        self.sender.send_if_modified(|progress| {
            let is_partial = matches!(progress, Progress::Partial(_));
            if is_partial {
                *progress = Progress::Waiting;
            }
            is_partial
        });
    }
}

impl<E> fmt::Debug for ChunkWriter<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing_bytes = self.missing_bytes();
        f.debug_struct("ChunkWriter").field("missing_bytes", &missing_bytes).finish_non_exhaustive()
    }
}
