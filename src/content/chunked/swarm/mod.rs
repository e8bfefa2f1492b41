//! Chunks that come from other nodes, and go to them: the exchange, with sockets, time and memory.
//!
//! What is to be done is decided by [`Exchange`]; here it is done. Each attempt to get an item is a task, which puts
//! what comes into the item's *filling*. Whoever takes over from it waits until it has let go of that.

mod attempt;
mod figures;
mod filling;
mod follow;
mod serve;
pub(super) mod table;
mod traffic;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

use super::{Chunked, fill::Fill, unavailable};
use crate::{
    cluster::{
        Item, Members, NodeId, Peer,
        exchange::{Action, AskId, Attempt, Exchange, Limits, Lost, Moment, Need, Reply, Trouble},
        wire::{PartName, PeerClient},
    },
    oci::Digest,
    runtime::{Shutdown, Tasks},
    storage::{Error, Fault, layout},
};
use filling::{Come, Filling, Slot};
pub use serve::{Part, PartBytes};
use traffic::Traffic;

/// Other nodes, and how they are reached.
#[derive(Clone, Debug)]
pub struct Neighbours {
    /// This node, as others know it.
    pub me: Peer,
    /// Who else is there.
    pub members: Members,
    /// How they are asked.
    pub client: PeerClient,
    /// Parts that are sent to others at once, while there are more who want some.
    pub uploads: usize,
    /// Where parts are got. Not among the tasks of requests: what nobody here waits for is no reason not to end.
    pub tasks: Tasks,
}

/// This node's part in the exchange.
pub(super) struct Swarm {
    neighbours: Neighbours,
    state: Mutex<State>,
    began: Instant,
    /// Requests of others that could be sent more now.
    lanes_busy: Arc<AtomicUsize>,
    next_ask: AtomicU64,
    traffic: Arc<Traffic>,
    /// The next deadline may have become another.
    changed: Notify,
}

struct State {
    exchange: Exchange,
    wanted: HashMap<Item, Wanted>,
    asks: HashMap<AskId, oneshot::Sender<Reply>>,
    attempts: HashMap<Attempt, AbortOnDropHandle<()>>,
}

/// Something that is on its way here.
struct Wanted {
    part: PartName,
    slot: Slot,
    come: Come,
    /// Writers that came when it was on its way already.
    late: Vec<Fill>,
    /// Why the last attempt failed.
    error: Option<Error>,
}

impl Swarm {
    pub(super) fn new(neighbours: Neighbours) -> Self {
        let limits = Limits { lanes: neighbours.uploads, ..Limits::default() };
        let exchange = Exchange::new(neighbours.me, limits, neighbours.members.view());
        let state = State {
            exchange,
            wanted: HashMap::new(),
            asks: HashMap::new(),
            attempts: HashMap::new(),
        };
        Self {
            neighbours,
            state: Mutex::new(state),
            began: Instant::now(),
            lanes_busy: Arc::default(),
            next_ask: AtomicU64::new(0),
            traffic: Arc::default(),
            changed: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Moment {
        self.began.elapsed()
    }

    /// Counts bytes of blobs that have come, from other nodes or from the storage.
    pub(super) fn came(&self, bytes: usize) {
        self.traffic.came(bytes);
    }

    fn is_slow(&self, node: NodeId) -> bool {
        self.state().exchange.is_slow(node, self.now())
    }

    fn lanes_busy(&self) -> usize {
        self.lanes_busy.load(Ordering::Relaxed)
    }
}

impl Chunked {
    /// Sees to it that a chunk comes that this node's readers miss.
    pub(super) fn want_chunk(self: &Arc<Self>, swarm: &Swarm, fill: Fill, need: Need) {
        let digest = fill.0.key.digest;
        if self.arrivals.was_given_up(&digest) && self.arrivals.get(&digest).is_none() {
            let error = unavailable(&digest, "it could not be fetched a moment ago");
            return fill.1.fail(error);
        }
        let part = filling::part_of(&fill.0);
        let filling = self.filling_of(fill);
        self.want(swarm, (part, need), filling);
    }

    /// Begins with a blob of unknown length, which is what this waits for.
    pub(super) async fn open_with_others(
        self: &Arc<Self>,
        swarm: &Swarm,
        digest: Digest,
    ) -> Result<u64, Error> {
        let (opened, length) = oneshot::channel();
        let part = filling::first_part(digest);
        self.want(swarm, (part, Need::Open), Filling::Unopened(opened, Come::default()));
        match length.await {
            Ok(length) => length,
            // It was on its way for others, who know how long it is.
            Err(_) => match self.lengths.get(&digest).await {
                Some(length) => Ok(length),
                None => self.stored_length(&digest).await,
            },
        }
    }

    /// Sees to it that a part comes, which goes into `filling`.
    fn want(self: &Arc<Self>, swarm: &Swarm, (part, need): (PartName, Need), filling: Filling) {
        let mut state = swarm.state();
        let item = part.item();
        match state.wanted.get_mut(&item) {
            None => {
                state.wanted.insert(item, Wanted::new(part, filling));
            }
            // It comes, but this part of it was not asked for when that began.
            Some(wanted) => wanted.late.extend(filling.into_fills()),
        }
        if self.arrivals.get(&part.digest).is_some() {
            state.exchange.is_incoming(item);
        }
        state.exchange.want(item, need, swarm.now());
        self.act(swarm, &mut state);
    }

    /// Tells the exchange what has happened, and does what it says.
    fn tell(self: &Arc<Self>, swarm: &Swarm, what: impl FnOnce(&mut State, Moment)) {
        let mut state = swarm.state();
        what(&mut state, swarm.now());
        self.act(swarm, &mut state);
    }

    fn act(self: &Arc<Self>, swarm: &Swarm, state: &mut State) {
        let tasks = &swarm.neighbours.tasks;
        while let Some(action) = state.exchange.next_action() {
            match action {
                Action::Ask { attempt, to, role, hop, avoid, is_served } => {
                    let Some(wanted) = state.wanted.get(&attempt.item) else { continue };
                    let (load, rate) = (state.exchange.load(), state.exchange.rate());
                    let words = attempt::Words { role, hop, avoid, is_served, load, rate };
                    let place = wanted.place();
                    let task = Arc::clone(self).ask(attempt, to, words, place);
                    let task = AbortOnDropHandle::new(tasks.spawn("ask a node", task));
                    state.attempts.insert(attempt, task);
                }
                Action::Fetch { attempt } => {
                    let Some(wanted) = state.wanted.get(&attempt.item) else { continue };
                    let place = wanted.place();
                    let task = Arc::clone(self).fetch(attempt, place);
                    let task = AbortOnDropHandle::new(tasks.spawn("fetch a part", task));
                    state.attempts.insert(attempt, task);
                }
                Action::Cancel { attempt } => drop(state.attempts.remove(&attempt)),
                Action::Reply { ask, reply } => {
                    if let Some(waiting) = state.asks.remove(&ask) {
                        let _whoever_asked_may_have_gone = waiting.send(reply);
                    }
                }
                Action::Lose { item, why } => {
                    if let Some(wanted) = state.wanted.remove(&item) {
                        let error = wanted.lost(why);
                        tasks.spawn("give a part up", async move { wanted.fail(error).await });
                    }
                }
            }
        }
        swarm.changed.notify_one();
    }

    /// Ends what was done for a part: all of it is here, or nothing more comes.
    fn end_part(
        self: &Arc<Self>,
        swarm: &Swarm,
        attempt: Attempt,
        ended: Result<(), (Error, Trouble)>,
    ) {
        let item = attempt.item;
        let mut late = Vec::new();
        self.tell(swarm, |state, now| match ended {
            Ok(()) => {
                late = state.wanted.remove(&item).map_or_else(Vec::new, |wanted| wanted.late);
                state.exchange.arrived(item, now);
            }
            Err((error, trouble)) => {
                if let Some(wanted) = state.wanted.get_mut(&item) {
                    wanted.error = Some(error);
                }
                state.exchange.broke(attempt, trouble, now);
            }
        });
        // Before another attempt at the same begins, which may have the same number.
        let own = swarm.state().attempts.remove(&attempt);
        for fill in late {
            self.want_chunk(swarm, fill, Need::Now);
        }
        // Last, because this may end the task that calls.
        drop(own);
    }

    /// Lets time pass in the exchange, until `shutdown`.
    pub(in crate::content) async fn run_swarm(self: Arc<Self>, shutdown: Shutdown) {
        let Some(swarm) = &self.swarm else { return };
        let mut views = swarm.neighbours.members.changes();
        // What has changed since the exchange was made counts too.
        views.mark_changed();
        loop {
            let deadline = swarm.state().exchange.deadline();
            let deadline = swarm.began + deadline.unwrap_or(Moment::from_secs(3600));
            tokio::select! {
                () = shutdown.begun() => return,
                () = tokio::time::sleep_until(deadline) => {}
                () = swarm.changed.notified() => continue,
                changed = views.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let view = views.borrow_and_update().clone();
                    swarm.state().exchange.set_view(view);
                    continue;
                }
            }
            self.tell(swarm, |state, now| {
                let State { exchange, wanted, .. } = state;
                exchange.came(swarm.traffic.came_bytes(), now);
                let received =
                    |item| wanted.get(&item).map_or(0, |wanted| self.received_of(wanted));
                exchange.tick(now, received);
            });
        }
    }

    fn received_of(&self, wanted: &Wanted) -> u64 {
        match wanted.come.load(Ordering::Relaxed) {
            0 => self.received(&wanted.part),
            come => come,
        }
    }
}

impl Wanted {
    fn new(part: PartName, filling: Filling) -> Self {
        let come = filling.come();
        let slot = Arc::new(tokio::sync::Mutex::new(filling));
        Self { part, slot, come, late: Vec::new(), error: None }
    }

    fn place(&self) -> attempt::Place {
        let Self { part, slot, come, .. } = self;
        attempt::Place { part: *part, slot: Arc::clone(slot), come: Arc::clone(come) }
    }

    fn lost(&self, why: Lost) -> Error {
        let digest = &self.part.digest;
        let key = layout::blob(digest);
        match (why, &self.error) {
            (Lost::Unknown, _) => Error::NotFound { key },
            (Lost::Overloaded, _) => {
                Error::failed("fetch", &key, Fault::Busy, "no node that knows it can be reached")
            }
            (Lost::Failed, Some(error)) => error.clone(),
            (Lost::Failed, None) => unavailable(digest, "no node could give it"),
        }
    }

    async fn fail(self, error: Error) {
        for (_, writer) in self.late {
            writer.fail(error.clone());
        }
        std::mem::replace(&mut *self.slot.lock().await, Filling::Over).fail(&error);
    }
}

/// The key of what a digest names, for errors.
fn missing(digest: &Digest) -> Error {
    Error::NotFound { key: layout::blob(digest) }
}

impl fmt::Debug for Swarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Swarm").field("me", &self.neighbours.me).finish_non_exhaustive()
    }
}
