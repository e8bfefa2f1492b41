//! What other nodes want.

use super::{
    Action, AskId, Asked, Errand, Exchange, Incoming, Item, Lost, Moment, Quest, Reply, Role,
    Stock, Timer,
};

/// How many times as many nodes may be given one item by a holder than it is named to: those that ask again for what
/// they have lost come on top.
const HOLDER_SHARE: usize = 2;

/// A node gives to as many more than it takes from, at most.
const SPARE: usize = 4;

/// Who has so much less of an item than its owner is on a way that is too narrow.
const LAG_BYTES: u64 = 256 << 10;

impl Exchange {
    /// Answers a request of another node, now or soon. `stock` says what this node has.
    pub fn asked(&mut self, ask: AskId, incoming: Incoming, stock: Stock, now: Moment) {
        self.loads.insert(incoming.from.id, incoming.load);
        let asked = Asked { incoming, is_served: false };
        let item = asked.incoming.item;
        let reply = match asked.incoming.role {
            Role::Holder => Some(self.as_holder(&asked.incoming, stock)),
            Role::Owner | Role::Deputy => self.as_owner(&asked.incoming, stock, now),
        };
        self.asks.insert(ask, asked);
        match reply {
            Some(reply) => self.reply(ask, reply),
            None => {
                self.trackers.entry(item).or_default().waiting.push_back(ask);
                let wait = if self.waits_for_turn(item) {
                    self.limits.patience / 2
                } else {
                    self.limits.wait
                };
                self.timer(now + wait, Timer::Ask(ask));
            }
        }
    }

    /// Tells that a request has been answered to its end, or that whoever asked has gone.
    pub fn ask_ended(&mut self, ask: AskId, now: Moment) {
        let Some(Asked { incoming, is_served }) = self.asks.remove(&ask) else { return };
        let Some(tracker) = self.trackers.get_mut(&incoming.item) else { return };
        if is_served {
            self.served -= 1;
            tracker.children -= 1;
            self.serve_waiting(incoming.item, now);
        } else {
            tracker.waiting.retain(|waiting| *waiting != ask);
        }
    }

    fn as_holder(&self, incoming: &Incoming, stock: Stock) -> Reply {
        let item = incoming.item;
        let has =
            stock == Stock::Whole || self.errands.get(&item).is_some_and(Errand::is_under_way);
        let children = self.trackers.get(&item).map_or(0, |tracker| tracker.children);
        if !has {
            Reply::Unknown
        } else if self.has_lane(incoming) && children < HOLDER_SHARE * self.limits.children {
            Reply::Serve
        } else {
            Reply::Busy { after: self.limits.wait }
        }
    }

    /// What an owner answers now; `None` if it has to wait.
    fn as_owner(&mut self, incoming: &Incoming, stock: Stock, now: Moment) -> Option<Reply> {
        let Incoming { item, role, offset, hop, is_served, .. } = incoming;
        if stock == Stock::Nothing {
            self.begin_for_others(*item, (*role, *hop), now);
        }
        // Who has more of it already than this node waits for the same as this node.
        let has_more = stock == Stock::Whole
            || !is_served
            || self.errands.get(item).is_some_and(|errand| errand.received > *offset + LAG_BYTES);
        // Who is to have it from whom is decided when it comes. Before, nobody knows who will have how much to do then.
        if stock == Stock::Nothing && self.waits_for_turn(*item) {
            return None;
        }
        let has_lane = self.has_lane(incoming);
        if !has_more {
            return Some(Reply::Busy { after: self.limits.check });
        }
        // Who fetches things for others only gives each away once: they can pass it on.
        let most = if self.has_readers() { self.limits.children } else { 1 };
        let own_load = if self.has_readers() { self.load() } else { 0 };
        let tracker = self.trackers.entry(*item).or_default();
        let own_cost = tracker.own_cost(own_load);
        let loads = &self.loads;
        let load = |node| loads.get(&node).copied().unwrap_or(0);
        let candidates = tracker.candidates(incoming, load, now);
        let is_best = candidates.first().is_none_or(|first| own_cost <= first.cost);
        let slots = self.limits.children;
        if has_lane && tracker.children < most && is_best {
            tracker.note(incoming, (slots, 1), now);
            return Some(Reply::Serve);
        }
        let first = candidates.first()?;
        // Until it says itself what it has to do.
        *self.loads.entry(first.peer.id).or_default() += 1;
        let depth = tracker.name(first);
        tracker.note(incoming, (slots, depth), now);
        Some(Reply::Refer(candidates.into_iter().map(|candidate| candidate.peer).collect()))
    }

    fn waits_for_turn(&self, item: Item) -> bool {
        self.errands.get(&item).is_some_and(Errand::waits_for_turn)
    }

    /// Sees to it that an item comes here that others ask for.
    fn begin_for_others(&mut self, item: Item, (role, hop): (Role, u8), now: Moment) {
        let errand = self.errands.entry(item).or_insert_with(|| {
            let mut errand = Errand::new(None, hop + 1);
            errand.quest = Quest::Queued;
            self.queued += 1;
            errand
        });
        let is_asked_back = hop > 0 && errand.source.is_none();
        let becomes_deputy = (role == Role::Deputy || is_asked_back) && !errand.is_deputy;
        errand.is_deputy |= becomes_deputy;
        if errand.quest == Quest::Queued {
            self.begin(item, now);
        } else if becomes_deputy && !errand.is_fetched() {
            self.seek(item, now);
        }
    }

    /// Whether anything is read through this node itself.
    fn has_readers(&self) -> bool {
        self.in_window > 0 || !self.queue.is_empty()
    }

    /// Whether this node can send something to one more. It gives to as many as it takes from; and it takes more upon
    /// itself for who was refused by others.
    fn has_lane(&self, incoming: &Incoming) -> bool {
        let coming = self.errands.len() - self.queued;
        self.served < self.limits.lanes.max(coming + SPARE) + incoming.avoid.len()
    }

    fn reply(&mut self, ask: AskId, reply: Reply) {
        match &reply {
            Reply::Serve => {
                self.counts.served += 1;
                if let Some(asked) = self.asks.get_mut(&ask) {
                    self.served += 1;
                    asked.is_served = true;
                    self.trackers.entry(asked.incoming.item).or_default().children += 1;
                }
            }
            Reply::Refer(_) => {
                self.counts.referred += 1;
                self.asks.remove(&ask);
            }
            Reply::Busy { .. } | Reply::Unknown | Reply::Failed => {
                self.counts.refused += 1;
                self.asks.remove(&ask);
            }
        }
        self.actions.push_back(Action::Reply { ask, reply });
    }

    /// Has those that wait for an item come in another order than for other items: who is always the last never gives
    /// anything.
    pub(super) fn shuffle_waiting(&mut self, item: Item) {
        let Some(tracker) = self.trackers.get_mut(&item) else { return };
        let asks = &self.asks;
        let drawn =
            |ask: &AskId| asks.get(ask).map(|asked| item.worth(asked.incoming.from.id.number()));
        tracker.waiting.make_contiguous().sort_by_cached_key(drawn);
    }

    /// Answers those that wait for an item as far as that can be done now.
    pub(super) fn serve_waiting(&mut self, item: Item, now: Moment) {
        let stock = if self.errands.contains_key(&item) { Stock::Nothing } else { Stock::Whole };
        while let Some(ask) =
            self.trackers.get_mut(&item).and_then(|tracker| tracker.waiting.pop_front())
        {
            let Some(asked) = self.asks.get(&ask).cloned() else { continue };
            match self.as_owner(&asked.incoming, stock, now) {
                Some(reply) => self.reply(ask, reply),
                None => {
                    self.trackers.entry(item).or_default().waiting.push_front(ask);
                    return;
                }
            }
        }
    }

    /// Tells those that wait for an item that it does not come.
    pub(super) fn refuse_waiting(&mut self, item: Item, why: Lost) {
        let Some(tracker) = self.trackers.get_mut(&item) else { return };
        for ask in std::mem::take(&mut tracker.waiting) {
            let reply = match why {
                Lost::Unknown => Reply::Unknown,
                Lost::Failed | Lost::Overloaded => Reply::Failed,
            };
            self.reply(ask, reply);
        }
    }

    pub(super) fn waited_long_enough(&mut self, ask: AskId) {
        let Some(asked) = self.asks.get(&ask).filter(|asked| !asked.is_served).cloned() else {
            return;
        };
        if let Some(tracker) = self.trackers.get_mut(&asked.incoming.item) {
            tracker.waiting.retain(|waiting| *waiting != ask);
        }
        self.reply(ask, Reply::Busy { after: self.limits.wait / 4 });
    }
}
