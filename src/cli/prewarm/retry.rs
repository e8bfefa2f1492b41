//! Trying again: how often, and after how long.

use std::time::Duration;

use super::error::Error;

/// Attempts after the first one.
const RETRIES: u32 = 3;

/// Longest wait before the first retry; each further one may wait twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Longest wait that a daemon can ask for: with [`RETRIES`], nobody waits for more than this thrice.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The retries that one piece of an image has left.
#[derive(Debug, Default)]
pub(super) struct Retries {
    used: u32,
}

impl Retries {
    /// Waits until it is time to try again.
    ///
    /// # Errors
    /// `error` itself, where trying again is of no use or was tried often enough.
    pub(super) async fn pause(&mut self, error: Error) -> Result<(), Error> {
        if self.used == RETRIES || !error.is_retryable() {
            return Err(error);
        }
        tokio::time::sleep(wait(self.used, error.retry_after(), fastrand::f64())).await;
        self.used += 1;
        Ok(())
    }
}

/// How long to wait before retry number `used`, counted from 0. `random` is from 0 to 1: what broke many
/// downloads at once is not met by all of them at once again.
fn wait(used: u32, retry_after: Option<Duration>, random: f64) -> Duration {
    let own = FIRST_WAIT * 2_u32.pow(used);
    own.mul_f64(0.5 + random / 2.0).max(retry_after.unwrap_or_default()).min(WAIT_MAX)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::cli::prewarm::error::Refusal;

    fn refused(status: u16) -> Error {
        let status = StatusCode::from_u16(status).unwrap();
        Error::Refused(Refusal { status, words: None, retry_after: None })
    }

    #[test]
    fn waits_grow_and_are_bounded() {
        assert_eq!(wait(0, None, 0.0), Duration::from_millis(500));
        assert_eq!(wait(0, None, 1.0), Duration::from_secs(1));
        assert_eq!(wait(2, None, 1.0), Duration::from_secs(4));
        assert_eq!(wait(0, Some(Duration::from_secs(7)), 0.5), Duration::from_secs(7));
        assert_eq!(wait(0, Some(Duration::from_hours(1)), 0.5), WAIT_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_that_may_pass_is_retried_three_times() {
        let mut retries = Retries::default();
        for _ in 0..RETRIES {
            assert!(retries.pause(refused(503)).await.is_ok());
        }
        assert!(retries.pause(refused(503)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_that_stays_is_not_retried() {
        for error in [refused(404), refused(401), refused(307), Error::Long { expected: 1 }] {
            assert!(Retries::default().pause(error).await.is_err());
        }
        assert!(Retries::default().pause(refused(429)).await.is_ok());
    }
}
