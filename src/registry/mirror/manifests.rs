//! Manifests of mirrored repositories.

use std::sync::Arc;

use super::{Freshness, Mirrored, metrics::Kind, metrics::Outcome};
use crate::{
    content,
    oci::{
        Algorithm, Digest, InvalidManifest, Manifest, ManifestKind, ManifestReference, Reference,
        RepositoryName,
    },
    registry::{Error, StoredManifest, links::LinkKind},
    runtime::SingleFlight,
    upstream::{self, FetchedManifest},
};

/// Manifests that are being fetched.
pub(super) type Fetches =
    SingleFlight<(RepositoryName, String), Result<Arc<StoredManifest>, Arc<Error>>>;

/// A manifest, and how sure it is to be the right one.
#[derive(Clone, Debug)]
pub struct ServedManifest {
    /// The manifest.
    pub stored: Arc<StoredManifest>,
    /// Whether the other registry would give the same now.
    pub freshness: Freshness,
}

impl Mirrored {
    /// The manifest with this tag or digest: held, or fetched. With the other registry out of reach it is only
    /// given if what it refers to is held as well: a client that has a manifest looks nowhere else for its
    /// blobs.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`]; [`Error::Upstream`] and others that say why it cannot be had.
    pub async fn manifest(&self, reference: &Reference) -> Result<ServedManifest, Error> {
        let served = match reference {
            Reference::Tag(tag) => self.manifest_by_tag(tag).await,
            Reference::Digest(digest) => self.manifest_by_digest(digest).await,
        };
        self.mirrors().metrics.count(&self.upstream, Kind::Manifest, outcome_of(&served));
        served
    }

    async fn manifest_by_digest(&self, digest: &Digest) -> Result<ServedManifest, Error> {
        let stored = match self.local.manifest_by_digest(digest).await {
            Err(Error::ManifestUnknown { .. }) => {
                let stored = self.fetch_manifest(Reference::Digest(*digest)).await?;
                return Ok(ServedManifest { stored, freshness: Freshness::Current });
            }
            other => other?,
        };
        if !self.is_confirmed(digest).await && !self.is_complete(&stored).await? {
            self.ask_for_manifest(digest).await?;
        }
        Ok(ServedManifest { stored, freshness: Freshness::Current })
    }

    /// Fetches and keeps a manifest, once for all who want it.
    pub(super) async fn fetch_manifest(
        &self,
        reference: Reference,
    ) -> Result<Arc<StoredManifest>, Error> {
        if let Reference::Digest(digest) = &reference {
            if self.is_denied(digest).await {
                return Err(Error::ManifestUnknown { reference });
            }
            // It came a moment ago and could not be kept.
            if self.is_confirmed(digest).await
                && let Some(stored) = self.registry.manifests.get(digest).await
            {
                return Ok(stored);
            }
        }
        let key = (self.name().clone(), reference.to_string());
        let mirrored = self.clone();
        let fetch = async move { mirrored.fetch_manifest_now(reference).await.map_err(Arc::new) };
        self.mirrors().fetches.run(key, fetch).await?.map_err(Error::Shared)
    }

    async fn fetch_manifest_now(&self, reference: Reference) -> Result<Arc<StoredManifest>, Error> {
        let limit_bytes = self.registry.config.manifest_max.0;
        let fetched = self.upstream.fetch_manifest(&self.remote, &reference, limit_bytes).await;
        let fetched = match fetched {
            Err(error) if error.is_not_found() => {
                if let Reference::Digest(digest) = &reference {
                    self.deny(digest).await;
                }
                return Err(Error::ManifestUnknown { reference });
            }
            other => other?,
        };
        let stored = Arc::new(self.verified(&reference, fetched)?);
        self.confirm(&stored.digest).await;
        if let Err(error) = self.keep(&stored).await {
            // It can be served all the same.
            let name = self.name();
            tracing::error!(%name, digest = %stored.digest, %error, "a fetched manifest could not be kept");
        }
        self.registry.manifests.insert(Arc::clone(&stored)).await;
        Ok(stored)
    }

    /// Holds what was fetched to what was asked for.
    fn verified(
        &self,
        reference: &Reference,
        fetched: FetchedManifest,
    ) -> Result<StoredManifest, Error> {
        let FetchedManifest { bytes, content_type, digest: announced } = fetched;
        let expected = match reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(_) => announced,
        };
        let algorithm = expected.map_or(Algorithm::Sha256, |digest| digest.algorithm());
        let digest = Digest::of(algorithm, &bytes);
        if let Some(expected) = expected
            && expected != digest
        {
            let mismatch = content::Error::Mismatch { expected, actual: digest };
            return Err(Error::Fetch(Arc::new(mismatch)));
        }
        let manifest = match content_type {
            Some(announced) => Manifest::parse_announced(&bytes, &announced),
            None => Manifest::parse(&bytes),
        };
        match manifest {
            Ok(manifest) => Ok(StoredManifest { digest, bytes, manifest }),
            Err(error @ InvalidManifest::Schema1) => Err(error.into()),
            Err(error) => {
                let (name, upstream) = (self.name(), self.upstream_name().into());
                tracing::warn!(%name, %digest, %error, "what came as a manifest is none");
                let what = "what it sends as a manifest is none";
                Err(upstream::Error::Protocol { upstream, what }.into())
            }
        }
    }

    async fn keep(&self, stored: &StoredManifest) -> Result<(), Error> {
        self.registry.content.put(stored.digest, stored.bytes.clone()).await?;
        self.registry.links.add(LinkKind::Revision, self.name(), &stored.digest).await
    }

    /// Asks the other registry whether it is there and has this manifest.
    async fn ask_for_manifest(&self, digest: &Digest) -> Result<(), Error> {
        let reference = Reference::Digest(*digest);
        match self.upstream.head_manifest(&self.remote, &reference).await {
            Ok(_head) => {
                self.confirm(digest).await;
                Ok(())
            }
            Err(error) if error.is_not_found() => Err(Error::ManifestUnknown { reference }),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether everything that a manifest refers to is held: all of an image, and one image of an index at
    /// least, because nobody mirrors every platform.
    pub(super) async fn is_complete(&self, stored: &StoredManifest) -> Result<bool, Error> {
        let references = stored.manifest.references();
        let mut has_children = false;
        for reference in references {
            match reference.kind {
                ManifestKind::ForeignBlob => {}
                ManifestKind::Blob => {
                    if !self.holds_blob(&reference.digest).await? {
                        return Ok(false);
                    }
                }
                ManifestKind::Child => {
                    has_children = true;
                    if self.holds_image(reference).await? {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(!has_children)
    }

    async fn holds_image(&self, child: &ManifestReference) -> Result<bool, Error> {
        match self.local.manifest_by_digest(&child.digest).await {
            Ok(stored) => Box::pin(self.is_complete(&stored)).await,
            Err(Error::ManifestUnknown { .. } | Error::ManifestBroken { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn holds_blob(&self, digest: &Digest) -> Result<bool, Error> {
        match self.local.stat_blob(digest).await {
            Ok(_size_bytes) => Ok(true),
            Err(Error::BlobUnknown { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn outcome_of(served: &Result<ServedManifest, Error>) -> Outcome {
    match served {
        Ok(ServedManifest { freshness: Freshness::Current, .. }) => Outcome::Served,
        Ok(ServedManifest { freshness: Freshness::Stale, .. }) => Outcome::Stale,
        Err(error) => Outcome::of(error),
    }
}
