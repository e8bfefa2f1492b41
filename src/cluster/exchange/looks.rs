//! How what comes is looked at, and what follows if it comes slowly.

use std::time::Duration;

use super::{
    Action, Answer, Attempt, Errand, Exchange, Item, Moment, NodeId, Quest, RANKS, Timer,
    errand::Source,
};

/// What comes at less than one in so many of the speed of everything else is looked for elsewhere.
const BEHIND_SHARE: u64 = 2;

/// What comes at less than one in so many of that speed may have a slow owner.
const SLOW_SHARE: u64 = 4;

/// Longest pause before the first look at what comes.
const CHECK_MOST: Duration = Duration::from_secs(2);

/// So often the pause between two looks is doubled, at most.
const CHECKS_DOUBLED: u32 = 1;

/// What takes so many times as long as things usually take is slow.
const OLD: u32 = 4;

/// What is found so slow so many times in a row, and is overtaken by half as many others as may come at once, is asked
/// of who comes after its owner.
const SLOW_LOOKS: u32 = 2;

/// Where no more than so many are to come, nothing overtakes any more what is slow.
const LAST: usize = 4;

/// How long an owner is passed over that was so slow.
pub(super) const PASSED_OVER: Duration = Duration::from_secs(10);

impl Exchange {
    /// How long something comes before it is looked for somebody who has more of it. What usually comes sooner need not
    /// be looked at, and to change the source costs what is on its way from the one before.
    pub(super) fn check_pause(&self) -> Duration {
        self.usual.clamp(self.limits.check, CHECK_MOST)
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
        // At the end nothing else may come that it could be compared with.
        let age = now.saturating_sub(errand.since.unwrap_or(now));
        let is_slow = own.saturating_mul(SLOW_SHARE) < mean || age > self.usual * OLD;
        errand.slow_looks = if is_slow { errand.slow_looks + 1 } else { 0 };
        let is_among_last = self.queue.is_empty() && self.in_window <= LAST;
        let is_overtaken = 2 * overtaken >= self.limits.window as u64 || is_among_last;
        let is_late = errand.slow_looks >= SLOW_LOOKS && is_overtaken;
        if is_late && errand.rank + 1 < RANKS {
            let owner = self.view.owners(item).iter().nth(errand.rank).map(|peer| peer.id);
            self.slow_owners.extend(owner.map(|owner| (owner, now + PASSED_OVER)));
            errand.rank += 1;
            (errand.arrivals_before, errand.slow_looks) = (self.arrivals, 0);
            self.counts.deputies += 1;
        }
        // Who sends it may have no more itself. To change the source then only spoils the order in which it goes on.
        if own > 0 && own.saturating_mul(BEHIND_SHARE) >= mean && !is_slow {
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
