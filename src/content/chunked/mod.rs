//! Content that is read chunk by chunk, each fetched once for all who want it.

mod apart;
mod pace;
mod reader;
mod source;

use std::{ops::Range, sync::Arc};

use moka::future::Cache;

use apart::Apart;
use pace::SMALL_PIECE_BYTES;
pub use reader::ChunkBytes;
use source::Source;

use crate::{
    cache::{Chunk, ChunkIndex, ChunkKey, ChunkLayout, ChunkWriter, Look, Pond, Purpose},
    oci::{ByteRange, Digest},
    runtime::{Buffers, ByteBudget, SingleFlight, Tasks},
    storage::{Error, Fault, ObjectMeta, Opened, SharedStorage, layout},
};

/// Lengths remembered at once. An entry is about 200 bytes. The length of a digest never changes.
const KNOWN_LENGTHS: u64 = 100_000;

/// The part of the pond's memory that readers' pieces may keep of chunks that have gone: one in so many.
const PIECES_SHARE: u64 = 4;

/// So many bytes of a chunk that came before it broke off are worth that it is asked for again.
const WORTH_A_REQUEST_BYTES: u64 = 256 << 10;

/// How often the rest of one chunk is asked for again because less than that has come.
const BREAKS_MOST: usize = 3;

/// Content of a storage whose bytes are dear, read through a pond.
#[derive(Debug)]
pub(in crate::content) struct Chunked {
    pond: Pond<Error>,
    storage: SharedStorage,
    lengths: Cache<Digest, u64>,
    openings: SingleFlight<Digest, Result<u64, Error>>,
    tasks: Tasks,
    buffers: Buffers,
    /// For clients to whom bytes cannot be sent from the pond's memory: half of the buffers. Who holds some of it
    /// waits for chunks, and for those too there must be memory to come from the storage.
    copy_budget: ByteBudget,
    apart: Apart,
    /// Every reader has one.
    readers: Arc<()>,
}

impl Chunked {
    pub(in crate::content) fn new(
        pond: Pond<Error>,
        storage: SharedStorage,
        (budget, tasks): (ByteBudget, Tasks),
    ) -> Self {
        let lengths = Cache::new(KNOWN_LENGTHS);
        let openings = SingleFlight::new("open content", tasks.clone());
        let copy_budget = budget.part(budget.total_bytes() / 2);
        let apart = Apart::new(budget.part(budget.total_bytes() / 4));
        Self {
            pond,
            storage,
            lengths,
            openings,
            tasks,
            buffers: Buffers::new(),
            copy_budget,
            apart,
            readers: Arc::default(),
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

    /// Begins to fill the first chunks, and so learns how long the content is.
    async fn open_beginning(self: Arc<Self>, digest: Digest) -> Result<u64, Error> {
        let beginning = ByteRange::Bounded { start: 0, end: ChunkLayout::BEGINNING_BYTES };
        let opened = self.storage.open(&layout::blob(&digest), Some(beginning)).await;
        let Opened { meta: ObjectMeta { size_bytes, .. }, range, bytes } = match opened {
            // No byte of an empty object lies in any range.
            Err(Error::RangeOutside { size_bytes: 0, .. }) => {
                self.lengths.insert(digest, 0).await;
                return Ok(0);
            }
            other => other?,
        };
        self.lengths.insert(digest, size_bytes).await;
        let layout = ChunkLayout::of(size_bytes);
        let fills = layout.indexes(range).map(|index| {
            let place = Place::of(digest, (index, layout), size_bytes);
            let writer = match self.pond.look(place.key, size_bytes, Purpose::Ahead) {
                Look::Found(_) => None,
                Look::Missing(_, writer) => Some(writer),
            };
            (place, writer)
        });
        let fills: Vec<_> = fills.collect();
        let source = Source::new(digest, bytes.into_stream().await?);
        self.tasks.spawn("fill chunks", Arc::clone(&self).fill_all(fills, source));
        Ok(size_bytes)
    }

    /// Fills chunks that follow each other with what `source` brings; those without a writer are here already.
    async fn fill_all(
        self: Arc<Self>,
        fills: Vec<(Place, Option<ChunkWriter<Error>>)>,
        source: Source,
    ) {
        let mut source = Some(source);
        for (place, writer) in fills {
            let Some(mut writer) = writer else {
                if let Some(mut open) = source.take() {
                    source = open.leave_out(place.length()).await.is_ok().then_some(open);
                }
                continue;
            };
            // Who has to wait for memory lets go of the connection: others may need it to give some back.
            source = source.filter(|_| writer.begin_now());
            if let Some(mut open) = source.take()
                && open.fill(&mut writer).await.is_ok()
            {
                writer.finish();
                source = Some(open);
            } else {
                self.fetch(&place, writer).await;
            }
        }
    }

    /// A chunk: what there is of it, or what comes because this was called.
    fn chunk(self: &Arc<Self>, place: Place, purpose: Purpose) -> Chunk<Error> {
        match self.pond.look(place.key, place.blob_bytes, purpose) {
            Look::Found(chunk) => chunk,
            Look::Missing(chunk, writer) => {
                self.tasks.spawn("fill a chunk", Arc::clone(self).fill(place, writer));
                chunk
            }
        }
    }

    /// How many bytes one reader may be given at once, so that together they keep no more than their share; but never
    /// less than a slow one gets anyway.
    fn piece_bytes_most(&self) -> u64 {
        let readers = (Arc::strong_count(&self.readers) as u64 - 1).max(1);
        (self.pond.memory_bytes() / PIECES_SHARE / readers).max(SMALL_PIECE_BYTES)
    }

    /// Fills a chunk from the disk of this machine, or else from the storage.
    async fn fill(self: Arc<Self>, place: Place, writer: ChunkWriter<Error>) {
        match writer.restore().await {
            Ok(None) => {}
            Ok(Some(writer)) => self.fetch(&place, writer).await,
            Err(error) => {
                tracing::error!(%error, digest = %place.key.digest, "there is no memory for a chunk");
            }
        }
    }

    /// Fills a chunk with what is missing of it.
    async fn fetch(&self, place: &Place, mut writer: ChunkWriter<Error>) {
        let mut breaks = 0;
        let error = loop {
            let mut source = match self.open_rest(place, &mut writer).await {
                Ok(source) => source,
                Err(error) => break error,
            };
            let missing_bytes = writer.missing_bytes();
            match source.fill(&mut writer).await {
                Ok(()) => return writer.finish(),
                Err(error) if !error.is_retryable() || breaks >= BREAKS_MOST => break error,
                Err(_) if missing_bytes - writer.missing_bytes() >= WORTH_A_REQUEST_BYTES => {
                    breaks = 0
                }
                Err(_) => breaks += 1,
            }
        };
        writer.fail(error);
    }

    async fn open_rest(
        &self,
        place: &Place,
        writer: &mut ChunkWriter<Error>,
    ) -> Result<Source, Error> {
        let digest = place.key.digest;
        // Memory first: who waits for it should not keep a connection waiting.
        writer.begin().await.map_err(|error| unavailable(&digest, error))?;
        let start = place.range.end - writer.missing_bytes();
        self.open_part(place, start..place.range.end).await
    }

    async fn open_part(&self, place: &Place, part: Range<u64>) -> Result<Source, Error> {
        let digest = place.key.digest;
        let range = ByteRange::Bounded { start: part.start, end: part.end };
        let key = layout::blob(&digest);
        let opened = self.storage.open(&key, Some(range)).await?;
        if opened.meta.size_bytes != place.blob_bytes {
            self.lengths.invalidate(&digest).await;
            let what = "the object has another length than before";
            return Err(Error::failed("open", &key, Fault::Corrupt, what));
        }
        Ok(Source::new(digest, opened.bytes.into_stream().await?))
    }
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
