//! One client's way through content, chunk by chunk.

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use futures_util::{Stream, TryStreamExt, stream};
use tokio::time::Instant;

use super::{Chunked, Place, unavailable};
use crate::{
    cache::{Chunk, ChunkIndex, ChunkKey, ChunkLayout, Unfilled},
    oci::Digest,
    runtime::{Abandoned, FilePiece, WINDOW_PIECES},
    storage::{Error, Fault, ObjectStream, READ_PATIENCE, layout},
};

/// Most bytes of one piece. Between two of them others have their turn.
const PIECE_BYTES: u64 = 256 << 10;

/// Most bytes that are fetched ahead of one reader.
const AHEAD_BYTES: u64 = 32 << 20;

/// Most chunks that are fetched ahead of one reader, each by a request of its own.
const AHEAD_CHUNKS: u64 = 8;

/// Who is through a chunk within this time is worth fetching more ahead for.
const QUICK_CHUNK: Duration = Duration::from_millis(500);

/// Bytes of content that lie in chunks or come there.
#[derive(Debug)]
pub struct ChunkBytes {
    first: Option<FilePiece>,
    reader: Reader,
    range: Range<u64>,
}

impl ChunkBytes {
    /// The bytes of `range`, once the first of them are here.
    pub(super) async fn open(
        chunked: Arc<Chunked>,
        digest: Digest,
        (blob_bytes, range): (u64, Range<u64>),
    ) -> Result<Self, Error> {
        let mut reader = Reader::new(chunked, digest, (blob_bytes, range.clone()));
        let first = reader.next().await?;
        Ok(Self { first, reader, range })
    }

    /// Which bytes of the content these are.
    pub(in crate::content) fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// The bytes, to be sent from the memory they lie in.
    pub fn pieces(self) -> impl Stream<Item = Result<FilePiece, Error>> + Send {
        stream::try_unfold(self, |mut bytes| async move {
            let piece = bytes.next().await?;
            Ok(piece.map(|piece| (piece, bytes)))
        })
    }

    async fn next(&mut self) -> Result<Option<FilePiece>, Error> {
        match self.first.take() {
            Some(piece) => Ok(Some(piece)),
            None => self.reader.next().await,
        }
    }

    /// Has the bytes come to buffers of this process.
    ///
    /// # Errors
    /// [`Fault::Busy`] if there is no memory for them for 10 seconds.
    pub(in crate::content) async fn into_stream(self) -> Result<ObjectStream, Error> {
        let Chunked { budget, buffers, .. } = &*self.reader.chunked;
        let pool = buffers.for_stream(budget).clone();
        let buffer_bytes = pool.buffer_bytes();
        let window_bytes = WINDOW_PIECES * buffer_bytes as u64;
        let window_bytes = window_bytes.min(self.range.end - self.range.start);
        let permit = budget.acquire_within(window_bytes, READ_PATIENCE).await;
        let key = layout::blob(&self.reader.digest);
        let permit = permit.map_err(|error| Error::failed("open", &key, Fault::Busy, error))?;
        let copied = self.pieces().map_ok(move |mut piece| {
            let (pool, key, permit) = (pool.clone(), key.clone(), &permit);
            debug_assert!(permit.bytes() > 0, "the window is paid for");
            stream::iter(std::iter::from_fn(move || {
                let length = usize::try_from(piece.len()).unwrap_or(usize::MAX).min(buffer_bytes);
                let read = |buffer: &mut [u8]| piece.read(buffer);
                let failed = |error| Error::failed("read", &key, Fault::Other, error);
                (length > 0).then(|| pool.filled(length, read).map_err(failed))
            }))
        });
        Ok(Box::pin(copied.try_flatten()))
    }
}

/// One client's way through content.
struct Reader {
    chunked: Arc<Chunked>,
    digest: Digest,
    blob_bytes: u64,
    layout: ChunkLayout,
    /// What has not been read yet.
    range: Range<u64>,
    /// The chunk that is being read, and since when.
    current: Option<(ChunkIndex, Chunk<Error>, Instant)>,
    ahead: LookAhead,
}

/// How far ahead of a reader chunks are fetched.
#[derive(Debug)]
struct LookAhead {
    /// The first chunk that has not been asked for ahead.
    next: ChunkIndex,
    chunks: u64,
    most: u64,
}

impl Reader {
    fn new(chunked: Arc<Chunked>, digest: Digest, (blob_bytes, range): (u64, Range<u64>)) -> Self {
        let layout = ChunkLayout::of(blob_bytes);
        let most = (AHEAD_BYTES / layout.chunk_bytes()).min(AHEAD_CHUNKS);
        let ahead = LookAhead { next: layout.index_at(range.start), chunks: 1, most };
        Self { chunked, digest, blob_bytes, layout, range, current: None, ahead }
    }

    /// The next piece, when it is in memory.
    async fn next(&mut self) -> Result<Option<FilePiece>, Error> {
        if self.range.is_empty() {
            return Ok(None);
        }
        // Others come first: who is sent what is in memory would otherwise never wait.
        tokio::task::yield_now().await;
        let chunk_range = self.layout.range(self.layout.index_at(self.range.start));
        let offset = self.range.start - chunk_range.start;
        let readable = self.current().readable(offset).await;
        let (block, readable_end) = readable.map_err(|unfilled| match unfilled {
            Unfilled::Failed(error) => error,
            Unfilled::Abandoned => unavailable(&self.digest, Abandoned),
        })?;
        let end = readable_end.min(self.range.end - chunk_range.start).min(offset + PIECE_BYTES);
        self.range.start = chunk_range.start + end;
        Ok(Some(block.piece(offset..end)))
    }

    /// The chunk that has the next byte.
    fn current(&mut self) -> &mut Chunk<Error> {
        let index = self.layout.index_at(self.range.start);
        let before = self.current.take();
        let (chunk, since) = match before {
            Some((at, chunk, since)) if at == index => (chunk, since),
            before => {
                let chunk = self.ask(index);
                self.ahead.adapt(before.map(|(_, _, since)| since.elapsed()));
                self.look_ahead(index);
                (chunk, Instant::now())
            }
        };
        &mut self.current.insert((index, chunk, since)).1
    }

    fn look_ahead(&mut self, index: ChunkIndex) {
        let last = self.layout.index_at(self.range.end - 1);
        let until = index.plus(self.ahead.chunks).min(last);
        self.ahead.next = self.ahead.next.max(index.plus(1));
        while self.ahead.next <= until {
            let key = ChunkKey { digest: self.digest, index: self.ahead.next };
            // Only who reads a chunk counts as one who uses it.
            if !self.chunked.pond.is_near(&key) {
                self.ask(key.index);
            }
            self.ahead.next = key.index.plus(1);
        }
    }

    fn ask(&self, index: ChunkIndex) -> Chunk<Error> {
        self.chunked.chunk(Place::of(self.digest, (index, self.layout), self.blob_bytes))
    }
}

impl LookAhead {
    /// Doubles or halves the distance, by how long the last chunk took.
    fn adapt(&mut self, last_chunk: Option<Duration>) {
        self.chunks = match last_chunk {
            None => self.chunks,
            Some(time) if time < QUICK_CHUNK => (self.chunks * 2).min(self.most),
            Some(_) => (self.chunks / 2).max(1),
        };
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("range", &self.range).finish_non_exhaustive()
    }
}
