//! What an owner knows of who has an item.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use super::{AskId, Incoming, Moment, NodeId, Peer};

/// How long a node is believed to have an item, or to be about to.
const BELIEVED: Duration = Duration::from_secs(60);

/// Who has not asked for so long has what it wanted, most likely.
const SILENT: Duration = Duration::from_millis(1500);

/// Most nodes that an item is remembered of.
const MOST: usize = 64;

/// So many of those that could give an item are looked at to find the one with the least to do.
const COMPARED: usize = 64;

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
    /// Bytes of the item that it had when it last asked.
    offset: u64,
    since: Moment,
}

impl Tracker {
    /// Names up to three nodes that can give the item to who asks: those with the least to do first.
    pub(super) fn refer(
        &mut self,
        incoming: &Incoming,
        load: impl Fn(NodeId) -> u32,
        now: Moment,
    ) -> Vec<Peer> {
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
        let mut named: Vec<(u32, u64, Peer)> =
            fit.map(|(order, entry)| (load(entry.peer.id), *order, entry.peer)).collect();
        named.sort_by_key(|(load, order, _)| (*load, *order));
        named.truncate(NAMED);
        if let Some((_, order, _)) = named.first()
            && let Some(entry) = self.entries.get_mut(order)
        {
            entry.slots = entry.slots.saturating_sub(1);
        }
        named.into_iter().map(|(.., peer)| peer).collect()
    }

    /// Notes that a node is going to have the item, and can give it to so many others.
    pub(super) fn note(&mut self, incoming: &Incoming, slots: usize, now: Moment) {
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
        self.entries.insert(self.next_order, Entry { peer, slots, offset, since: now });
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
