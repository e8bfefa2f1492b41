//! Reading what the kernel has in memory, at once and without another thread.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    ops::Range,
    path::Path,
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags},
    io::{Errno, ReadWriteFlags},
};

/// Opens a file for reading if the kernel knows where it lies, or that it does not exist. `None` if it has to
/// look that up.
///
/// # Errors
/// `NotFound`.
pub(super) fn open_cached(path: &Path) -> Option<io::Result<File>> {
    let (flags, mode) = (OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    match rustix::fs::openat2(CWD, path, flags, mode, ResolveFlags::CACHED) {
        Ok(file) => Some(Ok(file.into())),
        Err(Errno::NOENT) => Some(Err(io::ErrorKind::NotFound.into())),
        // It has to look, or does not know the question.
        Err(_) => None,
    }
}

/// Fills `buffer` from `offset` on if the kernel can do that without waiting for a disk: then no other thread
/// is needed for it.
///
/// # Errors
/// [`NotCached`] if it cannot; what is in the buffer then means nothing.
pub(super) fn read_cached(file: &File, buffer: &mut [u8], offset: u64) -> Result<(), NotCached> {
    let length = buffer.len();
    let mut slices = [IoSliceMut::new(buffer)];
    loop {
        match rustix::io::preadv2(file, &mut slices, offset, ReadWriteFlags::NOWAIT) {
            Ok(read) if read == length => return Ok(()),
            Err(Errno::INTR) => {}
            // It would have to wait, or this file system does not know the question.
            Ok(_) | Err(_) => return Err(NotCached),
        }
    }
}

/// Whether the first and the last byte of `range`, which is not empty, can be had without waiting for a disk; those
/// between them came with the last one, most likely.
pub(super) fn is_cached(file: &File, range: &Range<u64>) -> bool {
    let mut byte = [0];
    [range.start, range.end - 1].into_iter().all(|at| read_cached(file, &mut byte, at).is_ok())
}

/// The kernel would have to wait for a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotCached;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_that_was_just_made_is_opened_at_once_and_a_missing_one_never() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert!(!matches!(open_cached(&path), Some(Ok(_))));
        std::fs::write(&path, "content").unwrap();
        // A kernel that knows no such question looks it up.
        let opened = open_cached(&path).unwrap_or_else(|| File::open(&path));
        assert_eq!(io::read_to_string(opened.unwrap()).unwrap(), "content");
        std::fs::remove_file(&path).unwrap();
        assert!(!matches!(open_cached(&path), Some(Ok(_))));
    }

    #[test]
    fn what_was_just_written_is_read_at_once_and_what_is_not_there_never() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let mut buffer = [0; 4];
        assert_eq!(read_cached(&file, &mut buffer, 3), Ok(()));
        assert_eq!(&buffer, b"3456");
        assert_eq!(read_cached(&file, &mut buffer, 8), Err(NotCached));
    }
}
