//! Whole files that appear at once.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::{folder, ignore_not_found};

/// Writes a small object.
pub(super) fn bytes(temporary: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let written = File::create_new(temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    finish(written.and_then(|()| folder::publish(temporary, path)), temporary)
}

/// Removes the temporary file if publishing it failed.
fn finish(result: io::Result<()>, temporary: &Path) -> io::Result<()> {
    result.inspect_err(|_| {
        let _best_effort = ignore_not_found(fs::remove_file(temporary));
    })
}

/// Files to be joined into one.
pub(super) struct Join {
    pub(super) pieces: Vec<PathBuf>,
    /// Length of all pieces together.
    pub(super) size_bytes: u64,
    pub(super) temporary: PathBuf,
}

impl Join {
    pub(super) fn publish(&self, path: &Path) -> io::Result<()> {
        let result = match self.pieces.as_slice() {
            [piece] => self.sync(piece).and_then(|()| folder::publish(piece, path)),
            pieces => {
                let copied = self.copy(pieces);
                finish(
                    copied.and_then(|()| folder::publish(&self.temporary, path)),
                    &self.temporary,
                )
            }
        };
        match result {
            // The call is repeated after an answer that got lost: a single piece has moved already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.check(fs::metadata(path)).map_err(|_| error)
            }
            other => other,
        }
    }

    /// A piece may have been written without being made durable.
    fn sync(&self, piece: &Path) -> io::Result<()> {
        let file = File::open(piece)?;
        file.sync_all()?;
        self.check(file.metadata())
    }

    fn copy(&self, pieces: &[PathBuf]) -> io::Result<()> {
        let mut joined = File::create_new(&self.temporary)?;
        for piece in pieces {
            // Within one file system this is `copy_file_range`: the bytes stay in the kernel.
            io::copy(&mut File::open(piece)?, &mut joined)?;
        }
        joined.sync_all()?;
        self.check(joined.metadata())
    }

    fn check(&self, meta: io::Result<fs::Metadata>) -> io::Result<()> {
        if meta?.len() == self.size_bytes {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}
