//! What is counted of mirrors.

use prometheus::{IntCounterVec, Opts};

use super::Freshness;
use crate::{registry::Error, upstream::Upstream};

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Manifest,
    Blob,
    Tags,
    Referrers,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was held, or fetched for this request, and is what the other registry has.
    Served,
    /// It came, or was coming, from the other registry.
    Fetched,
    /// It was held, and the other registry could not be asked.
    Stale,
    /// It does not exist.
    Unknown,
    /// Something failed.
    Failed,
}

impl Outcome {
    pub(super) const fn of(error: &Error) -> Self {
        match error {
            Error::ManifestUnknown { .. }
            | Error::BlobUnknown { .. }
            | Error::NameUnknown { .. } => Self::Unknown,
            _ => Self::Failed,
        }
    }

    pub(super) const fn of_result<T>(result: &Result<T, Error>, good: Self) -> Self {
        match result {
            Ok(_) => good,
            Err(error) => Self::of(error),
        }
    }

    pub(super) const fn of_freshness<T>(result: &Result<(T, Freshness), Error>) -> Self {
        match result {
            Ok((_, Freshness::Current)) => Self::Served,
            Ok((_, Freshness::Stale)) => Self::Stale,
            Err(error) => Self::of(error),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Fetched => "fetched",
            Self::Stale => "stale",
            Self::Unknown => "unknown",
            Self::Failed => "failed",
        }
    }
}

/// `millpond_mirror_requests_total{upstream,kind,outcome}`, `millpond_mirror_fills_total{upstream,outcome}`
/// and `millpond_mirror_filled_bytes_total{upstream}`.
#[derive(Debug)]
pub(super) struct MirrorMetrics {
    requests: IntCounterVec,
    fills: IntCounterVec,
    filled_bytes: IntCounterVec,
}

impl MirrorMetrics {
    pub(super) fn new(registry: &prometheus::Registry) -> Self {
        let counter = |name, help, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)
                .expect("the metric is well formed");
            registry.register(Box::new(counter.clone())).expect("the metric is registered once");
            counter
        };
        Self {
            requests: counter(
                "millpond_mirror_requests_total",
                "Manifests and blobs of other registries that clients asked for, by how it ended",
                &["upstream", "kind", "outcome"],
            ),
            fills: counter(
                "millpond_mirror_fills_total",
                "Blobs that were fetched from other registries, by how it ended",
                &["upstream", "outcome"],
            ),
            filled_bytes: counter(
                "millpond_mirror_filled_bytes_total",
                "Bytes of blobs that were fetched from other registries and stored",
                &["upstream"],
            ),
        }
    }

    pub(super) fn count_fill(&self, upstream: &Upstream, (outcome, bytes): (&str, u64)) {
        self.fills.with_label_values(&[upstream.name(), outcome]).inc();
        self.filled_bytes.with_label_values(&[upstream.name()]).inc_by(bytes);
    }

    pub(super) fn count(&self, upstream: &Upstream, kind: Kind, outcome: Outcome) {
        let kind = match kind {
            Kind::Manifest => "manifest",
            Kind::Blob => "blob",
            Kind::Tags => "tags",
            Kind::Referrers => "referrers",
        };
        self.requests.with_label_values(&[upstream.name(), kind, outcome.name()]).inc();
    }
}
