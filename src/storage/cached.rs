//! Reading what the kernel has in memory, at once.

use std::{fs::File, io::IoSliceMut};

use rustix::io::{Errno, ReadWriteFlags};

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

/// The kernel would have to wait for a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotCached;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

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
