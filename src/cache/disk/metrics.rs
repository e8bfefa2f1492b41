//! What is counted of the disk, and what is said of its faults.

use std::{
    fmt, io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use tokio::time::Instant;

use super::file::Damage;

/// A fault of one kind is said once in this time; each is counted.
const QUIET: Duration = Duration::from_secs(3600);

/// What is wrong with the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DiskFault {
    /// A file has gone that nobody of us deleted.
    Missing,
    /// A file is not what was written.
    Rotten,
    /// A file cannot be read.
    Unreadable,
    /// A chunk cannot be written.
    Unwritable,
    /// There is no room for a chunk.
    Full,
    /// The folder cannot be used.
    Unusable,
}

impl DiskFault {
    const ALL: [Self; 6] = [
        Self::Missing,
        Self::Rotten,
        Self::Unreadable,
        Self::Unwritable,
        Self::Full,
        Self::Unusable,
    ];

    pub(super) const fn of(damage: &Damage) -> Self {
        match damage {
            Damage::Missing => Self::Missing,
            Damage::Rotten(_) => Self::Rotten,
            Damage::Failed(_) => Self::Unreadable,
        }
    }

    pub(super) fn of_writing(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Unwritable,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Rotten => "rotten",
            Self::Unreadable => "unreadable",
            Self::Unwritable => "unwritable",
            Self::Full => "full",
            Self::Unusable => "unusable",
        }
    }
}

/// Metrics: `millpond_cache_disk_bytes`, `millpond_cache_disk_limit_bytes`, `millpond_cache_disk_written_bytes_total`,
/// `millpond_cache_disk_left_out_total`, `millpond_cache_disk_evictions_total`,
/// `millpond_cache_disk_faults_total{fault}` and `millpond_node_info{node}`.
#[derive(Debug)]
pub(super) struct DiskMetrics {
    used_bytes: IntGauge,
    limit_bytes: IntGauge,
    written_bytes: IntCounter,
    left_out: IntCounter,
    evictions: IntCounter,
    faults: IntCounterVec,
    node: IntGaugeVec,
    /// When each kind of fault was said last.
    said: Mutex<[Option<Instant>; DiskFault::ALL.len()]>,
}

impl DiskMetrics {
    pub(super) fn register(registry: &Registry) -> Self {
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help).expect("the metric is well formed");
            registry.register(Box::new(gauge.clone())).expect("the metric is registered once");
            gauge
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help).expect("the metric is well formed");
            registry.register(Box::new(counter.clone())).expect("the metric is registered once");
            counter
        };
        let faults = Opts::new("millpond_cache_disk_faults_total", "Faults of the disk, by kind");
        let faults = IntCounterVec::new(faults, &["fault"]).expect("the metric is well formed");
        let node = Opts::new("millpond_node_info", "1, with the identity of this node");
        let node = IntGaugeVec::new(node, &["node"]).expect("the metric is well formed");
        registry.register(Box::new(faults.clone())).expect("the metric is registered once");
        registry.register(Box::new(node.clone())).expect("the metric is registered once");
        for fault in DiskFault::ALL {
            faults.with_label_values(&[fault.name()]);
        }
        Self {
            used_bytes: gauge("millpond_cache_disk_bytes", "Bytes of the chunks on the disk"),
            limit_bytes: gauge("millpond_cache_disk_limit_bytes", "Most bytes on the disk"),
            written_bytes: counter(
                "millpond_cache_disk_written_bytes_total",
                "Bytes of chunks that were written to the disk",
            ),
            left_out: counter(
                "millpond_cache_disk_left_out_total",
                "Chunks that were not written because the disk was too slow, or failed",
            ),
            evictions: counter(
                "millpond_cache_disk_evictions_total",
                "Chunks that went from the disk to make room",
            ),
            faults,
            node,
            said: Mutex::default(),
        }
    }

    pub(super) fn opened(&self, node_id: &str, limit_bytes: u64) {
        self.node.with_label_values(&[node_id]).set(1);
        self.limit_bytes.set(i64::try_from(limit_bytes).unwrap_or(i64::MAX));
    }

    pub(super) fn uses(&self, used_bytes: u64) {
        self.used_bytes.set(i64::try_from(used_bytes).unwrap_or(i64::MAX));
    }

    pub(super) fn written(&self, bytes: u64) {
        self.written_bytes.inc_by(bytes);
    }

    pub(super) fn left_out(&self) {
        self.left_out.inc();
    }

    pub(super) fn evicted(&self, count: usize) {
        self.evictions.inc_by(count as u64);
    }

    /// Counts a fault, and says it unless one of its kind was said lately.
    pub(super) fn failed(&self, fault: DiskFault, why: &dyn fmt::Display) {
        self.faults.with_label_values(&[fault.name()]).inc();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let said = &mut said[fault as usize];
        if said.is_none_or(|said| said.elapsed() >= QUIET) {
            *said = Some(Instant::now());
            let kind = fault.name();
            tracing::warn!(%why, kind, "the cache on the disk fails; others of this kind are only counted for an hour");
        }
    }
}
