//! What an owner knows of who has an item.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use super::{AskId, Incoming, Moment, NodeId, Peer, speed::Speeds};

/// How long a node is believed to have an item, or to be about to.
const BELIEVED: Duration = Duration::from_secs(60);

/// Who has not asked for so long has what it wanted, most likely.
const SILENT: Duration = Duration::from_millis(1500);

/// Most nodes that an item is remembered of.
const MOST: usize = 64;

/// So many of those that could give an item are looked at to find the one with the least to do.
const COMPARED: usize = 64;

/// What it costs to be one node further from where an item comes from, in transfers that a node has to send.
const HOP_COST: u32 = 8;

/// So many nodes are a chain, in which each gives the item to one other. So it has as much to send as it receives, and
/// all links are busy alike; in a tree half of them are idle.
const CHAIN: u64 = 32;

/// Where there are more, a chain would take too long to reach its end. They are a tree of chains of so many.
const CHAIN_OF_MANY: u32 = 8;

/// What it costs if a node is slow: more than anything else does.
const SLOW_COST: u32 = 1 << 20;

/// Nodes that a referral names.
pub(super) const NAMED: usize = 3;

/// Who has an item or receives it, in the order in which they came. Each was referred only to nodes that came before
/// it, so there is no circle in which all wait for each other.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    /// By the order in which they came.
    entries: BTreeMap<u64, Entry>,
    /// The order in which nodes came, also of those that nobody is referred to any more.
    orders: HashMap<NodeId, u64>,
    next_order: u64,
    /// Requests that are sent the item by this node.
    pub(super) children: usize,
    /// Requests that wait until somebody can give it, the oldest first.
    pub(super) waiting: VecDeque<AskId>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    peer: Peer,
    /// How many more it can be named to.
    slots: usize,
    /// To how many it was named as the first.
    children: u32,
    /// How many nodes there are between it and where the item comes from.
    depth: u32,
    /// Bytes of the item that it had when it last asked.
    offset: u64,
    since: Moment,
}

impl Entry {
    fn cost(&self, child_cost: u32, speeds: &Speeds) -> u32 {
        let slow = if speeds.is_slow(self.peer.id) { SLOW_COST } else { 0 };
        speeds.load(self.peer.id) + HOP_COST * self.depth + child_cost * self.children + slow
    }
}

/// Somebody who could give the item.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) cost: u32,
    /// So that not all owners name the same nodes first.
    drawn: u64,
    order: u64,
    pub(super) peer: Peer,
}

impl Candidate {
    /// Whether it would hold up whoever gets the item from it.
    pub(super) const fn is_slow(&self) -> bool {
        self.cost >= SLOW_COST
    }
}

impl Tracker {
    /// What it costs if the owner gives the item to one more itself.
    pub(super) fn own_cost(&self, load: u32) -> u32 {
        let children = u32::try_from(self.children).unwrap_or(u32::MAX);
        load.saturating_add(self.child_cost().saturating_mul(children))
    }

    /// What it costs if somebody gives the item to one more than before.
    const fn child_cost(&self) -> u32 {
        let chain = if self.next_order <= CHAIN { CHAIN as u32 } else { CHAIN_OF_MANY };
        HOP_COST * chain
    }

    /// Nodes that can give the item to who asks, the best first: those with the least to do, and of those the ones that
    /// are nearest to where it comes from.
    pub(super) fn candidates(
        &self,
        incoming: &Incoming,
        speeds: &Speeds,
        now: Moment,
    ) -> Vec<Candidate> {
        let child_cost = self.child_cost();
        let own_order = self.orders.get(&incoming.from.id).copied();
        let before = own_order.unwrap_or(u64::MAX);
        let has_more = |entry: &Entry| {
            entry.offset > incoming.offset || now.saturating_sub(entry.since) > SILENT
        };
        // Who asks again has lost what it was given, or wants more; those that came after it may wait for it.
        let is_fit = |entry: &Entry| {
            entry.peer.id != incoming.from.id
                && !incoming.avoid.contains(&entry.peer.id)
                && (entry.slots > 0 || own_order.is_some())
                && (!incoming.is_served || has_more(entry))
        };
        let fit = self.entries.range(..before).filter(|(_, entry)| is_fit(entry)).take(COMPARED);
        let mut named: Vec<Candidate> = fit
            .map(|(order, entry)| Candidate {
                cost: entry.cost(child_cost, speeds),
                drawn: incoming.item.worth(entry.peer.id.number()),
                order: *order,
                peer: entry.peer,
            })
            .collect();
        named.sort_unstable_by_key(|candidate| (candidate.cost, candidate.drawn));
        named.truncate(NAMED);
        named
    }

    /// How far from the owner a node is to which that one was named.
    pub(super) fn depth_after(&self, candidate: &Candidate) -> u32 {
        self.entries.get(&candidate.order).map_or(1, |entry| entry.depth + 1)
    }

    /// Notes that a node was named as the first of those that can give the item.
    pub(super) fn name(&mut self, candidate: &Candidate) {
        if let Some(entry) = self.entries.get_mut(&candidate.order) {
            entry.slots = entry.slots.saturating_sub(1);
            entry.children += 1;
        }
    }

    /// Notes that a node is going to have the item, and can give it to so many others.
    pub(super) fn note(&mut self, incoming: &Incoming, (slots, depth): (usize, u32), now: Moment) {
        let (peer, offset) = (incoming.from, incoming.offset);
        if let Some(order) = self.orders.get(&peer.id) {
            if let Some(entry) = self.entries.get_mut(order) {
                (entry.since, entry.offset) = (now, offset);
            }
            return;
        }
        if self.entries.len() >= MOST {
            // Whoever can give nothing any more is of no use; else the one that came first has been.
            let used = self.entries.iter().find(|(_, entry)| entry.slots == 0);
            let order = used.or_else(|| self.entries.first_key_value()).map(|(order, _)| *order);
            order.into_iter().for_each(|order| _ = self.entries.remove(&order));
        }
        self.orders.insert(peer.id, self.next_order);
        self.entries
            .insert(self.next_order, Entry { peer, slots, children: 0, depth, offset, since: now });
        self.next_order += 1;
    }

    /// Whether nothing is known that would be missed.
    pub(super) fn expire(&mut self, now: Moment) -> bool {
        let is_old = |entry: &Entry| now.saturating_sub(entry.since) >= BELIEVED;
        let old: Vec<u64> = self
            .entries
            .iter()
            .filter(|(_, entry)| is_old(entry))
            .map(|(order, _)| *order)
            .collect();
        old.into_iter().for_each(|order| _ = self.entries.remove(&order));
        self.entries.is_empty() && self.children == 0 && self.waiting.is_empty()
    }
}
