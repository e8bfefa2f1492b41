//! What other nodes want.

use super::{
    Action, AskId, Asked, Errand, Exchange, Incoming, Item, Lost, Moment, Quest, Reply, Role,
    Stock, Timer, tracker::Candidate,
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
        self.speeds.hear(&incoming, now);
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

    /// Answers a request for an item of which this node is still to learn how long it is: `None` if that has to be waited
    /// for. Whoever asks may be who this node itself has asked, so that each would wait for the other.
    pub fn asked_early(&mut self, incoming: &Incoming, now: Moment) -> Option<Reply> {
        self.speeds.hear(incoming, now);
        if self.passes_on(incoming.item, incoming.hop) {
            self.counts.passed += 1;
            return Some(Reply::Pass);
        }
        if self.errands.contains_key(&incoming.item) {
            self.begin_for_others(incoming.item, (incoming.role, incoming.hop), now);
        }
        None
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
        // Who was named to it does better with somebody else, if there is one.
        let is_too_slow = self.speeds.is_own_slow() && incoming.avoid.is_empty();
        if !has {
            Reply::Unknown
        } else if is_too_slow {
            Reply::Busy { after: self.limits.wait }
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
            if self.passes_on(*item, *hop) {
                return Some(Reply::Pass);
            }
            self.begin_for_others(*item, (*role, *hop), now);
            // Who is to have it from whom is decided when it comes. Before, nobody knows who will have how much to do
            // then.
            if self.waits_for_turn(*item) {
                return None;
            }
        }
        // Who has more of it already than this node waits for the same as this node.
        let has_more = stock == Stock::Whole
            || !is_served
            || self.errands.get(item).is_some_and(|errand| errand.received > *offset + LAG_BYTES);
        if !has_more {
            return Some(Reply::Busy { after: self.limits.check });
        }
        let tracker = self.trackers.entry(*item).or_default();
        let candidates = tracker.candidates(incoming, &self.speeds, now);
        if self.gives_itself(incoming, stock, candidates.first()) {
            self.note(incoming, 1, now);
            return Some(Reply::Serve);
        }
        let first = candidates.first()?;
        // Until it says itself what it has to do.
        self.speeds.name(first.peer.id);
        let tracker = self.trackers.entry(*item).or_default();
        let depth = tracker.depth_after(first);
        // Who takes it slowly takes away little.
        if !self.speeds.is_slow(incoming.from.id) {
            tracker.name(first);
        }
        self.note(incoming, depth, now);
        Some(Reply::Refer(candidates.into_iter().map(|candidate| candidate.peer).collect()))
    }

    fn note(&mut self, incoming: &Incoming, depth: u32, now: Moment) {
        let slots = self.limits.children;
        self.trackers.entry(incoming.item).or_default().note(incoming, (slots, depth), now);
    }

    /// Whether an owner gives an item itself, instead of naming others, of whom `first` would be the best.
    fn gives_itself(&self, incoming: &Incoming, stock: Stock, first: Option<&Candidate>) -> bool {
        let Some(tracker) = self.trackers.get(&incoming.item) else { return true };
        // Who fetches things for others only gives each away once: they can pass it on.
        let gives_once = !self.has_readers() || self.speeds.is_own_slow();
        let (most, load) = if gives_once { (1, 0) } else { (self.limits.children, self.load()) };
        let is_best = first.is_none_or(|first| tracker.own_cost(load) <= first.cost);
        if is_best && tracker.children < most && self.has_lane(incoming) {
            return true;
        }
        // Who was given it too slowly by two others is helped best by who has all of it.
        let was_misled = incoming.is_served && incoming.avoid.len() > 1;
        let has_better = match first {
            Some(_) if was_misled && stock == Stock::Whole => false,
            Some(first) => !first.is_slow(),
            None => stock == Stock::Nothing,
        };
        // Those that take it slowly use up little, and nobody else should have to take it from them.
        let is_last_hope = !has_better && !self.speeds.is_slow(incoming.from.id);
        is_last_hope && self.served < HOLDER_SHARE * self.limits.lanes + self.trickling()
    }

    /// Whether an item that this node owns and has not begun to fetch is better got by who comes after it.
    pub(super) fn passes_on(&self, item: Item, hop: u8) -> bool {
        let is_begun = |errand: &Errand| {
            errand.is_deputy || errand.source.is_some_and(|source| source.from.is_none())
        };
        if !self.speeds.is_own_slow() || hop > 0 || self.errands.get(&item).is_some_and(is_begun) {
            return false;
        }
        let owners = self.view.owners(item);
        owners.rank_of(self.me.id).is_some_and(|rank| rank + 1 < owners.iter().count())
    }

    /// Leaves what this node owns and has not begun to fetch to who comes after it, because it has turned out to be slow.
    pub(super) fn hand_over(&mut self, now: Moment) {
        let waits = |(item, errand): &(&Item, &Errand)| {
            errand.waits_for_turn() && self.passes_on(**item, 0)
        };
        let waiting = self.errands.iter().filter(waits).map(|(item, _)| *item);
        for item in waiting.collect::<Vec<Item>>() {
            let asks =
                self.trackers.get_mut(&item).map(|tracker| std::mem::take(&mut tracker.waiting));
            asks.into_iter().flatten().for_each(|ask| self.reply(ask, Reply::Pass));
            match self.errands.get(&item).map(|errand| errand.need) {
                Some(None) => self.lose(item, Lost::Failed, now),
                Some(Some(_)) => self.seek(item, now),
                None => {}
            }
        }
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
        let most = self.limits.lanes.max(coming + SPARE) + incoming.avoid.len();
        self.served < most || self.served < most + self.trickling()
    }

    /// Requests of others that are sent next to nothing: because they take it slowly, or because next to nothing comes of
    /// what they want.
    fn trickling(&self) -> usize {
        let is_behind = |item: &Item| self.errands.get(item).is_some_and(|errand| errand.is_behind);
        let trickles = |asked: &&Asked| {
            let Incoming { item, from, .. } = &asked.incoming;
            asked.is_served && (self.speeds.is_slow(from.id) || is_behind(item))
        };
        self.asks.values().filter(trickles).count()
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
            Reply::Pass => {
                self.counts.passed += 1;
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
        let (asks, speeds) = (&self.asks, &self.speeds);
        // Those that are slow at the end, where they hold up nobody.
        let drawn = |ask: &AskId| {
            let from = asks.get(ask)?.incoming.from.id;
            Some((speeds.is_slow(from), item.worth(from.number())))
        };
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
