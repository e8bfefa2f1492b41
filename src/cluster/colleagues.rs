//! Small questions and news between nodes.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use prometheus::{IntCounterVec, Opts};
use tokio::time::{Instant, timeout_at};

use super::{
    Item, Members, NodeId, Peer,
    wire::{CallAnswer, Error, PeerClient},
};
use crate::runtime::Tasks;

/// Nodes that are told something at once.
const TOLD_AT_ONCE: usize = 64;

/// Nodes of which it is known when they answered: more than make sense in one cluster.
const NODES_MOST: usize = 4096;

/// How long a node that did not answer is asked nothing: then it costs one question in so many seconds its time, and
/// not each. Those who decide that it is gone for longer are [`Members`].
const LEFT_ALONE: Duration = Duration::from_secs(2);

/// Who has answered something within this time and now takes too long has much to do, or its storage is slow: asking
/// somebody else instead would only have the same done twice.
const HEARD_LATELY: Duration = Duration::from_secs(1);

/// Of whom nothing was heard for so long is told what there is, but not waited for. By then it owns nothing.
const MISSING_AFTER: Duration = Duration::from_secs(12);

/// What came of a question to the owner of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// This node is to do the work itself: it is the owner, or no owner was there or willing.
    Here,
    /// The owner has answered.
    There(Bytes),
}

/// Who answered a question that may be put to one owner after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is this node's turn: it comes first of those that are there, or nobody else is.
    Here,
    /// Another node has answered.
    There(Peer, Bytes),
}

/// When a node answered last, or did not.
#[derive(Clone, Copy, Debug)]
enum Pulse {
    Heard(Instant),
    LeftAlone { until: Instant },
}

/// Asks other nodes small questions, and tells them news. What is asked is only ever answered by the node that is asked:
/// it does the work itself and passes nothing on. Cloning shares it.
#[derive(Clone)]
pub struct Colleagues(Arc<Shared>);

struct Shared {
    me: Peer,
    members: Members,
    client: PeerClient,
    pulses: Mutex<HashMap<NodeId, Pulse>>,
    unanswered: IntCounterVec,
    tasks: Tasks,
}

impl Colleagues {
    /// The other `members` of the cluster of node `me`, which are reached by `client`. Those of whom nothing was heard for
    /// long are told news in `tasks`. What is not answered is counted in
    /// `millpond_cluster_unanswered_calls_total{call}`.
    ///
    /// # Panics
    /// If that is registered already: there is one cluster in a process.
    #[must_use]
    pub fn new(
        (me, members): (Peer, Members),
        client: PeerClient,
        (tasks, metrics): (Tasks, &prometheus::Registry),
    ) -> Self {
        let opts = Opts::new(
            "millpond_cluster_unanswered_calls_total",
            "Small questions and news that another node has not answered",
        );
        let unanswered = IntCounterVec::new(opts, &["call"]).expect("the metric is well formed");
        metrics.register(Box::new(unanswered.clone())).expect("the metric is registered once");
        let pulses = Mutex::default();
        Self(Arc::new(Shared { me, members, client, pulses, unanswered, tasks }))
    }

    /// This node.
    #[must_use]
    pub fn me(&self) -> Peer {
        self.0.me
    }

    /// Whether this node is the one to answer a question.
    #[must_use]
    pub fn is_owner(&self, item: Item) -> bool {
        let owners = self.0.members.view().owners(item);
        owners.iter().next().is_none_or(|first| first.id == self.0.me.id)
    }

    /// Asks the owner of `item`, which should be an [`Item::question`], or else who comes after it: until one answers, or
    /// it would be this node's turn, or `patience` is over.
    ///
    /// # Cancel safety
    /// May be dropped at any time. Whether the question has reached the owner is not known then.
    pub async fn ask_owner(
        &self,
        item: Item,
        name: &'static str,
        question: Bytes,
        patience: Duration,
    ) -> Asked {
        let deadline = Instant::now() + patience;
        let owners = self.0.members.view().owners(item);
        for owner in owners.iter() {
            if owner.id == self.0.me.id {
                return Asked::Here;
            }
            if self.is_left_alone(owner.id) {
                continue;
            }
            let asked = self.call(*owner, name, question.clone());
            let Ok(answer) = timeout_at(deadline, asked).await else {
                self.unanswered(*owner, name, &"it takes too long");
                self.too_slow(owner.id);
                return Asked::Here;
            };
            if let Some(answer) = answer {
                return Asked::There(answer);
            }
        }
        Asked::Here
    }

    /// Notes that whoever is asked about `item` takes long: unless it answered something else lately, it is asked nothing
    /// for a while. What it was asked already it may still answer.
    pub fn note_late(&self, item: Item) {
        let owners = self.0.members.view().owners(item);
        let asked = owners.iter().find(|owner| !self.is_left_alone(owner.id));
        if let Some(owner) = asked.filter(|owner| owner.id != self.0.me.id) {
            tracing::debug!(node = %owner.id, address = %owner.address, "a node takes long to answer");
            self.too_slow(owner.id);
        }
    }

    /// Asks the owner of `item`, or else who comes after it, each of which has `patience`: for work that should be done by
    /// as few nodes as possible, however long it takes to find one.
    ///
    /// # Cancel safety
    /// As [`Colleagues::ask_owner`].
    pub async fn ask_in_turn(
        &self,
        item: Item,
        name: &'static str,
        question: Bytes,
        patience: Duration,
    ) -> Turn {
        let owners = self.0.members.view().owners(item);
        for owner in owners.iter() {
            if owner.id == self.0.me.id {
                return Turn::Here;
            }
            if self.is_left_alone(owner.id) {
                continue;
            }
            let asked = self.call(*owner, name, question.clone());
            match tokio::time::timeout(patience, asked).await {
                Ok(Some(answer)) => return Turn::There(*owner, answer),
                Ok(None) => {}
                Err(_elapsed) => {
                    self.unanswered(*owner, name, &"it takes too long");
                    self.leave_alone(owner.id);
                }
            }
        }
        Turn::Here
    }

    /// Tells every other node that is known, whether it owns things or not, and waits until all of them have answered,
    /// but no longer than `patience`. Returns how many have been told. A node of which nothing was heard for long is told
    /// too, but neither waited for nor counted.
    ///
    /// # Cancel safety
    /// May be dropped at any time. Who has been told is not known then.
    pub async fn tell_all(&self, name: &'static str, news: Bytes, patience: Duration) -> usize {
        let me = self.0.me.id;
        let others = self.0.members.all().into_iter().filter(|known| known.peer.id != me);
        let (missing, present): (Vec<_>, Vec<_>) =
            others.partition(|known| known.silent_for >= MISSING_AFTER);
        if !missing.is_empty() {
            let (colleagues, news) = (self.clone(), news.clone());
            let missing = missing.into_iter().map(|known| known.peer).collect();
            self.0.tasks.spawn("tell silent nodes", async move {
                colleagues.tell(missing, (name, news), patience).await
            });
        }
        let present = present.into_iter().map(|known| known.peer).collect();
        self.tell(present, (name, news), patience).await
    }

    async fn tell(
        &self,
        nodes: Vec<Peer>,
        (name, news): (&'static str, Bytes),
        patience: Duration,
    ) -> usize {
        let deadline = Instant::now() + patience;
        let told = stream::iter(nodes).map(|node| {
            let news = news.clone();
            async move {
                match timeout_at(deadline, self.call(node, name, news)).await {
                    Ok(answer) => answer.is_some(),
                    Err(_elapsed) => {
                        self.unanswered(node, name, &"it takes too long");
                        false
                    }
                }
            }
        });
        told.buffer_unordered(TOLD_AT_ONCE).filter(|told| std::future::ready(*told)).count().await
    }

    /// What a node answers; nothing if it does not, or is not willing.
    async fn call(&self, node: Peer, name: &'static str, question: Bytes) -> Option<Bytes> {
        match self.0.client.call(node, name, question).await {
            Ok(answered) => {
                self.0.members.disagrees(answered.epoch);
                self.heard(node.id);
                match answered.answer {
                    CallAnswer::Answered(answer) => Some(answer),
                    other @ (CallAnswer::Unknown
                    | CallAnswer::Busy { .. }
                    | CallAnswer::Failed { .. }) => {
                        tracing::debug!(node = %node.id, name, answer = ?other, "a node is not willing to answer");
                        None
                    }
                }
            }
            Err(error) => {
                self.unanswered(node, name, &error);
                if let Error::Connect { .. } | Error::TimedOut { .. } = error {
                    self.leave_alone(node.id);
                }
                None
            }
        }
    }

    fn unanswered(&self, node: Peer, name: &'static str, why: &dyn fmt::Display) {
        tracing::debug!(node = %node.id, address = %node.address, name, error = %why, "a node has not answered");
        self.0.unanswered.with_label_values(&[name]).inc();
    }

    fn is_left_alone(&self, node: NodeId) -> bool {
        let pulse = self.pulses().get(&node).copied();
        matches!(pulse, Some(Pulse::LeftAlone { until }) if Instant::now() < until)
    }

    fn leave_alone(&self, node: NodeId) {
        let until = Instant::now() + LEFT_ALONE;
        self.pulses().insert(node, Pulse::LeftAlone { until });
    }

    fn too_slow(&self, node: NodeId) {
        let pulse = self.pulses().get(&node).copied();
        match pulse {
            Some(Pulse::Heard(last)) if last.elapsed() < HEARD_LATELY => {}
            Some(Pulse::Heard(_) | Pulse::LeftAlone { .. }) | None => self.leave_alone(node),
        }
    }

    fn heard(&self, node: NodeId) {
        let mut pulses = self.pulses();
        if pulses.len() >= NODES_MOST {
            pulses.clear();
        }
        pulses.insert(node, Pulse::Heard(Instant::now()));
    }

    fn pulses(&self) -> MutexGuard<'_, HashMap<NodeId, Pulse>> {
        self.0.pulses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Colleagues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Colleagues").field("me", &self.0.me).finish_non_exhaustive()
    }
}
