//! What can go wrong in a registry.

use std::sync::Arc;

use crate::{
    content,
    oci::{Digest, InvalidManifest, Reference, RepositoryName},
    runtime::{Abandoned, BodyError, ByteSize},
    storage, upstream,
};

/// A failed operation on the registry.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository does not exist.
    #[error("there is no repository {name}")]
    NameUnknown {
        /// Its name.
        name: RepositoryName,
    },
    /// The blob is not in the repository.
    #[error("there is no blob {digest} in this repository")]
    BlobUnknown {
        /// Its digest.
        digest: Digest,
    },
    /// The blob has none of the bytes asked for.
    #[error("the blob {digest} has {size_bytes} bytes, none of them in the range asked for")]
    RangeOutside {
        /// Its digest.
        digest: Digest,
        /// Its length in bytes.
        size_bytes: u64,
    },
    /// The manifest is not in the repository.
    #[error("there is no manifest {reference} in this repository")]
    ManifestUnknown {
        /// Tag or digest.
        reference: Reference,
    },
    /// The bytes are no acceptable manifest.
    #[error(transparent)]
    ManifestInvalid(#[from] InvalidManifest),
    /// What is stored as this manifest is not what was pushed: the storage has lost or changed it.
    #[error("what is stored as the manifest {digest} is broken")]
    ManifestBroken {
        /// Its digest.
        digest: Digest,
        /// What is wrong with the bytes.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The manifest refers to content that is not in the repository.
    #[error("the manifest refers to {} blobs or manifests that are not in this repository", digests.len())]
    ManifestBlobUnknown {
        /// What is missing.
        digests: Vec<Digest>,
    },
    /// The blob is longer than the configuration allows.
    #[error("a blob has at most {limit}; this one is longer")]
    BlobTooLarge {
        /// The limit.
        limit: ByteSize,
    },
    /// The upload session is unknown here, expired, finished or cancelled.
    #[error("there is no such upload in this repository: it has ended, or never began")]
    UploadUnknown,
    /// The chunk does not begin where the upload ends.
    #[error("the next chunk of this upload must begin at byte {offset}")]
    UploadOffset {
        /// Bytes stored.
        offset: u64,
    },
    /// The chunk is not as long as its range says.
    #[error("the chunk has {received} bytes, but its Content-Range announced {announced}")]
    UploadLength {
        /// Length of the announced range, in bytes.
        announced: u64,
        /// Bytes that came.
        received: u64,
    },
    /// The bytes hash to something else than they were announced with.
    #[error("the content hashes to {actual}, not to {expected}")]
    DigestMismatch {
        /// The digest announced.
        expected: Digest,
        /// The digest of the bytes.
        actual: Digest,
    },
    /// The configuration forbids deleting.
    #[error("deleting is switched off in this registry")]
    DeleteDisabled,
    /// The name belongs to another registry, which only gives.
    #[error(
        "{name} mirrors {upstream} and cannot be written to: push there, or to a name that does not begin \
         with {upstream}/"
    )]
    ReadOnlyMirror {
        /// The name that was to be written to.
        name: RepositoryName,
        /// The other registry's name.
        upstream: String,
    },
    /// No other registry of that name is mirrored here.
    #[error("{namespace:?} is not mirrored here")]
    NamespaceUnknown {
        /// What the client called it.
        namespace: String,
    },
    /// The other registry has not given what was asked for.
    #[error(transparent)]
    Upstream(#[from] upstream::Error),
    /// Content could not be fetched from the other registry.
    #[error("{0}")]
    Fetch(#[source] Arc<content::Error>),
    /// Several clients waited for the same thing, and this came of it.
    #[error(transparent)]
    Shared(Arc<Self>),
    /// The client stopped sending.
    #[error(transparent)]
    Body(BodyError),
    /// The work was abandoned.
    #[error(transparent)]
    Abandoned(#[from] Abandoned),
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

impl Error {
    /// Whether there is no such manifest, as opposed to a failure to find out.
    pub(super) fn is_manifest_unknown(&self) -> bool {
        match self {
            Self::ManifestUnknown { .. } => true,
            Self::Shared(inner) => inner.is_manifest_unknown(),
            _ => false,
        }
    }

    /// Whether there is no such repository.
    pub(super) fn is_name_unknown(&self) -> bool {
        match self {
            Self::NameUnknown { .. } => true,
            Self::Shared(inner) => inner.is_name_unknown(),
            _ => false,
        }
    }
}

impl From<content::Error> for Error {
    fn from(error: content::Error) -> Self {
        match error {
            content::Error::Unknown { digest } => Self::BlobUnknown { digest },
            content::Error::RangeOutside { digest, size_bytes } => {
                Self::RangeOutside { digest, size_bytes }
            }
            content::Error::Mismatch { expected, actual } => {
                Self::DigestMismatch { expected, actual }
            }
            content::Error::Abandoned(abandoned) => Self::Abandoned(abandoned),
            content::Error::Upstream(error) => Self::Upstream(error),
            content::Error::Fill(error) => Self::Fetch(error),
            other @ (content::Error::LengthMismatch { .. } | content::Error::Truncated { .. }) => {
                Self::Fetch(Arc::new(other))
            }
            content::Error::Body(error) => error.into(),
            content::Error::Storage(error) => Self::Storage(error),
        }
    }
}

impl From<BodyError> for Error {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge { limit_bytes } => {
                Self::BlobTooLarge { limit: ByteSize(limit_bytes) }
            }
            other @ (BodyError::Disconnected(_) | BodyError::Stalled | BodyError::TakenOver) => {
                Self::Body(other)
            }
        }
    }
}
