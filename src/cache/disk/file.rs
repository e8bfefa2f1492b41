//! The file of one chunk: its bytes, then what they are checked by.
//!
//! ```text
//! bytes of the chunk | CRC-32C of each 64 KiB of them | CRC-32C of the file's name, length and those
//! ```
//!
//! Numbers are 32 bits, the least significant byte first. A file is written under another name, and never again
//! under its own; so what is being sent from it stays what it is. Nothing waits for the disk: what a power failure
//! leaves torn is found when it is read.

use std::{
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
};

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};

use super::{super::arena::Block, name::ChunkName};
use crate::cache::arena::SEGMENT_BYTES;

/// Bytes that are read or written at once: whole segments.
pub(super) const PIECE_BYTES: u64 = 4 * SEGMENT_BYTES;

const SUM_BYTES: usize = 4;

/// What makes the sums of this format differ from those of any other.
const FORMAT: &[u8] = b"millpond chunk 1";

/// Why a chunk cannot be had from its file.
#[derive(Debug, thiserror::Error)]
pub(super) enum Damage {
    #[error("there is no such file")]
    Missing,
    #[error("the file is not what was written: {0}")]
    Rotten(&'static str),
    #[error(transparent)]
    Failed(io::Error),
}

impl Damage {
    /// Whether the file may be as it should be, and only the system has no room for another one that is open.
    pub(super) fn is_of_the_moment(&self) -> bool {
        let Self::Failed(error) = self else { return false };
        let errno = Errno::from_io_error(error);
        errno.is_some_and(|errno| matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM))
    }
}

impl From<io::Error> for Damage {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::UnexpectedEof => Self::Rotten("it is too short"),
            _ => Self::Failed(error),
        }
    }
}

/// Length of the file of a chunk of so many bytes.
pub(super) const fn file_bytes(chunk_bytes: u64) -> u64 {
    chunk_bytes + trailer_bytes(chunk_bytes)
}

const fn trailer_bytes(chunk_bytes: u64) -> u64 {
    (chunk_bytes.div_ceil(SEGMENT_BYTES) + 1) * SUM_BYTES as u64
}

/// Writes `block` to `aside` and then gives the file its own name.
///
/// # Errors
/// As the disk fails; then nothing has the name.
pub(super) fn write(aside: &Path, path: &Path, name: &ChunkName, block: &Block) -> io::Result<()> {
    let written = write_aside(aside, name, block).and_then(|()| fs::rename(aside, path));
    if written.is_err() {
        // What is left is written over by the next chunk.
        let _none_there = fs::remove_file(aside);
    }
    written
}

fn write_aside(aside: &Path, name: &ChunkName, block: &Block) -> io::Result<()> {
    let file = File::create(aside)?;
    match fallocate(&file, FallocateFlags::empty(), 0, file_bytes(block.len())) {
        // Not every file system can be asked for room beforehand.
        Ok(()) | Err(Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    let mut sums = Vec::new();
    let mut buffer = vec![0; usize::try_from(PIECE_BYTES.min(block.len())).unwrap_or(usize::MAX)];
    let mut offset = 0;
    while offset < block.len() {
        let end = (offset + PIECE_BYTES).min(block.len());
        let bytes = &mut buffer[..usize::try_from(end - offset).unwrap_or(usize::MAX)];
        block.piece(offset..end).read(bytes)?;
        sums.extend(sums_of(bytes));
        file.write_all_at(bytes, offset)?;
        offset = end;
    }
    file.write_all_at(&trailer(name, &sums), offset)
}

/// A file whose bytes are checked as they are read.
pub(super) struct ChunkFile {
    file: File,
    chunk_bytes: u64,
    sums: Vec<u32>,
}

impl ChunkFile {
    /// # Errors
    /// [`Damage`].
    pub(super) fn open(path: &Path, name: &ChunkName) -> Result<Self, Damage> {
        let file = File::open(path)?;
        let chunk_bytes = name.chunk_bytes();
        if file.metadata()?.len() != file_bytes(chunk_bytes) {
            return Err(Damage::Rotten("its length is another"));
        }
        let mut end = vec![0; usize::try_from(trailer_bytes(chunk_bytes)).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut end, chunk_bytes)?;
        let (numbers, _rest) = end.as_chunks::<SUM_BYTES>();
        let sums: Vec<u32> = numbers.iter().map(|number| u32::from_le_bytes(*number)).collect();
        let sums = sums[..sums.len() - 1].to_vec();
        if trailer(name, &sums) != end {
            return Err(Damage::Rotten("its sums are damaged"));
        }
        Ok(Self { file, chunk_bytes, sums })
    }

    pub(super) const fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// Room for the longest piece.
    pub(super) fn buffer(&self) -> Vec<u8> {
        vec![0; usize::try_from(PIECE_BYTES.min(self.chunk_bytes)).unwrap_or(usize::MAX)]
    }

    /// Room for all of `part` and what has to be read with it to check it; and where that begins.
    pub(super) fn buffer_for(&self, part: &Range<u64>) -> (u64, Vec<u8>) {
        let start = part.start - part.start % SEGMENT_BYTES;
        let end = part.end.next_multiple_of(SEGMENT_BYTES).min(self.chunk_bytes);
        (start, vec![0; usize::try_from(end - start).unwrap_or(usize::MAX)])
    }

    /// Reads whole segments from `offset` on, where one begins: as many as `buffer` has room for. Returns their bytes.
    ///
    /// # Errors
    /// [`Damage`].
    pub(super) fn read<'a>(
        &self,
        offset: u64,
        buffer: &'a mut [u8],
    ) -> Result<&'a mut [u8], Damage> {
        let length = (buffer.len() as u64).min(self.chunk_bytes - offset);
        let bytes = &mut buffer[..usize::try_from(length).unwrap_or(usize::MAX)];
        self.file.read_exact_at(bytes, offset)?;
        let segment = |offset: u64| usize::try_from(offset / SEGMENT_BYTES).unwrap_or(usize::MAX);
        let (first, count) = (segment(offset), segment(length.next_multiple_of(SEGMENT_BYTES)));
        if sums_of(bytes).eq(self.sums.iter().skip(first).take(count).copied()) {
            Ok(bytes)
        } else {
            Err(Damage::Rotten("its bytes do not match their sums"))
        }
    }
}

fn sums_of(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks(usize::try_from(SEGMENT_BYTES).unwrap_or(usize::MAX)).map(crc32c::crc32c)
}

fn trailer(name: &ChunkName, sums: &[u32]) -> Vec<u8> {
    let mut trailer: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
    let own = crc32c::crc32c_append(crc32c::crc32c(FORMAT), name.to_string().as_bytes());
    let own = crc32c::crc32c_append(own, &name.chunk_bytes().to_le_bytes());
    trailer.extend(crc32c::crc32c_append(own, &trailer).to_le_bytes());
    trailer
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;
    use crate::{
        cache::{ChunkKey, ChunkLayout},
        oci::{Algorithm, Digest},
    };

    /// The one chunk of a blob of so many bytes.
    fn name(blob_bytes: u64) -> ChunkName {
        let digest = Digest::of(Algorithm::Sha256, &blob_bytes.to_le_bytes());
        let index = ChunkLayout::of(blob_bytes).index_at(0);
        ChunkName { key: ChunkKey { digest, index }, blob_bytes }
    }

    fn pattern(length: u64) -> Vec<u8> {
        (0..length).map(|at| (at % 251) as u8).collect()
    }

    fn written(folder: &TempDir, name: &ChunkName) -> PathBuf {
        let block = Block::reserve(name.chunk_bytes()).unwrap();
        block.write(0, &pattern(name.chunk_bytes())).unwrap();
        let path = folder.path().join("chunk");
        write(&folder.path().join("aside"), &path, name, &block).unwrap();
        assert!(!folder.path().join("aside").exists());
        path
    }

    fn read_all(path: &Path, name: &ChunkName) -> Result<Vec<u8>, Damage> {
        let file = ChunkFile::open(path, name)?;
        let mut buffer = vec![0; PIECE_BYTES as usize];
        let mut all = Vec::new();
        while (all.len() as u64) < name.chunk_bytes() {
            all.extend_from_slice(file.read(all.len() as u64, &mut buffer)?);
        }
        Ok(all)
    }

    #[test]
    fn what_was_written_is_read() {
        let folder = TempDir::new().unwrap();
        for length in [1, 65_535, 65_536, 65_537, 300_000, 1 << 20] {
            let path = written(&folder, &name(length));
            assert_eq!(fs::metadata(&path).unwrap().len(), file_bytes(length));
            assert!(read_all(&path, &name(length)).unwrap() == pattern(length), "{length}");
        }
    }

    #[test]
    fn a_part_is_read_with_what_it_takes_to_check_it() {
        let (folder, name) = (TempDir::new().unwrap(), name(300_000));
        let file = ChunkFile::open(&written(&folder, &name), &name).unwrap();
        for (part, expected) in [
            (0..1, 0..65_536),
            (65_535..65_537, 0..131_072),
            (131_072..196_608, 131_072..196_608),
            (299_999..300_000, 262_144..300_000),
        ] {
            let (start, mut buffer) = file.buffer_for(&part);
            let bytes = file.read(start, &mut buffer).unwrap();
            assert_eq!(start..start + bytes.len() as u64, expected, "{part:?}");
            assert!(*bytes == pattern(300_000)[expected.start as usize..expected.end as usize]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_changed_byte_is_read(at in 0_u64..300_024, flipped in 1_u8..=255) {
            let (folder, name) = (TempDir::new().unwrap(), name(300_000));
            let path = written(&folder, &name);
            let mut bytes = fs::read(&path).unwrap();
            prop_assert_eq!(bytes.len(), 300_024);
            bytes[at as usize] ^= flipped;
            fs::write(&path, bytes).unwrap();
            prop_assert!(matches!(read_all(&path, &name), Err(Damage::Rotten(_))));
        }
    }

    #[test]
    fn a_file_of_another_chunk_or_length_is_not_read() {
        let folder = TempDir::new().unwrap();
        let path = written(&folder, &name(300_000));
        let other = ChunkName { key: name(1).key, blob_bytes: 300_000 };
        assert!(matches!(read_all(&path, &other), Err(Damage::Rotten(_))));
        let file = File::options().write(true).open(&path).unwrap();
        for length in [300_025, 300_023, 65_536, 0] {
            file.set_len(length).unwrap();
            let read = read_all(&path, &name(300_000));
            assert!(matches!(read, Err(Damage::Rotten(_))), "{length}");
        }
        fs::remove_file(&path).unwrap();
        assert!(matches!(read_all(&path, &name(300_000)), Err(Damage::Missing)));
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing() {
        let (folder, name) = (TempDir::new().unwrap(), name(1000));
        let block = Block::reserve(1000).unwrap();
        block.write(0, &pattern(1000)).unwrap();
        let (aside, path) = (folder.path().join("aside"), folder.path().join("gone/chunk"));
        let error = write(&aside, &path, &name, &block).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(!aside.exists());
    }
}
