//! What the exchange with other nodes is doing, for people and for Prometheus.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use prometheus::Registry;

use super::Swarm;
use crate::{
    cache::Origin,
    cluster::{AnswerCounts, AskedCounts, ExchangeStatus, NodeId, SourceBytes, Status},
    content::chunked::Chunked,
    telemetry::{register_counter, register_counters, register_gauge},
};

/// A name, what it means, and where it stands.
type Figure = (&'static str, &'static str, fn(&ExchangeStatus) -> u64);

const GAUGES: [Figure; 5] = [
    (
        "millpond_cluster_lanes_busy",
        "Parts that other nodes are being sent and that could be sent faster",
        |now| now.lanes_busy,
    ),
    (
        "millpond_cluster_lanes_limit",
        "Most parts that are sent at once while there are more who want some, as cluster.uploads says",
        |now| now.lanes_limit,
    ),
    (
        "millpond_cluster_parts_coming",
        "Parts of blobs that are on their way to this node or wait for their turn",
        |now| now.parts_coming,
    ),
    (
        "millpond_cluster_fetches_running",
        "Parts of blobs that are being fetched from the storage",
        |now| now.fetches_running,
    ),
    (
        "millpond_cluster_fetches_limit",
        "Most parts of blobs that are fetched from the storage at once now",
        |now| now.fetches_limit,
    ),
];

const COUNTERS: [Figure; 4] = [
    ("millpond_cluster_sent_bytes_total", "Bytes of blobs that other nodes were sent", |now| {
        now.sent_bytes
    }),
    (
        "millpond_cluster_slow_total",
        "Questions whether somebody has more of a part that takes long",
        |now| now.slow,
    ),
    (
        "millpond_cluster_deputies_total",
        "Parts that took so long that they were asked of who comes after their owner",
        |now| now.deputies,
    ),
    (
        "millpond_cluster_direct_total",
        "Parts of other nodes that were fetched from the storage because no owner could be reached",
        |now| now.direct,
    ),
];

impl Swarm {
    fn exchange_status(&self) -> ExchangeStatus {
        let (counts, (running, limit), parts_coming) = {
            let state = self.state();
            (state.exchange.counts(), state.exchange.fetches(), state.wanted.len())
        };
        ExchangeStatus {
            lanes_busy: self.lanes_busy() as u64,
            lanes_limit: self.neighbours.uploads as u64,
            sent_bytes: self.traffic.sent_bytes(),
            parts_coming: parts_coming as u64,
            fetches_running: running as u64,
            fetches_limit: limit as u64,
            answers: AnswerCounts {
                served: counts.served,
                referred: counts.referred + counts.passed,
                refused: counts.refused,
            },
            asked: self.traffic.asked(),
            slow: counts.slow,
            deputies: counts.deputies,
            direct: counts.direct,
        }
    }

    /// Nodes that are left alone, and for how long still.
    fn broken(&self) -> Vec<(NodeId, Duration)> {
        let now = self.now();
        let state = self.state();
        state.exchange.broken(now).map(|(node, until)| (node, until - now)).collect()
    }
}

impl Chunked {
    /// What this node knows of its cluster and does in it; `None` if it is in none. `upstream_bytes` have come from
    /// other registries.
    pub(in crate::content) fn cluster_status(&self, upstream_bytes: u64) -> Option<Status> {
        let swarm = self.swarm.as_ref()?;
        let bytes = SourceBytes {
            memory: self.pond.read_again_bytes(),
            disk: self.pond.filled_bytes(Origin::Disk),
            peer: self.pond.filled_bytes(Origin::Peer),
            storage: self.pond.filled_bytes(Origin::Storage),
            upstream: upstream_bytes,
        };
        let (exchange, broken) = (swarm.exchange_status(), swarm.broken());
        Some(Status::of(&swarm.neighbours.members, exchange, &broken, bytes))
    }

    /// Has the metrics tell what the exchange with other nodes is doing, if there is one:
    /// `millpond_cluster_breakers_open`, `millpond_cluster_answers_total{answer}`,
    /// `millpond_cluster_asked_total{outcome}`, and what else is listed in this file.
    pub(in crate::content) fn register_swarm(self: &Arc<Self>, metrics: &Registry) {
        if self.swarm.is_none() {
            return;
        }
        for (name, help, read) in GAUGES {
            register_gauge(metrics, (name, help), self.looked_up(read));
        }
        for (name, help, read) in COUNTERS {
            register_counter(metrics, (name, help), self.looked_up(read));
        }
        let breakers = (
            "millpond_cluster_breakers_open",
            "Nodes that are left alone because they did not answer",
        );
        let chunked = Arc::downgrade(self);
        register_gauge(metrics, breakers, move || {
            with_swarm(&chunked, |swarm| swarm.broken().len() as u64)
        });
        let answers = (
            "millpond_cluster_answers_total",
            "Questions of other nodes for parts of blobs, by what they were answered",
            "answer",
        );
        register_counters(
            metrics,
            answers,
            self.looked_up(|now| {
                let AnswerCounts { served, referred, refused } = now.answers;
                vec![("served", served), ("referred", referred), ("refused", refused)]
            }),
        );
        let asked = (
            "millpond_cluster_asked_total",
            "Questions to other nodes for parts of blobs and their chunk tables, by how they ended",
            "outcome",
        );
        register_counters(
            metrics,
            asked,
            self.looked_up(|now| {
                let AskedCounts { bytes, referred, busy, unknown, failed, dead, given_up } =
                    now.asked;
                vec![
                    ("bytes", bytes),
                    ("referred", referred),
                    ("busy", busy),
                    ("unknown", unknown),
                    ("failed", failed),
                    ("dead", dead),
                    ("given_up", given_up),
                ]
            }),
        );
    }

    /// What reads something of the exchange whenever it is called. Does not keep it alive.
    fn looked_up<T: Default + 'static>(
        self: &Arc<Self>,
        read: fn(&ExchangeStatus) -> T,
    ) -> impl Fn() -> T + Send + Sync + 'static {
        let chunked = Arc::downgrade(self);
        move || with_swarm(&chunked, |swarm| read(&swarm.exchange_status()))
    }
}

fn with_swarm<T: Default>(chunked: &Weak<Chunked>, read: impl FnOnce(&Swarm) -> T) -> T {
    let chunked = chunked.upgrade();
    let swarm = chunked.as_ref().and_then(|chunked| chunked.swarm.as_ref());
    swarm.map(read).unwrap_or_default()
}
