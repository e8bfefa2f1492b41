//! How what comes is looked at, and what follows if it comes slowly.

use std::time::Duration;

use super::{
    Answer, Attempt, Breakers, Errand, Exchange, Item, Moment, NodeId, Quest, RANKS, Timer,
    errand::Source,
};

/// What comes at less than one in so many of the speed of everything else is looked for elsewhere.
const BEHIND_SHARE: u64 = 2;

/// What comes at less than one in so many of that speed may have a slow owner.
const SLOW_SHARE: u64 = 4;

/// What comes is to be one in so many of what this node's line has carried, at least. It is less than all of it where many
/// get the same from one other node.
const FAIR_SHARE: u64 = 8;

/// Longest pause before the first look at what comes.
const CHECK_MOST: Duration = Duration::from_secs(2);

/// So often the pause between two looks is doubled, at most.
const CHECKS_DOUBLED: u32 = 1;

/// What is overtaken by so many others, for each that may be asked for at once, is asked of who comes after its owner.
const OVERTAKEN: u64 = 3;

/// What is silent for so long is given up, if nobody else has more of it either.
const SILENT: Duration = Duration::from_secs(4);

/// The same of a node that does not answer questions either.
const GONE: Duration = Duration::from_millis(200);

/// So often the time is doubled after which what is fetched and does not come is fetched anew.
const REFETCHES_DOUBLED: u32 = 3;

/// How long an owner is passed over that was so slow.
pub(super) const PASSED_OVER: Duration = Duration::from_secs(10);

impl Exchange {
    /// How long something comes before it is looked for somebody who has more of it. What usually comes sooner need not
    /// be looked at, and to change the source costs what is on its way from the one before.
    pub(super) fn check_pause(&self) -> Duration {
        (self.usual / 2).clamp(self.limits.check, CHECK_MOST)
    }

    /// Looks at an errand again after twice as long as before.
    pub(super) fn check_later(&mut self, item: Item, now: Moment) {
        let Some(errand) = self.errands.get_mut(&item) else { return };
        errand.checks = (errand.checks + 1).min(CHECKS_DOUBLED);
        let doubled = 1 << errand.checks;
        let pause = self.check_pause() * doubled;
        self.check_at(item, now + pause);
    }

    pub(super) fn check_at(&mut self, item: Item, at: Moment) {
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
                self.cancel(item, Some(number));
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
        let here = received(item);
        let source = source.looked_at(here, now);
        let Some(from) = source.from else { return self.check_fetch(item, source, now) };
        let is_looked_at_later = now < source.since + pause;
        let (own, mean) = if is_looked_at_later {
            (here - source.marked.min(here), 0)
        } else {
            (source.rate(here, now), self.mean_rate(received, now).max(self.fair_rate()))
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

    /// Looks at what is fetched. A connection that has lost what was to wake it up sleeps for long, and everything else
    /// that this node owns would wait for it: it is asked for again by another one.
    fn check_fetch(&mut self, item: Item, source: Source, now: Moment) {
        let Some(errand) = self.errands.get_mut(&item) else { return };
        errand.source = Some(source);
        // The longer the less often: it may be the storage that is slow.
        let patience = SILENT * (1 << errand.refetches.min(REFETCHES_DOUBLED));
        let is_silent = now.saturating_sub(source.moved_at) >= patience;
        if !is_silent || self.incoming.contains(&item) {
            return self.check_at(item, now + self.check_pause());
        }
        errand.refetches += 1;
        self.begin_fetch(item, now);
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
        errand.is_behind = own == 0 || own.saturating_mul(BEHIND_SHARE) < mean;
        // Who sends it may have no more itself. To change the source then only spoils the order in which it goes on.
        if !errand.is_behind {
            return self.check_at(item, now + self.check_pause());
        }
        self.counts.slow += 1;
        errand.avoid(from);
        if let Some(source) =
            errand.source.take_if(|source| is_silent(*source, &self.breakers, now))
        {
            self.cancel(item, Some(source.number));
        }
        self.seek(item, now);
    }

    /// How fast each should come at least, by what this node's line has carried. When there is little left, it may all be
    /// slow.
    fn fair_rate(&self) -> u64 {
        let coming = self.errands.values().filter(|errand| errand.source.is_some()).count() as u64;
        self.speeds.best() / FAIR_SHARE / coming.max(1)
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

/// Whether whoever sends something may be gone: a node that loses its power, or is cut off, says nothing of it. It may
/// also be that nothing comes to it; it is then asked again in its turn.
fn is_silent(source: Source, breakers: &Breakers, now: Moment) -> bool {
    let is_gone = source.from.is_some_and(|from| !breakers.allows(from, now));
    now.saturating_sub(source.moved_at) >= if is_gone { GONE } else { SILENT }
}
