//! How much is fetched at once from where all of it comes from.

use std::{collections::VecDeque, time::Duration};

use super::Item;

/// What comes within this time came by a connection that was not the slowest part of the way.
const QUICK: Duration = Duration::from_millis(300);

/// What takes longer than this shares its way with too many.
const SLOW: Duration = Duration::from_secs(1);

/// How many at the beginning. With more, all nodes together would have more on its way than each of them receives at
/// once, so that what comes to some would not go on to others.
const FIRST: usize = 1;

/// Items that are fetched, and those that wait for their turn. If all nodes fetched all they own at once from a storage
/// with little to give, each would come so slowly that for a long time nobody could pass on anything; so as many are
/// fetched at once as come within a reasonable time.
#[derive(Debug)]
pub(super) struct Fetches {
    pub(super) running: usize,
    limit: usize,
    most: usize,
    waiting: VecDeque<Item>,
}

impl Fetches {
    pub(super) fn new(most: usize) -> Self {
        Self { running: 0, limit: FIRST.min(most), most, waiting: VecDeque::new() }
    }

    /// How many may run at once now.
    pub(super) const fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn wait(&mut self, item: Item) {
        self.waiting.push_back(item);
    }

    /// The next whose turn it is, if there is one.
    pub(super) fn next(&mut self) -> Option<Item> {
        if self.running >= self.limit {
            return None;
        }
        self.waiting.pop_front()
    }

    /// Notes that one has begun.
    pub(super) fn begun(&mut self) {
        self.running += 1;
    }

    /// Notes that one has ended without all of it.
    pub(super) fn gave_up(&mut self) {
        self.running -= 1;
    }

    /// Notes that one has come.
    pub(super) fn came(&mut self, took: Duration) {
        self.running -= 1;
        if took <= QUICK {
            self.limit = (self.limit + 1).min(self.most);
        } else if took >= SLOW {
            self.limit = (self.limit - 1).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(fetches: &mut Fetches, took_ms: u64) -> usize {
        fetches.begun();
        fetches.came(Duration::from_millis(took_ms));
        fetches.limit
    }

    #[test]
    fn more_are_fetched_at_once_while_they_come_quickly() {
        let mut fetches = Fetches::new(4);
        let took = [500, 100, 100, 100, 500, 2000, 2000, 2000, 2000, 100];
        assert_eq!(took.map(|took| limit(&mut fetches, took)), [1, 2, 3, 4, 4, 3, 2, 1, 1, 2]);
    }
}
