//! Referrers: the manifests whose subject is a given manifest.
//!
//! The truth is in the manifests themselves, so nothing has to be kept in step: a query lists the
//! repository's manifests (one request for a thousand) and looks into those it does not know yet. What
//! was learnt is kept in memory and in an object that may be lost or out of date without harm. So
//! referrers are found that another registry wrote, and deleted ones are gone at once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use moka::future::Cache;
use serde::{Deserialize, Serialize};

use super::{Error, Repository, StoredManifest};
use crate::{
    oci::{Descriptor, Digest, RepositoryName},
    storage::{self, layout},
};

/// Repositories whose subjects are kept in memory.
const REPOSITORIES_IN_MEMORY: u64 = 1_000;

/// Manifests looked into at once.
const EXAMINED_AT_ONCE: usize = 16;

/// Longest stored index that is read back; about half a million manifests. A longer one is rebuilt.
const INDEX_MAX_BYTES: u64 = 64 << 20;

/// Some referrers of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferrersPage {
    /// Their descriptors, ordered by digest.
    pub descriptors: Vec<Descriptor>,
    /// Whether more follow.
    pub more: bool,
}

/// What is known of the subjects of manifests, by repository.
#[derive(Debug)]
pub(super) struct Subjects(Cache<RepositoryName, Arc<KnownSubjects>>);

/// The manifests of one repository that were looked into, and what they say something about.
#[derive(Debug, Default)]
struct KnownSubjects(Mutex<BTreeMap<Digest, Option<Arc<Referrer>>>>);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Referrer {
    subject: String,
    descriptor: Descriptor,
}

/// The stored form: manifests without a subject, and those with one.
#[derive(Default, Serialize, Deserialize)]
struct Index {
    without_subject: Vec<String>,
    referrers: Vec<Referrer>,
}

impl Subjects {
    pub(super) fn new() -> Self {
        Self(Cache::new(REPOSITORIES_IN_MEMORY))
    }
}

impl KnownSubjects {
    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<Digest, Option<Arc<Referrer>>>) -> T) -> T {
        // Every change is one insertion: a panic elsewhere leaves nothing half done.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn from_index(index: Index) -> Self {
        let mut known = BTreeMap::new();
        let without = index.without_subject.iter().filter_map(|digest| digest.parse().ok());
        known.extend(without.map(|digest: Digest| (digest, None)));
        let referrers = index.referrers.into_iter();
        known.extend(
            referrers.map(|referrer| (referrer.descriptor.digest, Some(Arc::new(referrer)))),
        );
        Self(Mutex::new(known))
    }

    fn to_index(&self) -> Index {
        let mut index = Index::default();
        self.with(|known| {
            for (digest, referrer) in known.iter() {
                match referrer {
                    None => index.without_subject.push(digest.to_string()),
                    Some(referrer) => index.referrers.push(Referrer::clone(referrer)),
                }
            }
        });
        index
    }
}

impl Repository {
    /// The referrers of `subject` after the one called `last`, at most `limit`, and only those of
    /// `artifact_type` if one is given. None, if there is no such manifest or repository.
    ///
    /// # Errors
    /// A fault of the storage.
    pub async fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
        (last, limit): (Option<Digest>, usize),
    ) -> Result<ReferrersPage, Error> {
        let present = self.manifest_digests().await?;
        let known = self.known_subjects().await?;
        self.examine_unknown(&known, &present).await?;
        let subject = subject.to_string();
        let is_wanted = |referrer: &Referrer| {
            referrer.subject == subject
                && artifact_type.is_none_or(|wanted| {
                    referrer.descriptor.artifact_type.as_deref().unwrap_or_default() == wanted
                })
                && last.is_none_or(|last| referrer.descriptor.digest > last)
        };
        let mut descriptors: Vec<Descriptor> = known.with(|known| {
            let referrers = present.iter().filter_map(|digest| known.get(digest)?.as_ref());
            referrers
                .filter(|referrer| is_wanted(referrer))
                .map(|referrer| referrer.descriptor.clone())
                .collect()
        });
        descriptors.sort_unstable_by_key(|descriptor| descriptor.digest);
        let more = descriptors.len() > limit;
        descriptors.truncate(limit);
        Ok(ReferrersPage { descriptors, more })
    }

    async fn known_subjects(&self) -> Result<Arc<KnownSubjects>, Error> {
        let subjects = &self.registry.subjects.0;
        if let Some(known) = subjects.get(&self.name).await {
            return Ok(known);
        }
        let key = layout::referrers(&self.name);
        let index = match storage::read(&*self.registry.storage, &key, INDEX_MAX_BYTES).await {
            // Written by another version, or cut: it is only a cache.
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(error) if error.is_not_found() => Index::default(),
            Err(storage::Error::Failed { fault: storage::Fault::Corrupt, .. }) => Index::default(),
            Err(error) => return Err(error.into()),
        };
        // Two queries at once may both come here; the second to arrive uses what the first has put.
        let known = Arc::new(KnownSubjects::from_index(index));
        Ok(subjects.get_with(self.name.clone(), async { known }).await)
    }

    async fn examine_unknown(
        &self,
        known: &KnownSubjects,
        present: &[Digest],
    ) -> Result<(), Error> {
        let unknown: Vec<Digest> = known.with(|known| {
            present.iter().filter(|digest| !known.contains_key(digest)).copied().collect()
        });
        if unknown.is_empty() {
            return Ok(());
        }
        let examined: Vec<(Digest, Option<Arc<Referrer>>)> = stream::iter(unknown)
            .map(|digest| self.examine(digest))
            .buffer_unordered(EXAMINED_AT_ONCE)
            .try_filter_map(|examined| async move { Ok(examined) })
            .try_collect()
            .await?;
        known.with(|known| known.extend(examined));
        let index = serde_json::to_vec(&known.to_index()).expect("an index is strings and numbers");
        let key = layout::referrers(&self.name);
        if let Err(error) = self.registry.storage.put(&key, Bytes::from(index)).await {
            tracing::warn!(%key, %error, "what is known of referrers could not be kept for a restart");
        }
        Ok(())
    }

    /// What a manifest says something about. `None` if it has just been deleted.
    async fn examine(
        &self,
        digest: Digest,
    ) -> Result<Option<(Digest, Option<Arc<Referrer>>)>, Error> {
        match self.manifest_by_digest(&digest).await {
            Ok(stored) => Ok(Some((digest, Referrer::of(&stored).map(Arc::new)))),
            Err(Error::ManifestUnknown { .. }) => Ok(None),
            // Schema 1 has no subjects.
            Err(Error::ManifestInvalid(_)) => Ok(Some((digest, None))),
            // Not remembered: pushing it again mends it.
            Err(error @ Error::ManifestBroken { .. }) => {
                tracing::warn!(%digest, %error, "what refers to another manifest is not known here");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Referrer {
    fn of(stored: &StoredManifest) -> Option<Self> {
        let subject = stored.manifest.subject()?.to_string();
        let descriptor = stored.manifest.descriptor(stored.digest, stored.bytes.len() as u64);
        Some(Self { subject, descriptor })
    }
}
