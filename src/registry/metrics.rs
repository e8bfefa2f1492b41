//! What is counted of the registry.

use std::sync::{Arc, Weak};

use prometheus::{
    IntGauge, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::Registry;

/// Registers `millpond_uploads_open`: upload sessions that this process works on. Read when it is asked
/// for; does not keep the registry alive.
///
/// # Panics
/// If the metrics are already registered: there is one registry in a process.
pub fn register(registry: &Arc<Registry>, metrics: &prometheus::Registry) {
    let opts = Opts::new("millpond_uploads_open", "Upload sessions this process works on");
    let gauge = IntGauge::with_opts(opts).expect("the metric is well formed");
    let collector = OpenUploads { registry: Arc::downgrade(registry), gauge };
    metrics.register(Box::new(collector)).expect("the metric is registered once");
}

struct OpenUploads {
    registry: Weak<Registry>,
    gauge: IntGauge,
}

impl Collector for OpenUploads {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let open = self.registry.upgrade().map_or(0, |registry| registry.sessions.count());
        self.gauge.set(i64::try_from(open).unwrap_or(i64::MAX));
        self.gauge.collect()
    }
}
