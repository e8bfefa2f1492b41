//! The one task that changes what is on the disk.

use std::{
    fmt, fs, io,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use super::{ChunkName, Disk, DiskFault, Folder, Index, Job, Open, file};
use crate::runtime::{ByteSize, Shutdown};

/// How long a disk that failed is left alone.
const REST: Duration = Duration::from_secs(10);

/// How often it is tried to open a folder that another process uses, or that cannot be used.
const RETRY: Duration = Duration::from_secs(1);

/// The share of the disk that is taken where nothing is said: one in so many of its bytes.
const SHARE_OF_DISK: u64 = 4;

/// The share of the disk that is left free for others, whatever is said: one in so many of its bytes.
const FREE_SHARE: u64 = 20;

/// The task that opens the folder of the chunks, and writes and deletes them.
pub struct DiskKeeper {
    disk: Disk,
    size: Option<ByteSize>,
    jobs: mpsc::Receiver<Job>,
    /// Nothing is written until then.
    rests_until: Option<Instant>,
}

impl DiskKeeper {
    pub(super) const fn new(disk: Disk, size: Option<ByteSize>, jobs: mpsc::Receiver<Job>) -> Self {
        Self { disk, size, jobs, rests_until: None }
    }

    /// Opens the folder, as soon as no other process uses it, and then keeps chunks until `shutdown`.
    ///
    /// # Cancel safety
    /// Dropping the future leaves no chunk that is not whole.
    pub async fn run(mut self, shutdown: Shutdown) {
        while !self.open().await {
            tokio::select! {
                () = shutdown.begun() => return,
                () = sleep(RETRY) => {}
            }
        }
        while let Some(job) = self.next(&shutdown).await {
            self.keep(job).await;
        }
        self.disk.release();
    }

    async fn next(&mut self, shutdown: &Shutdown) -> Option<Job> {
        tokio::select! {
            biased;
            () = shutdown.begun() => None,
            job = self.jobs.recv() => job,
        }
    }

    /// Takes the folder and looks at what is there; says whether it could.
    async fn open(&self) -> bool {
        let (disk, size) = (self.disk.clone(), self.size);
        let opened = tokio::task::spawn_blocking(move || disk.open_now(size));
        opened.await.unwrap_or(false)
    }

    async fn keep(&mut self, job: Job) {
        let (disk, mark) = (self.disk.clone(), job.mark.clone());
        let shared = &self.disk.0;
        if self.rests_until.is_some_and(|until| Instant::now() < until) {
            return shared.leave_out(&mark);
        }
        let kept = tokio::task::spawn_blocking(move || disk.keep_now(&job)).await;
        match kept.unwrap_or_else(|panicked| Err(io::Error::other(panicked))) {
            Ok(Kept::OnDisk) => {}
            Ok(Kept::Gone) => shared.leave_out(&mark),
            Err(error) => {
                shared.metrics.failed(DiskFault::of_writing(&error), &error);
                shared.leave_out(&mark);
                self.rests_until = Some(Instant::now() + REST);
            }
        }
    }
}

/// What became of a chunk that was to be written.
enum Kept {
    OnDisk,
    /// It is not in memory any more.
    Gone,
}

impl Disk {
    fn open_now(&self, size: Option<ByteSize>) -> bool {
        let unusable = |error: &dyn fmt::Display| {
            self.0.metrics.failed(DiskFault::Unusable, error);
            false
        };
        let folder = match Folder::open(&self.0.root) {
            Ok(folder) => folder,
            Err(error) => return unusable(&error),
        };
        let capacity_bytes = match (size, folder.room()) {
            (Some(size), _) => size.0,
            (None, Ok(room)) => room.total_bytes / SHARE_OF_DISK,
            (None, Err(error)) => return unusable(&error),
        };
        self.0.metrics.opened(folder.node_id(), capacity_bytes);
        let root = self.0.root.display();
        tracing::info!(folder = %root, node = folder.node_id(), size_bytes = capacity_bytes, "the cache on the disk is open");
        let index = Index::new(capacity_bytes);
        let open = Open { folder, index, is_complete: AtomicBool::new(false) };
        let open = self.0.open.get_or_init(|| open);
        self.recover(open);
        open.is_complete.store(true, Ordering::Release);
        true
    }

    /// Finds what an earlier process has left.
    fn recover(&self, open: &Open) {
        let chunks = open.folder.chunks().unwrap_or_else(|error| {
            self.0.metrics.failed(DiskFault::Unreadable, &error);
            Vec::new()
        });
        let found = chunks.len();
        let dropped: usize = chunks.into_iter().map(|name| self.add(open, name)).sum();
        tracing::info!(chunks = found - dropped, "the cache on the disk has been looked through");
        if dropped > 0 {
            tracing::info!(
                chunks = dropped,
                "the cache on the disk was larger: what is too much is dropped"
            );
        }
    }

    /// Adds a chunk whose file is there; returns how many had to go.
    fn add(&self, open: &Open, name: ChunkName) -> usize {
        let gone = open.index.insert(name);
        for gone in &gone {
            delete(&open.folder.path(gone));
        }
        self.0.metrics.uses(open.index.used_bytes());
        gone.len()
    }

    fn keep_now(&self, job: &Job) -> io::Result<Kept> {
        let Some(open) = self.0.open.get() else { return Ok(Kept::Gone) };
        if open.index.contains(&job.name.key) {
            return Ok(Kept::OnDisk);
        }
        let Some(block) = job.block.upgrade() else { return Ok(Kept::Gone) };
        let (aside, path) = (open.folder.aside(), open.folder.path(&job.name));
        let write = || {
            let room = open.folder.room()?;
            if room.free_bytes < room.total_bytes / FREE_SHARE + block.len() {
                return Err(io::Error::new(io::ErrorKind::StorageFull, "less than 5 % are free"));
            }
            file::write(&aside, &path, &job.name, &block)
        };
        write().or_else(|error| {
            // The folders may have been deleted, or it is the first chunk in its own.
            let folder = path.parent().filter(|_| error.kind() == io::ErrorKind::NotFound);
            fs::create_dir_all(folder.ok_or(error)?)?;
            write()
        })?;
        self.0.metrics.written(block.len());
        self.0.metrics.evicted(self.add(open, job.name));
        Ok(Kept::OnDisk)
    }

    /// Leaves the folder to another process.
    fn release(&self) {
        if let Some(open) = self.0.open.get()
            && let Err(error) = open.folder.release()
        {
            tracing::warn!(%error, "the cache on the disk could not be left to others");
        }
    }
}

fn delete(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, file = %path.display(), "a chunk could not be deleted from the cache");
    }
}

impl fmt::Debug for DiskKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskKeeper").field("folder", &self.disk.0.root).finish_non_exhaustive()
    }
}
