//! What one node knows of all.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use tokio::time::Instant;

use super::Known;
use crate::cluster::{Hello, Member, NodeId, NodeState, Peer, Weight};

/// Nodes that are kept in mind, in all: more than make sense in one cluster.
const NODES_MOST: usize = 4096;

/// How long a node that is gone is still shown to people.
const SHOWN: Duration = Duration::from_mins(10);

/// What one node says of itself, as it is told by whoever heard of it last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) peer: Peer,
    pub(super) weight: Weight,
    pub(super) state: NodeState,
}

impl From<Hello> for Said {
    fn from(hello: Hello) -> Self {
        Self { peer: hello.peer, weight: hello.weight, state: hello.state }
    }
}

impl Said {
    /// Whether it owns things whoever else is there.
    const fn is_owner(&self) -> bool {
        matches!(self.state, NodeState::Serving) && self.weight > 0
    }

    /// Whether it owns things if nobody else does.
    const fn may_own(&self) -> bool {
        matches!(self.state, NodeState::Serving | NodeState::Warming) && self.weight > 0
    }

    const fn member(&self) -> Member {
        Member { peer: self.peer, weight: self.weight }
    }
}

/// Another node.
struct Node {
    said: Said,
    /// Where it was heard, which need not be the address that it says.
    place: SocketAddr,
    heard: Instant,
    /// Whether it was ever heard warming up.
    was_warming: bool,
}

/// What this node is about to do, and how far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Until this time, or until those with whom it has begun serve.
    Warming(Instant),
    Serving,
    Draining,
}

/// How long the book waits for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For a node of which nothing is heard, before it owns nothing any more.
    pub(super) silence: Duration,
    /// For others to do the work while this node starts.
    pub(super) warm_up: Duration,
}

/// What one node knows of all: who was heard, when, saying what. Decides who owns things; knows no network and no clock.
pub(super) struct Book {
    own: Peer,
    weight: Weight,
    phase: Phase,
    patience: Patience,
    nodes: HashMap<NodeId, Node>,
    /// Which node was heard last in a place.
    places: HashMap<SocketAddr, NodeId>,
    /// Where a node with this node's id was heard last.
    double: Option<SocketAddr>,
}

impl Book {
    /// A node that starts now, and knows nobody.
    pub(super) fn new(own: Peer, weight: Weight, patience: Patience, now: Instant) -> Self {
        let phase = Phase::Warming(now + patience.warm_up);
        let (nodes, places) = (HashMap::new(), HashMap::new());
        Self { own, weight, phase, patience, nodes, places, double: None }
    }

    /// Takes down what a node said in a `place`. If it was another one there before, that one is gone.
    pub(super) fn heard(&mut self, place: SocketAddr, said: Said, now: Instant) {
        let id = said.peer.id;
        if let Some(before) = self.places.get(&place).copied().filter(|before| *before != id)
            && self.nodes.get(&before).is_some_and(|node| node.place == place)
        {
            tracing::info!(node = %before, by = %id, %place, "a node is replaced");
            self.nodes.remove(&before);
        }
        if id == self.own.id {
            let is_other = said.peer.address != self.own.address;
            if is_other && self.double.replace(place) != Some(place) {
                tracing::warn!(node = %id, %place, "another node has this node's id; one of them is left out");
            }
            self.places.remove(&place);
            return;
        }
        if self.nodes.len() >= NODES_MOST && !self.nodes.contains_key(&id) {
            self.forget_the_most_silent();
        }
        self.places.insert(place, id);
        let was_warming = said.state == NodeState::Warming
            || self.nodes.get(&id).is_some_and(|before| before.was_warming);
        let node = Node { said, place, heard: now, was_warming };
        if let Some(before) = self.nodes.insert(id, node).filter(|before| before.place != place) {
            // It has moved.
            self.places.remove(&before.place);
        }
    }

    /// This node is about to end.
    pub(super) fn drain(&mut self) {
        self.phase = Phase::Draining;
    }

    /// Does what time and others ask for.
    pub(super) fn settle(&mut self, now: Instant) {
        let shown = self.patience.silence.max(SHOWN);
        self.nodes.retain(|_, node| now < node.heard + shown);
        let Self { nodes, places, .. } = self;
        places.retain(|place, id| nodes.get(id).is_some_and(|node| node.place == *place));
        if matches!(self.phase, Phase::Warming(warm) if now >= warm || self.is_begun(now)) {
            self.phase = Phase::Serving;
        }
    }

    /// Whether all nodes that serve had begun little before this one, while nobody served. Then it serves with them: of
    /// nodes that start together, the first one would else own everything for as long as the others are behind it.
    fn is_begun(&self, now: Instant) -> bool {
        let mut serving = self.present(now).filter(|node| node.said.is_owner()).peekable();
        serving.peek().is_some() && serving.all(|node| node.was_warming)
    }

    /// When it is to be settled again, if nothing happens until then.
    pub(super) fn next_change(&self, now: Instant) -> Option<Instant> {
        let gone = self.present(now).map(|node| node.heard + self.patience.silence).min();
        let own = match self.phase {
            Phase::Warming(warm) => Some(warm),
            Phase::Serving | Phase::Draining => None,
        };
        [gone, own].into_iter().flatten().min()
    }

    /// What this node says of itself.
    pub(super) fn own(&self) -> Said {
        let (state, weight) = match self.phase {
            Phase::Warming(_) => (NodeState::Warming, self.weight),
            Phase::Serving => (NodeState::Serving, self.weight),
            Phase::Draining => (NodeState::Draining, 0),
        };
        Said { peer: self.own, weight, state }
    }

    /// The nodes that own things, by their ids: those that serve, or those that warm up if none does.
    pub(super) fn owners(&self, now: Instant) -> Vec<Member> {
        let own = self.own();
        let all = || self.present(now).map(|node| &node.said).chain([&own]);
        let mut owners: Vec<Member> =
            all().filter(|said| said.is_owner()).map(Said::member).collect();
        if owners.is_empty() {
            owners = all().filter(|said| said.may_own()).map(Said::member).collect();
        }
        owners.sort_unstable_by_key(|member| member.peer.id);
        owners
    }

    /// Everybody, also who was not heard lately; this node first, the others by their ids.
    pub(super) fn all(&self, now: Instant) -> Vec<Known> {
        let known = |said: &Said, heard: Instant| {
            let silent_for = now.saturating_duration_since(heard);
            let is_silent = silent_for >= self.patience.silence;
            Known { peer: said.peer, weight: said.weight, state: said.state, silent_for, is_silent }
        };
        let mut all: Vec<Known> =
            self.nodes.values().map(|node| known(&node.said, node.heard)).collect();
        all.sort_by_key(|known| known.peer.id);
        all.insert(0, known(&self.own(), now));
        all
    }

    /// The nodes that were heard lately.
    fn present(&self, now: Instant) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(move |node| now < node.heard + self.patience.silence)
    }

    fn forget_the_most_silent(&mut self) {
        let silent = self.nodes.iter().min_by_key(|(_, node)| node.heard).map(|(id, _)| *id);
        if let Some(id) = silent {
            self.nodes.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATIENCE: Patience =
        Patience { silence: Duration::from_secs(12), warm_up: Duration::from_secs(30) };

    fn place(number: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], number))
    }

    fn said(id: u128, state: NodeState, weight: Weight) -> Said {
        let peer = Peer { id: NodeId::new(id), address: place(id as u16) };
        Said { peer, weight, state }
    }

    fn serving(id: u128) -> Said {
        said(id, NodeState::Serving, 1)
    }

    /// The book of node 1.
    fn book(weight: Weight) -> (Book, Instant) {
        let now = Instant::now();
        (Book::new(serving(1).peer, weight, PATIENCE, now), now)
    }

    fn owners(book: &Book, now: Instant) -> Vec<u128> {
        book.owners(now).iter().map(|member| member.peer.id.number()).collect()
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// The book of node 1, which serves.
    fn serving_book() -> (Book, Instant) {
        let (mut book, now) = book(1);
        let warm = now + PATIENCE.warm_up;
        book.settle(warm);
        (book, warm)
    }

    #[tokio::test]
    async fn a_single_node_owns_everything_from_the_beginning() {
        let (mut book, now) = book(1);
        book.settle(now);
        assert_eq!((owners(&book, now), book.own().state), (vec![1], NodeState::Warming));
        let warm = book.next_change(now).unwrap();
        assert_eq!(warm, now + PATIENCE.warm_up);
        book.settle(warm);
        assert_eq!((owners(&book, warm), book.own().state), (vec![1], NodeState::Serving));
        assert_eq!(book.next_change(warm), None);
    }

    #[tokio::test]
    async fn a_node_warms_up_while_others_serve() {
        let (mut book, now) = book(1);
        book.heard(place(2), serving(2), now);
        book.heard(place(3), said(3, NodeState::Warming, 1), now);
        book.settle(now);
        assert_eq!((owners(&book, now), book.own().state), (vec![2], NodeState::Warming));
        let warm = now + PATIENCE.warm_up;
        // The third one had begun before, and is warm before.
        for id in [2, 3] {
            book.heard(place(id), serving(id.into()), warm - seconds(1));
        }
        book.settle(warm - seconds(1));
        assert_eq!(owners(&book, warm - seconds(1)), [2, 3]);
        assert_eq!(book.next_change(warm - seconds(1)), Some(warm));
        book.settle(warm);
        assert_eq!(owners(&book, warm), [1, 2, 3]);
    }

    #[tokio::test]
    async fn nodes_that_begin_together_own_all_together_and_serve_when_the_first_is_warm() {
        let (mut book, now) = book(1);
        book.heard(place(2), said(2, NodeState::Warming, 1), now);
        book.heard(place(3), said(3, NodeState::Warming, 1), now);
        book.settle(now);
        assert_eq!((owners(&book, now), book.own().state), (vec![1, 2, 3], NodeState::Warming));
        book.heard(place(2), serving(2), now);
        book.settle(now);
        assert_eq!((owners(&book, now), book.own().state), (vec![1, 2], NodeState::Serving));
    }

    #[tokio::test]
    async fn a_node_that_warms_up_owns_everything_when_those_who_did_are_gone() {
        let (mut book, now) = book(1);
        book.heard(place(2), serving(2), now);
        book.settle(now);
        assert_eq!(owners(&book, now), [2]);
        let gone = now + PATIENCE.silence;
        book.settle(gone);
        assert_eq!(owners(&book, gone), [1]);
    }

    #[tokio::test]
    async fn an_agent_that_serves_does_not_count() {
        let (mut book, now) = book(1);
        book.heard(place(2), said(2, NodeState::Serving, 0), now);
        book.heard(place(3), said(3, NodeState::Warming, 1), now);
        book.settle(now);
        assert_eq!(owners(&book, now), [1, 3]);
    }

    #[tokio::test]
    async fn an_agent_owns_nothing_even_if_nobody_does() {
        let (mut book, now) = book(0);
        book.settle(now);
        assert_eq!(owners(&book, now), []);
        book.heard(place(2), serving(2), now);
        assert_eq!(owners(&book, now), [2]);
    }

    #[tokio::test]
    async fn a_silent_node_stays_for_twelve_seconds_and_is_shown_for_longer() {
        let (mut book, now) = serving_book();
        book.heard(place(2), serving(2), now);
        assert_eq!(owners(&book, now + seconds(11)), [1, 2]);
        assert_eq!(book.next_change(now), Some(now + seconds(12)));
        let gone = now + seconds(12);
        book.settle(gone);
        assert_eq!(owners(&book, gone), [1]);
        assert!(!book.all(now + seconds(11))[1].is_silent);
        let known = book.all(gone)[1];
        assert_eq!((known.silent_for, known.is_silent), (seconds(12), true));
        book.settle(now + SHOWN);
        assert_eq!(book.all(now + SHOWN).len(), 1);
    }

    #[tokio::test]
    async fn who_drains_or_loses_its_weight_owns_nothing_at_once() {
        let (mut book, now) = serving_book();
        book.heard(place(2), serving(2), now);
        book.heard(place(3), serving(3), now);
        book.heard(place(2), said(2, NodeState::Draining, 1), now);
        book.heard(place(3), said(3, NodeState::Serving, 0), now);
        assert_eq!(owners(&book, now), [1]);
        book.drain();
        book.settle(now + PATIENCE.warm_up);
        assert_eq!(owners(&book, now), []);
        assert_eq!(book.own(), said(1, NodeState::Draining, 0));
    }

    #[tokio::test]
    async fn a_node_with_a_new_id_replaces_the_one_before() {
        let (mut book, now) = serving_book();
        book.heard(place(2), serving(2), now);
        book.heard(place(2), serving(7), now);
        assert_eq!(owners(&book, now), [1, 7]);
    }

    #[tokio::test]
    async fn a_node_that_moves_is_one_node() {
        let (mut book, now) = serving_book();
        book.heard(place(2), serving(2), now);
        book.heard(place(8), serving(2), now);
        // Somebody else has its old place.
        book.heard(place(2), serving(9), now);
        assert_eq!(owners(&book, now), [1, 2, 9]);
    }

    #[tokio::test]
    async fn a_node_that_is_heard_in_this_nodes_name_is_left_out() {
        let (mut book, now) = book(1);
        book.heard(place(2), serving(2), now);
        book.heard(place(2), said(1, NodeState::Serving, 5), now);
        assert_eq!(book.owners(now), [Said { state: NodeState::Warming, ..serving(1) }.member()]);
    }

    #[tokio::test]
    async fn no_more_nodes_are_kept_than_make_sense() {
        let (mut book, now) = book(1);
        for id in 0..NODES_MOST as u128 + 10 {
            let mut node = serving(id + 2);
            node.peer.address = SocketAddr::from(([10, 1, (id >> 8) as u8, id as u8], 1));
            book.heard(node.peer.address, node, now + seconds(id as u64));
        }
        book.settle(now);
        assert_eq!((book.nodes.len(), book.places.len()), (NODES_MOST, NODES_MOST));
        assert!(!book.nodes.contains_key(&NodeId::new(2)), "the most silent ones go");
    }

    proptest! {
        #[test]
        fn somebody_owns_things_if_anybody_may(
            events in prop::collection::vec((1_u128..6, 0_usize..3, 0_u32..3, 0_u64..20), 0..40),
            weight in 0_u32..2,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (mut book, mut now) = runtime.block_on(async { book(weight) });
            for (id, state, weight, pause) in events {
                let state = [NodeState::Warming, NodeState::Serving, NodeState::Draining][state];
                book.heard(place(id as u16), said(id, state, weight), now);
                book.settle(now);
                let present = book.all(now);
                let mut may = present.iter().filter(|known| {
                    known.silent_for < PATIENCE.silence
                        && known.weight > 0
                        && known.state != NodeState::Draining
                });
                prop_assert_eq!(may.next().is_some(), !book.owners(now).is_empty());
                prop_assert!(book.next_change(now).is_none_or(|then| then > now));
                now += seconds(pause);
            }
        }
    }
}
