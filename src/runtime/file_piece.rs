//! A piece of a file on its way to a socket.

use std::{fmt, fs::File, io, ops::Range, os::fd::AsFd, os::unix::fs::FileExt, sync::Arc};

/// Bytes of a file that the kernel most likely has in memory.
pub struct FilePiece {
    file: Arc<File>,
    range: Range<u64>,
    /// Dropped when the bytes are needed no more.
    _kept: Option<Box<dyn Send + Sync>>,
}

impl FilePiece {
    /// The bytes of `file` at `range`.
    #[must_use]
    pub const fn new(file: Arc<File>, range: Range<u64>) -> Self {
        Self { file, range, _kept: None }
    }

    /// The same, with what has to live as long for the bytes to stay where they are.
    #[must_use]
    pub fn keeping(self, kept: impl Send + Sync + 'static) -> Self {
        Self { _kept: Some(Box::new(kept)), ..self }
    }

    /// Bytes that have not been sent.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Whether all bytes have been sent.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sends as many bytes as `socket` takes without waiting, and says how many those were.
    ///
    /// # Errors
    /// As sending fails; `WouldBlock` if the socket takes none now; `UnexpectedEof` if the file has become shorter.
    pub fn send(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let mut offset = self.range.start;
        let length = usize::try_from(self.len()).unwrap_or(usize::MAX);
        let sent = rustix::fs::sendfile(socket, &self.file, Some(&mut offset), length)?;
        if sent == 0 && length > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.range.start = offset;
        Ok(sent)
    }

    /// Copies the first bytes into all of `buffer`, and leaves the rest.
    ///
    /// # Errors
    /// As reading fails.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, self.range.start)?;
        self.range.start += buffer.len() as u64;
        Ok(())
    }
}

impl fmt::Debug for FilePiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilePiece").field("range", &self.range).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_file_that_became_shorter_is_an_error_and_no_end() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10).unwrap();
        let mut piece = FilePiece::new(Arc::new(file), 5..20);
        let (_near, far) = UnixStream::pair().unwrap();
        assert_eq!(piece.send(&far).unwrap(), 5);
        let error = piece.send(&far).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
