//! Content that is read chunk by chunk, each fetched once for all who want it.

mod apart;
mod arrival;
mod fill;
mod pace;
mod proof;
mod reader;
mod source;
mod survey;
mod swarm;

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use moka::future::Cache;

use apart::Apart;
use arrival::Arrivals;
pub use arrival::{Filler, Finder, Found};
use pace::SMALL_PIECE_BYTES;
use proof::Proofs;
pub use reader::ChunkBytes;
use swarm::Swarm;
pub use swarm::{Neighbours, Part, PartBytes};

use crate::{
    cache::{Chunk, ChunkIndex, ChunkKey, ChunkLayout, Look, Pond, Purpose, Use},
    cluster::exchange::Need,
    content::{fill::Fills, hash::HashThreads},
    oci::{ByteRange, Digest},
    runtime::{Buffers, ByteBudget, SingleFlight, Tasks},
    storage::{Error, Fault, SharedStorage, layout},
};

/// Lengths remembered at once. An entry is about 200 bytes. The length of a digest never changes.
const KNOWN_LENGTHS: u64 = 100_000;

/// The part of the pond's memory that readers' pieces may keep of chunks that have gone: one in so many.
const PIECES_SHARE: u64 = 4;

/// Content of a storage whose bytes are dear, read through a pond.
#[derive(Debug)]
pub(in crate::content) struct Chunked {
    pond: Pond<Error>,
    storage: SharedStorage,
    lengths: Cache<Digest, u64>,
    openings: SingleFlight<Digest, Result<u64, Error>>,
    proofs: Proofs,
    /// What comes to this node from other registries.
    fills: Fills,
    /// What comes to some node, and is read here.
    arrivals: Arrivals,
    finder: OnceLock<Finder>,
    tasks: Tasks,
    hash_threads: HashThreads,
    buffers: Buffers,
    /// For clients to whom bytes cannot be sent from the pond's memory: half of the buffers. Who holds some of it
    /// waits for chunks, and for those too there must be memory to come from the storage.
    copy_budget: ByteBudget,
    apart: Apart,
    /// Every reader has one.
    readers: Arc<()>,
    /// Other nodes with which chunks are exchanged, if there are any.
    swarm: Option<Swarm>,
}

impl Chunked {
    pub(in crate::content) fn new(
        pond: Pond<Error>,
        storage: SharedStorage,
        (budget, fills, hash_threads): (ByteBudget, Fills, HashThreads),
        neighbours: Option<Neighbours>,
    ) -> Self {
        let tasks = fills.tasks.clone();
        let lengths = Cache::new(KNOWN_LENGTHS);
        let openings = SingleFlight::new("open content", tasks.clone());
        let copy_budget = budget.part(budget.total_bytes() / 2);
        let apart = Apart::new(budget.part(budget.total_bytes() / 4));
        Self {
            pond,
            storage,
            lengths,
            openings,
            proofs: Proofs::new(tasks.clone()),
            fills,
            arrivals: Arrivals::default(),
            finder: OnceLock::new(),
            tasks,
            hash_threads,
            buffers: Buffers::new(),
            copy_budget,
            apart,
            readers: Arc::default(),
            swarm: neighbours.map(Swarm::new),
        }
    }

    /// Opens the content and waits for the first bytes of `range`. Returns the length of the content, too.
    pub(in crate::content) async fn open(
        self: &Arc<Self>,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<(u64, ChunkBytes), Error> {
        let blob_bytes = self.length(digest, range).await?;
        let key = layout::blob(digest);
        let range = match range {
            None => 0..blob_bytes,
            Some(range) => range
                .resolve(blob_bytes)
                .ok_or(Error::RangeOutside { key, size_bytes: blob_bytes })?,
        };
        let bytes = ChunkBytes::open(Arc::clone(self), *digest, (blob_bytes, range)).await?;
        Ok((blob_bytes, bytes))
    }

    /// Whether other nodes may have what this one misses.
    pub(in crate::content) const fn is_in_cluster(&self) -> bool {
        self.swarm.is_some()
    }

    /// Has `finder` say who fetches a blob from another registry. Only the first one counts.
    pub(in crate::content) fn ask_of(&self, finder: Finder) {
        let _there_is_one_registry = self.finder.set(finder);
    }

    /// The length of the content. Where it is asked for to read the beginning, that is fetched with it.
    async fn length(
        self: &Arc<Self>,
        digest: &Digest,
        wanted: Option<ByteRange>,
    ) -> Result<u64, Error> {
        if let Some(length) = self.lengths.get(digest).await {
            return Ok(length);
        }
        if let Some(length) = self.pond.blob_bytes(digest) {
            self.lengths.insert(*digest, length).await;
            return Ok(length);
        }
        let is_at_beginning = match wanted {
            None => true,
            Some(ByteRange::Bounded { start, .. } | ByteRange::From(start)) => {
                start < ChunkLayout::BEGINNING_BYTES
            }
            Some(ByteRange::Last(_)) => false,
        };
        if !is_at_beginning {
            let meta = self.storage.head(&layout::blob(digest)).await?;
            self.lengths.insert(*digest, meta.size_bytes).await;
            return Ok(meta.size_bytes);
        }
        let opening = Arc::clone(self).open_beginning(*digest);
        let length = self.openings.run(*digest, opening).await;
        length.unwrap_or_else(|abandoned| Err(unavailable(digest, abandoned)))
    }

    /// A chunk: what there is of it, or what comes, maybe because this was called.
    fn chunk(self: &Arc<Self>, place: Place) -> (Chunk<Error>, Begun) {
        match self.pond.look(place.key, place.blob_bytes, Purpose::Reading) {
            Look::Found(chunk, used) => (chunk, Begun::Before(used)),
            Look::Missing(chunk, writer) => {
                let fills = vec![(place, writer)];
                self.tasks.spawn("fill a chunk", Arc::clone(self).fill(fills, Need::Now));
                (chunk, Begun::Now)
            }
        }
    }

    /// How many bytes one reader may be given at once, so that together they keep no more than their share; but never
    /// less than a slow one gets anyway.
    fn piece_bytes_most(&self) -> u64 {
        let readers = (Arc::strong_count(&self.readers) as u64 - 1).max(1);
        (self.pond.memory_bytes() / PIECES_SHARE / readers).max(SMALL_PIECE_BYTES)
    }
}

/// When it was begun to fill a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    /// Before anybody who reads it now had asked for it.
    Before(Use),
    Now,
}

/// A chunk and where it lies.
#[derive(Clone, Debug)]
struct Place {
    key: ChunkKey,
    /// Its bytes within the blob.
    range: Range<u64>,
    blob_bytes: u64,
}

impl Place {
    fn of(digest: Digest, (index, layout): (ChunkIndex, ChunkLayout), blob_bytes: u64) -> Self {
        Self { key: ChunkKey { digest, index }, range: layout.range(index), blob_bytes }
    }

    const fn length(&self) -> u64 {
        self.range.end - self.range.start
    }
}

fn unavailable(
    digest: &Digest,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::failed("open", &layout::blob(digest), Fault::Unavailable, source)
}

fn corrupt(digest: &Digest, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::failed("read", &layout::blob(digest), Fault::Corrupt, source)
}
