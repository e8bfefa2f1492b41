//! Manifests of a repository.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use moka::sync::Cache;

use super::{Error, References, Repository, links::LinkKind};
use crate::{
    content,
    oci::{Digest, InvalidManifest, Manifest, ManifestKind, ManifestReference, Reference, Tag},
    runtime::ByteSize,
    storage::{Entry, Key, ListQuery, layout},
};

/// References of one manifest that are looked up at once.
const LOOKUPS_AT_ONCE: usize = 16;

/// Bytes an entry costs beside the manifest's own.
const ENTRY_OVERHEAD_BYTES: usize = 512;

/// A manifest as it is stored.
#[derive(Debug)]
pub struct StoredManifest {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes, unaltered.
    pub bytes: Bytes,
    /// What they say.
    pub manifest: Manifest,
}

/// Manifests read lately, by the digest they are stored under. Bytes of a digest never change; whether
/// a repository still has them is for its links to say.
#[derive(Debug)]
pub(super) struct ManifestMemory(Cache<Digest, Arc<StoredManifest>>);

impl ManifestMemory {
    pub(super) fn new(capacity: ByteSize) -> Self {
        let weigh = |_: &Digest, stored: &Arc<StoredManifest>| {
            // A parsed manifest is about as large as its text.
            u32::try_from(2 * stored.bytes.len() + ENTRY_OVERHEAD_BYTES).unwrap_or(u32::MAX)
        };
        Self(Cache::builder().max_capacity(capacity.0).weigher(weigh).build())
    }

    /// A manifest that is remembered.
    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<StoredManifest>> {
        self.0.get(digest)
    }

    /// Remembers a manifest that is stored under its own digest.
    pub(super) fn insert(&self, stored: Arc<StoredManifest>) {
        self.0.insert(stored.digest, stored);
    }
}

impl Repository {
    /// The manifest with this tag or digest.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`]; [`Error::ManifestInvalid`] if what is stored cannot be read as one;
    /// or a fault of the storage.
    pub async fn manifest(&self, reference: &Reference) -> Result<Arc<StoredManifest>, Error> {
        let unknown = || Error::ManifestUnknown { reference: reference.clone() };
        let digest = match reference {
            Reference::Digest(digest) => *digest,
            Reference::Tag(tag) => self.resolve_tag(tag).await?.ok_or_else(unknown)?,
        };
        match self.manifest_by_digest(&digest).await {
            Err(Error::ManifestUnknown { .. }) => Err(unknown()),
            other => other,
        }
    }

    pub(super) async fn manifest_by_digest(
        &self,
        digest: &Digest,
    ) -> Result<Arc<StoredManifest>, Error> {
        let unknown = || Error::ManifestUnknown { reference: Reference::Digest(*digest) };
        let linked = self.registry.links.resolve(LinkKind::Revision, &self.name, digest).await?;
        let stored_under = linked.ok_or_else(unknown)?;
        if let Some(stored) = self.registry.manifests.get(&stored_under) {
            return Ok(stored);
        }
        Box::pin(self.read_manifest(digest, &stored_under)).await
    }

    /// Reads a manifest that is linked, and remembers it.
    async fn read_manifest(
        &self,
        digest: &Digest,
        stored_under: &Digest,
    ) -> Result<Arc<StoredManifest>, Error> {
        let unknown = || Error::ManifestUnknown { reference: Reference::Digest(*digest) };
        let limit_bytes = self.registry.config.manifest_max.0;
        let bytes = match self.registry.content.read(stored_under, limit_bytes).await {
            Err(content::Error::Unknown { .. }) => return Err(unknown()),
            Err(error @ content::Error::Mismatch { .. }) => return Err(broken(*digest, error)),
            other => other?,
        };
        let manifest = match Manifest::parse(&bytes) {
            // An old tree may have some; that is no fault of the storage.
            Err(error @ InvalidManifest::Schema1) => return Err(error.into()),
            other => other.map_err(|error| broken(*digest, error))?,
        };
        let stored = Arc::new(StoredManifest { digest: *digest, bytes, manifest });
        self.registry.manifests.0.insert(*stored_under, Arc::clone(&stored));
        Ok(stored)
    }

    /// Stores a manifest that was announced as `content_type`, and points `tags` at it. With a digest as
    /// `reference` the bytes must hash to it.
    ///
    /// # Errors
    /// [`Error::ManifestInvalid`], [`Error::DigestMismatch`], [`Error::ManifestBlobUnknown`], or a fault
    /// of the storage.
    ///
    /// # Cancel safety
    /// Content, then link, then name: stopping anywhere leaves a manifest without a name, or some of the
    /// tags moved.
    pub async fn put_manifest(
        &self,
        reference: &Reference,
        more_tags: &[Tag],
        (content_type, bytes): (&str, Bytes),
    ) -> Result<Arc<StoredManifest>, Error> {
        let manifest = Manifest::parse_announced(&bytes, content_type)?;
        let digest = match reference {
            Reference::Digest(digest) => *digest,
            Reference::Tag(_) => Digest::of(crate::oci::Algorithm::Sha256, &bytes),
        };
        self.check_references(&manifest).await?;
        self.registry.content.put(digest, bytes.clone()).await?;
        let tags: Vec<&Tag> = match reference {
            Reference::Digest(_) => more_tags.iter().collect(),
            Reference::Tag(tag) => std::iter::once(tag).chain(more_tags).collect(),
        };
        self.registry.links.add(LinkKind::Revision, &self.name, &digest).await?;
        self.move_tags(&tags, &digest).await?;
        // Last: a folder with nothing but history in it would be listed as a tag that nobody can read.
        self.note_tags(&tags, &digest).await?;
        let stored = Arc::new(StoredManifest { digest, bytes, manifest });
        self.registry.manifests.insert(Arc::clone(&stored));
        Ok(stored)
    }

    async fn check_references(&self, manifest: &Manifest) -> Result<(), Error> {
        if self.registry.config.references == References::Sparse {
            return Ok(());
        }
        let missing: Vec<Digest> = stream::iter(manifest.references().to_vec())
            .map(|reference| async move {
                let found = self.holds(&reference).await?;
                Ok::<_, Error>((!found).then_some(reference.digest))
            })
            .buffered(LOOKUPS_AT_ONCE)
            .try_filter_map(|missing| async move { Ok(missing) })
            .try_collect()
            .await?;
        if missing.is_empty() {
            Ok(())
        } else {
            Err(Error::ManifestBlobUnknown { digests: missing })
        }
    }

    async fn holds(&self, reference: &ManifestReference) -> Result<bool, Error> {
        let kind = match reference.kind {
            ManifestKind::ForeignBlob => return Ok(true),
            ManifestKind::Blob => LinkKind::Layer,
            ManifestKind::Child => LinkKind::Revision,
        };
        let Some(stored) = self.registry.links.resolve(kind, &self.name, &reference.digest).await?
        else {
            return Ok(false);
        };
        // docker-registry 2.8 collects content and leaves the link.
        match self.registry.content.stat(&stored).await {
            Ok(_size_bytes) => Ok(true),
            Err(content::Error::Unknown { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes a manifest with every tag that points to it, or, for a tag, the tag alone.
    ///
    /// # Errors
    /// [`Error::DeleteDisabled`], [`Error::ManifestUnknown`], or a fault of the storage.
    ///
    /// # Cancel safety
    /// Names go first, then the link: no name is left without its manifest.
    pub async fn delete_manifest(&self, reference: &Reference) -> Result<(), Error> {
        self.check_delete_enabled()?;
        let existed = match reference {
            Reference::Tag(tag) => self.delete_tag(tag).await?,
            Reference::Digest(digest) => {
                for tag in self.tags_of(digest).await? {
                    self.delete_tag(&tag).await?;
                }
                self.registry.links.remove(LinkKind::Revision, &self.name, digest).await?
            }
        };
        if existed { Ok(()) } else { Err(Error::ManifestUnknown { reference: reference.clone() }) }
    }

    /// Every manifest in the repository, one listing for a thousand of them.
    pub(super) async fn manifest_digests(&self) -> Result<Vec<Digest>, Error> {
        let keys = self.keys_below(&layout::revisions(&self.name)).await?;
        Ok(keys.iter().filter_map(|key| link_digest(key)).collect())
    }

    /// Names of all objects below `folder`, relative to it.
    pub(super) async fn keys_below(&self, folder: &Key) -> Result<Vec<String>, Error> {
        let mut keys = Vec::new();
        let mut query = ListQuery::all(1000);
        loop {
            let page = self.registry.storage.list(folder, query.clone()).await?;
            let last = page.entries.last().map(Entry::sort_key);
            keys.extend(page.entries.iter().map(|entry| entry.name().to_owned()));
            match last {
                Some(last) if page.more => query = query.after(last),
                _ => return Ok(keys),
            }
        }
    }
}

fn broken(digest: Digest, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::ManifestBroken { digest, source: Box::new(source) }
}

/// The digest in a path that ends in `<algorithm>/<hex>/link`.
pub(super) fn link_digest(path: &str) -> Option<Digest> {
    let mut parts = path.rsplit('/');
    let (Some("link"), Some(hex), Some(algorithm)) = (parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    Digest::from_parts(algorithm, hex).ok()
}
