//! Folders: made when a file needs them, removed when the last file is gone, both durably.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::ignore_not_found;

/// How often publishing a file is tried while other calls keep removing its emptied folder.
const PUBLISH_ATTEMPTS: usize = 16;

/// Makes `folder` and the folders above it, durably.
pub(super) fn ensure(folder: &Path) -> io::Result<()> {
    let mut changed = Vec::new();
    make(folder, &mut changed)?;
    sync_all(&changed)
}

/// Makes `folder` and the folders above it, and adds each one that gained an entry to `changed`.
fn make(folder: &Path, changed: &mut Vec<PathBuf>) -> io::Result<()> {
    let parent = parent_of(folder);
    let mut created = fs::create_dir(folder);
    let is_orphan = matches!(&created, Err(error) if error.kind() == io::ErrorKind::NotFound);
    if is_orphan && parent != folder {
        make(&parent, changed)?;
        created = fs::create_dir(folder);
    }
    match created {
        Ok(()) => changed.push(parent),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Renames the synced file `from` to `to` and makes that durable. The folder of `to` is made if need be.
///
/// All folders are synced at the end, together: a file system with a journal then writes it once and not
/// once for each folder.
pub(super) fn publish(from: &Path, to: &Path) -> io::Result<()> {
    sync_all(&rename(from, to)?)
}

/// The same for a file that need not outlive a power cut.
pub(super) fn publish_without_sync(from: &Path, to: &Path) -> io::Result<()> {
    rename(from, to).map(drop)
}

/// Returns the folders whose entries changed.
fn rename(from: &Path, to: &Path) -> io::Result<Vec<PathBuf>> {
    let parent = parent_of(to);
    let mut changed = Vec::new();
    for _ in 0..PUBLISH_ATTEMPTS {
        match fs::rename(from, to) {
            Ok(()) => {
                changed.push(parent);
                return Ok(changed);
            }
            // Either the folder does not exist yet, or a delete has just removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound && from.exists() => {
                ignore_not_found(make(&parent, &mut changed))?;
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "the folder is removed as often as it is made"))
}

/// Removes files, those that are there, and the folders above them that this leaves empty, up to `root`.
/// All files go before anything is waited for: whoever is killed in between leaves few of them.
pub(super) fn remove_files(paths: &[PathBuf], root: &Path) -> io::Result<()> {
    for path in paths {
        match fs::remove_file(path) {
            // Its folder may still be there, left empty by a rename or by a process that was killed.
            Err(error) if is_missing(&error) => {}
            other => other?,
        }
    }
    let survivors: BTreeSet<&Path> = paths.iter().map(|path| prune(path, root)).collect();
    survivors.into_iter().try_for_each(sync)
}

/// Removes the empty folders above `path`, and returns the first one that is not empty.
fn prune<'p>(path: &'p Path, root: &'p Path) -> &'p Path {
    let mut folders = path.ancestors().skip(1).take_while(|folder| *folder != root);
    folders
        .find(|folder| fs::remove_dir(folder).is_err_and(|error| !is_missing(&error)))
        .unwrap_or(root)
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn sync_all(folders: &[PathBuf]) -> io::Result<()> {
    folders.iter().try_for_each(|folder| sync(folder))
}

/// Makes the entries of `folder` durable. If a delete has removed it meanwhile, that synced the one above.
fn sync(folder: &Path) -> io::Result<()> {
    ignore_not_found(File::open(folder).and_then(|folder| folder.sync_all()))
}

/// The folder above; of a bare name, the current one. The root is its own parent, and exists.
fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) => PathBuf::from("."),
        None => path.to_owned(),
    }
}
