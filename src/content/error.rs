//! What can go wrong with content.

use std::sync::Arc;

use crate::{
    oci::Digest,
    runtime::{Abandoned, BodyError},
    storage, upstream,
};

/// A failed operation on content.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing is stored under this digest.
    #[error("no content is stored under {digest}")]
    Unknown {
        /// The digest.
        digest: Digest,
    },
    /// The content has none of the bytes asked for.
    #[error("{digest} has {size_bytes} bytes, none of them in the range asked for")]
    RangeOutside {
        /// The digest.
        digest: Digest,
        /// Length of the content in bytes.
        size_bytes: u64,
    },
    /// The bytes hash to something else than they were announced with.
    #[error("the content hashes to {actual}, not to {expected}")]
    Mismatch {
        /// The digest announced.
        expected: Digest,
        /// The digest of the bytes.
        actual: Digest,
    },
    /// The other registry says that the content is longer or shorter than it said before.
    #[error("{digest} was announced with {announced} bytes and comes with another length")]
    LengthMismatch {
        /// The digest.
        digest: Digest,
        /// The first length, in bytes.
        announced: u64,
    },
    /// The other registry keeps ending its answers too early.
    #[error("{digest} ends after {offset} bytes again and again")]
    Truncated {
        /// The digest.
        digest: Digest,
        /// Bytes that could be had.
        offset: u64,
    },
    /// The other registry does not give the content.
    #[error(transparent)]
    Upstream(#[from] upstream::Error),
    /// The fill that several clients wait for has failed.
    #[error("the content could not be fetched: {0}")]
    Fill(#[source] Arc<Self>),
    /// A task or a hash thread died.
    #[error(transparent)]
    Abandoned(#[from] Abandoned),
    /// The client stopped sending.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

impl Error {
    /// A short name for what went wrong with a fill, for labels of metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Upstream(error) => error.kind(),
            Self::Fill(inner) => inner.kind(),
            Self::Mismatch { .. } => "mismatch",
            Self::LengthMismatch { .. } => "length",
            Self::Truncated { .. } => "truncated",
            Self::Storage(_) => "storage",
            Self::Unknown { .. }
            | Self::RangeOutside { .. }
            | Self::Abandoned(_)
            | Self::Body(_) => "internal",
        }
    }

    /// Whether another registry has said that it does not have the content.
    #[must_use]
    pub fn is_not_found_upstream(&self) -> bool {
        match self {
            Self::Upstream(error) => error.is_not_found(),
            Self::Fill(inner) => inner.is_not_found_upstream(),
            _ => false,
        }
    }
}
