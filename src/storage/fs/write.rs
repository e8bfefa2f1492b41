//! Writing files that grow: under a temporary name first, visible by a rename.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
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

/// After so many bytes the disk begins to be given what was written, so that little is left to wait for at
/// the end.
const SYNC_BYTES: u64 = 32 << 20;

/// So many long files may have the disk take bytes early; if more grow at once, none does. Measured with 32
/// writers of 1 GiB: all at once cost a third of the throughput. What one at a time costs them is lost in the noise.
const EARLY_FILES: usize = 4;

/// How many files have grown long.
#[derive(Clone, Debug, Default)]
pub(super) struct LongFiles(Arc<AtomicUsize>);

impl LongFiles {
    fn are_few(&self) -> bool {
        self.0.load(Ordering::Relaxed) <= EARLY_FILES
    }

    fn count_one_more(&self) -> LongFile {
        self.0.fetch_add(1, Ordering::Relaxed);
        LongFile(self.clone())
    }
}

/// One of them, until it is dropped.
#[derive(Debug)]
struct LongFile(LongFiles);

impl Drop for LongFile {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

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
    /// Bytes that were written since the disk was last asked to take them.
    unsynced_bytes: u64,
    syncing: Option<JoinHandle<()>>,
    long_files: LongFiles,
    /// This one among them, from when on it is.
    long: Option<LongFile>,
    budget: ByteBudget,
}

impl FileWriter {
    pub(super) fn new(target: Target, budget: ByteBudget, long_files: LongFiles) -> Self {
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
            unsynced_bytes: 0,
            syncing: None,
            long_files,
            long: None,
            budget,
        }
    }

    /// Hands the batch to the blocking pool, after the one before it is written.
    async fn flush(&mut self) -> Result<(), Error> {
        self.written().await?;
        self.sync_behind();
        let (batch, permit) = (std::mem::take(&mut self.batch), self.permit.take());
        self.unsynced_bytes += batch.len() as u64;
        let temporary = Arc::clone(&self.temporary);
        self.writing = Some(tokio::task::spawn_blocking(move || {
            temporary.append(batch)?;
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

    /// Has the disk take what was written, while more of it comes.
    fn sync_behind(&mut self) {
        let is_syncing = self.syncing.as_ref().is_some_and(|syncing| !syncing.is_finished());
        if self.unsynced_bytes < SYNC_BYTES || is_syncing {
            return;
        }
        self.long.get_or_insert_with(|| self.long_files.count_one_more());
        if !self.long_files.are_few() {
            return;
        }
        self.unsynced_bytes = 0;
        let temporary = Arc::clone(&self.temporary);
        self.syncing = Some(tokio::task::spawn_blocking(move || temporary.sync_behind()));
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

    fn sync_behind(&self) {
        if let Some(file) = self.file.get() {
            // What fails here fails again, and is reported, when the file is published.
            let _reported_later = file.sync_data();
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
