//! What is going to happen.

use std::{cmp::Ordering, collections::BinaryHeap, time::Duration};

use millpond::cluster::exchange::{Answer, AskId, Attempt, Incoming};

pub(crate) enum Event {
    /// A request has come to a node.
    Ask {
        attempt: Attempt,
        asker: usize,
        to: usize,
        ask: AskId,
        incoming: Incoming,
        /// Whether who asks knows how long the blob is.
        is_known: bool,
    },
    /// An answer has come back.
    Answer {
        attempt: Attempt,
        asker: usize,
        answer: Answer,
    },
    /// Who has asked is not there any more.
    Gone {
        at: usize,
        ask: AskId,
    },
    /// The storage begins to give something.
    Fetched {
        attempt: Attempt,
        at: usize,
    },
    /// A node's deadline.
    Tick(usize),
    /// A client begins.
    Start(usize),
    Death(usize),
    /// A node hears of all that have joined.
    News(usize),
}

struct Entry {
    at: Duration,
    number: u64,
    event: Event,
}

/// Events in the order of their times, and of two at the same time the one that was noted first.
#[derive(Default)]
pub(crate) struct Agenda {
    entries: BinaryHeap<Entry>,
    next: u64,
}

impl Agenda {
    pub(crate) fn note(&mut self, seconds: f64, event: Event) {
        let at = Duration::from_secs_f64(seconds);
        self.entries.push(Entry { at, number: self.next, event });
        self.next += 1;
    }

    /// The next one up to a time, and when it happens.
    pub(crate) fn next(&mut self, until: f64) -> Option<(f64, Event)> {
        self.entries.peek().filter(|entry| entry.at.as_secs_f64() <= until)?;
        self.entries.pop().map(|entry| (entry.at.as_secs_f64(), entry.event))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}
