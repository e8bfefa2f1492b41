//! Docker Hub's count of manifest requests: `ratelimit-limit` and `ratelimit-remaining`.
//!
//! When little is left, manifests are fetched one after the other, so that not a whole crowd of requests
//! finds the limit at once. When nothing is left, a GET would only be answered with 429, so it is refused
//! here: but for one in the time in which the window gives one back, because nobody tells when the
//! window moves on. HEADs do not count, are never held back, and bring news.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::HeaderMap;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use super::metrics::UpstreamMetrics;

/// Little is left at this many requests, or at this part of the limit.
const FEW: u64 = 2;
const FEW_PART: u64 = 20;

/// The window where the upstream does not say: Docker Hub's.
const WINDOW: Duration = Duration::from_hours(6);

/// Limits on the time between attempts while nothing is left.
const PACE_LEAST: Duration = Duration::from_secs(1);
const PACE_MOST: Duration = Duration::from_mins(5);

/// What an upstream said about its limit.
#[derive(Debug)]
pub(super) struct Quota {
    told: Mutex<Told>,
    turn: Arc<Semaphore>,
    metrics: Arc<UpstreamMetrics>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Told {
    limit: Option<u64>,
    window: Option<Duration>,
    remaining: Option<u64>,
    /// When it was told that nothing remains, or when that was last tried.
    exhausted: Option<Instant>,
}

/// How much is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Plenty,
    Few,
    Nothing { again_in: Duration },
}

/// Why a manifest is not asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exhausted {
    /// When to ask again.
    pub(super) again_in: Duration,
}

impl Quota {
    pub(super) fn new(metrics: Arc<UpstreamMetrics>) -> Self {
        Self { told: Mutex::default(), turn: Arc::new(Semaphore::new(1)), metrics }
    }

    /// Takes note of what an answer says.
    pub(super) fn observe(&self, headers: &HeaderMap) {
        let number = |name: &str| headers.get(name)?.to_str().ok().and_then(parse);
        let (limit, remaining) = (number("ratelimit-limit"), number("ratelimit-remaining"));
        if limit.is_none() && remaining.is_none() {
            return;
        }
        self.metrics.limit(limit.map(|(count, _)| count), remaining.map(|(count, _)| count));
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((count, window)) = limit {
            (told.limit, told.window) = (Some(count), window);
        }
        if let Some((count, _)) = remaining {
            told.remaining = Some(count);
            told.exhausted = (count == 0).then(Instant::now);
        }
    }

    /// Waits, no longer than `patience`, until a manifest may be asked for. What is returned is to be kept
    /// until the answer's headers were [observed](Quota::observe).
    pub(super) async fn admit(
        &self,
        patience: Duration,
    ) -> Result<Option<OwnedSemaphorePermit>, Exhausted> {
        match self.standing() {
            Standing::Plenty => return Ok(None),
            Standing::Nothing { again_in } => return Err(Exhausted { again_in }),
            Standing::Few => {}
        }
        let turn = timeout(patience, Arc::clone(&self.turn).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(Exhausted { again_in: PACE_LEAST }) };
        if let Standing::Nothing { again_in } = self.standing() {
            return Err(Exhausted { again_in });
        }
        // This one may find out; the next one only after it has, or after its time.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.exhausted.is_some() {
            told.exhausted = Some(Instant::now());
        }
        Ok(Some(turn))
    }

    fn standing(&self) -> Standing {
        let told = *self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(remaining) = told.remaining else { return Standing::Plenty };
        if let Some(since) = told.exhausted {
            let left = told.pace().saturating_sub(since.elapsed());
            return if left.is_zero() {
                Standing::Few
            } else {
                Standing::Nothing { again_in: left }
            };
        }
        let few = told.limit.map_or(FEW, |limit| FEW.max(limit / FEW_PART));
        if remaining <= few { Standing::Few } else { Standing::Plenty }
    }
}

impl Told {
    /// The time in which the window gives one request back.
    fn pace(&self) -> Duration {
        let limit = u32::try_from(self.limit.unwrap_or(1)).unwrap_or(u32::MAX).max(1);
        (self.window.unwrap_or(WINDOW) / limit).clamp(PACE_LEAST, PACE_MOST)
    }
}

/// Reads `100;w=21600` of `ratelimit-limit` or `ratelimit-remaining`: a count and, if told, the window.
#[must_use]
pub fn parse(value: &str) -> Option<(u64, Option<Duration>)> {
    let mut parts = value.split(';').map(str::trim);
    let count = parts.next()?.parse().ok()?;
    let seconds = parts.find_map(|part| part.strip_prefix("w=")?.parse().ok());
    Some((count, seconds.map(Duration::from_secs)))
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;
    use proptest::prelude::*;

    use super::*;
    use crate::upstream::metrics::Metrics;

    fn quota() -> Quota {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        Quota::new(Arc::new(metrics.of("hub")))
    }

    fn told(remaining: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("ratelimit-limit", "100;w=21600".parse().unwrap());
        headers.insert("ratelimit-remaining", remaining.parse().unwrap());
        headers
    }

    const PATIENCE: Duration = Duration::from_secs(3);

    #[tokio::test(start_paused = true)]
    async fn with_plenty_left_nobody_waits() {
        let quota = quota();
        let (first, second) = (quota.admit(PATIENCE).await, quota.admit(PATIENCE).await);
        assert!(first.unwrap().is_none() && second.unwrap().is_none());
        quota.observe(&told("6;w=21600"));
        assert!(quota.admit(PATIENCE).await.unwrap().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn with_little_left_one_asks_after_the_other() {
        let quota = quota();
        quota.observe(&told("5;w=21600"));
        let first = quota.admit(PATIENCE).await.unwrap();
        assert!(first.is_some());
        let error = quota.admit(PATIENCE).await.unwrap_err();
        assert_eq!(error, Exhausted { again_in: PACE_LEAST });
        drop(first);
        assert!(quota.admit(PATIENCE).await.unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn with_nothing_left_one_asks_when_the_window_gives_one_back() {
        let quota = quota();
        quota.observe(&told("0;w=21600"));
        let pace = Duration::from_secs(216);
        assert_eq!(quota.admit(PATIENCE).await.unwrap_err(), Exhausted { again_in: pace });
        tokio::time::advance(pace).await;
        drop(quota.admit(PATIENCE).await.unwrap().unwrap());
        assert_eq!(quota.admit(PATIENCE).await.unwrap_err(), Exhausted { again_in: pace });
        quota.observe(&told("40"));
        assert!(quota.admit(PATIENCE).await.unwrap().is_none());
    }

    #[test]
    fn counts_are_read_with_their_window() {
        assert_eq!(parse("100;w=21600"), Some((100, Some(Duration::from_secs(21_600)))));
        assert_eq!(parse("76"), Some((76, None)));
        assert_eq!(parse(" 7 ; x=1; w=60"), Some((7, Some(Duration::from_mins(1)))));
        assert_eq!(parse("many"), None);
    }

    proptest! {
        #[test]
        fn any_value_is_parsed_without_panic(value in "\\PC{0,30}") {
            let _ = parse(&value);
        }
    }
}
