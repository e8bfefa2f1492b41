//! What is counted of the upstreams.

use std::{sync::Arc, time::Duration};

use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{Error, pause::Pauses};

/// Buckets from a neighbour's cache to a registry at the end of a client's patience, in seconds.
const SECONDS_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 30.0];

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Manifest,
    Blob,
    Tags,
    Referrers,
    Token,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::Tags => "tags",
            Self::Referrers => "referrers",
            Self::Token => "token",
        }
    }
}

/// How a request ended, as far as its headers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome<'e> {
    Ok,
    /// The upstream wants to know who asks; the request is sent again.
    Challenged,
    /// Not sent, because the upstream wants fewer requests at the moment.
    Paused,
    Failed(&'e Error),
}

impl Outcome<'_> {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Challenged => "challenged",
            Self::Paused => "paused",
            Self::Failed(error) => error.kind(),
        }
    }
}

/// The metrics of all upstreams.
pub(super) struct Metrics {
    requests: IntCounterVec,
    body_errors: IntCounterVec,
    bytes: IntCounterVec,
    seconds: HistogramVec,
    limit: IntGaugeVec,
    remaining: IntGaugeVec,
}

impl Metrics {
    /// Registers `millpond_upstream_requests_total{upstream,kind,outcome}`,
    /// `millpond_upstream_body_errors_total{upstream,error}`, `millpond_upstream_bytes_total{upstream}`,
    /// `millpond_upstream_request_seconds{upstream,kind}` and
    /// `millpond_upstream_ratelimit_{limit,remaining}{upstream}`.
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone())).map(|()| counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGaugeVec::new(Opts::new(name, help), &["upstream"])?;
            registry.register(Box::new(gauge.clone())).map(|()| gauge)
        };
        let seconds = HistogramOpts::new(
            "millpond_upstream_request_seconds",
            "Time until the headers of an upstream's answer, redirections included",
        );
        let seconds = seconds.buckets(SECONDS_BUCKETS.to_vec());
        let seconds = HistogramVec::new(seconds, &["upstream", "kind"])?;
        registry.register(Box::new(seconds.clone()))?;
        Ok(Self {
            requests: counter(
                "millpond_upstream_requests_total",
                "Requests to upstreams by how they were answered, each attempt counted",
                &["upstream", "kind", "outcome"],
            )?,
            body_errors: counter(
                "millpond_upstream_body_errors_total",
                "Bodies from upstreams that ended in an error",
                &["upstream", "error"],
            )?,
            bytes: counter(
                "millpond_upstream_bytes_total",
                "Bytes of bodies from upstreams",
                &["upstream"],
            )?,
            seconds,
            limit: gauge(
                "millpond_upstream_ratelimit_limit",
                "Manifest requests that the upstream allows in its window",
            )?,
            remaining: gauge(
                "millpond_upstream_ratelimit_remaining",
                "Manifest requests that the upstream still allows in its window",
            )?,
        })
    }

    /// The metrics of one upstream.
    pub(super) fn of(&self, upstream: &str) -> UpstreamMetrics {
        UpstreamMetrics {
            upstream: upstream.to_owned(),
            requests: self.requests.clone(),
            body_errors: self.body_errors.clone(),
            bytes: self.bytes.with_label_values(&[upstream]),
            seconds: self.seconds.clone(),
            limit: self.limit.clone(),
            remaining: self.remaining.clone(),
        }
    }
}

/// The metrics of one upstream.
#[derive(Debug)]
pub(super) struct UpstreamMetrics {
    upstream: String,
    requests: IntCounterVec,
    body_errors: IntCounterVec,
    bytes: IntCounter,
    seconds: HistogramVec,
    limit: IntGaugeVec,
    remaining: IntGaugeVec,
}

impl UpstreamMetrics {
    pub(super) fn count(&self, kind: Kind, outcome: Outcome<'_>) {
        let labels = [self.upstream.as_str(), kind.name(), outcome.name()];
        self.requests.with_label_values(&labels).inc();
    }

    pub(super) fn time(&self, kind: Kind, taken: Duration) {
        let seconds: Histogram =
            self.seconds.with_label_values(&[self.upstream.as_str(), kind.name()]);
        seconds.observe(taken.as_secs_f64());
    }

    pub(super) fn received(&self, bytes: usize) {
        self.bytes.inc_by(bytes as u64);
    }

    pub(super) fn body_failed(&self, error: &Error) {
        self.body_errors.with_label_values(&[self.upstream.as_str(), error.kind()]).inc();
    }

    /// Shows what the upstream said about its limit; until it says something, there is no gauge.
    pub(super) fn limit(&self, limit: Option<u64>, remaining: Option<u64>) {
        let show = |gauges: &IntGaugeVec, value: Option<u64>| {
            let Some(value) = value else { return };
            let gauge: IntGauge = gauges.with_label_values(&[self.upstream.as_str()]);
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        show(&self.limit, limit);
        show(&self.remaining, remaining);
    }
}

/// `millpond_upstream_paused_seconds{upstream}`: how long nothing will be asked; read when it is asked for.
pub(super) struct PausedSeconds {
    gauges: GaugeVec,
    pauses: Vec<(Arc<str>, Arc<Pauses>)>,
}

impl PausedSeconds {
    pub(super) fn register(
        registry: &Registry,
        pauses: Vec<(Arc<str>, Arc<Pauses>)>,
    ) -> Result<(), prometheus::Error> {
        let opts = Opts::new(
            "millpond_upstream_paused_seconds",
            "Time for which an upstream is not asked, because it asked for that",
        );
        let gauges = GaugeVec::new(opts, &["upstream"])?;
        registry.register(Box::new(Self { gauges, pauses }))
    }
}

impl Collector for PausedSeconds {
    fn desc(&self) -> Vec<&Desc> {
        self.gauges.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (upstream, pauses) in &self.pauses {
            let left = pauses.longest().unwrap_or_default();
            self.gauges.with_label_values(&[&**upstream]).set(left.as_secs_f64());
        }
        self.gauges.collect()
    }
}
