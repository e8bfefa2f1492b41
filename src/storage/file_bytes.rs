//! Bytes of a file on their way to a socket, without coming through this process.

use std::{fmt, fs::File, io, ops::Range, os::unix::fs::FileExt, sync::Arc};

use futures_util::{Stream, stream};
use rustix::fs::Advice;

use super::cached::is_cached;
use crate::runtime::{FilePiece, take_turns};

/// Bytes of one piece.
const PIECE_BYTES: u64 = 1 << 20;

/// Beyond a piece that the disk has to be asked for, so much more is asked for as well.
const AHEAD_BYTES: u64 = 4 << 20;

/// A range of a file that does not change while it is open.
#[derive(Clone)]
pub struct FileBytes {
    file: Arc<File>,
    range: Range<u64>,
}

impl FileBytes {
    pub(super) const fn new(file: Arc<File>, range: Range<u64>) -> Self {
        Self { file, range }
    }

    pub(super) fn into_parts(self) -> (Arc<File>, Range<u64>) {
        (self.file, self.range)
    }

    /// The range piece by piece, each when the kernel has it in memory. No buffer of this process is needed for
    /// that, so nothing is taken from a budget.
    ///
    /// # Errors
    /// As reading the file fails.
    pub fn pieces(self) -> impl Stream<Item = io::Result<FilePiece>> + Send {
        stream::try_unfold(self, |mut bytes| async move {
            let piece = bytes.next().await?;
            Ok(piece.map(|piece| (piece, bytes)))
        })
    }

    async fn next(&mut self) -> io::Result<Option<FilePiece>> {
        let Range { start, end } = self.range;
        if start == end {
            return Ok(None);
        }
        let piece = start..end.min(start + PIECE_BYTES);
        take_turns(piece.end - piece.start).await;
        if !is_cached(&self.file, &piece) {
            let (file, piece) = (Arc::clone(&self.file), piece.clone());
            let read = tokio::task::spawn_blocking(move || load(&file, &piece));
            read.await.map_err(io::Error::other).flatten()?;
        }
        self.range.start = piece.end;
        Ok(Some(FilePiece::new(Arc::clone(&self.file), piece)))
    }
}

impl fmt::Debug for FileBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileBytes").field("range", &self.range).finish_non_exhaustive()
    }
}

/// Has the kernel bring `piece` into its memory, and begin to bring what follows.
fn load(file: &File, piece: &Range<u64>) -> io::Result<()> {
    let length = std::num::NonZero::new(piece.end - piece.start + AHEAD_BYTES);
    // Not every file system takes advice; reading brings the bytes in all the same.
    let _advice = rustix::fs::fadvise(file, piece.start, length, Advice::WillNeed);
    let mut byte = [0];
    for at in [piece.start, piece.end - 1] {
        file.read_exact_at(&mut byte, at)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
    };

    use futures_util::TryStreamExt;

    use super::*;

    #[tokio::test]
    async fn pieces_are_the_range_in_order() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..3 * PIECE_BYTES).map(|at| (at % 251) as u8).collect();
        file.write_all(&bytes).unwrap();
        let range = 7..2 * PIECE_BYTES + 9;
        let pieces = FileBytes::new(Arc::new(file), range.clone()).pieces();
        let pieces: Vec<FilePiece> = pieces.try_collect().await.unwrap();
        let (mut near, far) = UnixStream::pair().unwrap();
        let sending = std::thread::spawn(move || {
            for mut piece in pieces {
                while !piece.is_empty() {
                    piece.send(&far).unwrap();
                }
            }
        });
        let mut received = Vec::new();
        near.read_to_end(&mut received).unwrap();
        sending.join().unwrap();
        assert!(received == bytes[range.start as usize..range.end as usize]);
    }
}
