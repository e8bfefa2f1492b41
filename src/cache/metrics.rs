//! What is counted of the pond.

use std::sync::Arc;

use foyer::Cache;
use prometheus::{
    IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{Block, ChunkKey};

/// Where a chunk was found.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found {
    Memory,
    /// Somebody was filling it.
    Coming,
    Nothing,
}

/// Metrics: `millpond_cache_lookups_total{found}`, `millpond_cache_filled_bytes_total` and
/// `millpond_cache_memory_bytes`.
#[derive(Clone, Debug)]
pub(super) struct PondMetrics {
    memory: IntCounter,
    coming: IntCounter,
    nothing: IntCounter,
    filled_bytes: IntCounter,
}

impl PondMetrics {
    pub(super) fn register(registry: &Registry, memory: Cache<ChunkKey, Arc<Block>>) -> Self {
        let lookups =
            Opts::new("millpond_cache_lookups_total", "Looks for a chunk, by where it was");
        let lookups = IntCounterVec::new(lookups, &["found"]).expect("the metric is well formed");
        let filled_bytes = IntCounter::new(
            "millpond_cache_filled_bytes_total",
            "Bytes that chunks were filled with",
        )
        .expect("the metric is well formed");
        let gauge =
            IntGauge::new("millpond_cache_memory_bytes", "Memory of the chunks that are kept")
                .expect("the metric is well formed");
        let usage = Usage { memory, gauge };
        for collector in [
            Box::new(lookups.clone()) as Box<dyn Collector>,
            Box::new(filled_bytes.clone()),
            Box::new(usage),
        ] {
            registry.register(collector).expect("the metric is registered once");
        }
        let found = |name| lookups.with_label_values(&[name]);
        Self {
            memory: found("memory"),
            coming: found("coming"),
            nothing: found("nothing"),
            filled_bytes,
        }
    }

    pub(super) fn found(&self, found: Found) {
        match found {
            Found::Memory => self.memory.inc(),
            Found::Coming => self.coming.inc(),
            Found::Nothing => self.nothing.inc(),
        }
    }

    pub(super) fn filled(&self, bytes: u64) {
        self.filled_bytes.inc_by(bytes);
    }
}

/// The memory that is used, read when it is asked for.
struct Usage {
    memory: Cache<ChunkKey, Arc<Block>>,
    gauge: IntGauge,
}

impl Collector for Usage {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge.set(i64::try_from(self.memory.usage()).unwrap_or(i64::MAX));
        self.gauge.collect()
    }
}
