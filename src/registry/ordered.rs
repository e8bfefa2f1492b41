//! Names of folders in the byte order of the names themselves.
//!
//! Storage lists in the order of full keys, where a folder's key ends in `/`. The two orders differ: `a`
//! comes before `a-b`, but `a/` comes after `a-b/`, because `-` and `.` sort below `/`. Paging by name over
//! a listing by key loses or repeats entries unless this is accounted for
//! (distribution/distribution#4891, #4903).
//!
//! What makes it cheap: when a listing has reached some key, the only names not yet listed that sort
//! *before* a listed one are prefixes of the last listed name that end before a `-` or a `.`. There are
//! few of them, and each can be asked for.

use std::collections::BTreeSet;

use super::Error;
use crate::storage::{Entry, Key, ListQuery, Listing, Storage};

/// Entries of one listing, the most that S3 gives.
const PAGE_ENTRIES: usize = 1000;

/// All folders in `folder`, in order.
pub(super) async fn all_names(storage: &dyn Storage, folder: &Key) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    let mut query = ListQuery::children(PAGE_ENTRIES);
    loop {
        let page = storage.list(folder, query.clone()).await?;
        names.extend(folder_names(&page));
        match page.entries.last() {
            Some(last) if page.more => query = query.after(last.sort_key()),
            _ => break,
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn folder_names(page: &Listing) -> impl Iterator<Item = String> {
    page.entries.iter().filter_map(|entry| match entry {
        Entry::Folder { name } => Some(name.clone()),
        Entry::Object { .. } => None,
    })
}

/// The folders in a folder from some name on, in order, read as far as they are asked for.
pub(super) struct FolderNames<'s> {
    storage: &'s dyn Storage,
    folder: Key,
    query: ListQuery,
    /// Listed and not yet handed out. All of them come before whatever is not listed yet.
    pending: BTreeSet<String>,
    /// The last name handed out: the listing comes to prefixes of earlier names again.
    handed_out: Option<String>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    Listing,
    Complete,
}

impl<'s> FolderNames<'s> {
    /// Folders from `start` on: every name that sorts after it, and besides those the name itself and
    /// the prefixes of it that a caller may have to look into. About `wanted` of them will be asked for.
    pub(super) fn after(storage: &'s dyn Storage, folder: Key, start: &str, wanted: usize) -> Self {
        let mut query = ListQuery::children(wanted.clamp(1, PAGE_ENTRIES));
        // Nothing that is stored has such characters, and some servers choke on them: begin a little earlier.
        let start =
            start.split(|character: char| !character.is_ascii_graphic()).next().unwrap_or_default();
        if !start.is_empty() {
            query = query.after(start);
        }
        let pending = BTreeSet::new();
        Self { storage, folder, query, pending, handed_out: None, state: State::Start }
    }

    /// Folders of a listing that was made from the beginning.
    pub(super) fn resume(storage: &'s dyn Storage, folder: Key, first: &Listing) -> Self {
        let mut names = Self::after(storage, folder, "", PAGE_ENTRIES);
        names.pending.extend(folder_names(first));
        names.state = if first.more { State::Listing } else { State::Complete };
        if let Some(last) = first.entries.last() {
            names.query = names.query.after(last.sort_key());
        }
        names
    }

    /// The next name.
    pub(super) async fn next(&mut self) -> Result<Option<String>, Error> {
        loop {
            if let Some(name) = self.pending.pop_first() {
                self.handed_out = Some(name.clone());
                return Ok(Some(name));
            }
            match self.state {
                State::Complete => return Ok(None),
                State::Start => {
                    let start = self.query.after.clone().unwrap_or_default();
                    self.probe_prefixes(&start).await?;
                    self.load().await?;
                }
                State::Listing => self.load().await?,
            }
        }
    }

    async fn load(&mut self) -> Result<(), Error> {
        let page = self.storage.list(&self.folder, self.query.clone()).await?;
        for name in folder_names(&page) {
            self.add(name);
        }
        match page.entries.last() {
            Some(last) if page.more => {
                self.state = State::Listing;
                self.query = self.query.clone().after(last.sort_key());
                let last = last.name().to_owned();
                self.probe_prefixes(&last).await
            }
            _ => {
                self.state = State::Complete;
                Ok(())
            }
        }
    }

    /// Adds the folders whose names are prefixes of `name` and whose keys sort after its own.
    async fn probe_prefixes(&mut self, name: &str) -> Result<(), Error> {
        for (end, _) in name.match_indices(['-', '.']) {
            let prefix = &name[..end];
            if prefix.is_empty() || self.pending.contains(prefix) || !self.is_ahead(prefix) {
                continue;
            }
            // A name that is no key component cannot be a folder.
            let Ok(folder) = format!("{}/{prefix}", self.folder).parse::<Key>() else { continue };
            if !self.storage.list(&folder, ListQuery::children(1)).await?.entries.is_empty() {
                self.add(prefix.to_owned());
            }
        }
        Ok(())
    }

    fn add(&mut self, name: String) {
        if self.is_ahead(&name) {
            self.pending.insert(name);
        }
    }

    fn is_ahead(&self, name: &str) -> bool {
        self.handed_out.as_deref().is_none_or(|handed_out| name > handed_out)
    }
}
