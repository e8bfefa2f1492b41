//! When a request was made, without a clock that two nodes would have to agree on.
//!
//! Time is that of the node that answers: milliseconds since it started. Who asks learns it from the first answer and
//! counts on by itself. So a node whose date is wrong works like any other.

use std::fmt;

use tokio::time::Instant;

use super::{fields, seal};

/// A node's own time. It begins with the process.
#[derive(Debug)]
pub(super) struct Clock {
    /// Drawn anew at each start, so that nothing from before counts.
    boot: u128,
    started: Instant,
    /// What it showed then.
    first_ms: u64,
}

/// What a clock shows: written `<boot>:<milliseconds>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) boot: u128,
    pub(super) ms: u64,
}

/// The clock of another node, as it is known here.
#[derive(Clone, Copy, Debug)]
pub(super) struct RemoteClock {
    shown: Reading,
    heard: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self::start_at(0)
    }

    fn start_at(first_ms: u64) -> Self {
        Self { boot: seal::drawn(), started: Instant::now(), first_ms }
    }

    pub(super) fn now(&self) -> Reading {
        Reading { boot: self.boot, ms: self.first_ms + elapsed_ms(self.started) }
    }
}

impl Reading {
    /// Milliseconds from `earlier` to this, of the same clock; negative if it is later.
    pub(super) fn since(self, earlier: Self) -> Option<i64> {
        (self.boot == earlier.boot)
            .then(|| self.ms.cast_signed().wrapping_sub(earlier.ms.cast_signed()))
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let (boot, ms) = text.split_once(':')?;
        Some(Self { boot: fields::hexadecimal(boot, 32)?, ms: fields::number(ms)? })
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}:{}", self.boot, self.ms)
    }
}

impl RemoteClock {
    /// It shows this now, or did a moment ago.
    pub(super) fn showing(shown: Reading) -> Self {
        Self { shown, heard: Instant::now() }
    }

    /// What it shows now; a little less, because the answer that told it was on its way for a while.
    pub(super) fn now(self) -> Reading {
        let ms = self.shown.ms.saturating_add(elapsed_ms(self.heard));
        Reading { ms, ..self.shown }
    }
}

fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_a_clock_shows_is_known_elsewhere_whatever_it_is() {
        for first_ms in [0, 3_600_000, 1 << 50] {
            let clock = Clock::start_at(first_ms);
            let known = RemoteClock::showing(clock.now());
            tokio::time::advance(Duration::from_secs(100)).await;
            assert_eq!(clock.now().since(known.now()), Some(0));
            assert_eq!(Clock::start_at(first_ms).now().since(known.now()), None, "another start");
        }
    }

    proptest! {
        #[test]
        fn a_written_reading_is_read_as_the_same(boot: u128, ms: u64) {
            let reading = Reading { boot, ms };
            prop_assert_eq!(Reading::parse(&reading.to_string()), Some(reading));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9a-f:]{0,60}", ms: u64) {
            if let Some(reading) = Reading::parse(&text) {
                let _any = reading.since(Reading { ms, ..reading });
            }
        }
    }
}
