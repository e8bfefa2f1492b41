//! Listing folders in the order that S3 lists keys.

use std::{fs, io, path::Path};

use super::super::{Depth, Entry, Key, ListQuery, Listing};
use super::object_meta;

pub(super) fn list(folder: &Path, query: &ListQuery) -> io::Result<Listing> {
    let after = query.after.as_deref().unwrap_or_default();
    let mut walk = Walk { after, wanted: query.limit.saturating_add(1), found: Vec::new() };
    match query.depth {
        Depth::Children => walk.children(folder)?,
        Depth::All => walk.all(folder, "")?,
    }
    let mut entries = walk.found;
    let more = entries.len() > query.limit;
    entries.truncate(query.limit);
    Ok(Listing { entries, more })
}

/// A walk that stops one entry beyond the page, to know whether there is more.
struct Walk<'q> {
    after: &'q str,
    wanted: usize,
    found: Vec<Entry>,
}

impl Walk<'_> {
    fn is_full(&self) -> bool {
        self.found.len() >= self.wanted
    }

    fn children(&mut self, folder: &Path) -> io::Result<()> {
        for child in sorted(folder)? {
            if self.is_full() {
                break;
            }
            if child.sort_key.as_str() <= self.after {
                continue;
            }
            match child.sort_key.strip_suffix('/') {
                Some(name) if holds_object(&folder.join(name))? => {
                    self.found.push(Entry::Folder { name: name.to_owned() });
                }
                Some(_empty) => {}
                None => self.push_object(folder, &child.sort_key, &child.sort_key)?,
            }
        }
        Ok(())
    }

    fn all(&mut self, folder: &Path, path: &str) -> io::Result<()> {
        for child in sorted(folder)? {
            if self.is_full() {
                break;
            }
            let full = format!("{path}{}", child.sort_key);
            match child.sort_key.strip_suffix('/') {
                // Everything below sorts between `full` and its prefix's end, so it can be passed over
                // unless the walk goes on within it.
                Some(name) if full.as_str() > self.after || self.after.starts_with(&full) => {
                    self.all(&folder.join(name), &full)?;
                }
                None if full.as_str() > self.after => {
                    self.push_object(folder, &child.sort_key, &full)?
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn push_object(&mut self, folder: &Path, name: &str, full: &str) -> io::Result<()> {
        match fs::metadata(folder.join(name)).and_then(|meta| object_meta(&meta)) {
            Ok(meta) => self.found.push(Entry::Object { name: full.to_owned(), meta }),
            // Deleted between the two looks.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Whether there is a file anywhere below `folder`. Folders are emptied before they are removed, and whoever
/// does it may be killed in between; in S3 such a folder is none.
fn holds_object(folder: &Path) -> io::Result<bool> {
    for child in sorted(folder)? {
        let is_object = match child.sort_key.strip_suffix('/') {
            Some(name) => holds_object(&folder.join(name))?,
            None => true,
        };
        if is_object {
            return Ok(true);
        }
    }
    Ok(false)
}

struct Child {
    /// The name, with `/` behind it if it is a folder.
    sort_key: String,
}

fn sorted(folder: &Path) -> io::Result<Vec<Child>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut children = Vec::new();
    for entry in entries {
        let entry = entry?;
        // What is no key is not ours.
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.parse::<Key>().is_err() {
            continue;
        }
        let kind = entry.file_type()?;
        let is_folder = if kind.is_symlink() { entry.path().is_dir() } else { kind.is_dir() };
        children.push(Child { sort_key: if is_folder { format!("{name}/") } else { name } });
    }
    children.sort_unstable_by(|a, b| a.sort_key.cmp(&b.sort_key));
    Ok(children)
}
