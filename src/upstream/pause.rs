//! Upstreams that want to be left alone for a while: status 429.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use http::{HeaderMap, header};
use tokio::time::Instant;

use super::metrics::Kind;

/// The pause where the upstream does not say how long.
const PAUSE: Duration = Duration::from_secs(30);

/// The longest pause, whatever the upstream says: it may change its mind, or its clock may be wrong.
const PAUSE_MOST: Duration = Duration::from_hours(1);

/// The pauses of an upstream.
///
/// Blobs have one of their own. Docker Hub counts manifests only, and a client that got its manifest just
/// before the limit must still get the blobs.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    blobs: Pause,
    others: Pause,
}

#[derive(Debug, Default)]
struct Pause {
    until: Mutex<Option<Instant>>,
}

impl Pauses {
    /// How long requests of this kind are not to be sent.
    pub(super) fn left(&self, kind: Kind) -> Option<Duration> {
        self.of(kind).left()
    }

    /// The longest of all pauses.
    pub(super) fn longest(&self) -> Option<Duration> {
        self.blobs.left().max(self.others.left())
    }

    /// Sends no request of this kind for as long as the upstream said.
    pub(super) fn begin(&self, kind: Kind, wait: Option<Duration>) {
        self.of(kind).begin(wait.unwrap_or(PAUSE).min(PAUSE_MOST));
    }

    const fn of(&self, kind: Kind) -> &Pause {
        match kind {
            Kind::Blob => &self.blobs,
            Kind::Manifest | Kind::Tags | Kind::Referrers | Kind::Token => &self.others,
        }
    }
}

impl Pause {
    fn left(&self) -> Option<Duration> {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let left = until?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    fn begin(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut current = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        *current = (*current).max(Some(until));
    }
}

/// What `Retry-After` asks for: seconds, or a moment (RFC 9110, section 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let moment = httpdate::parse_http_date(value).ok()?;
    Some(moment.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    fn asked(value: &str, now: SystemTime) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, value.parse().unwrap());
        retry_after(&headers, now)
    }

    #[test]
    fn retry_after_is_seconds_or_a_moment() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(asked("120", now), Some(Duration::from_secs(120)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:50:07 GMT", now), Some(Duration::from_secs(30)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:07 GMT", now), Some(Duration::ZERO));
        for bad in ["", "-1", "soon", "1.5"] {
            assert_eq!(asked(bad, now), None, "{bad}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_ends_is_never_shortened_and_has_a_limit() {
        let pauses = Pauses::default();
        assert_eq!(pauses.left(Kind::Manifest), None);
        pauses.begin(Kind::Manifest, Some(Duration::from_secs(60)));
        pauses.begin(Kind::Tags, Some(Duration::from_secs(5)));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(pauses.left(Kind::Referrers), Some(Duration::from_secs(50)));
        assert_eq!(pauses.left(Kind::Blob), None);
        tokio::time::advance(Duration::from_secs(50)).await;
        assert_eq!(pauses.left(Kind::Manifest), None);
        pauses.begin(Kind::Blob, Some(Duration::MAX));
        assert_eq!(pauses.longest(), Some(PAUSE_MOST));
    }

    proptest! {
        #[test]
        fn any_value_is_parsed_without_panic(value in "[ -~]{0,40}") {
            let _ = asked(&value, SystemTime::now());
        }
    }
}
