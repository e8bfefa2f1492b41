//! Failures that one node tells another, so that both give their clients the same answer.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    content,
    oci::{Digest, InvalidManifest, RepositoryName},
    registry::Error,
    upstream::{self, Upstream},
};

/// Why a node could not get something from another registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::registry) enum Failure {
    /// The other registry does not have it.
    NotFound,
    NameUnknown,
    Denied {
        status: u16,
    },
    RateLimited {
        retry_after_ms: Option<u64>,
    },
    Status {
        status: u16,
    },
    Timeout {
        after_ms: u64,
    },
    Busy,
    TooLarge {
        limit_bytes: u64,
    },
    /// Nothing else can be done with what it sends, or with the connection to it.
    Unusable,
    Interrupted,
    /// It sends other bytes than those of the digest.
    Mismatch {
        expected: String,
        actual: String,
    },
    /// It sends fewer bytes than it announced, or more.
    Truncated {
        digest: String,
        offset: u64,
    },
    /// It has a manifest of a kind that nobody can check.
    Schema1,
}

impl Failure {
    /// What can be told of an error; nothing if it is this node's own, and another one may do better.
    pub(in crate::registry) fn of(error: &Error) -> Option<Self> {
        match error {
            Error::Shared(inner) => Self::of(inner),
            Error::Upstream(error) => Self::of_upstream(error),
            Error::Fetch(error) => Self::of_fetch(error),
            Error::NameUnknown { .. } => Some(Self::NameUnknown),
            Error::BlobUnknown { .. } | Error::ManifestUnknown { .. } => Some(Self::NotFound),
            Error::ManifestInvalid(InvalidManifest::Schema1) => Some(Self::Schema1),
            _ => None,
        }
    }

    fn of_fetch(error: &content::Error) -> Option<Self> {
        use content::Error as E;
        match error {
            E::Upstream(error) => Self::of_upstream(error),
            E::Fill(inner) => Self::of_fetch(inner),
            E::Mismatch { expected, actual } => {
                let (expected, actual) = (expected.to_string(), actual.to_string());
                Some(Self::Mismatch { expected, actual })
            }
            E::LengthMismatch { digest, announced: offset } | E::Truncated { digest, offset } => {
                Some(Self::Truncated { digest: digest.to_string(), offset: *offset })
            }
            E::Unknown { .. }
            | E::RangeOutside { .. }
            | E::Abandoned(_)
            | E::Body(_)
            | E::Storage(_) => None,
        }
    }

    fn of_upstream(error: &upstream::Error) -> Option<Self> {
        use upstream::Error as E;
        Some(match error {
            E::NotFound { .. } | E::Refused { .. } => Self::NotFound,
            E::Denied { status, .. } => Self::Denied { status: *status },
            E::RateLimited { retry_after, .. } => {
                Self::RateLimited { retry_after_ms: retry_after.map(millis) }
            }
            E::Status { status, .. } => Self::Status { status: *status },
            E::Timeout { after, .. } | E::Stalled { after, .. } => {
                Self::Timeout { after_ms: millis(*after) }
            }
            E::Slow { within, .. } => Self::Timeout { after_ms: millis(*within) },
            E::Busy { .. } => Self::Busy,
            E::TooLarge { limit_bytes, .. } => Self::TooLarge { limit_bytes: *limit_bytes },
            E::Interrupted { .. } | E::Connect { .. } => Self::Interrupted,
            E::Tls { .. } | E::Protocol { .. } | E::Realm { .. } | E::Credentials { .. } => {
                Self::Unusable
            }
            E::Abandoned { .. } => return None,
        })
    }

    /// The error as it would be if this node had asked `upstream` itself. `name` is the repository here.
    pub(in crate::registry) fn into_error(
        self,
        upstream: &Upstream,
        name: &RepositoryName,
    ) -> Error {
        use upstream::Error as E;
        let upstream: Arc<str> = upstream.name().into();
        let error = match self {
            Self::NameUnknown => return Error::NameUnknown { name: name.clone() },
            Self::Schema1 => return InvalidManifest::Schema1.into(),
            Self::Mismatch { expected, actual } => return mismatch(upstream, &expected, &actual),
            Self::Truncated { digest, offset } => return truncated(upstream, &digest, offset),
            Self::NotFound => E::NotFound { upstream },
            Self::Denied { status } => E::Denied { upstream, status },
            Self::RateLimited { retry_after_ms } => {
                E::RateLimited { upstream, retry_after: retry_after_ms.map(Duration::from_millis) }
            }
            Self::Status { status } => E::Status { upstream, status },
            Self::Timeout { after_ms } => {
                E::Timeout { upstream, after: Duration::from_millis(after_ms) }
            }
            Self::Busy => E::Busy { upstream },
            Self::TooLarge { limit_bytes } => E::TooLarge { upstream, limit_bytes },
            Self::Unusable => unusable(upstream),
            Self::Interrupted => E::Interrupted { upstream, source: None },
        };
        error.into()
    }
}

fn unusable(upstream: Arc<str>) -> upstream::Error {
    let what = "another node that asked it says so, and why in its log";
    upstream::Error::Protocol { upstream, what }
}

fn mismatch(upstream: Arc<str>, expected: &str, actual: &str) -> Error {
    match (expected.parse::<Digest>(), actual.parse::<Digest>()) {
        (Ok(expected), Ok(actual)) => {
            Error::Fetch(Arc::new(content::Error::Mismatch { expected, actual }))
        }
        _ => unusable(upstream).into(),
    }
}

fn truncated(upstream: Arc<str>, digest: &str, offset: u64) -> Error {
    match digest.parse() {
        Ok(digest) => Error::Fetch(Arc::new(content::Error::Truncated { digest, offset })),
        Err(_) => unusable(upstream).into(),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
