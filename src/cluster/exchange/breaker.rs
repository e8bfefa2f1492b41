//! Nodes that did not answer.

use std::{collections::HashMap, time::Duration};

use super::{Moment, NodeId};

/// How long a node is left alone that could not be reached once.
const FIRST: Duration = Duration::from_secs(10);

/// How long at most.
const LONGEST: Duration = Duration::from_secs(60);

/// Which nodes are left alone, and until when. After that they are asked again, and left alone for twice as long if that
/// fails too. So a node that is gone costs each other node one timeout, not one for each chunk.
#[derive(Debug, Default)]
pub(super) struct Breakers(HashMap<NodeId, Breaker>);

#[derive(Clone, Copy, Debug)]
struct Breaker {
    until: Moment,
    pause: Duration,
}

impl Breakers {
    /// Whether a node may be asked.
    pub(super) fn allows(&self, node: NodeId, now: Moment) -> bool {
        self.0.get(&node).is_none_or(|breaker| breaker.until <= now)
    }

    /// Notes that a node could not be reached.
    pub(super) fn failed(&mut self, node: NodeId, now: Moment) {
        let breaker = self.0.entry(node).or_insert(Breaker { until: now, pause: FIRST / 2 });
        // Many requests may fail at once.
        if breaker.until <= now {
            breaker.pause = (2 * breaker.pause).min(LONGEST);
            breaker.until = now + breaker.pause;
        }
    }

    /// Notes that a node has answered.
    pub(super) fn answered(&mut self, node: NodeId) {
        self.0.remove(&node);
    }

    /// The nodes that are left alone.
    pub(super) fn open(&self, now: Moment) -> impl Iterator<Item = (NodeId, Moment)> {
        let open = self.0.iter().filter(move |(_, breaker)| breaker.until > now);
        open.map(|(node, breaker)| (*node, breaker.until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_again_is_left_alone_for_longer() {
        let (mut breakers, node) = (Breakers::default(), NodeId::new(1));
        let mut now = Duration::ZERO;
        for seconds in [10, 20, 40, 60, 60] {
            assert!(breakers.allows(node, now));
            breakers.failed(node, now);
            breakers.failed(node, now);
            let end = now + Duration::from_secs(seconds);
            assert!(!breakers.allows(node, end - Duration::from_millis(1)));
            assert_eq!(breakers.open(now).collect::<Vec<_>>(), [(node, end)]);
            now = end;
        }
        breakers.answered(node);
        breakers.failed(node, now);
        assert!(breakers.allows(node, now + FIRST));
    }
}
