//! Blobs that another program has stored: whether they are right is found out while they are read for the first time.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use super::{Chunked, Place};
use crate::{
    cache::{Block, ChunkIndex, ChunkKey, ChunkLayout},
    content::{BlobHash, Hashed},
    oci::Digest,
};

/// Bytes that are hashed at once.
const HASHED_BYTES: u64 = 256 << 10;

/// Hashes the chunks of a blob in their order, each when it has come, and makes the blob's table of them. It follows
/// whoever reads the blob and asks the storage for nothing: where a chunk has gone from memory before its turn, it
/// waits until somebody has that fetched again.
#[derive(Debug)]
pub(super) struct Survey {
    digest: Digest,
    layout: ChunkLayout,
    blob_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The chunk whose turn it is.
    next: ChunkIndex,
    /// The hash over all chunks before it; `None` while one is being hashed, and when all have been.
    hash: Option<BlobHash>,
    /// Chunks that came before their turn.
    early: BTreeMap<ChunkIndex, Weak<Block>>,
}

impl State {
    /// The next chunk and the hash it goes into, if both are there.
    fn turn(&mut self) -> Option<(Arc<Block>, BlobHash)> {
        let block = self.early.get(&self.next)?.upgrade()?;
        let hash = self.hash.take()?;
        self.early.remove(&self.next);
        Some((block, hash))
    }
}

impl Survey {
    /// Nothing is known yet.
    pub(super) fn new(digest: Digest, blob_bytes: u64) -> Self {
        let (layout, hash) =
            (ChunkLayout::of(blob_bytes), BlobHash::with_table(digest.algorithm()));
        let state = State { next: ChunkIndex::new(0), hash: Some(hash), early: BTreeMap::new() };
        Self { digest, layout, blob_bytes, state: Mutex::new(state) }
    }

    /// Notes that a chunk is there. If it is its turn it is hashed, by a task.
    pub(super) fn filled(
        self: &Arc<Self>,
        chunked: &Arc<Chunked>,
        place: &Place,
        block: Weak<Block>,
    ) {
        let mut state = self.state();
        if place.key.index >= state.next {
            state.early.insert(place.key.index, block);
        }
        let turn = state.turn();
        drop(state);
        if let Some(turn) = turn {
            let (survey, chunked_too) = (Arc::clone(self), Arc::clone(chunked));
            chunked.tasks.spawn("survey a blob", survey.work(chunked_too, turn));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hashes one chunk after the other, as far as they are there.
    async fn work(self: Arc<Self>, chunked: Arc<Chunked>, turn: (Arc<Block>, BlobHash)) {
        let mut turn = Some(turn);
        while let Some((block, mut hash)) = turn.take() {
            let hashed = tokio::task::spawn_blocking(move || {
                let hashed = hash_block(&block, &mut hash);
                hashed.map(|()| hash)
            });
            let Ok(Ok(hash)) = hashed.await else {
                // The next reader begins another survey.
                return chunked.proofs.forget(&self.digest).await;
            };
            let Some(hash) = self.advance(hash, &mut turn) else { continue };
            self.end(&chunked, hash.finish()).await;
        }
    }

    /// Goes on to the next chunk, which is left in `turn` if it is there. Returns the hash if there is none.
    fn advance(
        &self,
        hash: BlobHash,
        turn: &mut Option<(Arc<Block>, BlobHash)>,
    ) -> Option<BlobHash> {
        let mut state = self.state();
        state.next = state.next.plus(1);
        if self.layout.range(state.next).is_empty() {
            return Some(hash);
        }
        state.hash = Some(hash);
        *turn = state.turn();
        None
    }

    async fn end(&self, chunked: &Arc<Chunked>, hashed: Hashed) {
        let digest = self.digest;
        match hashed {
            Hashed { digest: actual, table: Some(table) } if actual == digest => {
                chunked.keep_table(&digest, table).await;
            }
            Hashed { digest: actual, .. } => {
                tracing::error!(%digest, %actual, "the storage has other bytes under a digest");
                chunked.pond.mismatched();
                for index in self.layout.indexes(0..self.blob_bytes) {
                    chunked.pond.forget(&ChunkKey { digest, index });
                }
                chunked.proofs.forget(&digest).await;
            }
        }
    }
}

fn hash_block(block: &Block, hash: &mut BlobHash) -> io::Result<()> {
    let mut buffer = vec![0; usize::try_from(HASHED_BYTES.min(block.len())).unwrap_or(usize::MAX)];
    let mut piece = block.piece(0..block.len());
    while !piece.is_empty() {
        let length = usize::try_from(piece.len()).unwrap_or(usize::MAX).min(buffer.len());
        piece.read(&mut buffer[..length])?;
        hash.update(&buffer[..length]);
    }
    Ok(())
}
