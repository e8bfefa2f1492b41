//! How fast this node is, and how fast others are.

use std::{collections::HashMap, time::Duration};

use super::{Incoming, Moment, NodeId};

/// How long it is counted what comes. Over less, what comes to nodes that are all alike differs tenfold: at the begin of
/// a storm, at its end, and where lines lose packets.
const MEASURED: Duration = Duration::from_secs(1);

/// How often that is done before anything is said of it.
const MEASURED_FIRST: u32 = 2;

/// The most that has come in such a time counts, because a node may get less than its line carries for many reasons. It
/// is forgotten slowly, one in so many of it each time.
const FORGOTTEN_SHARE: u64 = 32;

/// How long it is believed what a node has told of itself, and what this one has measured. A line may become better, and who
/// reads nothing has no way to show it.
const BELIEVED: Duration = Duration::from_secs(60);

/// Who is so many times slower than others is slow.
const SLOW: u64 = 4;

/// What nodes tell of themselves when they ask.
#[derive(Debug, Default)]
pub(super) struct Speeds {
    others: HashMap<NodeId, Told>,
    own: Own,
    /// How fast most are, in bytes per second; 0 as long as nobody has told.
    usual: u64,
    /// When that was found out.
    compared: Moment,
}

/// What a node tells.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    load: u32,
    rate: u64,
    /// When.
    at: Moment,
}

/// What has come to this node.
#[derive(Clone, Copy, Debug, Default)]
struct Own {
    /// The most that came in a second.
    rate: u64,
    /// How often that was measured while much was wanted, and when for the last time.
    times: u32,
    at: Moment,
    /// Whether much is wanted since then.
    wants_much: bool,
    /// Since when it is counted, and what had come before.
    since: Option<(Moment, u64)>,
}

impl Speeds {
    /// Takes in what a node tells.
    pub(super) fn hear(&mut self, incoming: &Incoming, now: Moment) {
        let told = self.others.entry(incoming.from.id).or_default();
        (told.load, told.at) = (incoming.load, now);
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

    /// Takes in how many bytes have come here so far. That it is little means nothing while little is wanted.
    pub(super) fn measure(&mut self, bytes: u64, is_much_wanted: bool, now: Moment) {
        let Some((since, before)) = self.own.since else {
            (self.own.wants_much, self.own.since) = (is_much_wanted, Some((now, bytes)));
            return;
        };
        self.own.wants_much &= is_much_wanted;
        let passed = now.saturating_sub(since);
        if passed < MEASURED {
            return;
        }
        let rate = (bytes.saturating_sub(before) as f64 / passed.as_secs_f64()) as u64;
        let own = &mut self.own;
        if own.wants_much {
            (own.times, own.at) = (own.times + 1, now);
            own.rate -= own.rate / FORGOTTEN_SHARE;
        }
        own.rate = own.rate.max(rate);
        (own.wants_much, own.since) = (is_much_wanted, Some((now, bytes)));
    }

    /// The most that has come here in a second.
    pub(super) const fn best(&self) -> u64 {
        self.own.rate
    }

    /// How fast this node is, in bytes per second; 0 if that is not known.
    pub(super) const fn own(&self) -> u64 {
        match self.own {
            Own { times, .. } if times < MEASURED_FIRST => 0,
            // Not nought, which would mean something else.
            Own { rate: 0, .. } => 1,
            Own { rate, .. } => rate,
        }
    }

    /// Finds out how fast most are. Returns whether this node is slow, compared with them.
    pub(super) fn compare(&mut self, now: Moment) -> bool {
        if now >= self.compared + MEASURED {
            self.compared = now;
            let is_old = |at: Moment| now.saturating_sub(at) >= BELIEVED;
            self.others.retain(|_, told| !is_old(told.at));
            if is_old(self.own.at) {
                (self.own.times, self.own.rate) = (0, 0);
            }
            let others = self.others.values().map(|told| told.rate);
            let known = others.chain([self.own()]).filter(|rate| *rate > 0);
            let mut rates: Vec<u64> = known.collect();
            let middle = rates.len() / 2;
            self.usual = match rates.get(middle) {
                Some(_) => *rates.select_nth_unstable(middle).1,
                None => 0,
            };
        }
        self.is_own_slow()
    }

    /// Whether a node is much slower than others.
    pub(super) fn is_slow(&self, node: NodeId) -> bool {
        self.others.get(&node).is_some_and(|told| self.is_less(told.rate))
    }

    /// Whether this node is much slower than others.
    pub(super) const fn is_own_slow(&self) -> bool {
        self.is_less(self.own())
    }

    const fn is_less(&self, rate: u64) -> bool {
        rate > 0 && rate.saturating_mul(SLOW) < self.usual
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

    const SECOND: Duration = Duration::from_secs(1);

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

    /// A node to which so many bytes come, each in a second.
    fn after(seconds: &[u64]) -> Speeds {
        let mut speeds = Speeds::default();
        speeds.measure(0, true, Duration::ZERO);
        let (mut bytes, mut now) = (0, Duration::ZERO);
        for came in seconds {
            (bytes, now) = (bytes + came, now + SECOND);
            speeds.measure(bytes, true, now);
        }
        speeds
    }

    #[test]
    fn a_node_is_as_fast_as_it_was_in_its_best_second() {
        let rates: [&[u64]; 4] = [&[100], &[100, 6400], &[6400, 100], &[0, 0]];
        assert_eq!(rates.map(|seconds| after(seconds).own()), [0, 6400, 6200, 1]);
    }

    #[test]
    fn who_wants_little_measures_nothing() {
        let mut speeds = after(&[1000, 1000]);
        for second in 3..9 {
            speeds.measure(2000, second % 2 == 0, second * SECOND);
        }
        assert_eq!(speeds.own(), 1000);
        speeds.measure(4000, false, 9 * SECOND);
        assert_eq!(speeds.own(), 2000, "what has come could come");
    }

    #[test]
    fn who_is_slow_is_told_by_what_most_tell() {
        let mut speeds = after(&[1000, 1000]);
        assert!(!speeds.compare(2 * SECOND), "nobody has told anything");
        let now = 2 * SECOND;
        speeds.hear(&ask(1, 0), now);
        (2..8).for_each(|id| speeds.hear(&ask(id, 10_000), now));
        speeds.hear(&ask(8, 1000), now);
        assert!(speeds.compare(3 * SECOND));
        let slow = (1..9).filter(|id| speeds.is_slow(NodeId::new(*id)));
        assert_eq!(slow.collect::<Vec<u128>>(), [8], "who says nothing is not slow");
    }

    #[test]
    fn nobody_is_slow_for_longer_than_it_is_believed() {
        let mut speeds = after(&[1000, 1000]);
        (2..8).for_each(|id| speeds.hear(&ask(id, 10_000), 2 * SECOND));
        speeds.hear(&ask(8, 1000), 2 * SECOND);
        assert!(speeds.compare(3 * SECOND) && speeds.is_slow(NodeId::new(8)));
        assert!(!speeds.compare(3 * SECOND + BELIEVED) && !speeds.is_slow(NodeId::new(8)));
        assert_eq!((speeds.own(), speeds.others.len()), (0, 0));
    }
}
