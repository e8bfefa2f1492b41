//! The names of all repositories.

use std::{collections::BTreeMap, sync::Arc};

use super::{Error, Registry, ordered::FolderNames};
use crate::{
    oci::RepositoryName,
    storage::{Entry, Key, ListQuery, Listing, layout},
};

/// Entries looked at to tell whether a folder is a repository and what lies below it.
const FOLDER_ENTRIES: usize = 1000;

/// Some repositories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogPage {
    /// Their names, in byte order.
    pub repositories: Vec<String>,
    /// Whether more may follow.
    pub more: bool,
}

impl Registry {
    /// The repositories after `last`, at most `limit` of them. A folder is a repository if it has
    /// manifests, as docker-registry sees it. Costs about one listing for each repository.
    ///
    /// # Errors
    /// A fault of the storage.
    pub async fn catalog(self: &Arc<Self>, last: &str, limit: usize) -> Result<CatalogPage, Error> {
        let mut walk = Walk { registry: self, last, levels: Vec::new() };
        walk.levels.push(Level::root(self, last));
        let mut repositories = Vec::new();
        while repositories.len() <= limit {
            match walk.next().await? {
                Some(name) => repositories.push(name),
                None => break,
            }
        }
        let more = limit > 0 && repositories.len() > limit;
        repositories.truncate(limit);
        Ok(CatalogPage { repositories, more })
    }
}

/// A walk through the folders below `repositories/`, in the byte order of repository names.
///
/// A repository `a` comes before `a-b`, and what lies below it, `a/…`, after; so each folder is met twice.
struct Walk<'r> {
    registry: &'r Registry,
    last: &'r str,
    /// The folders the walk is in, the innermost last.
    levels: Vec<Level<'r>>,
}

/// One folder of the walk.
struct Level<'r> {
    /// What the names here begin with: nothing, or `a/b/`.
    prefix: String,
    folders: FolderNames<'r>,
    /// The next folder, once it is known.
    next: Option<String>,
    /// What is still to come of the folders that were met: at `a` itself, and at `a/` what lies below.
    /// Ordered by that text, which is the order of repository names.
    events: BTreeMap<String, Event>,
}

enum Event {
    Folder,
    Below(Listing),
}

impl<'r> Level<'r> {
    fn root(registry: &'r Registry, last: &str) -> Self {
        let start = last.split('/').next().unwrap_or_default();
        let folder = layout::repositories();
        let folders = FolderNames::after(&*registry.storage, folder, start, FOLDER_ENTRIES);
        Self { prefix: String::new(), folders, next: None, events: BTreeMap::new() }
    }

    /// The next event. Folders that come no later are met first.
    async fn next(&mut self) -> Result<Option<(String, Event)>, Error> {
        loop {
            if self.next.is_none() {
                self.next = self.folders.next().await?;
            }
            let first_event = self.events.keys().next();
            match (&self.next, first_event) {
                (Some(folder), event) if event.is_none_or(|event| folder <= event) => {
                    self.events.insert(folder.clone(), Event::Folder);
                    self.next = None;
                }
                _ => return Ok(self.events.pop_first()),
            }
        }
    }
}

impl Walk<'_> {
    async fn next(&mut self) -> Result<Option<String>, Error> {
        while let Some(level) = self.levels.last_mut() {
            let Some((text, event)) = level.next().await? else {
                self.levels.pop();
                continue;
            };
            let full = format!("{}{text}", level.prefix);
            match event {
                Event::Folder => {
                    if let Some(name) = self.meet(text, full).await? {
                        return Ok(Some(name));
                    }
                }
                Event::Below(listing) => {
                    let name = full.trim_end_matches('/');
                    let Ok(folder) = folder_of(name) else { continue };
                    let folders = FolderNames::resume(&*self.registry.storage, folder, &listing);
                    let (prefix, events) = (full, BTreeMap::new());
                    self.levels.push(Level { prefix, folders, next: None, events });
                }
            }
        }
        Ok(None)
    }

    /// Looks into a folder: returns its name if it is a repository to be listed, and notes what lies
    /// below it.
    async fn meet(&mut self, text: String, full: String) -> Result<Option<String>, Error> {
        // Not a repository name: `_manifests` and its like, or something foreign.
        let (Ok(name), Ok(folder)) = (full.parse::<RepositoryName>(), folder_of(&full)) else {
            return Ok(None);
        };
        let below = format!("{full}/");
        let wanted = name.as_str() > self.last;
        let wanted_below = below.as_str() > self.last || self.last.starts_with(&below);
        if !wanted && !wanted_below {
            return Ok(None);
        }
        let storage = &self.registry.storage;
        let listing = storage.list(&folder, ListQuery::children(FOLDER_ENTRIES)).await?;
        let is_repository = if listing.more {
            let manifests = folder.join(layout::MANIFESTS_FOLDER);
            !storage.list(&manifests, ListQuery::children(1)).await?.entries.is_empty()
        } else {
            listing.entries.iter().any(|entry| entry.name() == layout::MANIFESTS_FOLDER)
        };
        let nests = |entry: &Entry| !entry.name().starts_with('_');
        if wanted_below && (listing.more || listing.entries.iter().any(nests)) {
            let level = self.levels.last_mut().expect("the folder was met in a level");
            level.events.insert(format!("{text}/"), Event::Below(listing));
        }
        Ok((wanted && is_repository).then_some(full))
    }
}

fn folder_of(name: &str) -> Result<Key, crate::storage::InvalidKey> {
    format!("{}/{name}", layout::repositories()).parse()
}
