//! Bodies that keep coming and would never have come: a byte now and then is no silence.

use std::time::Duration;

/// The least that a body must bring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Floor {
    /// In each window, so many bytes. 0: no floor.
    bytes: u64,
    /// Time spent waiting for the upstream, and for nothing else.
    window: Duration,
}

/// Watches one body keep to its floor.
#[derive(Debug)]
pub(super) struct FloorWatch {
    floor: Floor,
    /// Since the window began.
    waited: Duration,
    bytes: u64,
}

/// A window brought less than the floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooSlow {
    pub(super) bytes: u64,
    pub(super) within: Duration,
}

impl Floor {
    /// So many bytes a second, on average over `window`.
    pub(super) fn new(bytes_per_second: u64, window: Duration) -> Self {
        let bytes = u128::from(bytes_per_second).saturating_mul(window.as_millis()) / 1000;
        Self { bytes: u64::try_from(bytes).unwrap_or(u64::MAX), window }
    }
}

impl FloorWatch {
    /// A body that begins.
    pub(super) const fn new(floor: Floor) -> Self {
        Self { floor, waited: Duration::ZERO, bytes: 0 }
    }

    /// Takes note of bytes that came after a wait. The time between two waits is this side's and does not
    /// count: a reader, a disk or a throttle may take as long as it likes.
    pub(super) fn note(&mut self, waited: Duration, bytes: usize) {
        self.waited = self.waited.saturating_add(waited);
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// Whether it is worth waiting for more.
    pub(super) fn check(&mut self) -> Result<(), TooSlow> {
        if self.waited < self.floor.window {
            return Ok(());
        }
        let passed = Self::new(self.floor);
        let Self { waited, bytes, .. } = std::mem::replace(self, passed);
        if bytes < self.floor.bytes { Err(TooSlow { bytes, within: waited }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn watch() -> FloorWatch {
        FloorWatch::new(Floor::new(100, 60 * SECOND))
    }

    #[test]
    fn a_window_with_less_than_the_floor_is_too_slow() {
        let mut watch = watch();
        for _ in 0..59 {
            watch.note(SECOND, 99);
            assert_eq!(watch.check(), Ok(()));
        }
        watch.note(SECOND, 99);
        assert_eq!(watch.check(), Err(TooSlow { bytes: 60 * 99, within: 60 * SECOND }));
    }

    #[test]
    fn a_burst_counts_for_its_own_window_only() {
        let mut watch = watch();
        watch.note(SECOND, 1 << 20);
        watch.note(59 * SECOND, 0);
        assert_eq!(watch.check(), Ok(()));
        watch.note(60 * SECOND, 5999);
        assert_eq!(watch.check(), Err(TooSlow { bytes: 5999, within: 60 * SECOND }));
        watch.note(60 * SECOND, 6000);
        assert_eq!(watch.check(), Ok(()));
    }

    #[test]
    fn without_a_floor_nothing_is_too_slow() {
        let mut watch = FloorWatch::new(Floor::new(0, SECOND));
        watch.note(Duration::MAX, 0);
        watch.note(Duration::MAX, 0);
        assert_eq!(watch.check(), Ok(()));
        let mut watch = FloorWatch::new(Floor::new(u64::MAX, Duration::MAX));
        watch.note(SECOND, usize::MAX);
        assert_eq!(watch.check(), Ok(()));
    }
}
