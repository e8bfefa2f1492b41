//! How a blob is cut into chunks.

use std::ops::Range;

use crate::oci::Digest;

/// Length of a chunk of a blob of [`LARGE_BLOB_BYTES`] or more.
const LARGE_CHUNK_BYTES: u64 = 4 << 20;

/// Length of a chunk of a smaller blob.
const SMALL_CHUNK_BYTES: u64 = 1 << 20;

const LARGE_BLOB_BYTES: u64 = 64 << 20;

/// The number of a chunk within its blob, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkIndex(u64);

impl ChunkIndex {
    /// The chunk of this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The chunk so many places further on.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }
}

/// Names a chunk of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkKey {
    /// The blob.
    pub digest: Digest,
    /// Which of its chunks.
    pub index: ChunkIndex,
}

/// Where the chunks of a blob lie. It depends on nothing but the blob's length, so everybody agrees on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkLayout {
    blob_bytes: u64,
    chunk_bytes: u64,
}

impl ChunkLayout {
    /// The longest beginning of a blob that is made of whole chunks, or is all of the blob, whatever its length.
    pub const BEGINNING_BYTES: u64 = 2 * LARGE_CHUNK_BYTES;

    /// The layout of a blob of so many bytes.
    #[must_use]
    pub const fn of(blob_bytes: u64) -> Self {
        let is_large = blob_bytes >= LARGE_BLOB_BYTES;
        Self {
            blob_bytes,
            chunk_bytes: if is_large { LARGE_CHUNK_BYTES } else { SMALL_CHUNK_BYTES },
        }
    }

    /// Length of every chunk but the last.
    #[must_use]
    pub const fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// The chunk that has the byte at `position`.
    #[must_use]
    pub const fn index_at(&self, position: u64) -> ChunkIndex {
        ChunkIndex(position / self.chunk_bytes)
    }

    /// Which bytes of the blob a chunk has; none beyond its end.
    #[must_use]
    pub fn range(&self, index: ChunkIndex) -> Range<u64> {
        let start = index.0.saturating_mul(self.chunk_bytes).min(self.blob_bytes);
        start..start.saturating_add(self.chunk_bytes).min(self.blob_bytes)
    }

    /// The chunks that `part` of the blob touches.
    pub fn indexes(&self, part: Range<u64>) -> impl Iterator<Item = ChunkIndex> + use<> {
        (part.start / self.chunk_bytes..part.end.div_ceil(self.chunk_bytes)).map(ChunkIndex)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn chunks_cover_a_blob_without_gap(blob_bytes in 0_u64..200 << 20) {
            let layout = ChunkLayout::of(blob_bytes);
            let mut end = 0;
            for index in layout.indexes(0..blob_bytes) {
                let range = layout.range(index);
                prop_assert_eq!(range.start, end);
                prop_assert!(!range.is_empty());
                prop_assert_eq!(layout.index_at(range.start), index);
                prop_assert_eq!(layout.index_at(range.end - 1), index);
                end = range.end;
            }
            prop_assert_eq!(end, blob_bytes);
        }

        #[test]
        fn a_beginning_is_made_of_whole_chunks(blob_bytes in 1_u64..200 << 20) {
            let layout = ChunkLayout::of(blob_bytes);
            let beginning = ChunkLayout::BEGINNING_BYTES.min(blob_bytes);
            let last = layout.index_at(beginning - 1);
            prop_assert_eq!(layout.range(last).end, beginning);
        }
    }

    #[test]
    fn large_blobs_have_large_chunks() {
        assert_eq!(ChunkLayout::of((64 << 20) - 1).chunk_bytes(), 1 << 20);
        assert_eq!(ChunkLayout::of(64 << 20).chunk_bytes(), 4 << 20);
    }
}
