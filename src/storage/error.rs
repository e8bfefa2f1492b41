//! What can go wrong with storage.

use std::sync::Arc;

use super::Key;

/// A failed storage operation.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// There is no object at this key.
    #[error("nothing is stored at {key}")]
    NotFound {
        /// The key.
        key: Key,
    },
    /// The object has none of the bytes asked for.
    #[error("{key} has {size_bytes} bytes, none of them in the range asked for")]
    RangeOutside {
        /// The key.
        key: Key,
        /// Length of the object in bytes.
        size_bytes: u64,
    },
    /// The storage failed.
    #[error("storage failed to {operation} {key}: {fault}")]
    Failed {
        /// What was tried: `open`, `put`, …
        operation: &'static str,
        /// The key it was tried on.
        key: Key,
        /// In which way it failed.
        fault: Fault,
        /// What the driver said.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}

/// The ways a storage fails, as far as callers act on them differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It has no room left.
    Full,
    /// It wants fewer requests (S3 `SlowDown`, 503, 429).
    Busy,
    /// It did not answer, or not in time, or with a server error; a later try may work.
    Unavailable,
    /// It refuses this caller: credentials, permissions, a read-only file system.
    Denied,
    /// It answered with something else than what was stored: fewer bytes, a broken listing.
    Corrupt,
    /// Anything else.
    Other,
}

impl Fault {
    /// A name for metrics: bounded, lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
            Self::Denied => "denied",
            Self::Corrupt => "corrupt",
            Self::Other => "other",
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Full => "no room is left",
            Self::Busy => "it asks for fewer requests",
            Self::Unavailable => "it does not answer",
            Self::Denied => "it refuses access",
            Self::Corrupt => "it returned something else than what was stored",
            Self::Other => "unexpected failure",
        })
    }
}

impl Error {
    /// A failure of `operation` on `key`.
    pub fn failed(
        operation: &'static str,
        key: &Key,
        fault: Fault,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Failed { operation, key: key.clone(), fault, source: source.into().into() }
    }

    /// Whether the same call may well succeed a little later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Failed { fault: Fault::Busy | Fault::Unavailable, .. })
    }

    /// Whether the object simply is not there.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}
