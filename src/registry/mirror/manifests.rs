//! Manifests of mirrored repositories.

use std::{sync::Arc, time::Duration};

use super::{Freshness, Mirrored, Place, metrics::Kind, metrics::Outcome, words::Wish};
use crate::{
    content,
    oci::{
        Algorithm, Digest, InvalidManifest, Manifest, ManifestKind, ManifestReference, Reference,
        RepositoryName,
    },
    registry::{Error, StoredManifest, links::LinkKind},
    runtime::{Flight, SingleFlight},
    upstream::{self, FetchedManifest},
};

/// Manifests that are being fetched.
pub(super) type Fetches = SingleFlight<(RepositoryName, String), Result<Fetched, Arc<Error>>>;

/// Manifests on their way to the storage, and whether they got there.
pub(super) type Keeping = SingleFlight<Place, bool>;

/// A manifest that came from the other registry.
#[derive(Clone, Debug)]
pub(super) struct Fetched {
    pub(super) stored: Arc<StoredManifest>,
    /// Its way to the storage, unless that has ended.
    pub(super) keeping: Option<Flight<bool>>,
}

/// How long a manifest waits for its way to the storage, because whoever was given it asks for blobs next. Measured
/// with one client, the first byte of a blob came after 3.8 ms so, and after 5.3 if the manifest was not to wait.
const KEPT_AFTER: Duration = Duration::from_millis(100);

/// Manifests that the other registry is being asked about.
pub(super) type Confirmations = SingleFlight<Place, Result<(), Arc<Error>>>;

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

    pub(super) async fn manifest_by_digest(
        &self,
        digest: &Digest,
    ) -> Result<ServedManifest, Error> {
        let freshness = Freshness::Current;
        let stored = match self.known_manifest(digest).await {
            Some(stored) => stored,
            None => match self.held_manifest(digest).await {
                Err(Error::ManifestUnknown { .. }) => {
                    let stored = self.fetch_manifest(digest).await?;
                    return Ok(ServedManifest { stored, freshness });
                }
                other => other?,
            },
        };
        // What is not held as a whole may be refused, also if it is known.
        self.assure(&stored).await?;
        Ok(ServedManifest { stored, freshness })
    }

    /// The manifest that the storage has, or will have in a moment.
    pub(super) async fn held_manifest(
        &self,
        digest: &Digest,
    ) -> Result<Arc<StoredManifest>, Error> {
        if let Some(keeping) = self.mirrors().keeping.running(&self.place(digest)) {
            // Whether it got there is seen below.
            let _kept = keeping.ended().await;
        }
        self.local.manifest_by_digest(digest).await
    }

    /// Sees to it that whoever gets a manifest can get what it refers to as well: it is held, or the other
    /// registry is there.
    async fn assure(&self, stored: &StoredManifest) -> Result<(), Error> {
        if self.can_be_had(&stored.digest).await || self.is_complete(stored).await? {
            return Ok(());
        }
        let digest = &stored.digest;
        match self.ask_others(Wish::Confirmation(*digest)).await? {
            Some(_confirmed) => {
                self.confirm(digest).await;
                Ok(())
            }
            None => self.confirm_here(digest).await,
        }
    }

    /// Whether the other registry is there, and has said lately that it has this manifest.
    async fn can_be_had(&self, digest: &Digest) -> bool {
        self.was_heard_lately() && self.is_confirmed(digest).await
    }

    /// A manifest that is in memory, and of which the other registry has said lately that it is there.
    async fn known_manifest(&self, digest: &Digest) -> Option<Arc<StoredManifest>> {
        if !self.is_confirmed(digest).await {
            return None;
        }
        self.registry.manifests.get(digest)
    }

    /// A manifest that is known here, or held, or fetched without asking other nodes.
    pub(super) async fn manifest_here(
        &self,
        digest: &Digest,
    ) -> Result<Arc<StoredManifest>, Error> {
        if let Some(stored) = self.known_manifest(digest).await {
            return Ok(stored);
        }
        match self.held_manifest(digest).await {
            Err(Error::ManifestUnknown { reference }) => {
                Ok(self.fetch_manifest_here(reference).await?.stored)
            }
            other => other,
        }
    }

    /// Fetches a manifest, once for all nodes.
    async fn fetch_manifest(&self, digest: &Digest) -> Result<Arc<StoredManifest>, Error> {
        if !self.is_denied(digest).await
            && let Some((_, answer)) = self.ask_others(Wish::Manifest(*digest)).await?
            && let Some(stored) = self.learn_manifest(digest, answer.bytes).await
        {
            return Ok(stored);
        }
        Ok(self.fetch_manifest_here(Reference::Digest(*digest)).await?.stored)
    }

    /// Fetches a manifest, once for all who want it of this node. It is being kept when this returns: whoever waits for it
    /// need not wait for a disk as well, because what is lost can be fetched again.
    pub(super) async fn fetch_manifest_here(&self, reference: Reference) -> Result<Fetched, Error> {
        if let Reference::Digest(digest) = &reference {
            if self.is_denied(digest).await {
                return Err(Error::ManifestUnknown { reference });
            }
            // It came a moment ago, and is not kept yet or could not be.
            if let Some(stored) = self.known_manifest(digest).await {
                let keeping = self.mirrors().keeping.running(&self.place(digest));
                return Ok(Fetched { stored, keeping });
            }
        }
        let key = (self.name().clone(), reference.to_string());
        let mirrored = self.clone();
        let fetch = async move { mirrored.fetch_manifest_now(reference).await.map_err(Arc::new) };
        self.mirrors().fetches.run(key, fetch).await?.map_err(Error::Shared)
    }

    async fn fetch_manifest_now(&self, reference: Reference) -> Result<Fetched, Error> {
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
        self.registry.manifests.insert(Arc::clone(&stored));
        let (mirrored, kept) = (self.clone(), Arc::clone(&stored));
        let keeping = self.mirrors().keeping.begin(self.place(&stored.digest), async move {
            tokio::time::sleep(KEPT_AFTER).await;
            mirrored.keep(&kept).await
        });
        Ok(Fetched { stored, keeping: Some(keeping) })
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

    /// Says whether it is kept.
    async fn keep(&self, stored: &StoredManifest) -> bool {
        let (name, digest) = (self.name(), &stored.digest);
        let keep = async {
            self.registry.content.put(*digest, stored.bytes.clone()).await?;
            self.registry.links.add(LinkKind::Revision, name, digest).await
        };
        let result: Result<(), Error> = keep.await;
        if let Err(error) = &result {
            tracing::error!(%name, %digest, %error, "a fetched manifest could not be kept");
        }
        result.is_ok()
    }

    /// Asks the other registry, once for all, whether it is there and has this manifest.
    pub(super) async fn confirm_here(&self, digest: &Digest) -> Result<(), Error> {
        let (mirrored, wanted) = (self.clone(), *digest);
        let question = async move { mirrored.confirm_now(&wanted).await.map_err(Arc::new) };
        let answer = self.mirrors().confirmations.run(self.place(digest), question).await?;
        answer.map_err(Error::Shared)
    }

    async fn confirm_now(&self, digest: &Digest) -> Result<(), Error> {
        // Another one has asked while this one looked at what is held.
        if self.can_be_had(digest).await {
            return Ok(());
        }
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
        match self.held_manifest(&child.digest).await {
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
