//! Writing files that grow: under a temporary name first, visible by a rename.

use std::{
    fs::{self, File},
    io,
    num::NonZero,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::Advice;
use tokio::task::JoinHandle;

use super::super::{Durability, Error, Key, Writer, vectored};
use super::{blocking, failed, folder};
use crate::runtime::{ByteBudget, Permit, Pieces};

/// Bytes gathered before they are written, while few are writing. Every batch is a hop to another thread and
/// back; measured with 32 writers, half as much costs a tenth more processor time.
const LARGE_BATCH_BYTES: usize = 512 << 10;

/// Bytes gathered while many are writing, so that all of them fit into the budget.
const SMALL_BATCH_BYTES: usize = 128 << 10;

/// Batches of one writer in memory: one that is written, one that gathers.
const WINDOW_BATCHES: u64 = 2;

/// After so many bytes the disk begins to be given what was written, so that little is left to wait for at the end.
const BEHIND_BYTES: u64 = 8 << 20;

/// What is to be written, and where.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) key: Key,
    pub(super) temporary: PathBuf,
    pub(super) path: PathBuf,
    pub(super) durability: Durability,
}

/// A file that grows under a temporary name. A small one costs a single visit to the blocking pool.
#[derive(Debug)]
pub(super) struct FileWriter {
    key: Key,
    path: PathBuf,
    durability: Durability,
    temporary: Arc<TemporaryFile>,
    batch: Pieces,
    batch_bytes: usize,
    /// What the batch costs; there is one while the batch is not empty.
    permit: Option<Permit>,
    writing: Option<JoinHandle<io::Result<()>>>,
    /// Bytes that were given to be written.
    written_bytes: u64,
    /// Where those end that the disk was told to take.
    begun_bytes: u64,
    budget: ByteBudget,
}

impl FileWriter {
    pub(super) fn new(target: Target, budget: ByteBudget) -> Self {
        let Target { key, temporary, path, durability } = target;
        Self {
            key,
            path,
            durability,
            temporary: Arc::new(TemporaryFile::new(temporary)),
            batch: Pieces::default(),
            batch_bytes: batch_bytes(&budget),
            permit: None,
            writing: None,
            written_bytes: 0,
            begun_bytes: 0,
            budget,
        }
    }

    /// Hands the batch to the blocking pool, after the one before it is written.
    async fn flush(&mut self) -> Result<(), Error> {
        self.written().await?;
        let (batch, permit) = (std::mem::take(&mut self.batch), self.permit.take());
        self.written_bytes += batch.len() as u64;
        let behind = self.behind();
        let temporary = Arc::clone(&self.temporary);
        self.writing = Some(tokio::task::spawn_blocking(move || {
            temporary.append(batch)?;
            drop(permit);
            behind.into_iter().for_each(|range| temporary.begin_to_store(&range));
            Ok(())
        }));
        Ok(())
    }

    /// What the disk is to be told to take, if it is time.
    fn behind(&mut self) -> Option<Range<u64>> {
        let behind = self.begun_bytes..self.written_bytes;
        (behind.end - behind.start >= BEHIND_BYTES).then(|| {
            self.begun_bytes = behind.end;
            behind
        })
    }

    /// Waits for the batch that is being written.
    async fn written(&mut self) -> Result<(), Error> {
        let Some(writing) = &mut self.writing else { return Ok(()) };
        let result = writing.await.map_err(io::Error::other).flatten();
        self.writing = None;
        result.map_err(|error| failed("write", &self.key, error))
    }
}

/// Large batches while they leave three quarters of the budget free.
fn batch_bytes(budget: &ByteBudget) -> usize {
    let window_bytes = WINDOW_BATCHES * LARGE_BATCH_BYTES as u64;
    let is_roomy = budget.free_bytes() >= budget.total_bytes() / 4 * 3 + window_bytes;
    if is_roomy { LARGE_BATCH_BYTES } else { SMALL_BATCH_BYTES }
}

#[async_trait]
impl Writer for FileWriter {
    fn batch_bytes(&self) -> usize {
        self.batch_bytes
    }

    async fn write(&mut self, mut bytes: Bytes) -> Result<(), Error> {
        while !bytes.is_empty() {
            if self.permit.is_none() {
                self.permit = Some(self.budget.acquire(self.batch_bytes as u64).await);
            }
            let room = self.batch_bytes - self.batch.len();
            self.batch.push(bytes.split_to(room.min(bytes.len())));
            if self.batch.len() == self.batch_bytes {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<(), Error> {
        self.written().await?;
        let Self { key, path, durability, temporary, batch, permit, .. } = *self;
        blocking("commit", &key, move || {
            temporary.append(batch)?;
            drop(permit);
            temporary.publish(&path, durability)
        })
        .await
    }
}

/// A file that is made when the first bytes come, and removed when it is dropped without being published.
#[derive(Debug)]
struct TemporaryFile {
    path: PathBuf,
    file: OnceLock<File>,
    published: AtomicBool,
}

impl TemporaryFile {
    const fn new(path: PathBuf) -> Self {
        Self { path, file: OnceLock::new(), published: AtomicBool::new(false) }
    }

    fn file(&self) -> io::Result<&File> {
        match self.file.get() {
            Some(file) => Ok(file),
            // The writer waits for each job before the next, so nobody else makes it meanwhile.
            None => {
                let file = File::create_new(&self.path)?;
                Ok(self.file.get_or_init(|| file))
            }
        }
    }

    fn append(&self, batch: Pieces) -> io::Result<()> {
        vectored::write_all(self.file()?, batch)
    }

    /// Has the disk begin to take these bytes, without waiting for it.
    fn begin_to_store(&self, range: &Range<u64>) {
        if let Some(file) = self.file.get() {
            let length = NonZero::new(range.end - range.start);
            // Bytes that nobody needs are written at once. They stay in memory nevertheless, because they are being
            // written. What fails here fails again, and is reported, when the file is published.
            let _advice = rustix::fs::fadvise(file, range.start, length, Advice::DontNeed);
        }
    }

    fn publish(&self, path: &Path, durability: Durability) -> io::Result<()> {
        match durability {
            Durability::Visible => {
                self.file()?.sync_all()?;
                folder::publish(&self.path, path)?;
            }
            Durability::Composed => folder::publish_without_sync(&self.path, path)?,
        }
        self.published.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if self.file.get().is_some() && !self.published.load(Ordering::Relaxed) {
            // One unlink, on whichever thread: short enough, and a purge catches what it misses.
            let _best_effort = fs::remove_file(&self.path);
        }
    }
}
