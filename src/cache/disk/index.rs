//! Which chunks are on the disk, and which of them go when there is no room.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use foyer::{Cache, CacheBuilder, Event, EventListener, S3FifoConfig};

use super::{file, name::ChunkName};
use crate::{cache::ChunkKey, oci::Digest};

/// What a file takes on the disk beside its bytes, at most.
const FILE_OVERHEAD_BYTES: u64 = 4 << 10;

/// The chunks that are on the disk. What goes to make room for others is decided by S3-FIFO.
pub(super) struct Index {
    chunks: Cache<ChunkKey, ChunkName>,
    leaving: Arc<Leaving>,
}

impl Index {
    /// An empty index of chunks whose files take up to `capacity_bytes`.
    pub(super) fn new(capacity_bytes: u64) -> Self {
        let leaving = Arc::new(Leaving::default());
        let chunks = CacheBuilder::new(length(capacity_bytes))
            .with_name("millpond disk")
            .with_shards(1)
            .with_eviction_config(S3FifoConfig::default())
            .with_weighter(|_: &ChunkKey, name: &ChunkName| {
                length(file::file_bytes(name.chunk_bytes()) + FILE_OVERHEAD_BYTES)
            })
            .with_event_listener(Arc::clone(&leaving) as Arc<_>)
            .build();
        Self { chunks, leaving }
    }

    /// Whether a chunk is there. Asking does not count as using it.
    pub(super) fn contains(&self, key: &ChunkKey) -> bool {
        self.chunks.contains(key)
    }

    /// The name of a chunk that is there, which is used now.
    pub(super) fn get(&self, key: &ChunkKey) -> Option<ChunkName> {
        self.chunks.get(key).map(|entry| *entry.value())
    }

    /// The length of a blob of which a chunk is there.
    pub(super) fn blob_bytes(&self, digest: &Digest) -> Option<u64> {
        self.leaving.blobs().get(digest).map(|blob| blob.bytes)
    }

    /// Adds a chunk whose file is there. Returns those that go because of that, whose files are to be deleted.
    pub(super) fn insert(&self, name: ChunkName) -> Vec<ChunkName> {
        let mut blobs = self.leaving.blobs();
        let blob = blobs.entry(name.key.digest);
        blob.or_insert(Blob { bytes: name.blob_bytes, chunks: 0 }).chunks += 1;
        drop(blobs);
        self.chunks.insert(name.key, name);
        std::mem::take(&mut *self.leaving.evicted())
    }

    /// Removes a chunk whose file is to be deleted, or has gone.
    pub(super) fn remove(&self, key: &ChunkKey) {
        self.chunks.remove(key);
    }

    /// Bytes of the disk that are taken.
    pub(super) fn used_bytes(&self) -> u64 {
        self.chunks.usage() as u64
    }
}

/// What is known beside the chunks, told of each that leaves.
#[derive(Default)]
struct Leaving {
    blobs: Mutex<HashMap<Digest, Blob>>,
    evicted: Mutex<Vec<ChunkName>>,
}

/// A blob of which chunks are there.
struct Blob {
    bytes: u64,
    chunks: u64,
}

impl Leaving {
    fn blobs(&self) -> MutexGuard<'_, HashMap<Digest, Blob>> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn evicted(&self) -> MutexGuard<'_, Vec<ChunkName>> {
        self.evicted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventListener for Leaving {
    type Key = ChunkKey;
    type Value = ChunkName;

    fn on_leave(&self, reason: Event, key: &ChunkKey, name: &ChunkName) {
        if let Entry::Occupied(mut blob) = self.blobs().entry(key.digest) {
            blob.get_mut().chunks -= 1;
            if blob.get().chunks == 0 {
                blob.remove();
            }
        }
        match reason {
            Event::Evict => self.evicted().push(*name),
            // Another file has its name, or somebody deletes it.
            Event::Replace | Event::Remove | Event::Clear => {}
        }
    }
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::ChunkLayout,
        oci::{Algorithm, Digest},
    };

    const MIB: u64 = 1 << 20;

    fn names(blob: u64, blob_bytes: u64) -> Vec<ChunkName> {
        let digest = Digest::of(Algorithm::Sha256, &blob.to_le_bytes());
        let indexes = ChunkLayout::of(blob_bytes).indexes(0..blob_bytes);
        let name = |index| ChunkName { key: ChunkKey { digest, index }, blob_bytes };
        indexes.map(name).collect()
    }

    #[test]
    fn the_length_of_a_blob_is_known_as_long_as_a_chunk_is_there() {
        let index = Index::new(100 * MIB);
        let names = names(1, 3 * MIB);
        let digest = names[0].key.digest;
        assert_eq!(index.blob_bytes(&digest), None);
        for name in &names {
            assert!(index.insert(*name).is_empty());
        }
        // The same once more, as after it was written again.
        index.insert(names[0]);
        for name in &names {
            assert_eq!(index.blob_bytes(&digest), Some(3 * MIB));
            assert_eq!(index.get(&name.key), Some(*name));
            index.remove(&name.key);
            assert!(!index.contains(&name.key));
        }
        assert_eq!(index.blob_bytes(&digest), None);
        assert_eq!(index.used_bytes(), 0);
    }

    #[test]
    fn what_goes_is_told_once_and_what_is_used_stays() {
        let index = Index::new(20 * MIB);
        let used = names(1, MIB)[0];
        let mut there: Vec<ChunkName> = vec![used];
        assert!(index.insert(used).is_empty());
        for blob in 2..100 {
            for _ in 0..2 {
                assert_eq!(index.get(&used.key), Some(used));
            }
            let name = names(blob, MIB)[0];
            there.push(name);
            for gone in index.insert(name) {
                let before = there.len();
                there.retain(|name| *name != gone);
                assert_eq!(there.len(), before - 1, "{gone} went once");
            }
            assert!(there.iter().all(|name| index.contains(&name.key)), "{blob}");
            assert!(index.used_bytes() <= 20 * MIB);
        }
        assert!((18..20).contains(&there.len()), "{}", there.len());
        assert!(there.contains(&used));
    }
}
