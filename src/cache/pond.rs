//! Which chunks are in memory, and which are on their way there.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use foyer::{Cache, CacheBuilder, S3FifoConfig};
use tokio::sync::watch;

use super::{
    Block, Chunk, ChunkKey, Config,
    chunk::Progress,
    metrics::{Found, PondMetrics},
};
use crate::runtime::{ByteBudget, Permit};

/// Memory of one part of the cache, each of which has a lock of its own. Large enough for many chunks.
const SHARD_BYTES: u64 = 256 << 20;

const SHARDS_MOST: u64 = 16;

/// The part of the memory that is for chunks on their way: one in so many.
const COMING_SHARE: u64 = 4;

/// How often a chunk is looked up by the one reader of a pull that nobody repeats: not at all if it still came, or
/// once if it was fetched ahead.
const USES_OF_A_SCAN: u8 = 1;

/// What an entry costs beside its bytes.
const ENTRY_BYTES: usize = 4 << 10;

/// Chunks that were used lately, and those that come. `E` is why one may not come. Cloning shares it.
///
/// Which chunks stay is decided by S3-FIFO: what was asked for only once goes before what was asked for again, so
/// that one pull of a huge image does not drive out what everybody uses.
pub struct Pond<E>(Arc<Shared<E>>);

struct Shared<E> {
    memory: Cache<ChunkKey, Arc<Block>>,
    coming: Mutex<HashMap<ChunkKey, watch::Receiver<Progress<E>>>>,
    /// For chunks that are not in `memory` yet.
    coming_budget: ByteBudget,
    metrics: PondMetrics,
}

/// What there is of a chunk.
#[derive(Debug)]
pub enum Look<E> {
    /// It is there, or somebody fills it.
    Found(Chunk<E>),
    /// It is not; whoever is told this has to fill it.
    Missing(Chunk<E>, ChunkWriter<E>),
}

impl<E: Clone> Pond<E> {
    /// An empty pond.
    ///
    /// # Panics
    /// If its metrics are already registered: there is one pond in a process.
    #[must_use]
    pub fn new(config: &Config, metrics: &prometheus::Registry) -> Self {
        let memory_bytes = config.memory_bytes();
        let coming_bytes = memory_bytes / COMING_SHARE;
        let kept_bytes = memory_bytes - coming_bytes;
        let shards = (kept_bytes / SHARD_BYTES).clamp(1, SHARDS_MOST);
        let length = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let memory = CacheBuilder::new(length(kept_bytes))
            .with_name("millpond")
            .with_shards(length(shards))
            .with_eviction_config(S3FifoConfig {
                small_to_main_freq_threshold: USES_OF_A_SCAN + 1,
                ..Default::default()
            })
            .with_weighter(move |_: &ChunkKey, block: &Arc<Block>| {
                length(block.len()) + ENTRY_BYTES
            })
            .build();
        let coming_budget = ByteBudget::new(coming_bytes);
        let metrics = PondMetrics::register(metrics, memory.clone());
        Self(Arc::new(Shared { memory, coming: Mutex::default(), coming_budget, metrics }))
    }

    /// Whether a chunk is there, or comes. Asking does not count as using it.
    #[must_use]
    pub fn is_near(&self, key: &ChunkKey) -> bool {
        self.0.memory.contains(key) || self.0.coming().contains_key(key)
    }

    /// A chunk that is there, or comes.
    #[must_use]
    pub fn get(&self, key: &ChunkKey) -> Option<Chunk<E>> {
        let coming = || self.0.coming().get(key).cloned().map(Chunk::coming);
        // In this order: what ceases to come is there.
        coming().or_else(|| self.0.remembered(key))
    }

    /// What there is of a chunk of `chunk_bytes`.
    pub fn look(&self, key: ChunkKey, chunk_bytes: u64) -> Look<E> {
        let shared = &self.0;
        if let Some(chunk) = shared.remembered(&key) {
            return Look::Found(chunk);
        }
        let mut coming = shared.coming();
        match coming.entry(key) {
            Entry::Occupied(there) => {
                shared.metrics.found(Found::Coming);
                Look::Found(Chunk::coming(there.get().clone()))
            }
            Entry::Vacant(vacant) => {
                // It may have arrived in between.
                if let Some(chunk) = shared.remembered(&key) {
                    return Look::Found(chunk);
                }
                shared.metrics.found(Found::Nothing);
                let (sender, receiver) = watch::channel(Progress::Waiting);
                vacant.insert(receiver.clone());
                let writer = ChunkWriter {
                    shared: Arc::clone(shared),
                    key,
                    chunk_bytes,
                    sender,
                    taken: None,
                    written: 0,
                };
                Look::Missing(Chunk::coming(receiver), writer)
            }
        }
    }
}

impl<E> Shared<E> {
    fn coming(&self) -> MutexGuard<'_, HashMap<ChunkKey, watch::Receiver<Progress<E>>>> {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: Clone> Shared<E> {
    fn remembered(&self, key: &ChunkKey) -> Option<Chunk<E>> {
        let entry = self.memory.get(key)?;
        self.metrics.found(Found::Memory);
        Some(Chunk::complete(entry.value()))
    }
}

/// Fills a chunk, byte by byte from its beginning; each can be read as soon as it is written. Unless it ends by
/// [`ChunkWriter::finish`] nothing stays in memory, and whoever waits for the rest is told.
pub struct ChunkWriter<E> {
    shared: Arc<Shared<E>>,
    key: ChunkKey,
    chunk_bytes: u64,
    sender: watch::Sender<Progress<E>>,
    /// The memory, once it is paid for.
    taken: Option<(Arc<Block>, Permit)>,
    written: u64,
}

impl<E> ChunkWriter<E> {
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
            self.taken = Some((Arc::new(Block::reserve(self.chunk_bytes)?), permit));
        }
        Ok(())
    }

    /// The same if there is memory now; says whether.
    pub fn begin_now(&mut self) -> bool {
        if self.taken.is_none() {
            let permit = self.shared.coming_budget.try_acquire(self.chunk_bytes);
            let block =
                permit.and_then(|permit| Some((Block::reserve(self.chunk_bytes).ok()?, permit)));
            self.taken = block.map(|(block, permit)| (Arc::new(block), permit));
        }
        self.taken.is_some()
    }

    /// Takes in the next bytes.
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
        self.sender.send_replace(Progress::Partial(Arc::clone(block), self.written));
        self.shared.metrics.filled(bytes.len() as u64);
        Ok(())
    }

    /// Keeps the chunk.
    ///
    /// # Panics
    /// If bytes are missing.
    pub fn finish(mut self) {
        assert_eq!(self.missing_bytes(), 0, "a chunk is kept when all of it is there");
        let Some((block, permit)) = self.taken.take() else { return };
        // First to where it is looked for first: at every moment it is in one of the two.
        self.shared.memory.insert(self.key, Arc::clone(&block));
        self.shared.coming().remove(&self.key);
        self.sender.send_replace(Progress::Complete(Arc::downgrade(&block)));
        drop(permit);
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
            && self.sender.subscribe().same_channel(there.get())
        {
            there.remove();
        }
        drop(coming);
        // Whoever still waits keeps no memory of what does not come.
        self.sender.send_if_modified(|progress| {
            let is_partial = matches!(progress, Progress::Partial(..));
            if is_partial {
                *progress = Progress::Waiting;
            }
            is_partial
        });
    }
}

impl<E> Clone for Pond<E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<E> fmt::Debug for Pond<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used_bytes = self.0.memory.usage();
        f.debug_struct("Pond").field("used_bytes", &used_bytes).finish_non_exhaustive()
    }
}

impl<E> fmt::Debug for ChunkWriter<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing_bytes = self.missing_bytes();
        f.debug_struct("ChunkWriter").field("missing_bytes", &missing_bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::{ChunkLayout, Unfilled},
        oci::{Algorithm, Digest},
        runtime::ByteSize,
    };

    const MIB: u64 = 1 << 20;

    fn pond() -> Pond<&'static str> {
        let config = Config { memory: Some(ByteSize::mebibytes(64)) };
        Pond::new(&config, &prometheus::Registry::new())
    }

    /// The first chunk of one of many blobs.
    fn key(blob: u64) -> ChunkKey {
        let digest = Digest::of(Algorithm::Sha256, &blob.to_le_bytes());
        ChunkKey { digest, index: ChunkLayout::of(MIB).index_at(0) }
    }

    fn begin(
        pond: &Pond<&'static str>,
        key: ChunkKey,
    ) -> (Chunk<&'static str>, ChunkWriter<&'static str>) {
        match pond.look(key, MIB) {
            Look::Missing(chunk, writer) => (chunk, writer),
            Look::Found(_) => panic!("nobody has asked for it yet"),
        }
    }

    async fn fill(pond: &Pond<&'static str>, key: ChunkKey) {
        let (_, mut writer) = begin(pond, key);
        writer.begin().await.unwrap();
        writer.write(&[1; MIB as usize]).unwrap();
        writer.finish();
    }

    fn find(pond: &Pond<&'static str>, key: ChunkKey) -> Option<Chunk<&'static str>> {
        match pond.look(key, MIB) {
            Look::Found(chunk) => Some(chunk),
            Look::Missing(..) => None,
        }
    }

    async fn end_of(
        chunk: &mut Chunk<&'static str>,
        offset: u64,
    ) -> Result<u64, Unfilled<&'static str>> {
        chunk.readable(offset).await.map(|found| found.expect("it is kept").1)
    }

    #[tokio::test]
    async fn a_chunk_is_read_by_all_while_one_fills_it() {
        let pond = pond();
        let (mut first, mut writer) = begin(&pond, key(1));
        let mut second = find(&pond, key(1)).expect("it comes");
        assert!(pond.is_near(&key(1)));
        writer.begin().await.unwrap();
        assert!(futures_util::poll!(std::pin::pin!(second.readable(0))).is_pending());
        writer.write(&[1; 1000]).unwrap();
        for chunk in [&mut first, &mut second] {
            let (block, end) = chunk.readable(999).await.unwrap().unwrap();
            assert_eq!(end, 1000);
            let mut bytes = [0; 10];
            block.piece(990..1000).read(&mut bytes).unwrap();
            assert_eq!(bytes, [1; 10]);
        }
        writer.write(&[2; MIB as usize - 1000]).unwrap();
        writer.finish();
        let mut third = find(&pond, key(1)).expect("it is there");
        for chunk in [&mut first, &mut second, &mut third] {
            assert_eq!(end_of(chunk, 1000).await, Ok(MIB));
            assert_eq!(end_of(chunk, MIB).await, Err(Unfilled::Abandoned));
        }
    }

    #[tokio::test]
    async fn a_chunk_that_fails_is_told_to_all_and_can_be_filled_again() {
        let pond = pond();
        let (mut first, mut writer) = begin(&pond, key(1));
        writer.begin().await.unwrap();
        writer.write(&[1; 1000]).unwrap();
        writer.fail("no reason");
        assert_eq!(end_of(&mut first, 0).await, Err(Unfilled::Failed("no reason")));
        let (mut second, writer) = begin(&pond, key(1));
        drop(writer);
        assert_eq!(end_of(&mut second, 0).await, Err(Unfilled::Abandoned));
        fill(&pond, key(1)).await;
        assert!(find(&pond, key(1)).is_some());
    }

    #[tokio::test]
    async fn whoever_reads_a_chunk_does_not_keep_it() {
        let pond = pond();
        let (mut reader, mut writer) = begin(&pond, key(1));
        assert!(writer.begin_now());
        writer.write(&[1; 1000]).unwrap();
        let block = Arc::downgrade(&reader.readable(0).await.unwrap().unwrap().0);
        writer.write(&[1; MIB as usize - 1000]).unwrap();
        writer.finish();
        pond.0.memory.remove(&key(1));
        assert!(block.upgrade().is_none());
        assert!(reader.readable(0).await.unwrap().is_none());
        let (mut reader, mut writer) = begin(&pond, key(1));
        assert!(writer.begin_now());
        writer.write(&[1; 1000]).unwrap();
        let block = Arc::downgrade(&reader.readable(0).await.unwrap().unwrap().0);
        drop(writer);
        assert!(block.upgrade().is_none());
    }

    #[tokio::test]
    async fn memory_is_paid_for_until_a_chunk_is_kept() {
        let pond = pond();
        let budget = &pond.0.coming_budget;
        let all = budget.free_bytes();
        assert_eq!(all, 16 * MIB);
        let (_, mut writer) = begin(&pond, key(1));
        assert_eq!(budget.free_bytes(), all, "nothing is held for nothing");
        writer.begin().await.unwrap();
        assert_eq!(budget.free_bytes(), all - MIB);
        drop(writer);
        assert_eq!(budget.free_bytes(), all);
        fill(&pond, key(1)).await;
        assert_eq!(budget.free_bytes(), all);
        assert!(pond.0.memory.usage() >= MIB as usize);
    }

    #[tokio::test]
    async fn one_pull_of_a_huge_image_does_not_drive_out_what_is_used() {
        let pond = pond();
        for blob in 0..16 {
            fill(&pond, key(blob)).await;
            for _ in 0..3 {
                assert!(find(&pond, key(blob)).is_some());
            }
        }
        for blob in 1000..1500 {
            fill(&pond, key(blob)).await;
            // As who reads what was fetched ahead does.
            assert!(find(&pond, key(blob)).is_some());
        }
        let left = (0..16).filter(|blob| pond.is_near(&key(*blob))).count();
        assert_eq!(left, 16);
        assert!(pond.0.memory.usage() <= 48 << 20);
    }
}
