//! What can go wrong with another registry.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use crate::oci::RepositoryName;

use super::credentials::CredentialsError;

/// Why another registry did not give what was asked for. Cheap to clone, so that all who wait for one
/// answer get the same error. Never holds a URL, which may be signed, or a credential.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The upstream does not have it.
    #[error("{upstream} does not have it")]
    NotFound {
        /// The upstream's name.
        upstream: Arc<str>,
    },
    /// The upstream wants other credentials, or gives it to nobody. Some registries, Docker Hub among
    /// them, say so of repositories that do not exist.
    #[error("{upstream} denies access with status {status}")]
    Denied {
        /// The upstream's name.
        upstream: Arc<str>,
        /// 401 or 403.
        status: u16,
    },
    /// The upstream wants fewer requests, or is known to want none at the moment.
    #[error("{upstream} is asked too much; again in {}", wait(*retry_after))]
    RateLimited {
        /// The upstream's name.
        upstream: Arc<str>,
        /// When to come back.
        retry_after: Option<Duration>,
    },
    /// The configuration does not let this repository be mirrored. Nothing was asked.
    #[error("the repository {repository} of {upstream} is not among those that may be mirrored")]
    Refused {
        /// The upstream's name.
        upstream: Arc<str>,
        /// The repository, as the upstream calls it.
        repository: RepositoryName,
    },
    /// The upstream answered with a status that nothing can be made of.
    #[error("{upstream} answers with status {status}")]
    Status {
        /// The upstream's name.
        upstream: Arc<str>,
        /// The status.
        status: u16,
    },
    /// No answer began in time.
    #[error("{upstream} did not answer within {after:?}")]
    Timeout {
        /// The upstream's name.
        upstream: Arc<str>,
        /// How long was waited.
        after: Duration,
    },
    /// Every connection this process may have to the upstream is in use, and stayed so.
    #[error("all connections to {upstream} are in use")]
    Busy {
        /// The upstream's name.
        upstream: Arc<str>,
    },
    /// A body brought no byte for too long.
    #[error("{upstream} sent nothing for {after:?} within a body")]
    Stalled {
        /// The upstream's name.
        upstream: Arc<str>,
        /// How long was waited.
        after: Duration,
    },
    /// A body brought too little for too long.
    #[error("{upstream} sent only {bytes} bytes of a body in {within:?}")]
    Slow {
        /// The upstream's name.
        upstream: Arc<str>,
        /// How much came.
        bytes: u64,
        /// In how much time of waiting for it.
        within: Duration,
    },
    /// A body ended before it was complete.
    #[error("the connection to {upstream} broke within a body")]
    Interrupted {
        /// The upstream's name.
        upstream: Arc<str>,
        /// What was seen of it; nothing where the body ended as if it was complete.
        #[source]
        source: Option<Arc<reqwest::Error>>,
    },
    /// No connection, or it ended before the answer began.
    #[error("{upstream} cannot be reached")]
    Connect {
        /// The upstream's name.
        upstream: Arc<str>,
        /// Why not.
        #[source]
        source: Arc<reqwest::Error>,
    },
    /// The connection is not to be trusted, or the upstream does not trust this side.
    #[error("no trusted connection to {upstream}")]
    Tls {
        /// The upstream's name.
        upstream: Arc<str>,
        /// Why not.
        #[source]
        source: Arc<reqwest::Error>,
    },
    /// The answer is not what the specification says.
    #[error("{upstream} answers in a way that cannot be used: {what}")]
    Protocol {
        /// The upstream's name.
        upstream: Arc<str>,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The answer is longer than it may be.
    #[error("{upstream} answers with more than {limit_bytes} bytes")]
    TooLarge {
        /// The upstream's name.
        upstream: Arc<str>,
        /// The limit.
        limit_bytes: u64,
    },
    /// The upstream names a token server that is not known to be its own. Nothing was sent there.
    #[error("{upstream} wants a token of {host}, which is not among its auth_hosts")]
    Realm {
        /// The upstream's name.
        upstream: Arc<str>,
        /// The host, or the scheme and the host.
        host: String,
    },
    /// The work of asking ended without a result, because of a mistake in this program.
    #[error("asking {upstream} was abandoned")]
    Abandoned {
        /// The upstream's name.
        upstream: Arc<str>,
    },
    /// This side's credentials cannot be had.
    #[error("no credentials for {upstream}")]
    Credentials {
        /// The upstream's name.
        upstream: Arc<str>,
        /// Why not.
        #[source]
        source: Arc<CredentialsError>,
    },
}

fn wait(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(|| "a while".to_owned(), |wait| format!("{} s", wait.as_secs()))
}

impl Error {
    /// A short name, for labels of metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not_found",
            Self::Denied { .. } => "denied",
            Self::RateLimited { .. } => "rate_limited",
            Self::Refused { .. } => "refused",
            Self::Status { .. } => "status",
            Self::Timeout { .. } => "timeout",
            Self::Busy { .. } => "busy",
            Self::Stalled { .. } => "stalled",
            Self::Slow { .. } => "slow",
            Self::Interrupted { .. } => "interrupted",
            Self::Connect { .. } => "connect",
            Self::Tls { .. } => "tls",
            Self::Protocol { .. } => "protocol",
            Self::TooLarge { .. } => "too_large",
            Self::Realm { .. } => "realm",
            Self::Abandoned { .. } => "abandoned",
            Self::Credentials { .. } => "credentials",
        }
    }

    /// Whether the upstream said that it does not have what was asked for.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the same request may well succeed soon. The retries within this module have been used up
    /// by then. [`Error::RateLimited`] is one of these, after its time.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::RateLimited { .. }
            | Self::Timeout { .. }
            | Self::Busy { .. }
            | Self::Stalled { .. }
            | Self::Slow { .. }
            | Self::Interrupted { .. }
            | Self::Connect { .. } => true,
            Self::Status { status, .. } => *status >= 500,
            Self::NotFound { .. }
            | Self::Denied { .. }
            | Self::Refused { .. }
            | Self::Tls { .. }
            | Self::Protocol { .. }
            | Self::TooLarge { .. }
            | Self::Realm { .. }
            | Self::Abandoned { .. }
            | Self::Credentials { .. } => false,
        }
    }

    /// Whether to try the same address again at once.
    pub(super) const fn is_transient(&self) -> bool {
        match self {
            Self::Timeout { .. } | Self::Connect { .. } => true,
            Self::Status { status, .. } => matches!(*status, 502..=504),
            _ => false,
        }
    }

    /// Whether another address of the upstream may do better.
    pub(super) const fn is_of_the_address(&self) -> bool {
        match self {
            Self::Timeout { .. } | Self::Connect { .. } | Self::Tls { .. } => true,
            Self::Status { status, .. } => *status >= 500,
            _ => false,
        }
    }
}

/// Why the upstreams of a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A file of certificates or keys cannot be read.
    #[error("upstream {upstream}: {} cannot be read: {source}", path.display())]
    File {
        /// The upstream's name.
        upstream: String,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file has no certificate in it.
    #[error("upstream {upstream}: {} holds no usable certificate", path.display())]
    NoCertificate {
        /// The upstream's name.
        upstream: String,
        /// The file.
        path: PathBuf,
    },
    /// A file has no certificate or key in it that can be used.
    #[error("upstream {upstream}: {} holds no usable certificate or key", path.display())]
    Pem {
        /// The upstream's name.
        upstream: String,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: reqwest::Error,
    },
    /// The HTTP client cannot be made.
    #[error("upstream {upstream}: no HTTP client can be made")]
    Client {
        /// The upstream's name.
        upstream: String,
        /// Why not.
        #[source]
        source: reqwest::Error,
    },
    /// The credentials are not of a form that can be sent.
    #[error("upstream {upstream}: the credentials cannot be used")]
    Credentials {
        /// The upstream's name.
        upstream: String,
        /// Why not.
        #[source]
        source: CredentialsError,
    },
    /// Two upstreams have the same name or alias, or one has no address.
    #[error("upstream {upstream}: {what}")]
    Config {
        /// The upstream's name.
        upstream: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The metrics are registered already: there is one [`super::Upstreams`] for each registry.
    #[error("the metrics of the upstreams cannot be registered")]
    Metrics(#[from] prometheus::Error),
}
