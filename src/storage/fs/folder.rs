//! Folders: made when a file needs them, removed when the last file is gone, both durably.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use super::ignore_not_found;

/// How often publishing a file is tried while other calls keep removing its emptied folder.
const PUBLISH_ATTEMPTS: usize = 16;

/// Makes `folder` and the folders above it, and syncs each one that gained an entry.
pub(super) fn ensure(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Ok(()) => sync_parent(folder),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = folder.parent().ok_or(error)?;
            ensure(parent)?;
            match fs::create_dir(folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                Err(error) => Err(error),
                Ok(()) => sync_parent(folder),
            }
        }
        Err(error) => Err(error),
    }
}

/// Renames the synced file `from` to `to` and makes that durable. The folder of `to` is made if need be.
pub(super) fn publish(from: &Path, to: &Path) -> io::Result<()> {
    let parent = to.parent().ok_or(io::ErrorKind::InvalidInput)?;
    for _ in 0..PUBLISH_ATTEMPTS {
        match fs::rename(from, to) {
            Ok(()) => return sync(parent),
            // Either the folder does not exist yet, or a delete has just removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound && from.exists() => {
                ignore_not_found(ensure(parent))?;
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "the folder is removed as often as it is made"))
}

/// Removes a file, if it is there, and the folders above it that this leaves empty, up to `root`.
pub(super) fn remove_file(path: &Path, root: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(()),
        // Its folder may still be there, left empty by a rename or by a process that was killed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut folders = path.ancestors().skip(1).take_while(|folder| *folder != root);
    let survivor = folders.find(|folder| fs::remove_dir(folder).is_err()).unwrap_or(root);
    // Another delete may remove this folder too, and then it syncs the one above.
    ignore_not_found(sync(survivor))
}

/// Makes the entries of `folder` durable.
pub(super) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn sync_parent(folder: &Path) -> io::Result<()> {
    match folder.parent() {
        Some(parent) if parent.as_os_str().is_empty() => sync(Path::new(".")),
        Some(parent) => sync(parent),
        None => Ok(()),
    }
}
