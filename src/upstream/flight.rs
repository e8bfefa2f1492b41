//! One answer for all who ask the same thing at the same time.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Mutex, PoisonError},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};

/// Work under way, by what it is for.
///
/// Whoever joins drives the work. It goes on while anyone waits for it, and is dropped with the last.
pub(super) struct Flights<K, V: Clone> {
    under_way: Mutex<HashMap<K, WeakShared<BoxFuture<'static, V>>>>,
}

impl<K: Clone + Eq + Hash, V: Clone> Flights<K, V> {
    /// No work.
    pub(super) fn new() -> Self {
        Self { under_way: Mutex::default() }
    }

    /// The result of the work for `key` that is under way, or else of `begin`.
    pub(super) async fn join<F>(&self, key: K, begin: impl FnOnce() -> F) -> V
    where
        F: Future<Output = V> + Send + 'static,
    {
        self.enter(key, begin).await
    }

    fn enter<F>(&self, key: K, begin: impl FnOnce() -> F) -> Shared<BoxFuture<'static, V>>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let is_open = |flight: &Shared<_>| Shared::peek(flight).is_none();
        if let Some(flight) = under_way.get(&key).and_then(WeakShared::upgrade).filter(is_open) {
            return flight;
        }
        under_way.retain(|_, flight| flight.upgrade().is_some());
        let flight = begin().boxed().shared();
        under_way.extend(flight.downgrade().map(|weak| (key, weak)));
        flight
    }
}

impl<K, V: Clone> fmt::Debug for Flights<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn those_who_ask_together_get_one_answer_and_later_ones_another() {
        let flights = Flights::new();
        let (count, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let work = || {
            let (count, go) = (Arc::clone(&count), Arc::clone(&go));
            async move {
                let number = count.fetch_add(1, Ordering::SeqCst);
                go.notified().await;
                number
            }
        };
        let (first, second, third) =
            tokio::join!(flights.join("a", work), flights.join("a", work), async {
                go.notify_one();
                flights.join("b", || async { 9 }).await
            });
        assert_eq!((first, second, third), (0, 0, 9));
        go.notify_one();
        assert_eq!(flights.join("a", work).await, 1);
    }

    #[tokio::test]
    async fn the_work_goes_on_when_the_first_one_leaves() {
        let flights = Flights::new();
        let go = Arc::new(Notify::new());
        let work = || {
            let go = Arc::clone(&go);
            async move { go.notified().await }
        };
        let mut first = Box::pin(flights.join((), work));
        assert!((&mut first).now_or_never().is_none());
        let mut second = Box::pin(flights.join((), || async { unreachable!("work is under way") }));
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        go.notify_one();
        second.await;
    }
}
