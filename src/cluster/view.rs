//! Who owns what, as one node sees it.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::{Item, NodeId, Peer};

/// How much of everything a node owns, compared with others; 0 for a node that owns nothing.
pub type Weight = u32;

/// Owners of an item that are told: the first, and who takes its place one after the other.
pub const RANKS: usize = 3;

/// Items whose owners are remembered; about 100 bytes each.
const REMEMBERED: usize = 64 << 10;

/// A node that may own things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// The node.
    pub peer: Peer,
    /// How much of everything it owns.
    pub weight: Weight,
}

/// Names what a node knows of the others: two nodes with the same epoch agree on the owner of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(u64);

impl Epoch {
    /// The epoch of this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The owners of an item, the first first. Fewer than [`RANKS`] if there are not so many members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owners([Option<Peer>; RANKS]);

impl Owners {
    /// The owners in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.0.iter().flatten()
    }

    /// The rank of a node among them, from 0.
    #[must_use]
    pub fn rank_of(&self, node: NodeId) -> Option<usize> {
        self.iter().position(|peer| peer.id == node)
    }
}

/// The nodes that own things, as one node knows them. It needs not be what others know: whatever is exchanged is
/// checked by its digest, and who disagrees on an owner costs a request more.
///
/// Who owns an item is decided by weighted rendezvous hashing (Thaler and Ravishankar 1998): each node draws a number
/// for the item, and the best one owns it. So a node that comes or goes moves only what is its own, and the order of the
/// others says who takes its place.
pub struct View {
    /// By their ids.
    members: Vec<Member>,
    epoch: Epoch,
    is_even: bool,
    remembered: Mutex<HashMap<Item, Owners>>,
}

impl View {
    /// The view of these nodes, in any order. Those of no weight own nothing and are left out; of several with the
    /// same id the first counts.
    #[must_use]
    pub fn new(mut members: Vec<Member>) -> Self {
        members.retain(|member| member.weight > 0);
        members.sort_by_key(|member| member.peer.id);
        members.dedup_by_key(|member| member.peer.id);
        let is_even = members.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        let epoch = Epoch(members.iter().fold(members.len() as u64, |epoch, member| {
            // Where a node is reached says nothing about what it owns.
            let own = Item::epoch_part(epoch, member.weight);
            own.worth(member.peer.id.number())
        }));
        Self { members, epoch, is_even, remembered: Mutex::default() }
    }

    /// The nodes, by their ids.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// What two nodes compare to find out whether they agree.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// A node that owns things.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        let place = self.members.binary_search_by_key(&node, |member| member.peer.id);
        place.ok().map(|place| &self.members[place])
    }

    /// The part of everything that a node owns, from 0 to 1.
    #[must_use]
    pub fn share_of(&self, node: NodeId) -> f64 {
        let all: u64 = self.members.iter().map(|member| u64::from(member.weight)).sum();
        self.member(node).map_or(0.0, |member| f64::from(member.weight) / all as f64)
    }

    /// Who owns an item. Takes 2 ns for each member the first time.
    #[must_use]
    pub fn owners(&self, item: Item) -> Owners {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(owners) = remembered.get(&item) {
            return *owners;
        }
        if remembered.len() >= REMEMBERED {
            remembered.clear();
        }
        let owners = self.find_owners(item);
        remembered.insert(item, owners);
        owners
    }

    /// Who would own an item if there were only those of whom `is_there` says so. Takes 2 ns for each member, each time:
    /// it is for when none of the owners is there.
    #[must_use]
    pub fn first(&self, item: Item, is_there: impl Fn(NodeId) -> bool) -> Option<Peer> {
        let there = self.members.iter().filter(|member| is_there(member.peer.id));
        let scored = there.map(|member| (self.score(item, member), member.peer));
        scored.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, peer)| peer)
    }

    fn score(&self, item: Item, member: &Member) -> f64 {
        let worth = item.worth(member.peer.id.number());
        if self.is_even { worth as f64 } else { weigh(worth, member.weight) }
    }

    fn find_owners(&self, item: Item) -> Owners {
        let mut best: [Option<(f64, Peer)>; RANKS] = [None; RANKS];
        for member in &self.members {
            let score = self.score(item, member);
            // At the same score the smaller id is first, which is the one that was before.
            let rank = best.iter().position(|there| there.is_none_or(|(than, _)| score > than));
            if let Some(rank) = rank {
                best[rank..].rotate_right(1);
                best[rank] = Some((score, member.peer));
            }
        }
        Owners(best.map(|ranked| ranked.map(|(_, peer)| peer)))
    }
}

/// What a number drawn from all of `u64` counts for a node of this weight: of nodes with weights a and b, the first has
/// the higher one in a of a + b cases.
fn weigh(worth: u64, weight: Weight) -> f64 {
    let drawn = (worth as f64 + 0.5) / (u64::MAX as f64 + 1.0);
    -f64::from(weight) / drawn.min(1.0 - f64::EPSILON).ln()
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = self.members.len();
        f.debug_struct("View").field("epoch", &self.epoch).field("nodes", &nodes).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use proptest::prelude::*;

    use super::*;
    use crate::oci::{Algorithm, Digest};

    fn member(number: u128, weight: Weight) -> Member {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        Member { peer: Peer { id: NodeId::new(number), address }, weight }
    }

    fn item(number: u64) -> Item {
        Item::part(&Digest::of(Algorithm::Sha256, b"a blob"), number)
    }

    fn first(view: &View, number: u64) -> NodeId {
        view.owners(item(number)).iter().next().expect("there are members").id
    }

    /// How many of so many items each node owns.
    fn shares(view: &View, items: u64) -> HashMap<NodeId, u64> {
        let mut shares = HashMap::new();
        (0..items).for_each(|number| *shares.entry(first(view, number)).or_default() += 1);
        shares
    }

    #[test]
    fn nodes_own_as_much_as_their_weights_say() {
        let even = View::new((1..=10).map(|id| member(id, 1)).collect());
        let counts = shares(&even, 10_000);
        assert!(counts.len() == 10 && counts.values().all(|count| (850..1150).contains(count)));
        let uneven = View::new(vec![member(1, 1), member(2, 3), member(3, 0)]);
        let counts = shares(&uneven, 10_000);
        assert!((2300..2700).contains(&counts[&NodeId::new(1)]), "{counts:?}");
        assert_eq!(counts.len(), 2, "who has no weight owns nothing");
        assert!((uneven.share_of(NodeId::new(2)) - 0.75).abs() < 1e-9);
    }

    #[test]
    fn who_owns_what_is_part_of_the_protocol() {
        let view = View::new((1..=5).map(|id| member(id, 1)).collect());
        let owners: Vec<u128> = (0..8).map(|number| first(&view, number).number()).collect();
        assert_eq!((owners, view.epoch().to_string()), (OWNERS.to_vec(), EPOCH.to_owned()));
    }

    const OWNERS: [u128; 8] = [1, 3, 1, 1, 3, 4, 2, 3];
    const EPOCH: &str = "948020eb4517af1b";

    proptest! {
        #[test]
        fn a_node_that_goes_is_followed_by_the_next_and_nothing_else_moves(
            ids in prop::collection::btree_set(1_u128.., 2..20),
            weights in prop::collection::vec(1_u32..5, 20),
            gone in 0_usize..20,
        ) {
            let all: Vec<Member> =
                ids.iter().zip(weights).map(|(id, weight)| member(*id, weight)).collect();
            let gone = all[gone % all.len()].peer.id;
            let left = all.iter().copied().filter(|member| member.peer.id != gone).collect();
            let (before, after) = (View::new(all), View::new(left));
            prop_assert_ne!(before.epoch(), after.epoch());
            for number in 0..50 {
                let expected =
                    before.owners(item(number)).iter().find(|peer| peer.id != gone).map(|peer| peer.id);
                prop_assert_eq!(expected, Some(first(&after, number)));
            }
        }

        #[test]
        fn the_order_in_which_nodes_are_heard_of_does_not_matter(
            ids in prop::collection::btree_set(1_u128.., 2..20),
        ) {
            let members: Vec<Member> = ids.iter().map(|id| member(*id, 1)).collect();
            let mut reversed = members.clone();
            reversed.reverse();
            let (one, other) = (View::new(members), View::new(reversed));
            prop_assert_eq!(one.epoch(), other.epoch());
            prop_assert_eq!(one.owners(item(1)), other.owners(item(1)));
        }
    }

    #[test]
    fn where_owners_are_gone_those_come_first_that_would_own_it_without_them() {
        let weights = [1, 2, 1, 3, 1, 1, 2, 1];
        let members = (1..).zip(weights).map(|(number, weight)| member(number, weight));
        let members: Vec<Member> = members.collect();
        let view = View::new(members.clone());
        for number in 0..100 {
            let owners = view.owners(item(number));
            let is_left = |node| owners.rank_of(node).is_none();
            let left = members.iter().copied().filter(|member| is_left(member.peer.id)).collect();
            let next = view.first(item(number), is_left).map(|peer| peer.id);
            assert_eq!(next, Some(first(&View::new(left), number)));
        }
        assert_eq!(view.first(item(0), |_| false), None);
    }

    #[test]
    fn epochs_tell_weights_apart() {
        let epoch = |weights: [Weight; 2]| {
            View::new(vec![member(1, weights[0]), member(2, weights[1])]).epoch()
        };
        assert_ne!(epoch([1, 2]), epoch([2, 1]));
        assert_ne!(epoch([1, 0]), epoch([1, 1]));
    }
}
