//! Chunks on a disk of this machine, which outlive the process.
//!
//! The disk is never waited for by who can have the bytes elsewhere, and never believed: what is read is checked
//! against sums that were written with it, and what is not as it was written, or cannot be read or written at all, is
//! a miss. Each chunk is a file, because a file that is deleted stays what it was for those who still send it.
//!
//! foyer has a disk engine of its own. It is not used, because it reads a whole chunk onto the heap before its first
//! byte is seen, and because a full disk ends it and one wrong byte in a header the process. What it decides, which
//! chunks go, is used for the files here.

mod file;
mod folder;
mod index;
mod keeper;
mod metrics;
mod name;

use std::{
    io,
    ops::Range,
    path::PathBuf,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{Semaphore, mpsc};

use file::{ChunkFile, Damage};
use folder::Folder;
use index::Index;
pub use keeper::DiskKeeper;
use metrics::{DiskFault, DiskMetrics};
use name::ChunkName;

use super::{Block, ChunkKey, DiskConfig};
use crate::oci::Digest;

/// Chunks that wait to be written. They stay in memory no longer because of that: what has gone by then is left out.
const QUEUE: usize = 1024;

/// Files that are read at once, each by a thread.
const READS_MOST: usize = 16;

/// Chunks on a disk. Cloning shares them.
#[derive(Clone)]
pub(super) struct Disk(Arc<Shared>);

struct Shared {
    root: PathBuf,
    /// Set once the folder is this process's own.
    open: OnceLock<Open>,
    queue: mpsc::Sender<Job>,
    reads: Semaphore,
    metrics: DiskMetrics,
}

struct Open {
    folder: Folder,
    index: Index,
    /// Whether what was there before is in the index.
    is_complete: AtomicBool,
}

/// A chunk to be written.
struct Job {
    name: ChunkName,
    block: Weak<Block>,
    mark: DiskMark,
}

/// Says of a chunk in memory whether it is on the disk, or waits to be written there. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub(super) struct DiskMark(Arc<AtomicBool>);

impl DiskMark {
    /// Marks the chunk; says whether it was not.
    pub(super) fn set(&self) -> bool {
        !self.0.swap(true, Ordering::Relaxed)
    }

    fn unset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Disk {
    /// A disk that has nothing until `DiskKeeper::run` has opened it.
    pub(super) fn new(
        config: &DiskConfig,
        metrics: &prometheus::Registry,
    ) -> Option<(Self, DiskKeeper)> {
        if config.is_off() {
            return None;
        }
        let (queue, jobs) = mpsc::channel(QUEUE);
        let disk = Self(Arc::new(Shared {
            root: config.path.clone(),
            open: OnceLock::new(),
            queue,
            reads: Semaphore::new(READS_MOST),
            metrics: DiskMetrics::register(metrics),
        }));
        let keeper = DiskKeeper::new(disk.clone(), config.size, jobs);
        Some((disk, keeper))
    }

    /// Whether a chunk may be there, as far as is known without asking the disk.
    pub(super) fn may_have(&self, key: &ChunkKey) -> bool {
        let open = self.0.open.get();
        open.is_some_and(|open| {
            !open.is_complete.load(Ordering::Acquire) || open.index.contains(key)
        })
    }

    /// The length of a blob of which a chunk is there.
    pub(super) fn blob_bytes(&self, digest: &Digest) -> Option<u64> {
        self.0.open.get()?.index.blob_bytes(digest)
    }

    /// Reads a chunk from its beginning on, as far as it is there and right; `take` is given its bytes, piece by piece,
    /// and `taker`, which comes back. Runs to its end whether or not the caller stays.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        name: (ChunkKey, u64),
        mut taker: T,
        take: impl Fn(&mut T, &[u8]) -> io::Result<()> + Send + 'static,
    ) -> Option<T> {
        let (key, blob_bytes) = name;
        let name = ChunkName { key, blob_bytes };
        let disk = self.clone();
        let _turn = self.0.reads.acquire().await;
        let read = tokio::task::spawn_blocking(move || {
            disk.read_now(&name, |bytes| take(&mut taker, bytes));
            taker
        });
        read.await.ok()
    }

    /// Reads some bytes of a chunk into memory of their own.
    pub(super) async fn read_part(&self, name: (ChunkKey, u64), part: Range<u64>) -> Option<Block> {
        let (key, blob_bytes) = name;
        let name = ChunkName { key, blob_bytes };
        let disk = self.clone();
        let _turn = self.0.reads.acquire().await;
        let read = tokio::task::spawn_blocking(move || {
            disk.with_file(&name, |file| copy_part(file, &part))?
        });
        read.await.ok().flatten()
    }

    fn read_now(&self, name: &ChunkName, take: impl FnMut(&[u8]) -> io::Result<()>) {
        let _as_far_as_it_was_right = self.with_file(name, |file| copy(file, take));
    }

    /// What `read` makes of the file of a chunk; a file that is not as it should be is deleted.
    fn with_file<T>(
        &self,
        name: &ChunkName,
        read: impl FnOnce(&ChunkFile) -> Result<T, Damage>,
    ) -> Option<T> {
        let open = self.0.open.get()?;
        // While the folder is still looked through, any chunk may be there.
        let is_searched = !open.is_complete.load(Ordering::Acquire);
        if open.index.get(&name.key) != Some(*name) && !is_searched {
            return None;
        }
        let path = open.folder.path(name);
        match ChunkFile::open(&path, name).and_then(|file| read(&file)) {
            Ok(made) => return Some(made),
            Err(Damage::Missing) if is_searched => {}
            Err(damage) => {
                self.0.metrics.failed(DiskFault::of(&damage), &damage);
                if !damage.is_of_the_moment() {
                    open.index.remove(&name.key);
                    let _gone_already = std::fs::remove_file(path);
                }
            }
        }
        None
    }

    /// Deletes a chunk that has turned out to be wrong.
    pub(super) fn forget(&self, key: &ChunkKey) {
        let Some(open) = self.0.open.get() else { return };
        if let Some(name) = open.index.get(key) {
            open.index.remove(key);
            let _gone_already = std::fs::remove_file(open.folder.path(&name));
        }
    }

    /// Has a chunk written soon, if it is still in memory then, and is not marked. The mark goes if nothing comes of
    /// it, so that it can be tried again.
    pub(super) fn keep(&self, name: (ChunkKey, u64), block: &Arc<Block>, mark: &DiskMark) {
        if !mark.set() {
            return;
        }
        let (key, blob_bytes) = name;
        let name = ChunkName { key, blob_bytes };
        let job = Job { name, block: Arc::downgrade(block), mark: mark.clone() };
        if let Err(error) = self.0.queue.try_send(job) {
            self.0.leave_out(&error.into_inner().mark);
        }
    }
}

/// Who this node is, as kept with its disk; `None` if there is no disk, or it cannot be used.
#[must_use]
pub fn node_id(config: &DiskConfig) -> Option<String> {
    if config.is_off() {
        return None;
    }
    let identity = folder::identity(&config.path);
    identity.inspect_err(|error| tracing::warn!(%error, "the node id cannot be kept")).ok()
}

impl Shared {
    fn leave_out(&self, mark: &DiskMark) {
        mark.unset();
        self.metrics.left_out();
    }
}

/// Gives `take` the bytes of a chunk, each piece after it was found right.
fn copy(file: &ChunkFile, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), Damage> {
    let mut buffer = file.buffer();
    let mut offset = 0;
    while offset < file.chunk_bytes() {
        let bytes = file.read(offset, &mut buffer)?;
        // Memory that the system does not give is no fault of the file; the rest comes from elsewhere.
        if take(bytes).is_err() {
            return Ok(());
        }
        offset += bytes.len() as u64;
    }
    Ok(())
}

/// The bytes of `part`; `None` if the system has no memory.
fn copy_part(file: &ChunkFile, part: &Range<u64>) -> Result<Option<Block>, Damage> {
    let (start, mut buffer) = file.buffer_for(part);
    let bytes = file.read(start, &mut buffer)?;
    let index = |offset: u64| usize::try_from(offset - start).unwrap_or(usize::MAX);
    let bytes = &bytes[index(part.start)..index(part.end)];
    let block = Block::reserve(bytes.len() as u64);
    Ok(block.and_then(|block| block.write(0, bytes).map(|()| block)).ok())
}
