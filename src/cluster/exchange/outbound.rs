//! What this node wants.

use std::{sync::Arc, time::Duration};

use super::{
    Action, Answer, Attempt, Errand, Exchange, Item, Lost, Moment, Need, NodeId, Peer, Quest,
    RANKS, Role, Trouble, errand::Source, looks::PASSED_OVER,
};

/// A request that so many nodes have passed on is answered by whoever has it now.
const HOPS_MOST: u8 = 2;

/// Attempts in a row that may bring nothing.
const FRUITLESS_MOST: u32 = 12;

/// Longest pause between two of them.
const PAUSE_MOST: Duration = Duration::from_secs(2);

/// What was fetched so often in vain cannot be had.
const FAILURES_MOST: u32 = 3;

const PAUSE_FIRST: Duration = Duration::from_millis(20);

/// How much the last item counts for how long they usually take: one in so many.
const USUAL_SHARE: u32 = 8;

/// How long an item is taken to need before any has come.
pub(super) const USUAL_FIRST: Duration = Duration::from_secs(2);

impl Exchange {
    /// Sees to it that an item comes here, because a reader of this node needs it.
    pub fn want(&mut self, item: Item, need: Need, now: Moment) {
        if let Some(errand) = self.errands.get_mut(&item) {
            let was_in_window = errand.is_in_window();
            errand.need = errand.need.max(Some(need));
            let waits_for_turn = errand.waits_for_turn();
            if errand.quest == Quest::Queued && need >= Need::Now {
                return self.begin(item, now);
            }
            if !was_in_window && errand.is_in_window() {
                self.in_window += 1;
            }
            if need == Need::Open && waits_for_turn {
                self.begin_fetch(item, now);
            }
            return;
        }
        let mut errand = Errand::new(Some(need), 0);
        errand.quest = Quest::Queued;
        self.errands.insert(item, errand);
        self.queued += 1;
        if need >= Need::Now {
            self.begin(item, now);
        } else {
            self.queue.push_back(item);
            self.fill_window(now);
        }
    }

    /// Tells what a node has answered to an attempt.
    pub fn answered(&mut self, attempt: Attempt, answer: Answer, now: Moment) {
        let Attempt { item, number } = attempt;
        let Some(errand) = self.errands.get_mut(&item) else { return };
        let Quest::Asking { number: expected, to, role } = errand.quest else { return };
        if number != expected {
            return;
        }
        if answer != Answer::Dead {
            self.breakers.answered(to);
        }
        match answer {
            Answer::Bytes => {
                self.take_from(item, Source::new(number, Some(to), now), now);
            }
            Answer::Refer(peers) => {
                let me = self.me.id;
                errand.candidates = peers.into_iter().filter(|peer| peer.id != me).collect();
                self.ask_next(item, now);
            }
            Answer::Busy { after } if role != Role::Holder => self.pause(item, after, now),
            Answer::Pass if role != Role::Holder => self.pass(item, to, now),
            Answer::Unknown if role != Role::Holder => self.lose(item, Lost::Unknown, now),
            Answer::Busy { .. } | Answer::Pass | Answer::Unknown => {
                errand.avoid(to);
                self.ask_next(item, now);
            }
            Answer::Failed => {
                errand.avoid(to);
                errand.broke();
                self.fruitless(item, now);
            }
            Answer::Dead => {
                errand.avoid(to);
                self.breakers.failed(to, now);
                self.ask_next(item, now);
            }
        }
    }

    /// Passes over an owner that says that it is slow.
    fn pass(&mut self, item: Item, owner: NodeId, now: Moment) {
        self.slow_owners.insert(owner, now + PASSED_OVER);
        let owners = self.view.owners(item);
        let next = owners.rank_of(owner).map_or(RANKS, |rank| rank + 1);
        if let Some(errand) = self.errands.get_mut(&item) {
            errand.rank = errand.rank.max(next);
            // Who disagrees on who comes after whom, and passes it on too, is not asked for ever.
            errand.is_deputy |= errand.rank >= owners.iter().count();
        }
        self.seek(item, now);
    }

    /// Tells how many bytes of an item are here now.
    pub fn progressed(&mut self, item: Item, received: u64) {
        if let Some(errand) = self.errands.get_mut(&item) {
            errand.received = received;
        }
    }

    /// Tells that all of an item is here now.
    pub fn arrived(&mut self, item: Item, now: Moment) {
        self.incoming.remove(&item);
        let Some(errand) = self.errands.remove(&item) else { return };
        self.cancel(item, errand.question());
        if let Some(source) = errand.source
            && source.takes_turn
        {
            self.fetches.came(now.saturating_sub(source.since));
        }
        self.arrivals += 1;
        let took = now.saturating_sub(errand.since);
        self.usual = (self.usual * (USUAL_SHARE - 1) + took) / USUAL_SHARE;
        self.left(&errand, now);
        self.serve_waiting(item, now);
    }

    /// Tells that an item is still on its way to where it is fetched from. It then takes no turn at being fetched: it would
    /// keep others from it that are there, or come sooner.
    pub fn is_incoming(&mut self, item: Item) {
        self.incoming.insert(item);
    }

    /// Tells that an item cannot be had any more.
    pub fn is_gone(&mut self, item: Item, now: Moment) {
        self.lose(item, Lost::Failed, now);
    }

    /// Tells that an attempt has ended without all bytes.
    pub fn broke(&mut self, attempt: Attempt, trouble: Trouble, now: Moment) {
        let item = attempt.item;
        let Some(errand) = self.errands.get_mut(&item) else { return };
        let Some(source) = errand.source.filter(|source| source.number == attempt.number) else {
            return;
        };
        errand.source = None;
        match source.from {
            Some(node) => errand.avoid(node),
            None if source.takes_turn => self.fetches.gave_up(),
            None => {}
        }
        match (trouble, source.from) {
            (Trouble::Unknown, None) => self.lose(item, Lost::Unknown, now),
            (Trouble::Failed | Trouble::Lost, None) => self.lose(item, Lost::Failed, now),
            (Trouble::Lost, Some(_)) => {
                errand.received = 0;
                errand.pass_over_owner();
                self.fruitless(item, now);
            }
            (Trouble::Broken, None) => self.failed(item, now),
            (Trouble::Broken | Trouble::Unknown | Trouble::Failed, Some(_)) => {
                errand.broke();
                self.fruitless(item, now);
            }
        }
        self.begin_fetches(now);
    }

    /// Begins with what is wanted as long as there is room in the window.
    pub(super) fn fill_window(&mut self, now: Moment) {
        while self.in_window < self.limits.window {
            let Some(item) = self.queue.pop_front() else { return };
            if self.errands.get(&item).is_some_and(|errand| errand.quest == Quest::Queued) {
                self.begin(item, now);
            }
        }
    }

    /// Begins with an item that is new or has waited for its turn.
    pub(super) fn begin(&mut self, item: Item, now: Moment) {
        let Some(errand) = self.errands.get_mut(&item) else { return };
        self.queued -= usize::from(errand.quest == Quest::Queued);
        errand.quest = Quest::Idle;
        (errand.arrivals_before, errand.since) = (self.arrivals, now);
        if errand.need.is_some() {
            self.in_window += 1;
        }
        self.seek(item, now);
    }

    /// Asks who should know, or fetches the item if that is this node.
    pub(super) fn seek(&mut self, item: Item, now: Moment) {
        let Some(errand) = self.errands.get_mut(&item) else { return };
        if errand.is_deputy || errand.hop >= HOPS_MOST {
            return self.fetch(item, now);
        }
        let hop = errand.hop;
        let skipped = if errand.is_fetched() { 0 } else { errand.rank };
        let passes_on = self.passes_on(item, hop.saturating_sub(1));
        let owners = self.view.owners(item);
        let find = |skipped: usize, takes_slow: bool| {
            owners.iter().enumerate().skip(skipped).find(|(_, owner)| {
                if owner.id == self.me.id {
                    return !passes_on;
                }
                self.breakers.allows(owner.id, now) && (takes_slow || !self.is_slow(owner.id, now))
            })
        };
        // What the owner gives too slowly is asked of the next one, and of a slow one only if there is no other.
        match find(skipped, false).or_else(|| find(0, false)).or_else(|| find(skipped, true)) {
            Some((_, owner)) if owner.id == self.me.id => return self.fetch(item, now),
            Some((0, owner)) => return self.ask(item, *owner, Role::Owner, now),
            Some((rank, owner)) => return self.ask_deputy(item, (*owner, rank), now),
            None => {}
        }
        // All that are cut off from its owners agree on one of them, who fetches it for the others.
        let is_reached = |node| node == self.me.id || self.breakers.allows(node, now);
        match self.view.first(item, is_reached) {
            Some(node) if node.id != self.me.id => self.ask(item, node, Role::Deputy, now),
            Some(_) | None => {
                self.counts.direct += 1;
                self.fetch(item, now);
            }
        }
    }

    /// Whether a node is passed over because it is slow: it says so, or has been.
    #[must_use]
    pub fn is_slow(&self, node: NodeId, now: Moment) -> bool {
        let was_slow = self.slow_owners.get(&node).is_some_and(|until| *until > now);
        was_slow || self.speeds.is_slow(node)
    }

    /// Asks who comes after an owner that does not answer or is slow.
    fn ask_deputy(&mut self, item: Item, (deputy, rank): (Peer, usize), now: Moment) {
        let Some(errand) = self.errands.get_mut(&item) else { return };
        if errand.rank < rank {
            // Somebody else, who may have to begin with it: that it has no more yet means little.
            (errand.rank, errand.checks) = (rank, 0);
        }
        self.ask(item, deputy, Role::Deputy, now);
    }

    fn ask_next(&mut self, item: Item, now: Moment) {
        let Some(errand) = self.errands.get_mut(&item) else { return };
        while !errand.candidates.is_empty() {
            let peer = errand.candidates.remove(0);
            if self.breakers.allows(peer.id, now) && !errand.comes_from(peer.id) {
                return self.ask(item, peer, Role::Holder, now);
            }
            errand.avoid(peer.id);
        }
        self.fruitless(item, now);
    }

    fn ask(&mut self, item: Item, to: Peer, role: Role, now: Moment) {
        let Some(errand) = self.errands.get_mut(&item) else { return };
        if errand.comes_from(to.id) {
            // It would only begin anew with what it sends already.
            errand.quest = Quest::Idle;
            return self.check_later(item, now);
        }
        self.last_attempt += 1;
        let number = self.last_attempt;
        errand.quest = Quest::Asking { number, to: to.id, role };
        self.actions.push_back(Action::Ask {
            attempt: Attempt { item, number },
            to,
            role,
            hop: errand.hop,
            avoid: Arc::from(&errand.avoid[..]),
            is_served: errand.source.is_some(),
        });
        errand.asked = now;
        self.check_at(item, now + self.limits.check);
    }

    /// Queues an item that this node has to fetch.
    fn fetch(&mut self, item: Item, now: Moment) {
        let Some(errand) = self.errands.get_mut(&item) else { return };
        if errand.is_fetched() {
            return;
        }
        // Else it might be answered with bytes, which come from a node that waits for this one.
        let question = errand.question();
        errand.quest = Quest::FetchTurn;
        let takes_no_turn = errand.need == Some(Need::Open) || self.incoming.contains(&item);
        self.cancel(item, question);
        if takes_no_turn {
            return self.begin_fetch(item, now);
        }
        self.fetches.wait(item);
        self.begin_fetches(now);
    }

    pub(super) fn begin_fetches(&mut self, now: Moment) {
        while let Some(item) = self.fetches.next() {
            let Some(errand) = self.errands.get(&item) else { continue };
            if errand.quest == Quest::FetchTurn {
                self.begin_fetch(item, now);
            }
        }
    }

    pub(super) fn begin_fetch(&mut self, item: Item, now: Moment) {
        self.last_attempt += 1;
        let number = self.last_attempt;
        let source = Source::new(number, None, now);
        let takes_turn = !self.incoming.contains(&item);
        if takes_turn {
            self.fetches.begun();
        }
        self.take_from(item, Source { takes_turn, ..source }, now);
        self.actions.push_back(Action::Fetch { attempt: Attempt { item, number } });
        self.shuffle_waiting(item);
        self.serve_waiting(item, now);
    }

    /// Takes an item from another source than before.
    fn take_from(&mut self, item: Item, source: Source, now: Moment) {
        let Some(errand) = self.errands.get_mut(&item) else { return };
        let before = errand.source.replace(Source {
            marked: errand.received,
            moved: errand.received,
            ..source
        });
        errand.quest = Quest::Idle;
        (errand.fruitless, errand.checks) = (0, 0);
        errand.is_behind = false;
        self.cancel(item, before.map(|before| before.number));
        if before.is_some_and(|before| before.takes_turn) {
            self.fetches.gave_up();
            self.begin_fetches(now);
        }
        // Soon, because what does not come yet keeps a place from what might.
        self.check_at(item, now + self.limits.check);
    }

    /// Goes on after it could not be fetched by this node.
    fn failed(&mut self, item: Item, now: Moment) {
        let Some(errand) = self.errands.get_mut(&item) else { return };
        errand.failures += 1;
        if errand.failures >= FAILURES_MOST {
            return self.lose(item, Lost::Failed, now);
        }
        self.fruitless(item, now);
    }

    /// Goes on after an attempt that brought nothing.
    fn fruitless(&mut self, item: Item, now: Moment) {
        let Some(errand) = self.errands.get_mut(&item) else { return };
        if errand.source.is_some() {
            // It still comes, only slowly.
            errand.quest = Quest::Idle;
            return self.check_later(item, now);
        }
        errand.fruitless += 1;
        if errand.fruitless >= FRUITLESS_MOST {
            return self.lose(item, Lost::Failed, now);
        }
        let pause = PAUSE_FIRST * (1 << errand.fruitless.min(8));
        // The first time somebody was only busy.
        let pause = if errand.fruitless == 1 { Duration::ZERO } else { pause.min(PAUSE_MOST) };
        self.pause(item, pause, now);
    }

    fn pause(&mut self, item: Item, pause: Duration, now: Moment) {
        let Some(errand) = self.errands.get_mut(&item) else { return };
        if errand.source.is_some() {
            errand.quest = Quest::Idle;
            return self.check_later(item, now);
        }
        if pause.is_zero() {
            return self.seek(item, now);
        }
        errand.quest = Quest::Pausing;
        self.check_at(item, now + pause);
    }

    /// Stops an attempt, if there is one.
    pub(super) fn cancel(&mut self, item: Item, number: Option<u64>) {
        let attempt = number.map(|number| Attempt { item, number });
        self.actions.extend(attempt.map(|attempt| Action::Cancel { attempt }));
    }

    /// Gives an item up.
    pub(super) fn lose(&mut self, item: Item, why: Lost, now: Moment) {
        self.incoming.remove(&item);
        let Some(errand) = self.errands.remove(&item) else { return };
        self.cancel(item, errand.question());
        self.cancel(item, errand.source.map(|source| source.number));
        if errand.source.is_some_and(|source| source.takes_turn) {
            self.fetches.gave_up();
        }
        self.actions.push_back(Action::Lose { item, why });
        self.refuse_waiting(item, why);
        self.left(&errand, now);
    }

    /// Gives what an errand had to those after it.
    fn left(&mut self, errand: &Errand, now: Moment) {
        self.queued -= usize::from(errand.quest == Quest::Queued);
        if errand.is_in_window() {
            self.in_window -= 1;
            self.fill_window(now);
        }
        self.begin_fetches(now);
    }
}
