//! Blobs of a repository.

use super::{Error, Repository, links::LinkKind};
use crate::{
    content::{self, Content},
    oci::{ByteRange, Digest},
};

impl Repository {
    /// Length of a blob in bytes.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`] if it is not in this repository, even if it is in another; or a fault.
    pub async fn stat_blob(&self, digest: &Digest) -> Result<u64, Error> {
        let stored = self.linked_blob(digest).await?;
        let size = self.registry.content.stat(&stored).await;
        size.map_err(|error| asked_for(error, digest))
    }

    /// Opens a blob, whole or at a range.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`] as [`Repository::stat_blob`]; [`Error::RangeOutside`]; or a fault.
    pub async fn open_blob(
        &self,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<Content, Error> {
        let stored = self.linked_blob(digest).await?;
        let opened = self.registry.content.open(&stored, range).await;
        if let Err(content::Error::Unknown { .. }) = &opened {
            self.registry.content.forget(&stored).await;
        }
        opened.map_err(|error| asked_for(error, digest))
    }

    /// Makes a blob of another repository part of this one. Says whether it could: the other one must
    /// have it. The caller has checked that its client may read there.
    ///
    /// # Errors
    /// A fault of the storage.
    pub async fn mount_blob(&self, digest: &Digest, from: &Self) -> Result<bool, Error> {
        match from.stat_blob(digest).await {
            Ok(_size_bytes) => {}
            Err(Error::BlobUnknown { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        self.link_stored(digest).await
    }

    /// Makes a blob part of this repository that any repository holds. Says whether there is one.
    ///
    /// # Errors
    /// A fault of the storage.
    pub async fn mount_blob_from_anywhere(&self, digest: &Digest) -> Result<bool, Error> {
        self.link_stored(digest).await
    }

    async fn link_stored(&self, digest: &Digest) -> Result<bool, Error> {
        match self.registry.content.stat(digest).await {
            Ok(_size_bytes) => {}
            Err(content::Error::Unknown { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        self.registry.links.add(LinkKind::Layer, &self.name, digest).await?;
        Ok(true)
    }

    /// Takes a blob out of this repository. Its bytes stay until no repository refers to them.
    ///
    /// # Errors
    /// [`Error::DeleteDisabled`], [`Error::BlobUnknown`], or a fault of the storage.
    pub async fn delete_blob(&self, digest: &Digest) -> Result<(), Error> {
        self.check_delete_enabled()?;
        if self.registry.links.remove(LinkKind::Layer, &self.name, digest).await? {
            Ok(())
        } else {
            Err(Error::BlobUnknown { digest: *digest })
        }
    }

    pub(super) fn check_delete_enabled(&self) -> Result<(), Error> {
        if self.registry.config.delete { Ok(()) } else { Err(Error::DeleteDisabled) }
    }

    async fn linked_blob(&self, digest: &Digest) -> Result<Digest, Error> {
        let stored = self.registry.links.resolve(LinkKind::Layer, &self.name, digest).await?;
        stored.ok_or(Error::BlobUnknown { digest: *digest })
    }
}

/// Names the digest that was asked for, where the content is stored under another.
fn asked_for(error: content::Error, digest: &Digest) -> Error {
    match Error::from(error) {
        Error::BlobUnknown { .. } => Error::BlobUnknown { digest: *digest },
        other => other,
    }
}
