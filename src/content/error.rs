//! What can go wrong with content.

use crate::{
    oci::Digest,
    runtime::{Abandoned, BodyError},
    storage,
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
    /// A hash thread died.
    #[error("hashing failed: {0}")]
    Hash(#[from] Abandoned),
    /// The client stopped sending.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}
