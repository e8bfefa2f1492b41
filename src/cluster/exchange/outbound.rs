//! What this node wants.

use std::{sync::Arc, time::Duration};

use super::{
    Action, Answer, Attempt, Errand, Exchange, Item, Lost, Moment, Need, NodeId, Peer, Quest,
    RANKS, Role, Timer, Trouble, errand::Source,
};

/// A request that so many nodes have passed on is answered by whoever has it now.
const HOPS_MOST: u8 = 2;

/// Attempts in a row that may bring nothing.
const FRUITLESS_MOST: u32 = 12;

/// Longest pause between two of them.
const PAUSE_MOST: Duration = Duration::from_secs(2);

/// What was fetched so often in vain cannot be had.
const FAILURES_MOST: u32 = 3;

/// What was thrown away so often is fetched from where all of it comes from.
const LOSSES_MOST: u32 = 3;

const PAUSE_FIRST: Duration = Duration::from_millis(20);

/// What comes at less than one in so many of the speed of everything else is looked for elsewhere.
const BEHIND_SHARE: u64 = 2;

/// What comes at less than one in so many of that speed may have a slow owner.
const SLOW_SHARE: u64 = 4;

/// How much the last item counts for how long they usually take: one in so many.
const USUAL_SHARE: u32 = 8;

/// How long an item is taken to need before any has come.
pub(super) const USUAL_FIRST: Duration = Duration::from_secs(2);

/// Longest pause before the first look at what comes.
const CHECK_MOST: Duration = Duration::from_secs(2);

/// So often the pause between two looks is doubled, at most.
const CHECKS_DOUBLED: u32 = 3;

/// What is overtaken by so many others, for each that may be asked for at once, is asked of who comes after its owner.
const OVERTAKEN: u64 = 3;

/// How long an owner is passed over that was so slow.
const PASSED_OVER: Duration = Duration::from_secs(10);

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
            Answer::Unknown if role != Role::Holder => self.lose(item, Lost::Unknown, now),
            Answer::Busy { .. } | Answer::Unknown => {
                errand.avoid(to);
                self.ask_next(item, now);
            }
            Answer::Failed => {
                errand.avoid(to);
                self.failed(item, now);
            }
            Answer::Dead => {
                errand.avoid(to);
                self.breakers.failed(to, now);
                self.ask_next(item, now);
            }
        }
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
        if let Quest::Asking { number, .. } = errand.quest {
            self.actions.push_back(Action::Cancel { attempt: Attempt { item, number } });
        }
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
                errand.losses += 1;
                errand.is_deputy |= errand.losses >= LOSSES_MOST;
                self.fruitless(item, now);
            }
            (Trouble::Broken, None) => self.failed(item, now),
            (Trouble::Broken | Trouble::Unknown | Trouble::Failed, Some(_)) => {
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
        let owners = self.view.owners(item);
        // What the owner gives too slowly is asked of the next one.
        let skipped = if errand.is_fetched() { 0 } else { errand.rank };
        for (rank, owner) in owners.iter().enumerate().skip(skipped) {
            if owner.id == self.me.id {
                return self.fetch(item, now);
            }
            let is_slow = self.slow_owners.get(&owner.id).is_some_and(|until| *until > now);
            let is_last = rank + 1 == RANKS;
            if self.breakers.allows(owner.id, now) && (!is_slow || is_last) {
                let role = if rank == 0 { Role::Owner } else { Role::Deputy };
                return self.ask(item, *owner, role, now);
            }
        }
        self.counts.direct += 1;
        self.fetch(item, now);
    }

    fn ask_next(&mut self, item: Item, now: Moment) {
        let Some(errand) = self.errands.get_mut(&item) else { return };
        while !errand.candidates.is_empty() {
            let peer = errand.candidates.remove(0);
            if self.breakers.allows(peer.id, now) {
                return self.ask(item, peer, Role::Holder, now);
            }
            errand.avoid(peer.id);
        }
        self.fruitless(item, now);
    }

    fn ask(&mut self, item: Item, to: Peer, role: Role, now: Moment) {
        let Some(errand) = self.errands.get_mut(&item) else { return };
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
        errand.quest = Quest::FetchTurn;
        if errand.need == Some(Need::Open) || self.incoming.contains(&item) {
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

    fn begin_fetch(&mut self, item: Item, now: Moment) {
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
        let before = errand.source.replace(Source { marked: errand.received, ..source });
        errand.quest = Quest::Idle;
        (errand.fruitless, errand.checks) = (0, 0);
        if let Some(before) = before {
            let attempt = Attempt { item, number: before.number };
            self.actions.push_back(Action::Cancel { attempt });
            if before.takes_turn {
                self.fetches.gave_up();
                self.begin_fetches(now);
            }
        }
        // Soon, because what does not come yet keeps a place from what might.
        self.check_at(item, now + self.limits.check);
    }

    /// How long something comes before it is looked for somebody who has more of it. What usually comes sooner need not
    /// be looked at, and to change the source costs what is on its way from the one before.
    fn check_pause(&self) -> Duration {
        (self.usual / 2).clamp(self.limits.check, CHECK_MOST)
    }

    /// Goes on after it could not be fetched, by this node or by who should have it.
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

    /// Gives an item up.
    fn lose(&mut self, item: Item, why: Lost, now: Moment) {
        self.incoming.remove(&item);
        let Some(errand) = self.errands.remove(&item) else { return };
        if let Quest::Asking { number, .. } = errand.quest {
            self.actions.push_back(Action::Cancel { attempt: Attempt { item, number } });
        }
        if let Some(source) = errand.source {
            let attempt = Attempt { item, number: source.number };
            self.actions.push_back(Action::Cancel { attempt });
            if source.takes_turn {
                self.fetches.gave_up();
            }
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

    /// Looks at an errand again after twice as long as before.
    fn check_later(&mut self, item: Item, now: Moment) {
        let Some(errand) = self.errands.get_mut(&item) else { return };
        errand.checks = (errand.checks + 1).min(CHECKS_DOUBLED);
        let doubled = 1 << errand.checks;
        let pause = self.check_pause() * doubled;
        self.check_at(item, now + pause);
    }

    fn check_at(&mut self, item: Item, at: Moment) {
        if let Some(errand) = self.errands.get_mut(&item) {
            errand.check = at;
            self.timer(at, Timer::Errand(item));
        }
    }

    /// Looks at an errand whose time has come.
    pub(super) fn check(&mut self, item: Item, received: &impl Fn(Item) -> u64, now: Moment) {
        let Some(errand) = self.errands.get(&item) else { return };
        match (errand.quest, errand.source) {
            (Quest::Pausing, _) => self.seek(item, now),
            (Quest::Asking { .. }, _) if now < errand.asked + self.limits.patience => {
                let until = errand.asked + self.limits.patience;
                if errand.source.is_none() && errand.is_in_window() {
                    self.stall(item, now);
                }
                self.check_at(item, until);
            }
            (Quest::Asking { number, .. }, _) => {
                let attempt = Attempt { item, number };
                self.actions.push_back(Action::Cancel { attempt });
                self.answered(attempt, Answer::Dead, now);
            }
            (Quest::Idle, Some(source)) => self.check_source(item, source, received, now),
            (Quest::Idle | Quest::Queued | Quest::FetchTurn, _) => {}
        }
    }

    /// Gives the place of what does not come to what is wanted next.
    fn stall(&mut self, item: Item, now: Moment) {
        let Some(errand) = self.errands.get_mut(&item) else { return };
        errand.is_stalled = true;
        self.in_window -= 1;
        self.fill_window(now);
    }

    /// Looks for somebody who has more of an item that takes long.
    fn check_source(
        &mut self,
        item: Item,
        source: Source,
        received: &impl Fn(Item) -> u64,
        now: Moment,
    ) {
        let pause = self.check_pause();
        let Some(from) = source.from else {
            return self.check_at(item, now + pause);
        };
        let here = received(item);
        let is_looked_at_later = now < source.since + pause;
        let (own, mean) = if is_looked_at_later {
            (here - source.marked.min(here), 0)
        } else {
            (source.rate(here, now), self.mean_rate(received, now))
        };
        let Some(errand) = self.errands.get_mut(&item) else { return };
        errand.received = here;
        let begins_to_stall = own == 0 && errand.is_in_window();
        if is_looked_at_later {
            self.check_at(item, source.since + pause);
        } else {
            errand.source = Some(Source { marked: here, marked_at: now, ..source });
            self.look_elsewhere(item, from, (own, mean), now);
        }
        if begins_to_stall {
            self.stall(item, now);
        }
    }

    /// Looks for another source if the one there is gives little, compared with what else comes.
    fn look_elsewhere(&mut self, item: Item, from: NodeId, (own, mean): (u64, u64), now: Moment) {
        let Some(errand) = self.errands.get_mut(&item) else { return };
        let overtaken = self.arrivals - errand.arrivals_before;
        let is_late = overtaken >= OVERTAKEN * self.limits.window as u64;
        if own.saturating_mul(SLOW_SHARE) < mean && is_late && errand.rank + 1 < RANKS {
            let owner = self.view.owners(item).iter().nth(errand.rank).map(|peer| peer.id);
            self.slow_owners.extend(owner.map(|owner| (owner, now + PASSED_OVER)));
            errand.rank += 1;
            errand.arrivals_before = self.arrivals;
            self.counts.deputies += 1;
        }
        // Who sends it may have no more itself. To change the source then only spoils the order in which it goes on.
        if own > 0 && own.saturating_mul(BEHIND_SHARE) >= mean {
            return self.check_later(item, now);
        }
        self.counts.slow += 1;
        errand.avoid(from);
        self.seek(item, now);
    }

    /// How fast things come, each of those that come at all, in bytes per second.
    fn mean_rate(&self, received: &impl Fn(Item) -> u64, now: Moment) -> u64 {
        let rate =
            |(item, errand): (&Item, &Errand)| Some(errand.source?.rate(received(*item), now));
        let rates = self.errands.iter().filter_map(rate).filter(|rate| *rate > 0);
        let (sum, count) = rates.fold((0, 0), |(sum, count), rate| (sum + rate, count + 1));
        sum / count.max(1)
    }
}
