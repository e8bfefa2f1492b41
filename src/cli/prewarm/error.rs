//! Why a piece of an image could not be pulled.

use std::{fmt, time::Duration};

use http::StatusCode;

use super::server::Server;
use crate::oci::Digest;

/// Why a manifest or a blob did not come as it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// There is no connection, or it ended before an answer.
    #[error("{server} does not answer")]
    Unreachable {
        /// Where the daemon should be.
        server: Server,
        /// What happened.
        source: reqwest::Error,
    },
    /// The head of an answer did not come in time.
    #[error("no answer came within {} s", waited.as_secs())]
    NoAnswer {
        /// How long was waited for it.
        waited: Duration,
    },
    /// The answer is no success.
    #[error("{0}")]
    Refused(Refusal),
    /// The connection ended within a body.
    #[error("the answer broke off")]
    Broken {
        /// What happened.
        source: reqwest::Error,
    },
    /// A body stopped coming.
    #[error("no byte of the answer came for {} s", waited.as_secs())]
    Silent {
        /// How long was waited for one.
        waited: Duration,
    },
    /// A partial answer has other bytes than those asked for.
    #[error("the bytes from {asked} on were asked for, and others came")]
    Range {
        /// First byte that was asked for.
        asked: u64,
    },
    /// A manifest is longer than any real one.
    #[error("it is longer than {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// The body ended well, and yet early.
    #[error("it has {actual} bytes and should have {expected}")]
    Short {
        /// Length according to the manifest.
        expected: u64,
        /// Length of what came.
        actual: u64,
    },
    /// The body goes on where it should end.
    #[error("it has more than the {expected} bytes that it should have")]
    Long {
        /// Length according to the manifest.
        expected: u64,
    },
    /// The bytes are others.
    #[error("the bytes that came are corrupt: they have the digest {actual}")]
    Corrupt {
        /// Digest of what came.
        actual: Digest,
    },
}

impl Error {
    /// Whether the same request may end better a moment later.
    pub(super) fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::NoAnswer { .. }
            | Self::Broken { .. }
            | Self::Silent { .. } => true,
            Self::Refused(refusal) => refusal.is_retryable(),
            Self::Range { .. }
            | Self::TooLarge { .. }
            | Self::Short { .. }
            | Self::Long { .. }
            | Self::Corrupt { .. } => false,
        }
    }

    /// How long the daemon wants to be left alone, where it says so.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            Self::Unreachable { .. }
            | Self::NoAnswer { .. }
            | Self::Broken { .. }
            | Self::Silent { .. }
            | Self::Range { .. }
            | Self::TooLarge { .. }
            | Self::Short { .. }
            | Self::Long { .. }
            | Self::Corrupt { .. } => None,
        }
    }
}

/// An answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Its status.
    pub(super) status: StatusCode,
    /// Code and message of the first error in its body.
    pub(super) words: Option<String>,
    /// When to come back.
    pub(super) retry_after: Option<Duration>,
}

impl Refusal {
    fn is_retryable(&self) -> bool {
        self.status.is_server_error()
            || matches!(self.status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the answer is {}", self.status)?;
        self.words.as_ref().map_or(Ok(()), |words| write!(f, ", {words}"))
    }
}
