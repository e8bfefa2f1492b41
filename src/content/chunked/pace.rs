//! How fast a reader is, and what follows from it.

use std::time::Duration;

use tokio::time::Instant;

use crate::cache::{ChunkIndex, ChunkLayout};

/// Bytes of a piece for who is slow. They stay in memory until they are sent, also when nobody else needs the chunk
/// any more.
pub(super) const SMALL_PIECE_BYTES: u64 = 64 << 10;

/// Bytes of the first piece, which the socket most likely takes at once. With smaller ones a blob of 1 MiB was sent
/// half as fast.
const FIRST_PIECE_BYTES: u64 = 256 << 10;

/// Bytes of the second piece, with which somebody slow may be stuck.
const SECOND_PIECE_BYTES: u64 = 128 << 10;

/// Bytes of a piece for who is quick.
const LARGE_PIECE_BYTES: u64 = 1 << 20;

/// How many times as long a piece is as the one before, if that was taken quickly.
const PIECE_GROWTH: u64 = 4;

/// Who takes a piece within this time is quick.
const QUICK_PIECE: Duration = Duration::from_millis(50);

/// So much goes into the buffers of sockets, and says nothing of who reads it.
const SURE_BYTES: u64 = 512 << 10;

/// Most bytes that are fetched ahead of one reader.
const AHEAD_BYTES: u64 = 32 << 20;

/// Chunks ahead of a reader in a cluster. With 32 in any order, storms were quickest in simulations.
const EAGER_CHUNKS: u64 = 32;

/// Most bytes that are fetched by one request. A server takes half as much time for a byte of 8 MiB as for one of 4.
const REQUEST_BYTES: u64 = 8 << 20;

/// How fast a reader was, how much it gets at once, and how far ahead of it chunks are fetched.
#[derive(Debug)]
pub(super) struct Pace {
    piece_bytes: u64,
    /// When it was given the last piece.
    given: Option<Instant>,
    given_bytes: u64,
    /// The first chunk that has not been asked for ahead.
    next: ChunkIndex,
    chunks: u64,
    chunk_bytes: u64,
}

impl Pace {
    pub(super) fn new(layout: ChunkLayout, start: u64) -> Self {
        let (piece_bytes, next) = (FIRST_PIECE_BYTES, layout.index_at(start));
        let chunk_bytes = layout.chunk_bytes();
        Self { piece_bytes, given: None, given_bytes: 0, next, chunks: 0, chunk_bytes }
    }

    /// Of who is most likely quick, and who reads what others read, too: as much is wanted ahead as in a storm.
    pub(super) fn eager(layout: ChunkLayout, start: u64) -> Self {
        Self { chunks: EAGER_CHUNKS, ..Self::new(layout, start) }
    }

    /// How much it gets now, because it asks for more.
    pub(super) fn piece_bytes(&mut self) -> u64 {
        self.piece_bytes = match self.given {
            None => FIRST_PIECE_BYTES,
            Some(given) if given.elapsed() >= QUICK_PIECE => {
                self.chunks /= 2;
                SMALL_PIECE_BYTES
            }
            Some(_) => {
                if self.given_bytes >= SURE_BYTES {
                    let most = (AHEAD_BYTES / self.chunk_bytes).max(self.chunks);
                    self.chunks = (2 * self.chunks).clamp(1, most);
                }
                let is_second = self.given_bytes <= FIRST_PIECE_BYTES;
                let longer = (PIECE_GROWTH * self.piece_bytes).min(LARGE_PIECE_BYTES);
                if is_second { SECOND_PIECE_BYTES } else { longer }
            }
        };
        self.piece_bytes
    }

    /// Notes that it is given a piece now.
    pub(super) fn give(&mut self, bytes: u64) {
        self.given = Some(Instant::now());
        self.given_bytes += bytes;
    }

    /// Whether it has taken the last piece quickly.
    pub(super) const fn is_quick(&self) -> bool {
        self.piece_bytes > SMALL_PIECE_BYTES
    }

    /// The first and the number of the chunks to be fetched ahead of one who reads `index`, by one request, if there
    /// are any up to `last`. Half of what is wanted ahead is waited for while the other half comes.
    pub(super) fn next_ahead(
        &mut self,
        index: ChunkIndex,
        last: ChunkIndex,
    ) -> Option<(ChunkIndex, u64)> {
        let until = index.plus(self.chunks).min(last);
        let next = self.next.max(index.plus(1));
        if next > until {
            return None;
        }
        let most = (self.chunks / 2).clamp(1, REQUEST_BYTES / self.chunk_bytes);
        let count = (until.number() - next.number() + 1).min(most);
        if count < most && until < last {
            return None;
        }
        self.next = next.plus(count);
        Some((next, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn give(pace: &mut Pace) -> u64 {
        let bytes = pace.piece_bytes();
        pace.give(bytes);
        bytes >> 10
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_quick_gets_more_at_once() {
        let mut pace = Pace::new(ChunkLayout::of(1 << 30), 0);
        let sizes: Vec<u64> = (0..6).map(|_| give(&mut pace)).collect();
        assert_eq!(sizes, [256, 128, 512, 1024, 1024, 1024]);
        assert!(pace.is_quick());
        tokio::time::advance(SECOND).await;
        assert_eq!([give(&mut pace), give(&mut pace), give(&mut pace)], [64, 256, 1024]);
        tokio::time::advance(SECOND).await;
        assert_eq!(give(&mut pace), 64);
        assert!(!pace.is_quick());
    }

    #[tokio::test(start_paused = true)]
    async fn more_is_fetched_ahead_of_who_is_quick_and_nothing_of_who_is_slow() {
        let layout = ChunkLayout::of(1 << 30);
        let mut pace = Pace::new(layout, 0);
        let last = layout.index_at((1 << 30) - 1);
        let ahead_at = |pace: &mut Pace, index: u64| {
            give(pace);
            let index = layout.index_at(index * layout.chunk_bytes());
            let runs = std::iter::from_fn(|| pace.next_ahead(index, last));
            runs.map(|(_, count)| count).collect::<Vec<u64>>()
        };
        // What the sockets may have taken counts for nothing.
        let counts: Vec<_> = (0..8).map(|_| ahead_at(&mut pace, 0)).collect();
        let expected: [&[u64]; 8] = [&[], &[], &[], &[1], &[1], &[2], &[2, 2], &[]];
        assert_eq!(counts, expected);
        assert_eq!([1, 2, 3].map(|index| ahead_at(&mut pace, index)), [vec![], vec![2], vec![]]);
        assert_eq!(ahead_at(&mut pace, 254), [1], "there is one more");
        assert!(ahead_at(&mut pace, 255).is_empty(), "there is nothing after the last");
        let mut pace = Pace::new(layout, 0);
        (0..8).for_each(|_| _ = ahead_at(&mut pace, 0));
        for (index, ahead) in [(20, vec![2, 2]), (30, vec![1, 1]), (40, vec![1]), (50, vec![])] {
            tokio::time::advance(SECOND).await;
            assert_eq!(ahead_at(&mut pace, index), ahead, "at {index}");
        }
        assert_eq!(ahead_at(&mut pace, 70), [1]);
    }
}
