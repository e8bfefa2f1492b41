//! One limit on all the buffers of the process.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Accounting unit. A semaphore counts permits in 32 bits for one request, and nobody buffers less.
const UNIT_BYTES: u64 = 1024;

/// A number of bytes that the buffers of the process may hold together.
///
/// Memory is taken from the budget *before* it is filled, and comes back when the [`Permit`] is dropped;
/// so the permit travels with the bytes it paid for, into a response body if that is where they go.
/// Waiters are served in the order they came. Cloning shares the budget.
#[derive(Clone, Debug)]
pub struct ByteBudget {
    units: Arc<Semaphore>,
    total_bytes: u64,
}

impl ByteBudget {
    /// A budget of `total_bytes`, rounded down to whole KiB but at least one.
    #[must_use]
    pub fn new(total_bytes: u64) -> Self {
        let units = usize::try_from(total_bytes / UNIT_BYTES).unwrap_or(usize::MAX);
        let units = units.clamp(1, Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(units)), total_bytes }
    }

    /// The whole budget, in bytes.
    #[must_use]
    pub const fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Bytes nobody holds at the moment.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.units.available_permits() as u64 * UNIT_BYTES
    }

    /// Waits until `bytes` are free and takes them. More than the whole budget is cut down to it, so
    /// that a small budget makes things slow and never stuck.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the queue and takes nothing.
    pub async fn acquire(&self, bytes: u64) -> Permit {
        let units = self.units_for(bytes);
        let permit = Arc::clone(&self.units).acquire_many_owned(units).await;
        Permit { units: permit.expect("the semaphore of a budget is never closed") }
    }

    /// As [`ByteBudget::acquire`], for those who would rather be refused than wait longer than `patience`.
    ///
    /// # Errors
    /// [`BudgetExhausted`].
    ///
    /// # Cancel safety
    /// As [`ByteBudget::acquire`].
    pub async fn acquire_within(
        &self,
        bytes: u64,
        patience: Duration,
    ) -> Result<Permit, BudgetExhausted> {
        tokio::time::timeout(patience, self.acquire(bytes))
            .await
            .map_err(|_elapsed| BudgetExhausted)
    }

    /// Takes `bytes` if they are free now and nobody waits for them.
    #[must_use]
    pub fn try_acquire(&self, bytes: u64) -> Option<Permit> {
        let units = self.units_for(bytes);
        let permit = Arc::clone(&self.units).try_acquire_many_owned(units).ok()?;
        Some(Permit { units: permit })
    }

    fn units_for(&self, bytes: u64) -> u32 {
        let most = (self.total_bytes / UNIT_BYTES).max(1);
        u32::try_from(bytes.div_ceil(UNIT_BYTES).min(most)).unwrap_or(u32::MAX)
    }
}

/// Nothing came free in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the memory for transfers is in use; raise memory.buffers, or wait")]
pub struct BudgetExhausted;

/// Bytes taken from a [`ByteBudget`]; dropping it gives them back.
#[derive(Debug)]
pub struct Permit {
    units: OwnedSemaphorePermit,
}

impl Permit {
    /// How many bytes this permit stands for.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.units.num_permits() as u64 * UNIT_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dropped_permit_lets_the_next_one_in() {
        let budget = ByteBudget::new(4096);
        let first = budget.acquire(4096).await;
        assert!(budget.try_acquire(1).is_none());
        assert_eq!(budget.free_bytes(), 0);
        drop(first);
        assert_eq!(budget.acquire(1).await.bytes(), 1024);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_has_an_end() {
        let budget = ByteBudget::new(4096);
        let _held = budget.acquire(4096).await;
        let refused = budget.acquire_within(1024, Duration::from_secs(10)).await;
        assert_eq!(refused.unwrap_err(), BudgetExhausted);
    }

    #[tokio::test]
    async fn more_than_everything_is_everything() {
        let budget = ByteBudget::new(2048);
        assert_eq!(budget.acquire(1 << 40).await.bytes(), 2048);
    }
}
