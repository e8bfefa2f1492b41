//! A repository as readers see it: one of ours, or one of another registry.

use std::sync::Arc;

use super::{
    Error, Freshness, Mirrored, ReferrersPage, Registry, Repository, ServedManifest, TagPage,
};
use crate::{
    content::Content,
    oci::{ByteRange, Digest, Reference, RepositoryName},
};

/// Where a name leads.
///
/// What reading takes from another registry is in a box of its own: it would be the most of what every request needs
/// in memory, also of those that have nothing to do with one.
#[derive(Clone, Debug)]
pub enum Place {
    /// A repository that clients push to.
    Hosted(Repository),
    /// A repository of another registry.
    Mirrored(Mirrored),
}

impl Registry {
    /// Where `name` leads for a client that means the other registry `namespace`, or says nothing about it.
    /// Hosted names never lead to another registry, nor mirrored ones to hosted content.
    ///
    /// # Errors
    /// As [`Registry::mirrored`].
    pub fn place(
        self: &Arc<Self>,
        namespace: Option<&str>,
        name: &RepositoryName,
    ) -> Result<Place, Error> {
        if let Some(namespace) = namespace {
            return self.mirrored(namespace, name.clone()).map(Place::Mirrored);
        }
        match self.namespace_of(name) {
            None => Ok(Place::Hosted(self.repository(name.clone()))),
            Some((namespace, rest)) => {
                let rest = rest.parse().map_err(|_| Error::NameUnknown { name: name.clone() })?;
                self.mirrored(namespace, rest).map(Place::Mirrored)
            }
        }
    }
}

impl Place {
    /// The repository, for writing.
    ///
    /// # Errors
    /// [`Error::ReadOnlyMirror`].
    pub fn hosted(self) -> Result<Repository, Error> {
        match self {
            Self::Hosted(repository) => Ok(repository),
            Self::Mirrored(mirrored) => Err(Error::ReadOnlyMirror {
                name: mirrored.name().clone(),
                upstream: mirrored.upstream_name().to_owned(),
            }),
        }
    }

    /// What is kept here under the name.
    #[must_use]
    pub fn kept(self) -> Repository {
        match self {
            Self::Hosted(repository) => repository,
            Self::Mirrored(mirrored) => mirrored.into_kept(),
        }
    }

    /// As [`Repository::manifest`] or [`Mirrored::manifest`].
    ///
    /// # Errors
    /// As those.
    pub async fn manifest(&self, reference: &Reference) -> Result<ServedManifest, Error> {
        match self {
            Self::Hosted(repository) => {
                let stored = repository.manifest(reference).await?;
                Ok(ServedManifest { stored, freshness: Freshness::Current })
            }
            Self::Mirrored(mirrored) => Box::pin(mirrored.manifest(reference)).await,
        }
    }

    /// As [`Repository::stat_blob`] or [`Mirrored::stat_blob`].
    ///
    /// # Errors
    /// As those.
    pub async fn stat_blob(&self, digest: &Digest) -> Result<u64, Error> {
        match self {
            Self::Hosted(repository) => repository.stat_blob(digest).await,
            Self::Mirrored(mirrored) => Box::pin(mirrored.stat_blob(digest)).await,
        }
    }

    /// As [`Repository::open_blob`] or [`Mirrored::open_blob`].
    ///
    /// # Errors
    /// As those.
    pub async fn open_blob(
        &self,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<Content, Error> {
        match self {
            Self::Hosted(repository) => repository.open_blob(digest, range).await,
            Self::Mirrored(mirrored) => Box::pin(mirrored.open_blob(digest, range)).await,
        }
    }

    /// As [`Repository::tags`] or [`Mirrored::tags`].
    ///
    /// # Errors
    /// As those.
    pub async fn tags(
        &self,
        last: Option<&str>,
        limit: Option<usize>,
    ) -> Result<(TagPage, Freshness), Error> {
        match self {
            Self::Hosted(repository) => {
                Ok((repository.tags(last, limit).await?, Freshness::Current))
            }
            Self::Mirrored(mirrored) => mirrored.tags(last, limit).await,
        }
    }

    /// As [`Repository::referrers`] or [`Mirrored::referrers`].
    ///
    /// # Errors
    /// As those.
    pub async fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
        (last, limit): (Option<Digest>, usize),
    ) -> Result<(ReferrersPage, Freshness), Error> {
        match self {
            Self::Hosted(repository) => {
                let page = repository.referrers(subject, artifact_type, (last, limit)).await?;
                Ok((page, Freshness::Current))
            }
            Self::Mirrored(mirrored) => {
                mirrored.referrers(subject, artifact_type, (last, limit)).await
            }
        }
    }
}
