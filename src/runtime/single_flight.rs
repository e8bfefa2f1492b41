//! Work that is done once for all who want it at the same time.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

use super::{Abandoned, Tasks};

/// Runs the same work once, however many ask for it meanwhile, and gives all of them its result. It belongs to
/// none of them: it goes on when they have gone.
pub struct SingleFlight<K, V> {
    flights: Arc<Mutex<HashMap<K, watch::Receiver<Option<V>>>>>,
    name: &'static str,
    tasks: Tasks,
}

impl<K, V> SingleFlight<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Nothing under way yet. Work runs in `tasks`, under `name`.
    #[must_use]
    pub fn new(name: &'static str, tasks: Tasks) -> Self {
        Self { flights: Arc::default(), name, tasks }
    }

    /// The result of `work` for `key`, or that of the work for `key` that is under way.
    ///
    /// # Errors
    /// [`Abandoned`] if the work panicked.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the work running.
    pub async fn run<F>(&self, key: K, work: F) -> Result<V, Abandoned>
    where
        F: Future<Output = V> + Send + 'static,
    {
        self.begin(key, work).ended().await
    }

    /// The work for `key` that is under way.
    pub fn running(&self, key: &K) -> Option<Flight<V>> {
        let flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.get(key).map(|result| Flight { result: result.clone() })
    }

    /// Begins `work` for `key`, unless such work is under way. Nobody need wait for it.
    pub fn begin<F>(&self, key: K, work: F) -> Flight<V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(result) = flights.get(&key) {
            return Flight { result: result.clone() };
        }
        let (sender, result) = watch::channel(None);
        flights.insert(key.clone(), result.clone());
        let landing = Landing { flights: Arc::clone(&self.flights), key };
        self.tasks.spawn(self.name, async move {
            let value = work.await;
            // Whoever comes from now on begins anew.
            drop(landing);
            sender.send_replace(Some(value));
        });
        Flight { result }
    }
}

/// Work that was begun. Dropping it leaves the work running.
#[derive(Clone, Debug)]
pub struct Flight<V> {
    result: watch::Receiver<Option<V>>,
}

impl<V: Clone> Flight<V> {
    /// Work whose result will come through `result`.
    pub(super) const fn of(result: watch::Receiver<Option<V>>) -> Self {
        Self { result }
    }

    /// The result, once there is one.
    ///
    /// # Errors
    /// [`Abandoned`] if the work panicked.
    pub async fn ended(mut self) -> Result<V, Abandoned> {
        let value = self.result.wait_for(Option::is_some).await.map_err(|_panicked| Abandoned)?;
        value.clone().ok_or(Abandoned)
    }
}

impl<K, V> fmt::Debug for SingleFlight<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SingleFlight").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Takes a flight off the list, also if it crashed.
struct Landing<K: Eq + Hash, V> {
    flights: Arc<Mutex<HashMap<K, watch::Receiver<Option<V>>>>>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn many_ask_and_one_works() {
        let flights = SingleFlight::new("test", Tasks::new());
        let (worked, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let work = || {
            let (worked, gate) = (Arc::clone(&worked), Arc::clone(&gate));
            async move {
                gate.acquire().await.unwrap().forget();
                worked.fetch_add(1, Ordering::SeqCst) + 1
            }
        };
        let asked: Vec<_> = (0..10).map(|_| flights.run("same", work())).collect();
        let all = futures_util::future::join_all(asked);
        tokio::pin!(all);
        assert!(futures_util::poll!(&mut all).is_pending());
        gate.add_permits(1);
        assert_eq!(all.await, [Ok(1); 10]);
        gate.add_permits(1);
        assert_eq!(flights.run("same", work()).await, Ok(2));
    }

    #[tokio::test]
    async fn what_was_begun_runs_until_it_ends_and_can_be_waited_for() {
        let flights = SingleFlight::new("test", Tasks::new());
        assert!(flights.running(&"key").is_none());
        let gate = Arc::new(Semaphore::new(0));
        let opened = Arc::clone(&gate);
        let work = async move { opened.acquire().await.map_or(0, |_permit| 7) };
        drop(flights.begin("key", work));
        let running = flights.running(&"key").expect("it was begun");
        gate.add_permits(1);
        assert_eq!(running.clone().ended().await, Ok(7));
        assert!(flights.running(&"key").is_none());
        assert_eq!(running.ended().await, Ok(7));
    }

    #[tokio::test]
    async fn work_that_panics_is_told_to_all_and_can_be_repeated() {
        let flights = SingleFlight::new("test", Tasks::new());
        let crash = async { panic!("on purpose") };
        assert_eq!(flights.run("key", crash).await, Err::<i32, _>(Abandoned));
        assert_eq!(flights.run("key", async { 7 }).await, Ok(7));
    }
}
