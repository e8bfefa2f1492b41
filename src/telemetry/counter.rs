//! Counts that are kept elsewhere and looked up when somebody asks for them.

use prometheus::{
    IntCounterVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

/// Has the metrics tell what `read` says at that moment, under `name`. It must never become less.
///
/// # Panics
/// If there is a metric of that name, or it is not the name of one.
pub fn register_counter(
    registry: &Registry,
    (name, help): (&str, &str),
    read: impl Fn() -> u64 + Send + Sync + 'static,
) {
    register(registry, Opts::new(name, help), &[], move |counters| {
        counters.with_label_values::<&str>(&[]).inc_by(read());
    });
}

/// The same for several counts with the same name, each with its value of `label`.
///
/// # Panics
/// As [`register_counter`].
pub fn register_counters(
    registry: &Registry,
    (name, help, label): (&str, &str, &'static str),
    read: impl Fn() -> Vec<(&'static str, u64)> + Send + Sync + 'static,
) {
    register(registry, Opts::new(name, help), &[label], move |counters| {
        for (value, count) in read() {
            counters.with_label_values(&[value]).inc_by(count);
        }
    });
}

fn register(
    registry: &Registry,
    opts: Opts,
    labels: &[&'static str],
    fill: impl Fn(&IntCounterVec) + Send + Sync + 'static,
) {
    let live = LiveCounters { empty: counters(&opts, labels), opts, labels: labels.to_vec(), fill };
    registry.register(Box::new(live)).expect("the metric is registered once");
}

fn counters(opts: &Opts, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(opts.clone(), labels).expect("the metric is well formed")
}

struct LiveCounters<F> {
    opts: Opts,
    labels: Vec<&'static str>,
    /// Says how the metric is called.
    empty: IntCounterVec,
    fill: F,
}

impl<F: Fn(&IntCounterVec) + Send + Sync> Collector for LiveCounters<F> {
    fn desc(&self) -> Vec<&Desc> {
        self.empty.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // New ones each time: two who ask at once would count twice in the same.
        let counters = counters(&self.opts, &self.labels);
        (self.fill)(&counters);
        counters.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use prometheus::TextEncoder;

    use super::*;

    #[test]
    fn counts_are_told_as_they_are_whenever_somebody_asks() {
        let registry = Registry::new();
        let count = Arc::new(AtomicU64::new(2));
        let read = Arc::clone(&count);
        register_counter(&registry, ("one_total", "One"), move || read.load(Ordering::Relaxed));
        let several = ("several_total", "Several", "kind");
        register_counters(&registry, several, || vec![("a", 5), ("b", 0)]);
        let text = || TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert_eq!(text(), text());
        count.store(7, Ordering::Relaxed);
        let expected = "# HELP one_total One\n# TYPE one_total counter\none_total 7\n\
                        # HELP several_total Several\n# TYPE several_total counter\n\
                        several_total{kind=\"a\"} 5\nseveral_total{kind=\"b\"} 0\n";
        assert_eq!(text(), expected);
    }
}
