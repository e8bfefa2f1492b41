//! Bytes on a disk of this machine, on their way into a storage.

use std::{
    fmt,
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::{Error, Fault, FileBytes, READ_PATIENCE, cached::read_cached, layout, vectored};
use crate::runtime::{BufferPool, Buffers, ByteBudget, Permit, Pieces, WINDOW_PIECES, take_turns};

/// A file that is written piece by piece while others read what it has. [`super::Storage::adopt`] makes it an object; if
/// it is dropped before, nothing is left of it. Cloning shares it.
#[derive(Clone)]
pub struct Spool {
    file: Arc<SpoolFile>,
    budget: ByteBudget,
    buffers: Buffers,
}

impl Spool {
    pub(super) fn new(file: SpoolFile, budget: ByteBudget, buffers: Buffers) -> Self {
        Self { file: Arc::new(file), budget, buffers }
    }

    /// The bytes of `range`, all of which have been written, to be sent without coming into this process.
    #[must_use]
    pub fn bytes(&self, range: Range<u64>) -> FileBytes {
        FileBytes::new(Arc::clone(&self.file.file), range)
    }

    pub(super) fn file(&self) -> Arc<SpoolFile> {
        Arc::clone(&self.file)
    }

    /// Begins to write `pieces` from `offset` on, where nothing has been written; `written` runs when they can
    /// be read.
    ///
    /// # Cancel safety
    /// Dropping what is returned does not stop the writing.
    pub fn write(
        &self,
        offset: u64,
        pieces: Pieces,
        written: impl FnOnce() + Send + 'static,
    ) -> SpoolWrite {
        let file = Arc::clone(&self.file);
        SpoolWrite(tokio::task::spawn_blocking(move || {
            vectored::write_all_at(&file.file, pieces, offset)?;
            written();
            Ok(())
        }))
    }

    /// Memory for `bytes` on their way in.
    pub async fn reserve(&self, bytes: u64) -> Permit {
        self.budget.acquire(bytes).await
    }

    /// Memory for `bytes` on their way in, if it is free.
    #[must_use]
    pub fn try_reserve(&self, bytes: u64) -> Option<Permit> {
        self.budget.try_acquire(bytes)
    }

    /// Memory to read up to `length` bytes through.
    ///
    /// # Errors
    /// [`Fault::Busy`] if there is none for 10 seconds.
    pub async fn window(&self, length: u64) -> Result<SpoolWindow, Error> {
        let buffers = self.buffers.for_stream(&self.budget).clone();
        let bytes = length.min(WINDOW_PIECES * buffers.buffer_bytes() as u64);
        let permit = self.budget.acquire_within(bytes, READ_PATIENCE).await;
        let permit = permit.map_err(|error| failed("read", Fault::Busy, error))?;
        Ok(SpoolWindow { file: Arc::clone(&self.file), buffers, _permit: permit })
    }
}

impl fmt::Debug for Spool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spool").finish_non_exhaustive()
    }
}

/// Bytes that are being written.
#[derive(Debug)]
pub struct SpoolWrite(JoinHandle<io::Result<()>>);

impl SpoolWrite {
    /// Waits until they are written.
    ///
    /// # Errors
    /// [`Fault::Full`] if the disk is, or another fault of it.
    ///
    /// # Cancel safety
    /// May be called again after the future was dropped, until it has returned.
    pub async fn finish(&mut self) -> Result<(), Error> {
        let result = (&mut self.0).await.map_err(io::Error::other).flatten();
        result.map_err(|error| {
            let fault = match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Fault::Full,
                _ => Fault::Other,
            };
            failed("write", fault, error)
        })
    }
}

/// A reader of a spool, with the memory it reads through.
#[derive(Debug)]
pub struct SpoolWindow {
    file: Arc<SpoolFile>,
    buffers: BufferPool,
    _permit: Permit,
}

impl SpoolWindow {
    /// Reads from `start` on, at most `most` bytes, all of which have been written. May return fewer, but at
    /// least one. At most two of the pieces that were returned should be alive.
    ///
    /// # Errors
    /// A fault of the disk.
    pub async fn read(&self, start: u64, most: u64) -> Result<Bytes, Error> {
        let (file, buffers) = (Arc::clone(&self.file), self.buffers.clone());
        let length = usize::try_from(most).unwrap_or(usize::MAX).min(buffers.buffer_bytes());
        take_turns(length as u64).await;
        let cached = |buffer: &mut [u8]| read_cached(&file.file, buffer, start);
        if let Ok(bytes) = buffers.filled(length, cached) {
            return Ok(bytes);
        }
        let read = tokio::task::spawn_blocking(move || {
            buffers.filled(length, |buffer| file.file.read_exact_at(buffer, start))
        });
        let read = read.await.map_err(io::Error::other).flatten();
        read.map_err(|error| failed("read", Fault::Other, error))
    }
}

fn failed(
    operation: &'static str,
    fault: Fault,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    let key = layout::UNFINISHED.parse().expect("the folder of unfinished files is a key");
    Error::failed(operation, &key, fault, error)
}

/// The file itself.
#[derive(Debug)]
pub(super) struct SpoolFile {
    file: Arc<File>,
    /// Its temporary name, as long as it has one.
    name: Mutex<Option<PathBuf>>,
}

impl SpoolFile {
    /// A new file called `path`, which it loses when it is dropped.
    pub(super) fn create(path: PathBuf) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        Ok(Self { file: Arc::new(file), name: Mutex::new(Some(path)) })
    }

    /// A new file in `folder` that has no name: whatever happens to this process, the system removes it.
    pub(super) fn create_nameless(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let spool = Self::create(folder.join(format!("{:032x}", fastrand::u128(..))))?;
        spool.remove_name()?;
        Ok(spool)
    }

    /// Has `rename` give it another name for good.
    pub(super) fn rename_by(
        &self,
        rename: impl FnOnce(&Path, &File) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut name = self.name.lock().unwrap_or_else(PoisonError::into_inner);
        // Repeated after an error of unknown outcome: it has its name.
        let Some(path) = name.as_deref() else { return Ok(()) };
        rename(path, &self.file)?;
        *name = None;
        Ok(())
    }

    /// Bytes in it.
    pub(super) fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn remove_name(&self) -> io::Result<()> {
        match self.name.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(path) => fs::remove_file(path),
            None => Ok(()),
        }
    }
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        // A purge catches what this misses.
        let _best_effort = self.remove_name();
    }
}
