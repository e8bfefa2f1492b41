//! Work that is shared by all who ask for it while the same is under way, and that began after they asked.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    hash::Hash,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use super::{Abandoned, Flight, Tasks};

/// Runs work that has to be younger than the question, such as a look at something that others change: whoever asks
/// while a flight for the same key is under way does not get its result, which may be older than a change that
/// was over before the question, but shares the next flight with all who ask meanwhile. So a thousand who ask at once
/// cost two flights, and nobody waits for more than two. Flights belong to none of those who wait for them.
pub struct NextFlight<K, V> {
    lines: Lines<K, V>,
    operation: Operation,
}

/// All lines, by what they wait for.
type Lines<K, V> = Arc<Mutex<HashMap<K, Queue<V>>>>;

/// What is under way, and what waits behind it.
struct Queue<V> {
    aloft: Aloft<V>,
    next: Option<Boarding<V>>,
}

/// A flight that has begun.
struct Aloft<V> {
    flight: Flight<V>,
    /// The flight of those whom its result does not help: it begins after the last of them has asked.
    successor: Arc<Mutex<Option<Flight<V>>>>,
}

impl<V: Clone> Aloft<V> {
    fn new(flight: &Flight<V>) -> Self {
        Self { flight: flight.clone(), successor: Arc::default() }
    }
}

/// How one who asks comes to a result.
enum Seat<V, F> {
    /// By a flight that has begun before; the work was not needed.
    Before(Aloft<V>, F),
    /// By one that begins, or has begun, after the question.
    After(Flight<V>),
}

/// How flights are run.
#[derive(Clone)]
struct Operation {
    name: &'static str,
    tasks: Tasks,
    /// A flight that takes longer is overtaken by the next one.
    patience: Duration,
}

/// A flight that has not begun.
struct Boarding<V> {
    work: Pin<Box<dyn Future<Output = V> + Send>>,
    landed: watch::Sender<Option<V>>,
    flight: Flight<V>,
}

impl<V: Clone> Boarding<V> {
    fn of(work: impl Future<Output = V> + Send + 'static) -> Self {
        let (landed, result) = watch::channel(None);
        Self { work: Box::pin(work), landed, flight: Flight::of(result) }
    }
}

impl<K, V> NextFlight<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Nothing under way yet. Work runs in `tasks`, under `name`. Those who wait for the next flight wait for the one
    /// before it for `patience`, and then no longer: it then ends beside it.
    #[must_use]
    pub fn new(name: &'static str, tasks: Tasks, patience: Duration) -> Self {
        Self { lines: Arc::default(), operation: Operation { name, tasks, patience } }
    }

    /// The result of `work` for `key`, or of the same work of another one who asked, which begins after this call
    /// in either case. Work that is not needed is dropped without having begun.
    ///
    /// # Errors
    /// [`Abandoned`] if the work panicked. Whoever asks afterwards has it done anew.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the work to be done for the others.
    pub async fn run<F>(&self, key: K, work: F) -> Result<V, Abandoned>
    where
        F: Future<Output = V> + Send + 'static,
    {
        self.board(key, work).ended().await
    }

    /// As [`NextFlight::run`], but the result of a flight that is under way will do if it `is_enough`, although it began
    /// before this call.
    ///
    /// # Errors
    /// As [`NextFlight::run`].
    ///
    /// # Cancel safety
    /// As [`NextFlight::run`].
    pub async fn run_unless<F>(
        &self,
        key: K,
        is_enough: impl Fn(&V) -> bool + Send,
        work: F,
    ) -> Result<V, Abandoned>
    where
        F: Future<Output = V> + Send + 'static,
    {
        match self.join(key.clone(), work) {
            Seat::After(flight) => flight.ended().await,
            Seat::Before(Aloft { flight, successor }, work) => {
                let ended = tokio::time::timeout(self.operation.patience, flight.ended()).await;
                match ended {
                    Ok(Ok(value)) if is_enough(&value) => Ok(value),
                    _old_crashed_or_slow => self.succeed(&successor, key, work).ended().await,
                }
            }
        }
    }

    /// The flight that is under way, or one that begins now.
    fn join<F>(&self, key: K, work: F) -> Seat<V, F>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        match lines.get(&key) {
            Some(Queue { aloft: Aloft { flight, successor }, .. }) => {
                let (flight, successor) = (flight.clone(), Arc::clone(successor));
                Seat::Before(Aloft { flight, successor }, work)
            }
            None => Seat::After(self.board_one(&mut lines, key, work)),
        }
    }

    /// The flight after the one that has this successor, for all who were on that one.
    fn succeed<F>(&self, successor: &Mutex<Option<Flight<V>>>, key: K, work: F) -> Flight<V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut successor = successor.lock().unwrap_or_else(PoisonError::into_inner);
        successor.get_or_insert_with(|| self.board_one(&mut lines, key, work)).clone()
    }

    fn board<F>(&self, key: K, work: F) -> Flight<V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        self.board_one(&mut lines, key, work)
    }

    fn board_one<F>(&self, lines: &mut HashMap<K, Queue<V>>, key: K, work: F) -> Flight<V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        match lines.entry(key) {
            Entry::Occupied(mut queue) => {
                let next = &mut queue.get_mut().next;
                next.get_or_insert_with(|| Boarding::of(work)).flight.clone()
            }
            Entry::Vacant(queue) => {
                let first = Boarding::of(work);
                let (flight, key) = (first.flight.clone(), Some(queue.key().clone()));
                queue.insert(Queue { aloft: Aloft::new(&flight), next: None });
                let (line, operation) =
                    (Line { lines: Arc::clone(&self.lines), key }, self.operation.clone());
                self.operation.tasks.spawn(operation.name, operation.clone().fly(line, first));
                flight
            }
        }
    }
}

impl Operation {
    /// One flight after the other, until nobody waits for another one.
    async fn fly<K, V>(self, mut line: Line<K, V>, first: Boarding<V>)
    where
        K: Eq + Hash,
        V: Clone + Send + Sync + 'static,
    {
        let mut next = Some(first);
        while let Some(Boarding { work, landed, flight: _ }) = next {
            let flight = self.tasks.spawn(self.name, async move {
                let value = work.await;
                landed.send_replace(Some(value));
            });
            let _landed_crashed_or_slow = tokio::time::timeout(self.patience, flight).await;
            next = line.depart();
        }
    }
}

/// What waits for one key. Dropped with the runtime only, it leaves nobody waiting.
struct Line<K: Eq + Hash, V> {
    lines: Lines<K, V>,
    /// There is one until nobody waits any more.
    key: Option<K>,
}

impl<K: Eq + Hash, V: Clone> Line<K, V> {
    /// The next flight, which nobody can board from now on; or the end of the line.
    fn depart(&mut self) -> Option<Boarding<V>> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = lines.get_mut(self.key.as_ref()?)?;
        let next = queue.next.take();
        match &next {
            Some(next) => queue.aloft = Aloft::new(&next.flight),
            None => {
                let key = self.key.take()?;
                lines.remove(&key);
            }
        }
        next
    }
}

impl<K: Eq + Hash, V> Drop for Line<K, V> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.lines.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        }
    }
}

impl<K, V> fmt::Debug for NextFlight<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NextFlight").field("name", &self.operation.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use proptest::prelude::*;
    use tokio::{sync::Semaphore, task::JoinHandle};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(1);

    /// Something that others change, and that takes time to look at.
    #[derive(Clone)]
    struct Register {
        value: Arc<AtomicUsize>,
        looks: Arc<AtomicUsize>,
        /// Looks that may end.
        gate: Arc<Semaphore>,
    }

    impl Register {
        fn new() -> Self {
            let gate = Arc::new(Semaphore::new(0));
            Self { value: Arc::default(), looks: Arc::default(), gate }
        }

        fn change(&self) {
            self.value.fetch_add(1, Ordering::SeqCst);
        }

        /// Sees the value as early as can be, and tells it as late as can be.
        async fn look(self) -> usize {
            self.looks.fetch_add(1, Ordering::SeqCst);
            let seen = self.value.load(Ordering::SeqCst);
            self.gate.acquire().await.unwrap().forget();
            seen
        }
    }

    fn flights<V: Clone + Send + Sync + 'static>() -> NextFlight<&'static str, V> {
        NextFlight::new("test", Tasks::new(), PATIENCE)
    }

    /// Lets everything run that can.
    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_thousand_who_ask_at_once_cost_two_looks() {
        let (flights, register) = (flights(), Register::new());
        register.gate.add_permits(1_000);
        let asked = (0..1_000).map(|_| flights.run("key", register.clone().look()));
        assert_eq!(join_all(asked).await, [Ok(0); 1_000]);
        assert_eq!(register.looks.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn who_asks_during_a_flight_shares_the_next_one() {
        let (flights, register) = (flights(), Register::new());
        let first = flights.board("key", register.clone().look());
        settle().await;
        register.change();
        let later: Vec<_> =
            (0..10).map(|_| flights.board("key", register.clone().look())).collect();
        settle().await;
        assert_eq!(register.looks.load(Ordering::SeqCst), 1, "one at a time");
        register.gate.add_permits(2);
        assert_eq!(first.ended().await, Ok(0));
        for flight in later {
            assert_eq!(flight.ended().await, Ok(1));
        }
        assert_eq!(register.looks.load(Ordering::SeqCst), 2);
        settle().await;
        assert!(flights.lines.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn keys_do_not_wait_for_each_other() {
        let flights = flights();
        let stuck = flights.board("one", std::future::pending());
        settle().await;
        assert_eq!(flights.run("other", async { 7 }).await, Ok(7));
        drop(stuck);
    }

    #[tokio::test]
    async fn flights_go_on_without_those_who_began_them() {
        let (flights, register) = (flights(), Register::new());
        let first = flights.board("key", register.clone().look());
        settle().await;
        let opener = flights.board("key", register.clone().look());
        let other = flights.board("key", register.clone().look());
        drop((first, opener));
        register.gate.add_permits(2);
        assert_eq!(other.ended().await, Ok(0));
    }

    #[tokio::test]
    async fn a_failure_is_told_to_all_of_its_flight_and_to_nobody_else() {
        let (flights, gate) = (flights(), Arc::new(Semaphore::new(0)));
        let work = |value: Result<u8, &'static str>| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.unwrap().forget();
                value
            }
        };
        let first = flights.board("key", work(Ok(1)));
        settle().await;
        let second = [flights.board("key", work(Err("no"))), flights.board("key", work(Ok(2)))];
        gate.add_permits(1);
        assert_eq!(first.ended().await, Ok(Ok(1)));
        settle().await;
        let third = flights.board("key", work(Ok(3)));
        gate.add_permits(2);
        for flight in second {
            assert_eq!(flight.ended().await, Ok(Err("no")));
        }
        assert_eq!(third.ended().await, Ok(Ok(3)));
    }

    #[tokio::test]
    async fn a_panic_is_told_to_its_flight_and_the_next_one_begins() {
        let flights = flights();
        let first = flights.board("key", async { panic!("on purpose") });
        let second = flights.board("key", async { 7 });
        assert_eq!(first.ended().await, Err(Abandoned));
        assert_eq!(second.ended().await, Ok(7));
        settle().await;
        assert!(flights.lines.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_flight_is_overtaken_and_still_ends() {
        let (flights, register) = (flights(), Register::new());
        let slow = flights.board("key", register.clone().look());
        settle().await;
        register.change();
        let began = tokio::time::Instant::now();
        assert_eq!(flights.run("key", async { 7 }).await, Ok(7));
        assert_eq!(began.elapsed(), PATIENCE);
        register.gate.add_permits(1);
        assert_eq!(slow.ended().await, Ok(0));
    }

    #[tokio::test]
    async fn what_a_flight_under_way_says_is_enough_if_it_is_what_one_hopes_for() {
        let (flights, register) = (flights(), Register::new());
        let ask = |enough: bool| {
            flights.run_unless("key", move |_: &usize| enough, register.clone().look())
        };
        for (enough, looks) in [(true, 1), (false, 2)] {
            // The looks end when all have asked.
            let permits = async {
                settle().await;
                settle().await;
                register.gate.add_permits(looks);
            };
            let (values, ()) = tokio::join!(join_all((0..1_000).map(|_| ask(enough))), permits);
            assert_eq!(values, [Ok(0); 1_000]);
            assert_eq!(register.looks.swap(0, Ordering::SeqCst), looks, "enough: {enough}");
            settle().await;
        }
    }

    #[tokio::test]
    async fn what_is_not_enough_is_looked_at_after_the_question() {
        let (flights, register) = (flights(), Register::new());
        let first = flights.board("key", register.clone().look());
        settle().await;
        register.change();
        let is_enough = |value: &usize| *value > 0;
        let later = (0..10).map(|_| flights.run_unless("key", is_enough, register.clone().look()));
        register.gate.add_permits(2);
        assert_eq!(join_all(later).await, [Ok(1); 10]);
        assert_eq!(first.ended().await, Ok(0));
        assert_eq!(register.looks.load(Ordering::SeqCst), 2);
    }

    /// What happens next.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Change,
        Ask,
        /// One of those who asked goes away.
        Leave(usize),
        /// One look may end.
        Land,
        /// Tasks run for so many turns.
        Turn(usize),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            3 => Just(Event::Change),
            4 => Just(Event::Ask),
            1 => (0_usize..8).prop_map(Event::Leave),
            2 => Just(Event::Land),
            4 => (1_usize..4).prop_map(Event::Turn),
        ];
        proptest::collection::vec(event, 1..80)
    }

    /// Who asked, and what the value was then.
    type Asked = (usize, JoinHandle<Result<usize, Abandoned>>);

    async fn happen(events: Vec<Event>) -> Result<(), TestCaseError> {
        let (flights, register) = (Arc::new(flights()), Register::new());
        let mut asked: Vec<Asked> = Vec::new();
        for event in events {
            match event {
                Event::Change => register.change(),
                Event::Ask => {
                    // Boards now and waits in a task of its own.
                    let flight = flights.board("key", register.clone().look());
                    let value = register.value.load(Ordering::SeqCst);
                    asked.push((value, tokio::spawn(flight.ended())));
                }
                Event::Leave(number) if number < asked.len() => asked.swap_remove(number).1.abort(),
                Event::Leave(_) => {}
                Event::Land => register.gate.add_permits(1),
                Event::Turn(turns) => {
                    for _ in 0..turns {
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
        register.gate.add_permits(1_000);
        for (value_then, waiting) in asked {
            let seen = waiting.await.expect("it is not aborted").expect("no work panics");
            prop_assert!(seen >= value_then, "{seen} is older than {value_then}");
        }
        settle().await;
        prop_assert!(flights.lines.lock().unwrap().is_empty());
        Ok(())
    }

    proptest! {
        #[test]
        fn nobody_sees_a_value_that_is_older_than_the_question(events in events()) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            runtime.unwrap().block_on(happen(events))?;
        }
    }
}
