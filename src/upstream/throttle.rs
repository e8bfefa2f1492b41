//! A limit on bytes per second, shared by all transfers.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Time that may be saved up while nothing is transferred.
const BURST: Duration = Duration::from_millis(100);

/// Lets bytes through at no more than a rate.
#[derive(Debug)]
pub(super) struct Throttle {
    bytes_per_second: u64,
    /// When the bytes let through so far have been paid for.
    paid: Mutex<Instant>,
}

impl Throttle {
    /// A limit; nothing has gone through yet.
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), paid: Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes`, which have come already, may go on. Not fair, but nobody waits longer than all
    /// bytes before it take.
    pub(super) async fn pass(&self, bytes: usize) {
        tokio::time::sleep_until(self.pay(bytes)).await;
    }

    fn pay(&self, bytes: usize) -> Instant {
        let time = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        *paid = (*paid).max(now.checked_sub(BURST).unwrap_or(now)) + time;
        *paid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_of_all_transfers_take_their_time_together() {
        let throttle = Throttle::new(1000);
        let started = Instant::now();
        tokio::join!(throttle.pass(500), throttle.pass(500), throttle.pass(1000));
        assert_eq!(started.elapsed().as_millis(), 2000);
        tokio::time::advance(Duration::from_secs(60)).await;
        let started = Instant::now();
        throttle.pass(1000).await;
        assert_eq!(started.elapsed().as_millis(), 900);
    }
}
