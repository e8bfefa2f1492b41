//! What is counted of requests.

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry,
    core::{AtomicU64, GenericCounter},
};

/// Buckets from an answer out of memory to a large blob over a slow line, in seconds.
const SECONDS_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 120.0, 600.0];

/// Metrics of the registry's requests:
/// `millpond_http_requests_total{route,method,status}`, `millpond_http_request_seconds{route,method}`
/// (until the last byte), `millpond_http_first_byte_seconds{route,method}`, `millpond_http_sent_bytes_total{route}` and
/// `millpond_http_requests_in_flight`.
#[derive(Clone, Debug)]
pub(super) struct HttpMetrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
    first_byte_seconds: HistogramVec,
    sent: IntCounterVec,
    in_flight: IntGauge,
}

/// A request that is being answered; counted until it is dropped.
pub(super) struct InFlight {
    metrics: HttpMetrics,
}

/// What is counted of one finished request.
pub(super) struct Finished {
    pub(super) route: &'static str,
    pub(super) method: &'static str,
    pub(super) status: u16,
    pub(super) sent_bytes: u64,
    pub(super) first_byte_seconds: f64,
    pub(super) seconds: f64,
}

impl HttpMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let requests =
            Opts::new("millpond_http_requests_total", "Requests by route, method and status");
        let seconds = HistogramOpts::new(
            "millpond_http_request_seconds",
            "Time from a request to its last byte",
        )
        .buckets(SECONDS_BUCKETS.to_vec());
        let first_byte_seconds = HistogramOpts::new(
            "millpond_http_first_byte_seconds",
            "Time from a request until there is an answer, with its first bytes",
        )
        .buckets(SECONDS_BUCKETS.to_vec());
        let sent = Opts::new("millpond_http_sent_bytes_total", "Bytes of answers' bodies by route");
        let in_flight =
            Opts::new("millpond_http_requests_in_flight", "Requests not answered in full yet");
        let metrics = Self {
            requests: IntCounterVec::new(requests, &["route", "method", "status"])
                .expect("the metric is well formed"),
            seconds: HistogramVec::new(seconds, &["route", "method"])
                .expect("the metric is well formed"),
            first_byte_seconds: HistogramVec::new(first_byte_seconds, &["route", "method"])
                .expect("the metric is well formed"),
            sent: IntCounterVec::new(sent, &["route"]).expect("the metric is well formed"),
            in_flight: IntGauge::with_opts(in_flight).expect("the metric is well formed"),
        };
        let collectors: [Box<dyn prometheus::core::Collector>; 5] = [
            Box::new(metrics.requests.clone()),
            Box::new(metrics.seconds.clone()),
            Box::new(metrics.first_byte_seconds.clone()),
            Box::new(metrics.sent.clone()),
            Box::new(metrics.in_flight.clone()),
        ];
        for collector in collectors {
            registry.register(collector).expect("the metric is registered once");
        }
        metrics
    }

    pub(super) fn begin(&self) -> InFlight {
        self.in_flight.inc();
        InFlight { metrics: self.clone() }
    }
}

impl InFlight {
    pub(super) fn finish(&self, finished: &Finished) {
        let Finished { route, method, status, sent_bytes, first_byte_seconds, seconds } = *finished;
        let mut digits = [0; 3];
        self.metrics
            .requests
            .with_label_values(&[route, method, status_text(status, &mut digits)])
            .inc();
        self.metrics.seconds.with_label_values(&[route, method]).observe(seconds);
        let first_byte = self.metrics.first_byte_seconds.with_label_values(&[route, method]);
        first_byte.observe(first_byte_seconds);
        let sent: GenericCounter<AtomicU64> = self.metrics.sent.with_label_values(&[route]);
        sent.inc_by(sent_bytes);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
    }
}

/// The three digits of a status, without an allocation for each request.
fn status_text(status: u16, digits: &mut [u8; 3]) -> &str {
    for (digit, place) in digits.iter_mut().zip([100, 10, 1]) {
        *digit = b'0' + u8::try_from(status / place % 10).unwrap_or_default();
    }
    std::str::from_utf8(digits).unwrap_or_default()
}
