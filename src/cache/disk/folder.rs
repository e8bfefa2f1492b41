//! The folder on a disk of this machine in which chunks are kept.
//!
//! ```text
//! lock                  locked by the process that uses the folder
//! node-id               who this node is, for as long as the folder is there
//! coming                the chunk that is being written
//! chunks-<version>/xx/  the chunks; another version's are dropped
//! ```

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::name::ChunkName;

/// The folder of the chunks, named after what they look like.
const CHUNKS: &str = "chunks-1";

const CHUNKS_OF_ANY_VERSION: &str = "chunks-";

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum FolderError {
    #[error("another process uses {}", .0.display())]
    InUse(PathBuf),
    #[error("{} cannot be used: {source}", .path.display())]
    Unusable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A folder that only this process uses.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    node_id: String,
    /// Locked until it is released, and no longer than the process lives.
    lock: File,
}

/// How large a disk is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) total_bytes: u64,
    /// What this process may still write.
    pub(super) free_bytes: u64,
}

impl Folder {
    /// Makes the folder this process's own. What another version has left in it is deleted.
    ///
    /// # Errors
    /// [`FolderError`].
    pub(super) fn open(root: &Path) -> Result<Self, FolderError> {
        let unusable = |source| FolderError::Unusable { path: root.to_owned(), source };
        fs::create_dir_all(root).map_err(unusable)?;
        let lock = lock_file(&root.join("lock")).map_err(unusable)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => FolderError::InUse(root.to_owned()),
            TryLockError::Error(source) => unusable(source),
        })?;
        let node_id = node_id(root).map_err(unusable)?;
        drop_other_versions(root).map_err(unusable)?;
        fs::create_dir_all(root.join(CHUNKS)).map_err(unusable)?;
        Ok(Self { root: root.to_owned(), node_id, lock })
    }

    pub(super) fn node_id(&self) -> &str {
        &self.node_id
    }

    /// Where the file of a chunk is, if it is there.
    pub(super) fn path(&self, name: &ChunkName) -> PathBuf {
        self.root.join(CHUNKS).join(name.path())
    }

    /// Where the next chunk is written.
    pub(super) fn aside(&self) -> PathBuf {
        self.root.join("coming")
    }

    /// How large the disk is.
    ///
    /// # Errors
    /// As the disk fails.
    pub(super) fn room(&self) -> io::Result<Room> {
        let stat = rustix::fs::statvfs(&self.root)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Room { total_bytes: bytes(stat.f_blocks), free_bytes: bytes(stat.f_bavail) })
    }

    /// Lets another process use the folder.
    ///
    /// # Errors
    /// As the system fails.
    pub(super) fn release(&self) -> io::Result<()> {
        self.lock.unlock()
    }

    /// The chunks that are there, those written first at the beginning. Files with other names are deleted. What cannot
    /// be looked at is left out, so that it does not hide the rest.
    ///
    /// # Errors
    /// As the disk fails.
    pub(super) fn chunks(&self) -> io::Result<Vec<ChunkName>> {
        let mut found: Vec<(SystemTime, ChunkName)> = Vec::new();
        for folder in fs::read_dir(self.root.join(CHUNKS))? {
            let Ok(files) = fs::read_dir(folder?.path()) else { continue };
            for file in files.flatten() {
                let name = file.file_name().to_str().and_then(|text| text.parse().ok());
                let written = file.metadata().and_then(|meta| meta.modified());
                match (name, written) {
                    (Some(name), Ok(written)) => found.push((written, name)),
                    (Some(_), Err(_)) => {}
                    (None, _) => {
                        let _stays_if_it_must = fs::remove_file(file.path());
                    }
                }
            }
        }
        found.sort_by_key(|(written, _)| *written);
        Ok(found.into_iter().map(|(_, name)| name).collect())
    }
}

/// The file that is locked. It is open for reading, so that a disk can be made read-only meanwhile.
fn lock_file(path: &Path) -> io::Result<File> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            File::create(path)?;
            File::open(path)
        }
        opened => opened,
    }
}

/// The identity in the folder, which is made if it is not there; a new one if it has none.
pub(super) fn identity(root: &Path) -> io::Result<String> {
    fs::create_dir_all(root)?;
    node_id(root)
}

/// The identity in the folder; a new one if it has none.
fn node_id(root: &Path) -> io::Result<String> {
    let path = root.join("node-id");
    match fs::read_to_string(&path) {
        Ok(text) if is_node_id(&text) => return Ok(text),
        Ok(text) => tracing::warn!(%text, "the node id cannot be read; there is a new one"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let node_id = format!("{:032x}", fastrand::u128(..));
    let aside = root.join("node-id.new");
    fs::write(&aside, &node_id)?;
    // Nobody is to be somebody else after a power failure.
    File::open(&aside)?.sync_all()?;
    fs::rename(aside, path)?;
    Ok(node_id)
}

fn is_node_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn drop_other_versions(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(CHUNKS_OF_ANY_VERSION) && name != CHUNKS {
            tracing::info!(folder = %entry.path().display(), "a cache of another version is dropped");
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::{
        cache::{ChunkKey, ChunkLayout},
        oci::{Algorithm, Digest},
    };

    #[test]
    fn a_folder_has_one_user_and_one_identity() {
        let root = TempDir::new().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        let node_id = folder.node_id().to_owned();
        assert!(is_node_id(&node_id));
        assert!(matches!(Folder::open(root.path()), Err(FolderError::InUse(_))));
        folder.release().unwrap();
        assert_eq!(Folder::open(root.path()).unwrap().node_id(), node_id);
        assert_ne!(Folder::open(&root.path().join("other")).unwrap().node_id(), node_id);
        fs::write(root.path().join("node-id"), "nonsense").unwrap();
        let after = Folder::open(root.path()).unwrap().node_id().to_owned();
        assert!(is_node_id(&after) && after != node_id);
    }

    #[test]
    fn another_version_is_dropped() {
        let root = TempDir::new().unwrap();
        fs::create_dir_all(root.path().join("chunks-0/ab")).unwrap();
        fs::write(root.path().join("chunks-0/ab/chunk"), "old").unwrap();
        fs::create_dir_all(root.path().join(CHUNKS)).unwrap();
        Folder::open(root.path()).unwrap();
        assert!(!root.path().join("chunks-0").exists());
        assert!(root.path().join(CHUNKS).exists());
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let root = TempDir::new().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Folder::open(&file).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{} cannot be used: ", file.display())), "{error}");
    }

    #[test]
    fn chunks_are_found_and_strangers_deleted() {
        let root = TempDir::new().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        let digest = Digest::of(Algorithm::Sha256, b"blob");
        let layout = ChunkLayout::of(3 << 20);
        let names: Vec<_> = layout
            .indexes(0..3 << 20)
            .map(|index| ChunkName { key: ChunkKey { digest, index }, blob_bytes: 3 << 20 })
            .collect();
        for (age, name) in names.iter().enumerate() {
            let path = folder.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let file = File::create(path).unwrap();
            let written = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(10 - age as u64);
            file.set_modified(written).unwrap();
        }
        let stranger = folder.path(&names[0]).with_file_name("stranger");
        fs::write(&stranger, "").unwrap();
        fs::create_dir(stranger.with_extension("folder")).unwrap();
        fs::write(root.path().join(CHUNKS).join("no folder"), "").unwrap();
        let found = folder.chunks().unwrap();
        assert_eq!(found, names.into_iter().rev().collect::<Vec<_>>());
        assert!(!stranger.exists());
        let room = folder.room().unwrap();
        assert!(room.free_bytes > 0 && room.free_bytes <= room.total_bytes);
    }
}
