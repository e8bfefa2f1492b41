//! One client's way through content, chunk by chunk.

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use futures_util::{Stream, TryStreamExt, stream};
use tokio::time::Instant;

use super::{Begun, Chunked, Place, pace::Pace, unavailable};
use crate::{
    cache::{Block, Chunk, ChunkIndex, ChunkLayout, Unfilled, Use},
    oci::Digest,
    runtime::{Abandoned, FilePiece, WINDOW_PIECES, take_turns},
    storage::{Error, Fault, ObjectStream, READ_PATIENCE, layout},
};

/// Most bytes of one piece that is fetched for one slow reader alone.
const APART_BYTES: u64 = 256 << 10;

/// Who reads a chunk for so long uses it once more. Many who do keep it in memory; a few do not.
const STILL_USED: Duration = Duration::from_secs(1);

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
        let Chunked { copy_budget: budget, buffers, .. } = &*self.reader.chunked;
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
pub(super) struct Reader {
    chunked: Arc<Chunked>,
    digest: Digest,
    blob_bytes: u64,
    layout: ChunkLayout,
    /// What has not been read yet.
    range: Range<u64>,
    current: Option<Current>,
    pace: Pace,
    audience: Audience,
    /// Counted as long as it is there.
    _counted: Arc<()>,
}

/// Who reads.
#[derive(Clone, Copy, Debug)]
enum Audience {
    /// A client, which is given only what was found right.
    Client,
    /// Another node, which finds out itself. It is given what comes at once: else each node on the way from the storage
    /// would wait for a whole part that can be checked.
    Node {
        /// Whether it was given anything yet.
        has_begun: bool,
    },
}

impl Audience {
    /// Whether what does not come may be had from somewhere else. Not the rest of what may be wrong: that must not come
    /// to a good end.
    const fn may_turn_elsewhere(self) -> bool {
        match self {
            Self::Client => true,
            Self::Node { has_begun } => !has_begun,
        }
    }
}

/// The chunk that is being read.
struct Current {
    place: Place,
    state: State,
    /// When it was told last that it is used.
    used: Instant,
}

enum State {
    /// It is there, or somebody fills it.
    Near(Chunk<Error>, Begun),
    /// It was there, and nobody else needed it.
    Gone,
}

impl Reader {
    pub(super) fn new(
        chunked: Arc<Chunked>,
        digest: Digest,
        (blob_bytes, range): (u64, Range<u64>),
    ) -> Self {
        let layout = ChunkLayout::of(blob_bytes);
        let is_whole = range == (0..blob_bytes);
        let pace = if chunked.is_in_cluster() && is_whole {
            Pace::eager(layout, range.start)
        } else {
            Pace::new(layout, range.start)
        };
        let counted = Arc::clone(&chunked.readers);
        Self {
            chunked,
            digest,
            blob_bytes,
            layout,
            range,
            current: None,
            pace,
            audience: Audience::Client,
            _counted: counted,
        }
    }

    /// The way of another node.
    pub(super) fn for_node(chunked: Arc<Chunked>, digest: Digest, part: (u64, Range<u64>)) -> Self {
        let audience = Audience::Node { has_begun: false };
        Self { audience, ..Self::new(chunked, digest, part) }
    }

    /// The next piece, when it is in memory.
    pub(super) async fn next(&mut self) -> Result<Option<FilePiece>, Error> {
        if self.range.is_empty() {
            return Ok(None);
        }
        let share = self.chunked.piece_bytes_most();
        let most = self.pace.piece_bytes().min(share).min(self.range.end - self.range.start);
        take_turns(most).await;
        let (place, found) = self.find().await?;
        let offset = self.range.start - place.range.start;
        let piece = match found {
            Some((block, readable_end)) => {
                let piece = block.piece(offset..readable_end.min(offset + most));
                if self.current.as_ref().is_some_and(Current::is_used_again) {
                    self.chunked.pond.read_again(piece.len());
                }
                piece
            }
            None => {
                let end = place.range.end.min(self.range.start + most.min(APART_BYTES));
                self.chunked.apart.fetch(&self.chunked, &place, self.range.start..end).await?
            }
        };
        self.range.start += piece.len();
        if let Audience::Node { has_begun } = &mut self.audience {
            *has_begun = true;
        }
        self.pace.give(piece.len());
        Ok(Some(piece))
    }

    /// The chunk with the next byte, and where what can be read of it ends; `None` if it was there and is gone.
    async fn find(&mut self) -> Result<(Place, Option<(Arc<Block>, u64)>), Error> {
        let index = self.layout.index_at(self.range.start);
        let mut current = match self.current.take() {
            Some(current) if current.place.key.index == index => current,
            before => self.enter(index, before),
        };
        self.look_ahead(index);
        let offset = self.range.start - current.place.range.start;
        let found = current.find(&self.chunked, offset, self.audience).await?;
        let place = current.place.clone();
        self.current = Some(current);
        Ok((place, found))
    }

    fn enter(&mut self, index: ChunkIndex, before: Option<Current>) -> Current {
        let place = self.place(index);
        let was_gone = before.is_some_and(|before| matches!(before.state, State::Gone));
        // For who is so slow that chunks do not wait, none is fetched as a whole.
        let state = if was_gone && !self.pace.is_quick() {
            State::Gone
        } else {
            State::of(self.chunked.chunk(place.clone()))
        };
        Current { place, state, used: Instant::now() }
    }

    fn look_ahead(&mut self, index: ChunkIndex) {
        let last = self.layout.index_at(self.range.end - 1);
        if self.chunked.is_in_cluster() {
            return self.look_around(index, last);
        }
        while let Some((first, count)) = self.pace.next_ahead(index, last) {
            let places = (0..count).map(|further| self.place(first.plus(further)));
            self.chunked.fetch_ahead(places);
        }
    }

    /// As [`Reader::look_ahead`], in any order: nodes that want the same are to have different parts of it first.
    fn look_around(&mut self, index: ChunkIndex, last: ChunkIndex) {
        let runs = std::iter::from_fn(|| self.pace.next_ahead(index, last));
        let mut ahead: Vec<ChunkIndex> =
            runs.flat_map(|(first, count)| (0..count).map(move |more| first.plus(more))).collect();
        fastrand::shuffle(&mut ahead);
        for index in ahead {
            self.chunked.fetch_ahead(std::iter::once(self.place(index)));
        }
    }

    fn place(&self, index: ChunkIndex) -> Place {
        Place::of(self.digest, (index, self.layout), self.blob_bytes)
    }
}

impl State {
    fn of((chunk, begun): (Chunk<Error>, Begun)) -> Self {
        Self::Near(chunk, begun)
    }
}

impl Current {
    const fn is_used_again(&self) -> bool {
        matches!(self.state, State::Near(_, Begun::Before(Use::Again)))
    }

    /// Where the byte at `offset` is, when it is in memory, and where what can be read ends; `None` if the chunk was
    /// there and is gone.
    async fn find(
        &mut self,
        chunked: &Arc<Chunked>,
        offset: u64,
        audience: Audience,
    ) -> Result<Option<(Arc<Block>, u64)>, Error> {
        if let State::Gone = self.state {
            match chunked.pond.get(&self.place.key) {
                // Somebody else has had it fetched again.
                Some(chunk) => self.state = State::Near(chunk, Begun::Before(Use::Again)),
                None if chunked.apart.is_wanted(&self.place).await => {
                    self.state = State::of(chunked.chunk(self.place.clone()));
                }
                None => {}
            }
        } else if self.used.elapsed() >= STILL_USED {
            self.used = Instant::now();
            chunked.pond.touch(&self.place.key);
        }
        loop {
            let State::Near(chunk, begun) = &mut self.state else { return Ok(None) };
            let come = match audience {
                Audience::Client => chunk.readable(offset).await,
                Audience::Node { .. } => chunk.passable(offset).await,
            };
            let found = match come {
                Ok(found) => found,
                // What made it fail may have been over before this reader came.
                Err(_) if matches!(begun, Begun::Before(_)) && audience.may_turn_elsewhere() => {
                    let (chunk, _) = chunked.chunk(self.place.clone());
                    self.state = State::Near(chunk, Begun::Now);
                    continue;
                }
                Err(Unfilled::Failed(error)) => return Err(error),
                Err(Unfilled::Abandoned) => {
                    return Err(unavailable(&self.place.key.digest, Abandoned));
                }
            };
            if found.is_none() {
                self.state = State::Gone;
            }
            return Ok(found);
        }
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("range", &self.range).finish_non_exhaustive()
    }
}
