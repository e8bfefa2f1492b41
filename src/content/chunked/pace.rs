//! How fast a reader is, and what follows from it.

use std::time::Duration;

use tokio::time::Instant;

use crate::cache::{ChunkIndex, ChunkLayout};

/// Bytes of a piece for who is slow. They stay in memory until they are sent, also when nobody else needs the chunk
/// any more.
const SMALL_PIECE_BYTES: u64 = 64 << 10;

/// Bytes of the first piece, which the socket's buffer most likely has room for. With smaller ones a blob of 1 MiB
/// was sent half as fast.
const FIRST_PIECE_BYTES: u64 = 256 << 10;

/// Bytes of a piece for who is quick.
const LARGE_PIECE_BYTES: u64 = 1 << 20;

/// Who takes a piece within this time is quick.
const QUICK_PIECE: Duration = Duration::from_millis(50);

/// Most bytes that are fetched ahead of one reader.
const AHEAD_BYTES: u64 = 32 << 20;

/// Most chunks that are fetched ahead of one reader, each by a request of its own.
const AHEAD_CHUNKS: u64 = 8;

/// Who is through a chunk within this time is worth fetching more ahead for.
const QUICK_CHUNK: Duration = Duration::from_millis(500);

/// How fast a reader was, how much it gets at once, and how far ahead of it chunks are fetched.
#[derive(Debug)]
pub(super) struct Pace {
    piece_bytes: u64,
    /// When it was given the last piece.
    given: Option<Instant>,
    /// The first chunk that has not been asked for ahead.
    next: ChunkIndex,
    chunks: u64,
    chunks_most: u64,
}

impl Pace {
    pub(super) fn new(layout: ChunkLayout, start: u64) -> Self {
        let chunks_most = (AHEAD_BYTES / layout.chunk_bytes()).min(AHEAD_CHUNKS);
        let (piece_bytes, next) = (FIRST_PIECE_BYTES, layout.index_at(start));
        Self { piece_bytes, given: None, next, chunks: 1, chunks_most }
    }

    /// How much it gets now, because it asks for more.
    pub(super) fn piece_bytes(&mut self) -> u64 {
        self.piece_bytes = match self.given {
            None => FIRST_PIECE_BYTES,
            Some(given) if given.elapsed() < QUICK_PIECE => {
                (2 * self.piece_bytes).min(LARGE_PIECE_BYTES)
            }
            Some(_) => SMALL_PIECE_BYTES,
        };
        self.piece_bytes
    }

    /// Notes that it is given a piece now.
    pub(super) fn give(&mut self) {
        self.given = Some(Instant::now());
    }

    /// Whether it has taken the last piece quickly.
    pub(super) const fn is_quick(&self) -> bool {
        self.piece_bytes > SMALL_PIECE_BYTES
    }

    /// Doubles or halves how far ahead chunks are fetched, by how long the last one took.
    pub(super) fn adapt(&mut self, last_chunk: Option<Duration>) {
        self.chunks = match last_chunk {
            None => self.chunks,
            Some(time) if time < QUICK_CHUNK => (2 * self.chunks).clamp(1, self.chunks_most),
            Some(_) => self.chunks / 2,
        };
    }

    /// The next chunk to be fetched ahead of one who reads `index`, if there is one up to `last`.
    pub(super) fn next_ahead(&mut self, index: ChunkIndex, last: ChunkIndex) -> Option<ChunkIndex> {
        let until = index.plus(self.chunks).min(last);
        let next = self.next.max(index.plus(1));
        if next > until {
            return None;
        }
        self.next = next.plus(1);
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn who_is_quick_gets_more_at_once() {
        let mut pace = Pace::new(ChunkLayout::of(1 << 30), 0);
        let give = |pace: &mut Pace| {
            let bytes = pace.piece_bytes();
            pace.give();
            bytes >> 10
        };
        let sizes: Vec<u64> = (0..7).map(|_| give(&mut pace)).collect();
        assert_eq!(sizes, [256, 512, 1024, 1024, 1024, 1024, 1024]);
        assert!(pace.is_quick());
        tokio::time::advance(SECOND).await;
        assert_eq!(give(&mut pace), 64);
        assert!(!pace.is_quick());
    }

    #[test]
    fn more_is_fetched_ahead_of_who_is_quick_and_nothing_of_who_is_slow() {
        let layout = ChunkLayout::of(1 << 30);
        let mut pace = Pace::new(layout, 0);
        let last = layout.index_at((1 << 30) - 1);
        let mut ahead_at = |index: u64, last_chunk| {
            pace.adapt(last_chunk);
            let index = layout.index_at(index * layout.chunk_bytes());
            std::iter::from_fn(|| pace.next_ahead(index, last)).count()
        };
        let quick = Some(Duration::from_millis(10));
        assert_eq!([ahead_at(0, None), ahead_at(1, quick), ahead_at(2, quick)], [1, 2, 3]);
        assert_eq!([ahead_at(3, quick), ahead_at(4, quick)], [5, 1]);
        assert_eq!(ahead_at(255, quick), 0, "there is nothing after the last");
        for (index, ahead) in [(20, 4), (30, 2), (40, 1), (50, 0), (60, 0)] {
            assert_eq!(ahead_at(index, Some(SECOND)), ahead, "at {index}");
        }
        assert_eq!(ahead_at(70, quick), 1);
    }
}
