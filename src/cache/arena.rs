//! Memory that the kernel sends from without a copy.
//!
//! Bytes on the heap are copied into a socket's buffers. Those of a file are not: `sendfile(2)` has the socket refer
//! to the pages. So chunks lie in files that are only in memory (`memfd_create(2)`), each at a place of its own. What
//! is dropped is cut out of the file, which gives its pages back once they have arrived where they were sent. No place
//! is ever used again, because bytes that are still on their way must not change.

use std::{
    fmt,
    fs::File,
    io,
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};

use crate::runtime::FilePiece;

/// The least that is given back at once. A slow reader keeps this much of a chunk that nobody else needs. Bytes that come
/// from a disk or from elsewhere are checked in parts of this length, too.
pub const SEGMENT_BYTES: u64 = 64 << 10;

/// What `stat(2)` counts in.
const STAT_BLOCK_BYTES: u64 = 512;

/// How many files there are. Writing to a file and cutting something out of it lock it, so that with one file threads
/// waited for each other a fifth of their time.
const FILES: usize = 16;

/// The files of this process: like the heap, they are for all.
static ARENA: OnceLock<Arena> = OnceLock::new();

struct Arena {
    files: [Arc<File>; FILES],
    /// Where nothing has ever been in any file. Places are taken one after the other; there are 2^63.
    next: AtomicU64,
    /// Whose turn it is to be written to.
    turn: AtomicUsize,
}

impl Arena {
    fn get() -> io::Result<&'static Self> {
        if let Some(arena) = ARENA.get() {
            return Ok(arena);
        }
        let mut files = Vec::with_capacity(FILES);
        for _ in 0..FILES {
            files.push(Arc::new(File::from(memfd_create("millpond", MemfdFlags::CLOEXEC)?)));
        }
        let files = files.try_into().expect("as many files as were made");
        Ok(ARENA.get_or_init(|| Self { files, next: AtomicU64::new(0), turn: AtomicUsize::new(0) }))
    }

    fn take(&self, length: u64) -> Range<u64> {
        let start = self.next.fetch_add(length.next_multiple_of(SEGMENT_BYTES), Ordering::Relaxed);
        start..start + length
    }
}

/// Memory that all blocks of this process take, in bytes.
pub(super) fn arena_bytes() -> u64 {
    let files = ARENA.get().into_iter().flat_map(|arena| &arena.files);
    files.filter_map(|file| file.metadata().ok()).map(|meta| meta.blocks() * STAT_BLOCK_BYTES).sum()
}

/// Memory for some bytes, given back when it is dropped and nothing of it is being sent.
pub struct Block {
    segments: Vec<Arc<Segment>>,
    place: Range<u64>,
}

/// A part of a block, which lives as long as its bytes are being sent.
struct Segment {
    file: Arc<File>,
    place: Range<u64>,
}

impl Block {
    /// Room for `length` bytes. It takes memory as it is written.
    ///
    /// # Errors
    /// If the system has no such memory.
    pub fn reserve(length: u64) -> io::Result<Self> {
        let arena = Arena::get()?;
        let place = arena.take(length);
        let file = &arena.files[arena.turn.fetch_add(1, Ordering::Relaxed) % FILES];
        let starts = place.clone().step_by(usize::try_from(SEGMENT_BYTES).unwrap_or(usize::MAX));
        let segments = starts.map(|start| {
            let place = start..(start + SEGMENT_BYTES).min(place.end);
            Arc::new(Segment { file: Arc::clone(file), place })
        });
        Ok(Self { segments: segments.collect(), place })
    }

    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.place.end - self.place.start
    }

    /// Whether there is room for nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts `bytes` at `offset`. Bytes that others read already are not to be written again.
    ///
    /// # Errors
    /// If there is no memory.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        assert!(offset + bytes.len() as u64 <= self.len(), "a block takes no more than its length");
        let Some(segment) = self.segments.first() else { return Ok(()) };
        segment.file.write_all_at(bytes, self.place.start + offset)
    }

    /// The bytes of `part`, to be sent.
    ///
    /// # Panics
    /// If the block has no such part, or it is empty.
    #[must_use]
    pub fn piece(&self, part: Range<u64>) -> FilePiece {
        assert!(part.start < part.end && part.end <= self.len(), "a part of the block is expected");
        let index = |offset: u64| usize::try_from(offset / SEGMENT_BYTES).unwrap_or(usize::MAX);
        let kept = self.segments[index(part.start)..=index(part.end - 1)].to_vec();
        let place = self.place.start + part.start..self.place.start + part.end;
        FilePiece::new(Arc::clone(&kept[0].file), place).keeping(kept)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // One call for all of them, unless some are being sent.
        let mut segments = self.segments.iter_mut();
        if segments.all(|segment| Arc::get_mut(segment).is_some())
            && let Some(first) = self.segments.first()
        {
            give_back(&first.file, &self.place);
            for segment in self.segments.iter_mut().filter_map(Arc::get_mut) {
                segment.place.end = segment.place.start;
            }
        }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if !self.place.is_empty() {
            give_back(&self.file, &self.place);
        }
    }
}

fn give_back(file: &File, place: &Range<u64>) {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let length = (place.end - place.start).next_multiple_of(SEGMENT_BYTES);
    if let Err(error) = fallocate(file, flags, place.start, length) {
        tracing::error!(%error, "memory of a chunk could not be given back");
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("place", &self.place).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much memory the place of a block takes.
    fn resident(file: &File, place: &Range<u64>) -> u64 {
        let mut found = 0;
        let mut at = place.start;
        while let Ok(start) = rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
            if start >= place.end {
                break;
            }
            let end = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(start)).unwrap();
            found += end.min(place.end) - start;
            at = end;
        }
        found
    }

    fn filled(length: u64) -> Block {
        let block = Block::reserve(length).unwrap();
        let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        for (number, bytes) in bytes.chunks(50_000).enumerate() {
            block.write(number as u64 * 50_000, bytes).unwrap();
        }
        block
    }

    #[test]
    fn what_was_written_is_read() {
        let block = filled(300_000);
        let mut piece = block.piece(65_000..200_000);
        assert_eq!(piece.len(), 135_000);
        let mut bytes = vec![0; 135_000];
        piece.read(&mut bytes).unwrap();
        assert!(bytes.iter().zip(65_000_u64..).all(|(byte, at)| *byte == (at % 251) as u8));
        assert!(piece.is_empty());
    }

    #[test]
    fn a_dropped_block_gives_its_memory_back_but_for_what_is_being_sent() {
        let block = filled(1 << 20);
        let (file, place) = (Arc::clone(&block.segments[0].file), block.place.clone());
        assert_eq!(resident(&file, &place), 1 << 20);
        let mut piece = block.piece(70_000..70_001);
        drop(block);
        assert_eq!(resident(&file, &place), SEGMENT_BYTES);
        let mut byte = [0];
        piece.read(&mut byte).unwrap();
        assert_eq!(byte[0], (70_000 % 251) as u8);
        drop(piece);
        assert_eq!(resident(&file, &place), 0);
        let block = filled(1 << 20);
        let place = block.place.clone();
        drop(block);
        assert_eq!(resident(&file, &place), 0);
    }

    #[test]
    fn no_place_is_used_twice() {
        let first = Block::reserve(1000).unwrap();
        let place = first.place.clone();
        drop(first);
        assert!(Block::reserve(1000).unwrap().place.start >= place.end);
    }
}
