//! How often and how long things are done.

use std::time::Duration;

use super::book::Patience;

/// How often and how long things are done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// From an answer of a node to the next question.
    pub(super) ask_again: Duration,
    /// Longest wait for the answer.
    pub(super) answer: Duration,
    /// From one look at DNS to the next.
    pub(super) resolve_again: Duration,
    /// Longest wait for DNS, for one name.
    pub(super) resolve: Duration,
    /// From one round of gossip to the next.
    pub(super) gossip_again: Duration,
    /// Between looks because others disagree, at least.
    pub(super) look_again: Duration,
    pub(super) patience: Patience,
}

impl Pace {
    /// What is right in a data centre: a node that is gone for good is known as gone after 12 seconds, because until
    /// then each request to it is lost; one that is slow for a moment keeps what is its own, because others would have
    /// to read all of that.
    pub(super) const fn usual(warm_up: Duration) -> Self {
        Self {
            ask_again: Duration::from_secs(2),
            answer: Duration::from_secs(1),
            resolve_again: Duration::from_secs(5),
            resolve: Duration::from_secs(5),
            gossip_again: Duration::from_secs(1),
            look_again: Duration::from_secs(1),
            patience: Patience { silence: Duration::from_secs(12), warm_up },
        }
    }
}

/// About as long, so that not all nodes do the same at the same time: three to five quarters.
pub(super) fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(0.75 + 0.5 * fastrand::f64())
}
