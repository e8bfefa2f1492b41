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

use super::Error;
use crate::{
    oci::{Digest, RepositoryName},
    runtime::{NextFlight, Tasks},
    storage::{self, Key, ReadCost, SharedStorage, Storage, layout},
};

/// Links remembered at once. An entry is about 300 bytes.
const KNOWN_LINKS: u64 = 100_000;

/// Longest link: a digest, and whatever white space an editor left behind it.
const LINK_MAX_BYTES: u64 = 256;

/// How long readers of a link wait for those who asked before them. A bucket answers within a fraction of that; if one
/// request is stuck, not everybody shall be.
const READING_PATIENCE: Duration = Duration::from_secs(1);

/// What a link makes part of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum LinkKind {
    /// A blob.
    Layer,
    /// A manifest.
    Revision,
}

impl LinkKind {
    fn key(self, name: &RepositoryName, digest: &Digest) -> Key {
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
    known: Cache<Entry, Digest>,
    /// Counts removals: what was learnt or written while one was under way may be gone.
    removals: AtomicU64,
    /// Where each reading is a request, those who want the same link at the same time share one.
    readings: Option<Readings>,
}

/// What is linked, where, and by which digest.
type Entry = (LinkKind, RepositoryName, Digest);

/// Links that are being read, each after the last one of its readers came: so that none of them is told what was
/// true only before.
type Readings = NextFlight<Key, Result<Option<Digest>, Arc<Error>>>;

impl Links {
    pub(super) fn new(storage: SharedStorage, known_for: Duration, tasks: &Tasks) -> Self {
        let known = Cache::builder().max_capacity(KNOWN_LINKS).time_to_live(known_for).build();
        let readings = match storage.read_cost() {
            ReadCost::Calls => None,
            ReadCost::Request => {
                Some(NextFlight::new("read a link", tasks.clone(), READING_PATIENCE))
            }
        };
        Self { storage, known, removals: AtomicU64::new(0), readings }
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
        if let Some(stored) = self.known.get(&entry) {
            return Ok(Some(stored));
        }
        // In a box of its own: every request for something that is known would need as much memory.
        Box::pin(self.learn(entry)).await
    }

    /// Reads a link, and believes it from now on if it is there.
    async fn learn(&self, entry: Entry) -> Result<Option<Digest>, Error> {
        let (kind, name, digest) = &entry;
        let removals = self.removals();
        let stored = self.read(&kind.key(name, digest)).await?;
        if let Some(stored) = stored {
            self.believe(entry, stored, removals);
        }
        Ok(stored)
    }

    /// Believes a link that was there after so many removals.
    fn believe(&self, entry: Entry, stored: Digest, removals: u64) {
        self.known.insert(entry.clone(), stored);
        if self.removals() != removals {
            // It may be this one that was removed, and forgotten before it was known.
            self.known.invalidate(&entry);
        }
    }

    fn removals(&self) -> u64 {
        self.removals.load(Ordering::SeqCst)
    }

    /// What the link at `key` points to. A broken one points nowhere, as if it were missing: pushing again
    /// mends it.
    pub(super) async fn read(&self, key: &Key) -> Result<Option<Digest>, Error> {
        match &self.readings {
            None => read(&*self.storage, key).await,
            Some(readings) => Box::pin(self.read_shared(readings, key)).await,
        }
    }

    async fn read_shared(&self, readings: &Readings, key: &Key) -> Result<Option<Digest>, Error> {
        let (storage, wanted) = (Arc::clone(&self.storage), key.clone());
        let reading = async move { read(&*storage, &wanted).await.map_err(Arc::new) };
        readings.run(key.clone(), reading).await?.map_err(Error::Shared)
    }

    /// As [`Links::read`], with the time at which the link was written.
    pub(super) async fn read_dated(
        &self,
        key: &Key,
    ) -> Result<Option<(Digest, SystemTime)>, Error> {
        let Some(digest) = self.read(key).await? else { return Ok(None) };
        match self.storage.head(key).await {
            Ok(meta) => Ok(Some((digest, meta.modified))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes content part of a repository.
    pub(super) async fn add(
        &self,
        kind: LinkKind,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<(), Error> {
        let removals = self.removals();
        self.write(&kind.key(name, digest), digest).await?;
        self.believe((kind, name.clone(), *digest), *digest, removals);
        Ok(())
    }

    /// Writes a link at any key.
    pub(super) async fn write(&self, key: &Key, digest: &Digest) -> Result<(), Error> {
        Ok(self.storage.put(key, Bytes::from(digest.to_string())).await?)
    }

    /// Believes a link no more, nor what is being learnt of it.
    fn forget(&self, entry: &Entry) {
        self.removals.fetch_add(1, Ordering::SeqCst);
        self.known.invalidate(entry);
    }

    /// Takes content out of a repository; says whether it was in it.
    pub(super) async fn remove(
        &self,
        kind: LinkKind,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, Error> {
        let key = kind.key(name, digest);
        let existed = self.read(&key).await?.is_some();
        self.storage.delete(std::slice::from_ref(&key)).await?;
        self.forget(&(kind, name.clone(), *digest));
        Ok(existed)
    }
}

async fn read(storage: &dyn Storage, key: &Key) -> Result<Option<Digest>, Error> {
    let bytes = match storage::read(storage, key, LINK_MAX_BYTES).await {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let digest = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok());
    if digest.is_none() {
        tracing::warn!(%key, "this link does not hold a digest and is treated as missing");
    }
    Ok(digest)
}
