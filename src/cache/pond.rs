//! Which chunks are in memory, and which are on their way there.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use foyer::{Cache, CacheBuilder, FifoConfig, S3FifoConfig};
use tokio::sync::watch;

use super::{
    Block, Chunk, ChunkKey, ChunkWriter, Config, DiskKeeper,
    arena::arena_bytes,
    chunk::Progress,
    disk::Disk,
    metrics::{Found, Origin, PondMetrics},
    reads::{Purpose, Reads, Use},
};
use crate::{
    oci::Digest,
    runtime::{ByteBudget, Permit},
    telemetry::register_gauge,
};

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

/// How often a chunk has to be read until it is worth being written to the disk.
const READS_FOR_DISK: u32 = 2;

/// Chunks of which it is remembered that they were read, when they are not in memory any more. An entry is about 200
/// bytes.
const REMEMBERED_READS: usize = 64 << 10;

/// Chunks that were used lately, and those that come. `E` is why one may not come. Cloning shares it.
///
/// Which chunks stay is decided by S3-FIFO: what was asked for only once goes before what was asked for again, so
/// that one pull of a huge image does not drive out what everybody uses. What is read a second time is written to the
/// disk, if there is one.
pub struct Pond<E>(Arc<Shared<E>>);

pub(super) struct Shared<E> {
    pub(super) memory: Cache<ChunkKey, Kept>,
    coming: Mutex<HashMap<ChunkKey, Coming<E>>>,
    /// For chunks that are not in `memory` yet.
    pub(super) coming_budget: ByteBudget,
    pub(super) disk: Option<Disk>,
    memory_bytes: u64,
    /// What has been read, maybe long ago.
    pub(super) read_before: Cache<ChunkKey, ()>,
    pub(super) metrics: PondMetrics,
}

/// A chunk that is in memory.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) block: Arc<Block>,
    pub(super) blob_bytes: u64,
    pub(super) reads: Arc<Reads>,
}

/// A chunk that somebody fills.
pub(super) struct Coming<E> {
    pub(super) progress: watch::Receiver<Progress<E>>,
    pub(super) reads: Arc<Reads>,
}

/// What there is of a chunk.
#[derive(Debug)]
pub enum Look<E> {
    /// It is there, or somebody fills it.
    Found(Chunk<E>, Use),
    /// It is not; whoever is told this has to fill it.
    Missing(Chunk<E>, ChunkWriter<E>),
}

impl<E: Clone> Pond<E> {
    /// A pond with nothing in memory, and the task that looks after its disk.
    ///
    /// # Panics
    /// If its metrics are already registered: there is one pond in a process.
    #[must_use]
    pub fn new(config: &Config, metrics: &prometheus::Registry) -> (Self, Option<DiskKeeper>) {
        let memory_bytes = config.memory_bytes();
        let coming_bytes = memory_bytes / COMING_SHARE;
        let kept_bytes = memory_bytes - coming_bytes;
        let pond_metrics = PondMetrics::register(metrics);
        let shards = (kept_bytes / SHARD_BYTES).clamp(1, SHARDS_MOST);
        let length = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let memory = CacheBuilder::new(length(kept_bytes))
            .with_name("millpond")
            .with_shards(length(shards))
            .with_eviction_config(S3FifoConfig {
                small_to_main_freq_threshold: USES_OF_A_SCAN + 1,
                ..Default::default()
            })
            .with_weighter(move |_: &ChunkKey, kept: &Kept| length(kept.block.len()) + ENTRY_BYTES)
            .with_event_listener(Arc::new(pond_metrics.clone()))
            .build();
        let coming_budget = ByteBudget::new(coming_bytes);
        register_gauges(metrics, memory.clone(), coming_budget.clone());
        let (disk, keeper) = Disk::new(&config.disk, metrics).unzip();
        let read_before = CacheBuilder::new(REMEMBERED_READS)
            .with_name("millpond read before")
            .with_shards(1)
            .with_eviction_config(FifoConfig::default())
            .build();
        let shared = Shared {
            metrics: pond_metrics,
            memory,
            coming: Mutex::default(),
            coming_budget,
            disk,
            memory_bytes,
            read_before,
        };
        (Self(Arc::new(shared)), keeper)
    }

    /// The memory for all chunks.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.0.memory_bytes
    }

    /// Waits for memory in which chunks of together `bytes` can come. More than there is for all chunks that come is cut
    /// down to that.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the queue.
    pub async fn memory(&self, bytes: u64) -> Arc<Permit> {
        Arc::new(self.0.coming_budget.acquire(bytes).await)
    }

    /// The same if there is as much now.
    #[must_use]
    pub fn memory_now(&self, bytes: u64) -> Option<Arc<Permit>> {
        self.0.coming_budget.try_acquire(bytes).map(Arc::new)
    }

    /// Counts bytes that were read of a chunk which somebody had read before, or was reading.
    pub fn read_again(&self, bytes: u64) {
        self.0.metrics.read_again(bytes);
    }

    /// How many bytes that were, so far.
    #[must_use]
    pub fn read_again_bytes(&self) -> u64 {
        self.0.metrics.read_again_bytes()
    }

    /// How many bytes chunks were filled with from there, so far.
    #[must_use]
    pub fn filled_bytes(&self, origin: Origin) -> u64 {
        self.0.metrics.filled_bytes(origin)
    }

    /// Counts that the storage gave other bytes than it should have.
    pub fn mismatched(&self) {
        self.0.metrics.mismatched();
    }

    /// Forgets a chunk that has turned out to be wrong. Who reads it now goes on.
    pub fn forget(&self, key: &ChunkKey) {
        self.0.memory.remove(key);
        if let Some(disk) = &self.0.disk {
            disk.forget(key);
        }
    }

    /// Whether a chunk is there, or comes. Asking does not count as using it.
    #[must_use]
    pub fn is_near(&self, key: &ChunkKey) -> bool {
        self.0.memory.contains(key) || self.0.coming().contains_key(key)
    }

    /// Counts one more use of a chunk, if it is there.
    pub fn touch(&self, key: &ChunkKey) {
        self.0.memory.touch(key);
    }

    /// A chunk that is there, or comes.
    #[must_use]
    pub fn get(&self, key: &ChunkKey) -> Option<Chunk<E>> {
        let coming = || Some(Chunk::coming(self.0.coming().get(key)?.progress.clone()));
        // In this order: what ceases to come is there.
        coming().or_else(|| self.0.remembered(key, Purpose::Reading).map(|(chunk, _)| chunk))
    }

    /// The same without counting as a use of it.
    #[must_use]
    pub fn glance(&self, key: &ChunkKey) -> Option<Chunk<E>> {
        let coming = self.0.coming().get(key).map(|coming| Chunk::coming(coming.progress.clone()));
        let kept = || self.0.memory.get(key).map(|entry| Chunk::complete(&entry.value().block));
        coming.or_else(kept)
    }

    /// Whether all of a chunk is in memory or, as far as is known, on the disk.
    #[must_use]
    pub fn has(&self, key: &ChunkKey) -> bool {
        self.0.memory.contains(key) || self.0.disk.as_ref().is_some_and(|disk| disk.may_have(key))
    }

    /// The length of a blob of which a chunk is on the disk.
    #[must_use]
    pub fn blob_bytes(&self, digest: &Digest) -> Option<u64> {
        self.0.disk.as_ref()?.blob_bytes(digest)
    }

    /// Reads some bytes of a chunk from the disk into memory of their own; `None` if they are not there. The second of
    /// `name` is the length of the blob.
    pub async fn read_part(&self, name: (ChunkKey, u64), part: Range<u64>) -> Option<Block> {
        let disk = self.0.disk.as_ref().filter(|disk| disk.may_have(&name.0))?;
        disk.read_part(name, part).await
    }

    /// What there is of a chunk of a blob of `blob_bytes`.
    ///
    /// # Panics
    /// If the blob has no such chunk.
    pub fn look(&self, key: ChunkKey, blob_bytes: u64, purpose: Purpose) -> Look<E> {
        let shared = &self.0;
        if let Some((chunk, used)) = shared.remembered(&key, purpose) {
            return Look::Found(chunk, used);
        }
        let mut coming = shared.coming();
        match coming.entry(key) {
            Entry::Occupied(there) => {
                there.get().reads.add(purpose);
                let used = shared.tell(&there.get().reads, purpose, Found::Coming);
                Look::Found(Chunk::coming(there.get().progress.clone()), used)
            }
            Entry::Vacant(vacant) => {
                // It may have arrived in between.
                if let Some((chunk, used)) = shared.remembered(&key, purpose) {
                    return Look::Found(chunk, used);
                }
                let (writer, coming) = ChunkWriter::new(shared, key, blob_bytes);
                coming.reads.add(purpose);
                shared.tell(&coming.reads, purpose, Found::Nothing);
                let chunk = Chunk::coming(coming.progress.clone());
                vacant.insert(coming);
                Look::Missing(chunk, writer)
            }
        }
    }
}

/// Has the metrics tell the memory that is used: `millpond_cache_memory_bytes`, `millpond_cache_coming_bytes` and
/// `millpond_cache_memory_file_bytes`.
fn register_gauges(
    registry: &prometheus::Registry,
    memory: Cache<ChunkKey, Kept>,
    coming_budget: ByteBudget,
) {
    let kept = ("millpond_cache_memory_bytes", "Memory of the chunks that are kept");
    register_gauge(registry, kept, move || memory.usage() as u64);
    let coming = ("millpond_cache_coming_bytes", "Memory of the chunks that are being filled");
    let total_bytes = coming_budget.total_bytes();
    register_gauge(registry, coming, move || total_bytes - coming_budget.free_bytes());
    let all = (
        "millpond_cache_memory_file_bytes",
        "Memory of all chunks, also of those that have gone but for what is being sent",
    );
    register_gauge(registry, all, arena_bytes);
}

impl<E> Shared<E> {
    pub(super) fn coming(&self) -> MutexGuard<'_, HashMap<ChunkKey, Coming<E>>> {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts where a reader has found a chunk: where it came from if nobody has read it before. Says whether somebody
    /// has.
    fn tell(&self, reads: &Reads, purpose: Purpose, near: Found) -> Use {
        if purpose == Purpose::Ahead {
            return Use::First;
        }
        let used = reads.begin();
        self.metrics.found(match (used, reads.is_from_disk()) {
            (Use::First, true) => Found::Disk,
            (Use::First, false) => Found::Nothing,
            (Use::Again, _) => near,
        });
        used
    }

    /// Has a chunk written to the disk if it was read often enough and is not there.
    pub(super) fn keep_on_disk(&self, key: ChunkKey, kept: &Kept) {
        if let Some(disk) = &self.disk
            && kept.reads.count() >= READS_FOR_DISK
        {
            disk.keep((key, kept.blob_bytes), &kept.block, &kept.reads.mark);
        }
    }
}

impl<E: Clone> Shared<E> {
    fn remembered(&self, key: &ChunkKey, purpose: Purpose) -> Option<(Chunk<E>, Use)> {
        let entry = self.memory.get(key)?;
        let kept = entry.value();
        let used = self.tell(&kept.reads, purpose, Found::Memory);
        if kept.reads.add(purpose) >= READS_FOR_DISK {
            self.keep_on_disk(*key, kept);
        }
        Some((Chunk::complete(&kept.block), used))
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::{
        cache::{ChunkLayout, DiskConfig, Unfilled},
        oci::{Algorithm, Digest},
        runtime::ByteSize,
    };

    const MIB: u64 = 1 << 20;

    fn pond() -> Pond<&'static str> {
        let disk = DiskConfig { path: PathBuf::new(), size: Some(ByteSize(0)) };
        let config = Config { memory: Some(ByteSize::mebibytes(64)), disk };
        let (pond, keeper) = Pond::new(&config, &prometheus::Registry::new());
        assert!(keeper.is_none());
        pond
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
        match pond.look(key, MIB, Purpose::Reading) {
            Look::Missing(chunk, writer) => (chunk, writer),
            Look::Found(..) => panic!("nobody has asked for it yet"),
        }
    }

    async fn fill(pond: &Pond<&'static str>, key: ChunkKey) {
        let (_, mut writer) = begin(pond, key);
        writer.begin().await.unwrap();
        writer.write(&[1; MIB as usize]).unwrap();
        writer.finish();
    }

    fn find(pond: &Pond<&'static str>, key: ChunkKey) -> Option<Chunk<&'static str>> {
        match pond.look(key, MIB, Purpose::Reading) {
            Look::Found(chunk, _) => Some(chunk),
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
        assert!(futures_util::poll!(std::pin::pin!(second.readable(0))).is_pending());
        writer.publish(1000);
        writer.write(&[3; 5]).unwrap();
        writer.take_back();
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
        writer.publish(1000);
        let block = Arc::downgrade(&reader.readable(0).await.unwrap().unwrap().0);
        writer.write(&[1; MIB as usize - 1000]).unwrap();
        writer.finish();
        pond.0.memory.remove(&key(1));
        assert!(block.upgrade().is_none());
        assert!(reader.readable(0).await.unwrap().is_none());
        let (mut reader, mut writer) = begin(&pond, key(1));
        assert!(writer.begin_now());
        writer.write(&[1; 1000]).unwrap();
        writer.publish(1000);
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
