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
    /// The units of the budget that this one is a part of.
    whole: Option<Arc<Semaphore>>,
}

impl ByteBudget {
    /// A budget of `total_bytes`, rounded down to whole KiB but at least one.
    #[must_use]
    pub fn new(total_bytes: u64) -> Self {
        let units = usize::try_from(total_bytes / UNIT_BYTES).unwrap_or(usize::MAX);
        let units = units.clamp(1, Semaphore::MAX_PERMITS);
        let total_bytes = units as u64 * UNIT_BYTES;
        Self { units: Arc::new(Semaphore::new(units)), total_bytes, whole: None }
    }

    /// A budget for one kind of use, which takes what it gives from this one too: at most `bytes` of it, so that
    /// the rest is never waited for by others because of that use.
    ///
    /// # Panics
    /// If this is a part itself.
    #[must_use]
    pub fn part(&self, bytes: u64) -> Self {
        assert!(self.whole.is_none(), "a part has no parts");
        Self { whole: Some(Arc::clone(&self.units)), ..Self::new(bytes.min(self.total_bytes)) }
    }

    /// The whole budget, in bytes.
    #[must_use]
    pub const fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Bytes nobody holds at the moment.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        let units = self.units.available_permits();
        let whole = self.whole.as_ref().map_or(units, |whole| whole.available_permits());
        units.min(whole) as u64 * UNIT_BYTES
    }

    /// Waits until `bytes` are free and takes them. More than the whole budget is cut down to it, so
    /// that a small budget makes things slow and never stuck.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the queue and takes nothing.
    pub async fn acquire(&self, bytes: u64) -> Permit {
        let count = self.units_for(bytes);
        let units = take(&self.units, count).await;
        let whole = match &self.whole {
            Some(whole) => Some(take(whole, count).await),
            None => None,
        };
        Permit { units, _whole: whole }
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
        let count = self.units_for(bytes);
        let units = Arc::clone(&self.units).try_acquire_many_owned(count).ok()?;
        let whole = match &self.whole {
            Some(whole) => Some(Arc::clone(whole).try_acquire_many_owned(count).ok()?),
            None => None,
        };
        Some(Permit { units, _whole: whole })
    }

    fn units_for(&self, bytes: u64) -> u32 {
        let most = (self.total_bytes / UNIT_BYTES).max(1);
        u32::try_from(bytes.div_ceil(UNIT_BYTES).min(most)).unwrap_or(u32::MAX)
    }
}

async fn take(units: &Arc<Semaphore>, count: u32) -> OwnedSemaphorePermit {
    let permit = Arc::clone(units).acquire_many_owned(count).await;
    permit.expect("the semaphore of a budget is never closed")
}

/// Nothing came free in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the memory for transfers is in use; raise memory.buffers, or wait")]
pub struct BudgetExhausted;

/// Bytes taken from a [`ByteBudget`]; dropping it gives them back.
#[derive(Debug)]
pub struct Permit {
    units: OwnedSemaphorePermit,
    /// The same of the budget that this one's is a part of.
    _whole: Option<OwnedSemaphorePermit>,
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
    async fn a_part_takes_from_the_whole_and_leaves_the_rest() {
        let whole = ByteBudget::new(4096);
        let part = whole.part(3072);
        let held = part.acquire(3072).await;
        assert!(part.try_acquire(1024).is_none());
        assert_eq!((part.free_bytes(), whole.free_bytes()), (0, 1024));
        // Whoever waits in the part is in nobody's way in the whole.
        let waiting = part.acquire(1024);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        let rest = whole.try_acquire(1024).expect("the part left this much");
        drop(held);
        assert_eq!(waiting.await.bytes(), 1024);
        drop(rest);
        assert_eq!((part.free_bytes(), whole.free_bytes()), (3072, 4096));
        let _all = whole.acquire(4096).await;
        assert_eq!(part.free_bytes(), 0);
        assert!(part.try_acquire(1024).is_none());
        assert_eq!(part.units.available_permits(), 3, "what was not given was put back");
    }

    #[tokio::test]
    async fn more_than_everything_is_everything() {
        let budget = ByteBudget::new(2048);
        assert_eq!(budget.acquire(1 << 40).await.bytes(), 2048);
    }
}
