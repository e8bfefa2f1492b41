//! How many connections a blob is worth.

/// By how much a connection more must speed up a blob to be kept. Where each has a limit of its own the fourth
/// still brings a third more; where they share one, nothing but noise.
const WORTH: f64 = 1.15;

/// Finds the number by trying: one more at a time, as long as that is faster.
#[derive(Debug)]
pub(super) struct Pace {
    most: usize,
    /// How many there should be.
    target: usize,
    /// Bytes per second before the last one was added, until it has shown what it brings.
    on_trial: Option<f64>,
    settled: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// Nothing.
    Stay,
    /// Open a connection more.
    More,
    /// Close the last one.
    Fewer,
}

impl Pace {
    /// Begins with one connection; there will be `most`.
    pub(super) const fn new(most: usize) -> Self {
        Self { most, target: 1, on_trial: None, settled: false }
    }

    /// What to do after a while in which `running` connections together gave `rate` bytes per second.
    pub(super) fn advise(&mut self, running: usize, rate: f64) -> Advice {
        if running < self.target {
            return Advice::More;
        }
        if self.on_trial.take().is_some_and(|before| rate < before * WORTH) {
            self.refused();
            return Advice::Fewer;
        }
        if self.settled || self.target >= self.most {
            return Advice::Stay;
        }
        self.on_trial = Some(rate);
        self.target += 1;
        Advice::More
    }

    /// The last one brings nothing, or cannot be had.
    pub(super) const fn refused(&mut self) {
        self.settled = true;
        self.on_trial = None;
        self.target = if self.target > 2 { self.target - 1 } else { 1 };
    }

    /// Whether it is known that one connection does it.
    pub(super) const fn is_one_enough(&self) -> bool {
        self.settled && self.target == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_each_connection_has_a_limit_there_will_be_the_most() {
        let mut pace = Pace::new(4);
        for running in 1..4 {
            assert_eq!(pace.advise(running, running as f64 * 10.0), Advice::More, "{running}");
        }
        for _ in 0..3 {
            assert_eq!(pace.advise(4, 40.0), Advice::Stay);
        }
        assert!(!pace.is_one_enough());
    }

    #[test]
    fn where_all_share_one_limit_there_will_be_one() {
        let mut pace = Pace::new(4);
        assert_eq!(pace.advise(1, 40.0), Advice::More);
        assert_eq!(pace.advise(2, 42.0), Advice::Fewer);
        assert!(pace.is_one_enough());
        for _ in 0..3 {
            assert_eq!(pace.advise(1, 40.0), Advice::Stay);
        }
    }

    #[test]
    fn where_two_are_enough_two_are_kept_up() {
        let mut pace = Pace::new(4);
        assert_eq!(pace.advise(1, 10.0), Advice::More);
        assert_eq!(pace.advise(2, 20.0), Advice::More);
        assert_eq!(pace.advise(3, 21.0), Advice::Fewer);
        assert_eq!(pace.advise(2, 20.0), Advice::Stay);
        assert_eq!(pace.advise(1, 10.0), Advice::More);
        assert_eq!(pace.advise(2, 20.0), Advice::Stay);
        assert!(!pace.is_one_enough());
    }

    #[test]
    fn what_cannot_be_opened_yet_is_not_held_against_it() {
        let mut pace = Pace::new(2);
        assert_eq!(pace.advise(1, 10.0), Advice::More);
        assert_eq!(pace.advise(1, 10.0), Advice::More);
        assert_eq!(pace.advise(2, 20.0), Advice::Stay);
    }
}
