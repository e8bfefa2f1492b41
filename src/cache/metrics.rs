//! What is counted of the pond.

use std::time::Duration;

use foyer::{Event, EventListener};
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry, core::Collector,
};

use super::{ChunkKey, pond::Kept};

/// Buckets from a chunk that the disk's cache has to one that comes over a slow line, in seconds.
const FILL_SECONDS_BUCKETS: [f64; 11] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// Where a chunk was found.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found {
    Memory,
    /// Somebody was filling it.
    Coming,
    Disk,
    Nothing,
}

/// Where the bytes of a chunk come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The disk of this machine.
    Disk,
    /// Another node.
    Peer,
    /// The storage.
    Storage,
}

impl Origin {
    const fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Peer => "peer",
            Self::Storage => "storage",
        }
    }
}

/// Metrics: `millpond_cache_lookups_total{found}`, `millpond_cache_memory_read_bytes_total`,
/// `millpond_cache_filled_bytes_total{from}`, `millpond_cache_fill_seconds{from}`,
/// `millpond_cache_memory_evictions_total` and `millpond_cache_mismatches_total`.
#[derive(Clone, Debug)]
pub(super) struct PondMetrics {
    memory: IntCounter,
    coming: IntCounter,
    disk: IntCounter,
    nothing: IntCounter,
    memory_read_bytes: IntCounter,
    filled_bytes: IntCounterVec,
    fill_seconds: HistogramVec,
    evictions: IntCounter,
    mismatches: IntCounter,
}

impl PondMetrics {
    pub(super) fn register(registry: &Registry) -> Self {
        let lookups =
            Opts::new("millpond_cache_lookups_total", "Chunks that were read, by where they were");
        let lookups = IntCounterVec::new(lookups, &["found"]).expect("the metric is well formed");
        let memory_read_bytes = IntCounter::new(
            "millpond_cache_memory_read_bytes_total",
            "Bytes read of chunks that had been read before, or were being read, and came from memory",
        )
        .expect("the metric is well formed");
        let filled_bytes = Opts::new(
            "millpond_cache_filled_bytes_total",
            "Bytes that chunks were filled with, by where they came from",
        );
        let filled_bytes =
            IntCounterVec::new(filled_bytes, &["from"]).expect("the metric is well formed");
        let fill_seconds = HistogramOpts::new(
            "millpond_cache_fill_seconds",
            "Time from the first look for a chunk until all of it was in memory",
        )
        .buckets(FILL_SECONDS_BUCKETS.to_vec());
        let fill_seconds =
            HistogramVec::new(fill_seconds, &["from"]).expect("the metric is well formed");
        let evictions = IntCounter::new(
            "millpond_cache_memory_evictions_total",
            "Chunks that went from memory to make room",
        )
        .expect("the metric is well formed");
        let mismatches = IntCounter::new(
            "millpond_cache_mismatches_total",
            "Times that the storage gave other bytes of a blob than it should have",
        )
        .expect("the metric is well formed");
        for collector in [
            Box::new(lookups.clone()) as Box<dyn Collector>,
            Box::new(memory_read_bytes.clone()),
            Box::new(filled_bytes.clone()),
            Box::new(fill_seconds.clone()),
            Box::new(evictions.clone()),
            Box::new(mismatches.clone()),
        ] {
            registry.register(collector).expect("the metric is registered once");
        }
        let found = |name| lookups.with_label_values(&[name]);
        Self {
            memory: found("memory"),
            coming: found("coming"),
            disk: found("disk"),
            nothing: found("nothing"),
            memory_read_bytes,
            filled_bytes,
            fill_seconds,
            evictions,
            mismatches,
        }
    }

    pub(super) fn found(&self, found: Found) {
        match found {
            Found::Memory => self.memory.inc(),
            Found::Coming => self.coming.inc(),
            Found::Disk => self.disk.inc(),
            Found::Nothing => self.nothing.inc(),
        }
    }

    pub(super) fn read_again(&self, bytes: u64) {
        self.memory_read_bytes.inc_by(bytes);
    }

    pub(super) fn read_again_bytes(&self) -> u64 {
        self.memory_read_bytes.get()
    }

    pub(super) fn filled_bytes(&self, origin: Origin) -> u64 {
        self.filled_bytes.with_label_values(&[origin.name()]).get()
    }

    pub(super) fn filled(&self, origin: Origin, bytes: u64) {
        self.filled_bytes.with_label_values(&[origin.name()]).inc_by(bytes);
    }

    pub(super) fn mismatched(&self) {
        self.mismatches.inc();
    }

    pub(super) fn finished(&self, origin: Origin, time: Duration) {
        self.fill_seconds.with_label_values(&[origin.name()]).observe(time.as_secs_f64());
    }
}

impl EventListener for PondMetrics {
    type Key = ChunkKey;
    type Value = Kept;

    fn on_leave(&self, reason: Event, _key: &ChunkKey, _kept: &Kept) {
        match reason {
            Event::Evict => self.evictions.inc(),
            Event::Replace | Event::Remove | Event::Clear => {}
        }
    }
}
