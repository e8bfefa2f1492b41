//! Storage in a directory, which several processes may share (a local disk, NFS, an HDFS mount).
//!
//! Every object is a file. It is written under a temporary name, synced, renamed into place, and the
//! folder is synced; so it appears whole or not at all, also after a power cut.

mod folder;
mod list;
mod publish;
mod read;
mod small_file;
mod write;

pub use read::OpenFile;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Error, Fault, Key, ListQuery, Listing, ObjectMeta, Opened, Piece, Purge, ReadCost, Spool,
    Storage, WriteOptions, Writer, cached::open_cached, layout, spool::SpoolFile,
};
use crate::{
    oci::ByteRange,
    runtime::{Buffers, ByteBudget},
};

/// A directory that holds all objects.
#[derive(Clone, Debug)]
pub struct Directory {
    root: PathBuf,
    budget: ByteBudget,
    buffers: Buffers,
    readers: read::Readers,
    small_files: small_file::SmallFiles,
}

impl Directory {
    /// Uses the directory `root`, and creates it if it is not there. Buffers of transfers are paid for
    /// from `budget`.
    ///
    /// # Errors
    /// [`Error::Failed`] if the directory cannot be made.
    pub fn open(root: PathBuf, budget: ByteBudget) -> Result<Self, Error> {
        let directory = Self {
            root,
            budget,
            buffers: Buffers::new(),
            readers: read::Readers::new(),
            small_files: small_file::SmallFiles::new(),
        };
        let temporary = directory.temporary_folder();
        folder::ensure(&temporary).map_err(|error| {
            let named = io::Error::new(error.kind(), format!("{}: {error}", temporary.display()));
            Error::failed("open", &unfinished_key(), Fault::Other, named)
        })?;
        Ok(directory)
    }

    fn path(&self, key: &Key) -> PathBuf {
        // `join` makes room for the root alone, and has to move it when the key comes.
        let mut path = PathBuf::with_capacity(self.root.as_os_str().len() + 1 + key.as_str().len());
        path.push(&self.root);
        path.push(key.as_str());
        path
    }

    /// Temporary files lie below the root, because a rename cannot cross file systems.
    fn temporary_folder(&self) -> PathBuf {
        self.root.join(layout::UNFINISHED)
    }

    fn temporary_path(&self) -> PathBuf {
        self.temporary_folder().join(format!("{:032x}", fastrand::u128(..)))
    }
}

fn unfinished_key() -> Key {
    layout::UNFINISHED.parse().expect("the folder of unfinished files is a key")
}

#[async_trait]
impl Storage for Directory {
    fn read_cost(&self) -> ReadCost {
        ReadCost::Calls
    }

    fn get(&self, key: &Key) -> Option<Result<Bytes, Error>> {
        let got = self.small_files.get(key, &self.path(key))?;
        Some(got.map_err(|error| failed("get", key, error)))
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta, Error> {
        let path = self.path(key);
        // An open file tells as much, and takes no other thread if the kernel knows where it lies.
        let known = open_cached(&path).map(|file| object_meta(&file?.metadata()?));
        match known {
            Some(meta) => meta.map_err(|error| failed("head", key, error)),
            None => blocking("head", key, move || object_meta(&fs::metadata(path)?)).await,
        }
    }

    async fn open(&self, key: &Key, range: Option<ByteRange>) -> Result<Opened, Error> {
        let source = read::Source {
            path: self.path(key),
            key: key.clone(),
            buffers: self.buffers.clone(),
            readers: self.readers.clone(),
            small_files: self.small_files.clone(),
        };
        read::open(source, range, &self.budget).await
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), Error> {
        let (temporary, path) = (self.temporary_path(), self.path(key));
        blocking("put", key, move || publish::bytes(&temporary, &path, &bytes)).await
    }

    async fn write(&self, key: &Key, options: WriteOptions) -> Result<Box<dyn Writer>, Error> {
        let target = write::Target {
            key: key.clone(),
            temporary: self.temporary_path(),
            path: self.path(key),
            durability: options.durability,
        };
        Ok(Box::new(write::FileWriter::new(target, self.budget.clone())))
    }

    async fn compose(&self, pieces: &[Piece], to: &Key) -> Result<(), Error> {
        let size_bytes = pieces.iter().map(|piece| piece.size_bytes).sum();
        let paths = pieces.iter().map(|piece| self.path(&piece.key)).collect();
        let (temporary, path) = (self.temporary_path(), self.path(to));
        let join = publish::Join { pieces: paths, size_bytes, temporary };
        blocking("compose", to, move || join.publish(&path)).await
    }

    async fn spool(&self) -> Result<Spool, Error> {
        let path = self.temporary_path();
        let make = move || SpoolFile::create(path);
        let file = blocking("spool", &unfinished_key(), make).await?;
        Ok(Spool::new(file, self.budget.clone(), self.buffers.clone()))
    }

    async fn adopt(&self, spool: &Spool, to: &Key) -> Result<(), Error> {
        let (file, path) = (spool.file(), self.path(to));
        blocking("adopt", to, move || {
            file.rename_by(|from, file| {
                file.sync_all()?;
                folder::publish(from, &path)
            })
        })
        .await
    }

    async fn list(&self, prefix: &Key, query: ListQuery) -> Result<Listing, Error> {
        let path = self.path(prefix);
        blocking("list", prefix, move || list::list(&path, &query)).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), Error> {
        let Some(first) = keys.first() else { return Ok(()) };
        let paths: Vec<PathBuf> = keys.iter().map(|key| self.path(key)).collect();
        let root = self.root.clone();
        blocking("delete", first, move || folder::remove_files(&paths, &root)).await
    }

    async fn purge_unfinished(&self, before: SystemTime, purge: Purge) -> Result<u64, Error> {
        let temporary = self.temporary_folder();
        let work = move || purge_files(&temporary, before, purge);
        blocking("purge_unfinished", &unfinished_key(), work).await
    }
}

fn purge_files(folder: &Path, before: SystemTime, purge: Purge) -> io::Result<u64> {
    let mut found = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // A file that vanishes meanwhile was finished, or purged by another process.
        let Ok(meta) = entry.metadata() else { continue };
        if !meta.is_file() || meta.modified()? >= before {
            continue;
        }
        found += 1;
        if purge == Purge::Remove {
            ignore_not_found(fs::remove_file(entry.path()))?;
        }
    }
    Ok(found)
}

fn object_meta(meta: &fs::Metadata) -> io::Result<ObjectMeta> {
    if !meta.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(ObjectMeta { size_bytes: meta.len(), modified: meta.modified()? })
}

fn ignore_not_found(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Runs `work`, which touches files, on the blocking pool.
async fn blocking<T: Send + 'static>(
    operation: &'static str,
    key: &Key,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let result = tokio::task::spawn_blocking(work).await;
    result.map_err(io::Error::other).flatten().map_err(|error| failed(operation, key, error))
}

fn failed(operation: &'static str, key: &Key, error: io::Error) -> Error {
    use io::ErrorKind as Kind;
    let fault = match error.kind() {
        // A file where a folder should be: no object can lie below it.
        Kind::NotFound | Kind::NotADirectory => return Error::NotFound { key: key.clone() },
        Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => Fault::Full,
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem => Fault::Denied,
        Kind::TimedOut | Kind::StaleNetworkFileHandle | Kind::ResourceBusy => Fault::Unavailable,
        Kind::UnexpectedEof => Fault::Corrupt,
        _ => Fault::Other,
    };
    Error::failed(operation, key, fault, error)
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "directory {}", self.root.display())
    }
}
