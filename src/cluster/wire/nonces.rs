//! Requests that have been there, so that none is taken twice.

use std::collections::HashSet;

/// Most requests that are remembered of one span of time: 16,000 in a second. Then about 9 MiB; there are two of them.
const REMEMBERED: usize = 512 << 10;

/// The numbers that requests have drawn. Each is remembered for one span at least, and for two at most.
#[derive(Debug)]
pub(super) struct Nonces {
    span_ms: u64,
    /// The number of the present span.
    span: u64,
    present: HashSet<u64>,
    before: HashSet<u64>,
}

/// Whether a request has been there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    First,
    Again,
    /// There are so many that it cannot be told.
    TooMany,
}

impl Nonces {
    /// Remembers each for `span_ms` at least.
    pub(super) fn new(span_ms: u64) -> Self {
        Self { span_ms, span: 0, present: HashSet::new(), before: HashSet::new() }
    }

    /// Takes note of a request at `now_ms`, which never goes back by a whole span.
    pub(super) fn note(&mut self, nonce: u64, now_ms: u64) -> Seen {
        let span = now_ms / self.span_ms;
        if span > self.span {
            let last = std::mem::take(&mut self.present);
            self.before = if span == self.span + 1 { last } else { HashSet::new() };
            self.span = span;
        }
        if self.present.contains(&nonce) || self.before.contains(&nonce) {
            return Seen::Again;
        }
        if self.present.len() >= REMEMBERED {
            return Seen::TooMany;
        }
        self.present.insert(nonce);
        Seen::First
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn none_is_taken_twice_within_a_span(
            steps in prop::collection::vec((0_u64..20, 0_u64..150), 1..200),
        ) {
            let (mut nonces, mut now_ms) = (Nonces::new(100), 0);
            let mut taken = std::collections::HashMap::new();
            for (nonce, step) in steps {
                now_ms += step;
                if nonces.note(nonce, now_ms) == Seen::First
                    && let Some(before) = taken.insert(nonce, now_ms)
                {
                    prop_assert!(now_ms - before > 100, "{} and again {}", before, now_ms);
                }
            }
        }
    }

    #[test]
    fn too_many_are_refused_until_there_is_room() {
        let mut nonces = Nonces::new(100);
        let all = REMEMBERED as u64;
        assert!((0..all).all(|nonce| nonces.note(nonce, 0) == Seen::First));
        assert_eq!((nonces.note(0, 50), nonces.note(all, 50)), (Seen::Again, Seen::TooMany));
        assert_eq!((nonces.note(0, 150), nonces.note(all, 150)), (Seen::Again, Seen::First));
    }
}
