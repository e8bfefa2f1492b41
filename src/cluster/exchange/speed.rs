//! How fast this node is, and how fast others are.

use std::{collections::HashMap, time::Duration};

use super::{Incoming, Moment, NodeId};

/// How long it is measured.
const MEASURED: Duration = Duration::from_millis(500);

/// Who is so many times slower than others is slow.
const SLOW: u64 = 4;

/// What nodes tell of themselves when they ask.
#[derive(Debug, Default)]
pub(super) struct Speeds {
    others: HashMap<NodeId, Told>,
    /// How fast those are that ask, in bytes per second; 0 as long as nobody has told.
    usual: u64,
    /// When that was found out.
    compared: Moment,
    /// How fast this node is; 0 as long as that is not known.
    own: u64,
    /// When it was last measured, and what had come then.
    measured: Option<(Moment, u64)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Told {
    load: u32,
    rate: u64,
}

impl Speeds {
    /// Takes in what a node tells.
    pub(super) fn hear(&mut self, incoming: &Incoming) {
        let told = self.others.entry(incoming.from.id).or_default();
        told.load = incoming.load;
        // Who has all it wanted is as fast as before.
        if incoming.rate > 0 {
            told.rate = incoming.rate;
        }
    }

    /// Notes that one more will ask a node, until that says itself what it has to do.
    pub(super) fn name(&mut self, node: NodeId) {
        self.others.entry(node).or_default().load += 1;
    }

    /// What a node has to do.
    pub(super) fn load(&self, node: NodeId) -> u32 {
        self.others.get(&node).map_or(0, |told| told.load)
    }

    /// Whether a node is much slower than others.
    pub(super) fn is_slow(&self, node: NodeId) -> bool {
        self.others.get(&node).is_some_and(|told| told.rate > 0 && self.is_less(told.rate))
    }

    const fn is_less(&self, rate: u64) -> bool {
        rate.saturating_mul(SLOW) < self.usual
    }

    /// Takes in how many bytes have come here so far. Nothing follows from that while little is wanted.
    pub(super) fn measure(&mut self, bytes: u64, is_much_wanted: bool, now: Moment) {
        if now >= self.compared + MEASURED {
            self.compare(now);
        }
        if !is_much_wanted {
            (self.own, self.measured) = (0, None);
            return;
        }
        let (since, before) = *self.measured.get_or_insert((now, bytes));
        let passed = now.saturating_sub(since);
        if passed >= MEASURED {
            let rate = bytes.saturating_sub(before) as f64 / passed.as_secs_f64();
            // Not nought, which would mean that it is not known.
            (self.own, self.measured) = ((rate as u64).max(1), Some((now, bytes)));
        }
    }

    /// Finds out how fast others are: the mean of all, because the slow ones ask for longer.
    fn compare(&mut self, now: Moment) {
        let rates = self.others.values().map(|told| told.rate).filter(|rate| *rate > 0);
        let (sum, count) = rates.fold((0, 0), |(sum, count), rate| (sum + rate, count + 1));
        (self.usual, self.compared) = (sum / count.max(1), now);
    }

    /// How fast this node is, in bytes per second; 0 if that is not known.
    pub(super) const fn own(&self) -> u64 {
        self.own
    }

    /// Whether this node is much slower than those that ask it.
    pub(super) const fn is_own_slow(&self) -> bool {
        self.own > 0 && self.is_less(self.own)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;
    use crate::{
        cluster::{Item, Peer, exchange::Role},
        oci::{Algorithm, Digest},
    };

    fn ask(id: u128, rate: u64) -> Incoming {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        Incoming {
            item: Item::part(&Digest::of(Algorithm::Sha256, b"a blob"), 0),
            from: Peer { id: NodeId::new(id), address },
            role: Role::Owner,
            offset: 0,
            hop: 0,
            load: 0,
            rate,
            avoid: Vec::new(),
            is_served: false,
        }
    }

    #[test]
    fn who_is_slow_is_told_by_what_others_tell() {
        let mut speeds = Speeds::default();
        let second = Duration::from_secs;
        speeds.measure(0, true, second(0));
        speeds.measure(1000, true, second(1));
        assert_eq!((speeds.own(), speeds.is_own_slow()), (1000, false));
        speeds.hear(&ask(1, 0));
        speeds.measure(2000, true, second(2));
        assert!(!speeds.is_own_slow(), "who says nothing is not quicker");
        (2..8).for_each(|id| speeds.hear(&ask(id, 10_000)));
        (0..16).for_each(|_| speeds.hear(&ask(8, 1000)));
        speeds.measure(3000, true, second(3));
        assert!(speeds.is_own_slow() && speeds.is_slow(NodeId::new(8)));
        assert!(!speeds.is_slow(NodeId::new(2)) && !speeds.is_slow(NodeId::new(1)));
        speeds.measure(3000, false, second(4));
        assert!(!speeds.is_own_slow(), "who wants little gets little");
    }
}
