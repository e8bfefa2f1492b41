//! Why a node did not answer.

use std::{error::Error as StdError, io, net::SocketAddr, time::Duration};

use super::InvalidMessage;

/// Why a node did not answer, or its answer broke off.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens there, or nobody is there.
    #[error("the node at {node} cannot be reached")]
    Connect {
        /// Where.
        node: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is there and says nothing.
    #[error("the node at {node} has not answered within {after:?}")]
    TimedOut {
        /// Where.
        node: SocketAddr,
        /// How long it was waited for.
        after: Duration,
    },
    /// One of the two nodes does not believe the other.
    #[error("the node at {node} and this one do not trust each other: {why}")]
    Refused {
        /// Where.
        node: SocketAddr,
        /// What is wrong, as far as it is known here.
        why: String,
    },
    /// What it says makes no sense.
    #[error("the node at {node} does not keep to the protocol")]
    Protocol {
        /// Where.
        node: SocketAddr,
        /// What it said.
        #[source]
        source: InvalidMessage,
    },
    /// It did not understand what it was asked.
    #[error("the node at {node} does not understand what it was asked: {told}")]
    NotUnderstood {
        /// Where.
        node: SocketAddr,
        /// What it said.
        told: String,
    },
    /// The question or the answer is longer than it may be.
    #[error("more than {limit_bytes} bytes were to be exchanged with the node at {node}")]
    TooLarge {
        /// Where.
        node: SocketAddr,
        /// The limit.
        limit_bytes: usize,
    },
    /// The connection ended before the answer did.
    #[error("the answer of the node at {node} broke off")]
    Broken {
        /// Where.
        node: SocketAddr,
        /// Why.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
}

impl Error {
    /// Whether nobody is there: others would find out the same.
    #[must_use]
    pub const fn is_dead(&self) -> bool {
        matches!(self, Self::Connect { .. })
    }

    /// Whether the same might succeed a little later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::TimedOut { .. } | Self::Broken { .. } => true,
            Self::Refused { .. }
            | Self::Protocol { .. }
            | Self::NotUnderstood { .. }
            | Self::TooLarge { .. } => false,
        }
    }
}

/// What a failure of a connection means: TLS fails where one side does not believe the other.
pub(super) fn interrupted(
    node: SocketAddr,
    source: impl StdError + Send + Sync + 'static,
) -> Error {
    match tls_cause(&source) {
        Some(error) => Error::Refused { node, why: error.to_string() },
        None => Error::Broken { node, source: Box::new(source) },
    }
}

/// The failure of TLS that is behind another, if that is what it is.
fn tls_cause<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e rustls::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref() {
            return Some(tls);
        }
        // An `io::Error` is not the source of what it wraps, but stands in its place.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}
