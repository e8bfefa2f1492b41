//! Pieces for readers so slow that the chunk they read has gone.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::future::Cache;

use super::{
    Chunked, Place,
    pace::SMALL_PIECE_BYTES,
    proof::{Check, Proof},
    source::Source,
    unavailable,
};
use crate::{
    cache::{Block, ChunkKey, SEGMENT_BYTES},
    content::table::TableBuilder,
    runtime::{ByteBudget, FilePiece},
    storage::Error,
};

/// Chunks of which it is remembered how much was fetched in pieces. An entry is about 200 bytes.
const COUNTED: u64 = 10_000;

/// How long that is remembered after the last piece.
const COUNTED_FOR: Duration = Duration::from_secs(60);

/// What is fetched in pieces, each for one reader.
#[derive(Debug)]
pub(super) struct Apart {
    /// For pieces that are not small: a quarter of the buffers.
    budget: ByteBudget,
    /// How many bytes of a chunk were fetched so.
    fetched: Cache<ChunkKey, Arc<AtomicU64>>,
}

impl Apart {
    pub(super) fn new(budget: ByteBudget) -> Self {
        let fetched = Cache::builder().max_capacity(COUNTED).time_to_idle(COUNTED_FOR).build();
        Self { budget, fetched }
    }

    /// Whether so much of a chunk was fetched in pieces that it is worth being fetched as a whole; it then counts as
    /// if it was.
    pub(super) async fn is_wanted(&self, place: &Place) -> bool {
        let Some(fetched) = self.fetched.get(&place.key).await else { return false };
        let is_wanted = |bytes: u64| (bytes >= place.length()).then_some(0);
        fetched.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_wanted).is_ok()
    }

    /// Fetches `part` of a chunk, or its beginning; it is not kept. There is always memory for
    /// [`SMALL_PIECE_BYTES`], as much as a slow reader keeps of a chunk: who has stopped reading may hold its piece for
    /// long, and nobody waits for that.
    pub(super) async fn fetch(
        &self,
        chunked: &Arc<Chunked>,
        place: &Place,
        part: Range<u64>,
    ) -> Result<FilePiece, Error> {
        let permit = self.budget.try_acquire(part.end - part.start);
        let most = if permit.is_some() { u64::MAX } else { SMALL_PIECE_BYTES };
        let part = part.start..part.end.min(part.start.saturating_add(most));
        let length = part.end - part.start;
        let fetched = self.fetched.get_with(place.key, async { Arc::default() }).await;
        fetched.fetch_add(length, Ordering::Relaxed);
        let within = part.start - place.range.start..part.end - place.range.start;
        let name = (place.key, place.blob_bytes);
        let block = match chunked.pond.read_part(name, within).await {
            Some(block) => block,
            None => download(chunked, place, part).await?,
        };
        Ok(block.piece(0..length).keeping((block, permit)))
    }
}

/// The bytes of `part` from the storage, with which comes what it takes to check them.
async fn download(chunked: &Arc<Chunked>, place: &Place, part: Range<u64>) -> Result<Block, Error> {
    let (digest, blob_bytes) = (place.key.digest, place.blob_bytes);
    let failed = |error| unavailable(&digest, error);
    let proof = chunked.proof_of(place).await?;
    let around = proof.parts_around(part.clone());
    let block = Block::reserve(part.end - part.start).map_err(failed)?;
    let mut check = Check::of(&proof, around.start);
    let mut source = Source::new(chunked, (digest, blob_bytes), around);
    let mut sums = TableBuilder::default();
    let first = source.position() / SEGMENT_BYTES;
    while source.left_bytes() > 0 {
        let start = source.position();
        let bytes = source.next(u64::MAX).await?;
        let wanted = part.start.max(start)..part.end.min(source.position());
        if !wanted.is_empty() {
            let index = |position: u64| usize::try_from(position - start).unwrap_or(usize::MAX);
            let bytes = &bytes[index(wanted.start)..index(wanted.end)];
            block.write(wanted.start - part.start, bytes).map_err(failed)?;
        }
        if let Proof::Arrival(_) = &proof {
            sums.update(&bytes);
        }
        if !check.take(&bytes) {
            source.again(&mut check)?;
        }
    }
    if let Proof::Arrival(arrival) = &proof {
        arrival.note(first, &sums.into_sums())?;
    }
    Ok(block)
}
