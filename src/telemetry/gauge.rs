//! Figures that are looked up when somebody asks for them.

use prometheus::{
    IntGauge, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

/// Has the metrics tell what `read` says at that moment, under `name`.
///
/// # Panics
/// If there is a metric of that name, or it is not the name of one.
pub fn register_gauge(
    registry: &Registry,
    (name, help): (&str, &str),
    read: impl Fn() -> u64 + Send + Sync + 'static,
) {
    let gauge = IntGauge::new(name, help).expect("the metric is well formed");
    let live = LiveGauge { read, gauge };
    registry.register(Box::new(live)).expect("the metric is registered once");
}

struct LiveGauge<F> {
    read: F,
    gauge: IntGauge,
}

impl<F: Fn() -> u64 + Send + Sync> Collector for LiveGauge<F> {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge.set(i64::try_from((self.read)()).unwrap_or(i64::MAX));
        self.gauge.collect()
    }
}
