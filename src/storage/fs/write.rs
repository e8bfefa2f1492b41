//! Writing files: under a temporary name first, visible by a rename.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::JoinHandle;

use super::super::{Error, Key, Writer};
use super::{blocking, failed, folder, ignore_not_found};
use crate::runtime::{ByteBudget, Permit, Pieces};

/// Bytes gathered before they are written: fewer hops to the blocking pool, few bytes per client.
const BATCH_BYTES: usize = 512 << 10;

/// Writes a small object whole.
pub(super) fn publish_bytes(temporary: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
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
            [piece] => self.check(fs::metadata(piece)).and_then(|()| folder::publish(piece, path)),
            pieces => finish(
                self.copy(pieces).and_then(|()| folder::publish(&self.temporary, path)),
                &self.temporary,
            ),
        };
        match result {
            // The call is repeated after an answer that got lost: a single piece has moved already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.check(fs::metadata(path)).map_err(|_| error)
            }
            other => other,
        }
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

/// A file that grows under a temporary name.
#[derive(Debug)]
pub(super) struct FileWriter {
    key: Key,
    path: PathBuf,
    temporary: TemporaryFile,
    batch: Pieces,
    /// What the batch costs; there is one while the batch is not empty.
    permit: Option<Permit>,
    writing: Option<JoinHandle<io::Result<()>>>,
    budget: ByteBudget,
}

/// Removes its file when it is dropped, unless that was published.
#[derive(Debug)]
struct TemporaryFile {
    path: PathBuf,
    file: Arc<File>,
    published: bool,
}

impl TemporaryFile {
    fn publish(mut self, path: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        folder::publish(&self.path, path)?;
        self.published = true;
        Ok(())
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.published {
            // One unlink, on whichever thread: short enough, and a purge catches what it misses.
            let _best_effort = fs::remove_file(&self.path);
        }
    }
}

impl FileWriter {
    pub(super) async fn create(
        key: Key,
        (temporary, path): (PathBuf, PathBuf),
        budget: ByteBudget,
    ) -> Result<Self, Error> {
        let created = blocking("write", &key, move || {
            let file = Arc::new(File::create_new(&temporary)?);
            Ok(TemporaryFile { path: temporary, file, published: false })
        });
        let temporary = created.await?;
        Ok(Self {
            key,
            path,
            temporary,
            batch: Pieces::default(),
            permit: None,
            writing: None,
            budget,
        })
    }

    /// Hands the batch to the blocking pool, after the one before it is written.
    async fn flush(&mut self) -> Result<(), Error> {
        self.written().await?;
        if self.batch.is_empty() {
            return Ok(());
        }
        let (batch, permit) = (std::mem::take(&mut self.batch), self.permit.take());
        let file = Arc::clone(&self.temporary.file);
        self.writing = Some(tokio::task::spawn_blocking(move || {
            batch.iter().try_for_each(|piece| (&*file).write_all(piece))?;
            drop(permit);
            Ok(())
        }));
        Ok(())
    }

    /// Waits for the batch that is being written.
    async fn written(&mut self) -> Result<(), Error> {
        let Some(writing) = &mut self.writing else { return Ok(()) };
        let result = writing.await.map_err(io::Error::other).flatten();
        self.writing = None;
        result.map_err(|error| failed("write", &self.key, error))
    }
}

#[async_trait]
impl Writer for FileWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        if self.permit.is_none() {
            self.permit = Some(self.budget.acquire(BATCH_BYTES as u64).await);
        }
        self.batch.push(bytes);
        if self.batch.len() >= BATCH_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn commit(mut self: Box<Self>) -> Result<(), Error> {
        self.flush().await?;
        self.written().await?;
        let Self { key, path, temporary, .. } = *self;
        blocking("commit", &key, move || temporary.publish(&path)).await
    }
}
