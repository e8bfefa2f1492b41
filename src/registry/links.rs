//! Links: the small objects that make content part of a repository.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use moka::sync::Cache;

use super::{
    Error,
    calls::News,
    readings::{Readings, read_link},
    words::{Forget, Link, LinkQuestion},
};
use crate::{
    oci::{Digest, RepositoryName, Tag},
    storage::{Key, SharedStorage, layout},
};

/// Links remembered at once. An entry is about 300 bytes.
const KNOWN_LINKS: u64 = 100_000;

/// What a link makes part of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkKind {
    /// A blob.
    Layer,
    /// A manifest.
    Revision,
}

impl LinkKind {
    pub(super) fn key(self, name: &RepositoryName, digest: &Digest) -> Key {
        match self {
            Self::Layer => layout::layer_link(name, digest),
            Self::Revision => layout::revision_link(name, digest),
        }
    }
}

/// The links of all repositories. One that was seen is believed for a while; a missing one never is.
#[derive(Debug)]
pub(super) struct Links {
    storage: SharedStorage,
    beliefs: Beliefs,
    /// Where each reading is a request, those who want the same link at the same time share one.
    readings: Option<Readings>,
    /// Other nodes believe links, too.
    news: News,
}

/// Links that are believed to be there. Cloning shares them.
#[derive(Clone, Debug)]
pub(super) struct Beliefs {
    known: Cache<Entry, Digest>,
    /// Counts removals: what was learnt or written while one was under way may be gone.
    removals: Arc<AtomicU64>,
}

/// What is linked, where, and by which digest.
pub(super) type Entry = (LinkKind, RepositoryName, Digest);

impl Beliefs {
    pub(super) fn new(known_for: Duration) -> Self {
        let known = Cache::builder().max_capacity(KNOWN_LINKS).time_to_live(known_for).build();
        Self { known, removals: Arc::default() }
    }

    /// The digest under which something is stored that is believed to be linked.
    pub(super) fn get(&self, entry: &Entry) -> Option<Digest> {
        self.known.get(entry)
    }

    /// Believes a link that was there after so many removals.
    pub(super) fn believe(&self, entry: Entry, stored: Digest, removals: u64) {
        self.known.insert(entry.clone(), stored);
        if self.removals() != removals {
            // It may be this one that was removed, and forgotten before it was known.
            self.known.invalidate(&entry);
        }
    }

    /// Believes a link no more, nor what is being learnt of it.
    fn forget(&self, entry: &Entry) {
        self.removals.fetch_add(1, Ordering::SeqCst);
        self.known.invalidate(entry);
    }

    fn removals(&self) -> u64 {
        self.removals.load(Ordering::SeqCst)
    }
}

/// Who is asked for a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// The node that owns it.
    AllNodes,
    /// The storage, by this node.
    ThisNode,
}

impl Links {
    pub(super) fn new(
        storage: SharedStorage,
        beliefs: Beliefs,
        (readings, news): (Option<Readings>, News),
    ) -> Self {
        Self { storage, beliefs, readings, news }
    }

    /// The digest under which the linked content is stored, which may differ from the one it is linked by;
    /// `None` if it is not linked.
    pub(super) async fn resolve(
        &self,
        kind: LinkKind,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Digest>, Error> {
        let entry = (kind, name.clone(), *digest);
        if let Some(stored) = self.beliefs.get(&entry) {
            return Ok(Some(stored));
        }
        // In a box of its own: every request for something that is known would need as much memory.
        Box::pin(self.learn(entry, Reach::AllNodes)).await
    }

    /// Reads a link, and believes it from now on if it is there.
    async fn learn(&self, entry: Entry, reach: Reach) -> Result<Option<Digest>, Error> {
        let (kind, name, digest) = entry.clone();
        let removals = self.beliefs.removals();
        let found = self.read((LinkQuestion::Content(kind, name, digest), removals), reach).await?;
        if let Some(found) = found {
            self.beliefs.believe(entry, found.digest, removals);
        }
        Ok(found.map(|found| found.digest))
    }

    /// Where a tag points.
    pub(super) async fn read_tag(
        &self,
        name: &RepositoryName,
        tag: &Tag,
    ) -> Result<Option<Digest>, Error> {
        let question = LinkQuestion::Tag(name.clone(), tag.clone());
        Ok(self.read((question, 0), Reach::AllNodes).await?.map(|found| found.digest))
    }

    /// As [`Links::read_tag`], with the time at which that was written.
    pub(super) async fn read_tag_dated(
        &self,
        name: &RepositoryName,
        tag: &Tag,
    ) -> Result<Option<(Digest, SystemTime)>, Error> {
        let question = LinkQuestion::DatedTag(name.clone(), tag.clone());
        let found = self.read((question, 0), Reach::AllNodes).await?;
        Ok(found.and_then(|found| Some((found.digest, found.modified?))))
    }

    /// What a link says, after so many removals.
    async fn read(&self, wanted: (LinkQuestion, u64), reach: Reach) -> Result<Option<Link>, Error> {
        let Some(readings) = &self.readings else {
            return read_link(&*self.storage, &wanted.0).await;
        };
        let reading = match reach {
            Reach::AllNodes => Box::pin(readings.read(wanted)).await,
            Reach::ThisNode => Box::pin(readings.read_here(wanted)).await,
        };
        reading.map_err(Error::Shared)
    }

    /// Answers another node, which takes this one for the one that reads a link for all.
    pub(super) async fn answer(&self, question: LinkQuestion) -> Result<Option<Link>, Error> {
        match question {
            LinkQuestion::Content(kind, name, digest) => {
                let entry = (kind, name, digest);
                let stored = match self.beliefs.get(&entry) {
                    Some(stored) => Some(stored),
                    None => self.learn(entry, Reach::ThisNode).await?,
                };
                Ok(stored.map(|digest| Link { digest, modified: None }))
            }
            LinkQuestion::Tag(..) | LinkQuestion::DatedTag(..) => {
                self.read((question, 0), Reach::ThisNode).await
            }
        }
    }

    /// Makes content part of a repository.
    pub(super) async fn add(
        &self,
        kind: LinkKind,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<(), Error> {
        let removals = self.beliefs.removals();
        self.write(&kind.key(name, digest), digest).await?;
        self.beliefs.believe((kind, name.clone(), *digest), *digest, removals);
        Ok(())
    }

    /// Writes a link at any key.
    pub(super) async fn write(&self, key: &Key, digest: &Digest) -> Result<(), Error> {
        Ok(self.storage.put(key, Bytes::from(digest.to_string())).await?)
    }

    /// Believes a link no more, nor what is being learnt of it.
    pub(super) fn forget(&self, entry: &Entry) {
        self.beliefs.forget(entry);
    }

    /// Takes content out of a repository; says whether it was in it. When this returns, no other node believes that it
    /// is, unless it cannot be reached.
    pub(super) async fn remove(
        &self,
        kind: LinkKind,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, Error> {
        let question = LinkQuestion::Content(kind, name.clone(), *digest);
        let key = question.key();
        // Not what was true a moment ago: it may have been removed since.
        let existed = read_link(&*self.storage, &question).await?.is_some();
        self.storage.delete(std::slice::from_ref(&key)).await?;
        self.forget(&(kind, name.clone(), *digest));
        let repository = name.clone();
        self.news.tell(&Forget::Link { kind, repository, digest: *digest }).await;
        Ok(existed)
    }
}
