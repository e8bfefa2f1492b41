//! How nodes get items from each other: the protocol, without any input or output.
//!
//! An [`Exchange`] is told what happens and says what is to be done. It has no clock, no sockets and no tasks, so it
//! runs the same in the daemon and in a simulation of thousands of nodes.
//!
//! Who wants an item asks its owner. The owner serves a few, and refers everybody else to nodes that have the item or
//! are receiving it, which pass it on while it comes. So a crowd that wants the same at the same time becomes a tree,
//! and it costs the owner little however large the crowd is. Only owners fetch an item from where all of it comes from.

mod breaker;
mod errand;
mod fetches;
mod inbound;
mod looks;
mod outbound;
mod speed;
mod tracker;
mod words;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use super::{Item, NodeId, Peer, RANKS, View};
use breaker::Breakers;
use errand::{Errand, Quest};
use fetches::Fetches;
use speed::Speeds;
use tracker::Tracker;
pub use words::{
    Action, Answer, AskId, Attempt, Incoming, Limits, Lost, Moment, Need, Reply, Role, Stock,
    Trouble,
};

/// How often what is not believed any more is thrown away.
const SWEEP: Moment = Moment::from_secs(10);

/// The exchange of items with other nodes, as one node takes part in it.
#[derive(Debug)]
pub struct Exchange {
    me: Peer,
    limits: Limits,
    view: Arc<View>,
    /// What is on its way here.
    errands: HashMap<Item, Errand>,
    /// What others ask for.
    trackers: HashMap<Item, Tracker>,
    /// Requests that wait or are served.
    asks: HashMap<AskId, Asked>,
    /// What this node's readers want beyond the window, in the order in which it was wanted.
    queue: VecDeque<Item>,
    /// How many errands wait there.
    queued: usize,
    in_window: usize,
    fetches: Fetches,
    /// What takes no turn at being fetched, because it is still on its way to where it is fetched from.
    incoming: HashSet<Item>,
    breakers: Breakers,
    /// What others have told of themselves, and how fast this node is.
    speeds: Speeds,
    /// Requests of others that are sent something or are going to be.
    served: usize,
    timers: BinaryHeap<Reverse<(Moment, Timer)>>,
    /// How long items usually take.
    usual: Moment,
    /// Items that have come here so far.
    arrivals: u64,
    /// The number of the last attempt.
    last_attempt: u64,
    /// Owners that are passed over because they are slow, and until when.
    slow_owners: HashMap<NodeId, Moment>,
    actions: VecDeque<Action>,
    counts: Counts,
}

/// A request of another node.
#[derive(Clone, Debug)]
struct Asked {
    incoming: Incoming,
    /// Whether it is being sent the item; else it waits.
    is_served: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// An errand is to be looked at.
    Errand(Item),
    /// A request has waited long enough.
    Ask(AskId),
    /// What is old is to be thrown away.
    Sweep,
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that were served.
    pub served: u64,
    /// Requests that were referred to others.
    pub referred: u64,
    /// Requests that were told to come back later.
    pub refused: u64,
    /// Requests that were told to ask who comes after this node, because it is slow.
    pub passed: u64,
    /// Questions whether somebody has more of an item that takes long.
    pub slow: u64,
    /// Items that took so long that they were asked of who comes after their owner.
    pub deputies: u64,
    /// Items that were fetched by a node that is not their owner, because no owner could be reached.
    pub direct: u64,
}

impl Exchange {
    /// An exchange in which nothing is under way.
    #[must_use]
    pub fn new(me: Peer, limits: Limits, view: Arc<View>) -> Self {
        Self {
            me,
            limits,
            view,
            errands: HashMap::new(),
            trackers: HashMap::new(),
            asks: HashMap::new(),
            queue: VecDeque::new(),
            queued: 0,
            in_window: 0,
            fetches: Fetches::new(limits.fetches),
            incoming: HashSet::new(),
            breakers: Breakers::default(),
            speeds: Speeds::default(),
            served: 0,
            timers: BinaryHeap::from([Reverse((SWEEP, Timer::Sweep))]),
            usual: outbound::USUAL_FIRST,
            arrivals: 0,
            last_attempt: 0,
            slow_owners: HashMap::new(),
            actions: VecDeque::new(),
            counts: Counts::default(),
        }
    }

    /// The node whose part this is.
    #[must_use]
    pub const fn me(&self) -> Peer {
        self.me
    }

    /// What is to be done next. To be called until there is nothing more.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Exchange::tick`] is to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Lets time pass. `received` tells how many bytes of an item are here.
    pub fn tick(&mut self, now: Moment, received: impl Fn(Item) -> u64) {
        while let Some(Reverse((at, _))) = self.timers.peek()
            && *at <= now
        {
            let Some(Reverse((at, timer))) = self.timers.pop() else { break };
            match timer {
                Timer::Errand(item) => {
                    if self.errands.get(&item).is_some_and(|errand| errand.check == at) {
                        self.check(item, &received, now);
                    }
                }
                Timer::Ask(ask) => self.waited_long_enough(ask),
                Timer::Sweep => {
                    self.trackers.retain(|_, tracker| !tracker.expire(now));
                    self.slow_owners.retain(|_, until| *until > now);
                    self.timers.push(Reverse((now + SWEEP, Timer::Sweep)));
                }
            }
        }
    }

    /// Goes by another view from now on.
    pub fn set_view(&mut self, view: Arc<View>) {
        self.view = view;
    }

    /// Notes how many bytes have come to this node so far, in all.
    pub fn came(&mut self, bytes: u64, now: Moment) {
        let is_wanted = |errand: &&Errand| errand.need.is_some() && errand.quest != Quest::Queued;
        let wanted = self.errands.values().filter(is_wanted).count();
        let is_much_wanted = 2 * wanted >= self.limits.window;
        let was_slow = self.speeds.is_own_slow();
        self.speeds.measure(bytes, is_much_wanted, now);
        if self.speeds.compare(now) && !was_slow {
            self.hand_over(now);
        }
    }

    /// How many bytes come to this node in a second, as it tells others; 0 if that is not known.
    #[must_use]
    pub const fn rate(&self) -> u64 {
        self.speeds.own()
    }

    /// How much this node has to send to others, as it tells them.
    #[must_use]
    pub fn load(&self) -> u32 {
        u32::try_from(self.served).unwrap_or(u32::MAX)
    }

    /// What has happened so far.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// How many items are being fetched from where all of it comes from, and how many may be at once now.
    #[must_use]
    pub const fn fetches(&self) -> (usize, usize) {
        (self.fetches.running, self.fetches.limit())
    }

    /// Nodes that are left alone because they did not answer, and until when.
    pub fn broken(&self, now: Moment) -> impl Iterator<Item = (NodeId, Moment)> {
        self.breakers.open(now)
    }

    fn timer(&mut self, at: Moment, timer: Timer) {
        self.timers.push(Reverse((at, timer)));
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;
    use crate::{
        cluster::Member,
        oci::{Algorithm, Digest},
    };

    /// Of a node that knows no other.
    fn alone() -> Exchange {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let me = Peer { id: NodeId::new(1), address };
        Exchange::new(me, Limits::default(), Arc::new(View::new(Vec::new())))
    }

    /// The next attempt to fetch something.
    fn fetch(exchange: &mut Exchange) -> Attempt {
        match exchange.next_action() {
            Some(Action::Fetch { attempt }) => attempt,
            other => panic!("{other:?} is to be done, and nothing is fetched"),
        }
    }

    #[test]
    fn what_tells_what_else_is_wanted_does_not_wait_for_what_is_wanted_already() {
        let mut exchange = alone();
        let item = |number| Item::part(&Digest::of(Algorithm::Sha256, b"a blob"), number);
        (1..9).for_each(|number| exchange.want(item(number), Need::Now, Moment::ZERO));
        let (running, _) = exchange.fetches();
        while exchange.next_action().is_some() {}
        exchange.want(item(0), Need::Open, Moment::ZERO);
        assert_eq!(fetch(&mut exchange).item, item(0));
        assert_eq!(exchange.fetches().0, running + 1);
    }

    /// A node that knows one other, who owns everything.
    fn with_an_owner() -> (Exchange, Peer) {
        let peer = |id| {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, id as u16));
            Peer { id: NodeId::new(id), address }
        };
        let view = View::new(vec![Member { peer: peer(2), weight: 1 }]);
        (Exchange::new(peer(1), Limits::default(), Arc::new(view)), peer(2))
    }

    /// The next attempt to get something from the owner, which begins to give it.
    fn begin_from(exchange: &mut Exchange, owner: Peer) -> Option<Attempt> {
        match exchange.next_action() {
            Some(Action::Ask { attempt, to, .. }) if to == owner => {
                exchange.answered(attempt, Answer::Bytes, Moment::ZERO);
                Some(attempt)
            }
            Some(Action::Fetch { .. }) => None,
            other => panic!("{other:?} is to be done, and nobody is asked"),
        }
    }

    #[test]
    fn what_was_wrong_as_a_whole_again_and_again_is_fetched() {
        let (mut exchange, owner) = with_an_owner();
        let item = Item::part(&Digest::of(Algorithm::Sha256, b"a blob"), 0);
        exchange.want(item, Need::Now, Moment::ZERO);
        for _ in 0..3 {
            let attempt = begin_from(&mut exchange, owner).expect("the owner is asked");
            exchange.broke(attempt, Trouble::Lost, Moment::ZERO);
        }
        assert_eq!(begin_from(&mut exchange, owner), None);
    }

    #[test]
    fn who_is_asked_for_what_it_has_asked_for_itself_fetches_it() {
        let (mut exchange, owner) = with_an_owner();
        let item = Item::part(&Digest::of(Algorithm::Sha256, b"a blob"), 0);
        exchange.want(item, Need::Open, Moment::ZERO);
        let asked = exchange.next_action();
        assert!(matches!(asked, Some(Action::Ask { to, .. }) if to == owner), "{asked:?}");
        let incoming = Incoming {
            item,
            from: owner,
            role: Role::Deputy,
            offset: 0,
            hop: 0,
            load: 0,
            rate: 0,
            avoid: Vec::new(),
            is_served: false,
        };
        assert_eq!(exchange.asked_early(&incoming, Moment::ZERO), None);
        let cancelled = exchange.next_action();
        assert!(
            matches!(cancelled, Some(Action::Cancel { .. })),
            "{cancelled:?}: it would wait for who waits for it"
        );
        fetch(&mut exchange);
    }

    #[test]
    fn what_an_owner_cannot_get_again_and_again_is_fetched() {
        let (mut exchange, owner) = with_an_owner();
        let item = Item::part(&Digest::of(Algorithm::Sha256, b"a blob"), 0);
        exchange.want(item, Need::Now, Moment::ZERO);
        let mut now = Moment::ZERO;
        let mut asked = 0;
        loop {
            match exchange.next_action() {
                Some(Action::Ask { attempt, to, .. }) if to == owner => {
                    asked += 1;
                    exchange.answered(attempt, Answer::Failed, now);
                }
                Some(Action::Fetch { .. }) => break,
                Some(other) => panic!("{other:?} is to be done"),
                None => {
                    now = exchange.deadline().expect("it is tried again");
                    exchange.tick(now, |_| 0);
                }
            }
        }
        assert!(asked <= 9 && now < Moment::from_secs(10), "{asked} times, {now:?}");
    }

    /// When what comes from an owner is given up, of which `come` says how much has come after so many milliseconds.
    fn given_up_after_ms(come: impl Fn(u128) -> u64) -> Option<u128> {
        let (mut exchange, owner) = with_an_owner();
        let item = Item::part(&Digest::of(Algorithm::Sha256, b"a blob"), 0);
        exchange.want(item, Need::Now, Moment::ZERO);
        let first = begin_from(&mut exchange, owner).expect("the owner is asked");
        let moments = (0..100).map(|number| number * Moment::from_millis(200));
        moments.into_iter().find_map(|now| {
            exchange.tick(now, |_| come(now.as_millis()));
            while let Some(action) = exchange.next_action() {
                match action {
                    Action::Cancel { attempt } if attempt == first => return Some(now.as_millis()),
                    Action::Ask { attempt, .. } => {
                        let busy = Answer::Busy { after: exchange.limits.check };
                        exchange.answered(attempt, busy, now);
                    }
                    _ => {}
                }
            }
            None
        })
    }

    #[test]
    fn what_is_silent_for_seconds_is_given_up_and_not_what_is_slow() {
        let silent = given_up_after_ms(|_| 0);
        assert!(silent.is_some_and(|ms| (4000..8000).contains(&ms)), "{silent:?}");
        assert_eq!(given_up_after_ms(|ms| ms as u64 / 100), None);
    }

    #[test]
    fn what_is_fetched_and_does_not_come_is_fetched_anew_less_and_less_often() {
        let mut exchange = alone();
        let item = Item::part(&Digest::of(Algorithm::Sha256, b"a blob"), 0);
        exchange.want(item, Need::Now, Moment::ZERO);
        let mut begun = Vec::new();
        for second in 0..40 {
            exchange.tick(Moment::from_secs(second), |_| u64::from(second >= 6));
            while let Some(action) = exchange.next_action() {
                if matches!(action, Action::Fetch { .. }) {
                    begun.push(second);
                }
            }
        }
        assert!(matches!(begun[..], [0, 4..=6, 14..=18, 30..=36]), "{begun:?}");
        assert_eq!(exchange.fetches().0, 1, "and each time the one before has ended");
    }

    #[test]
    fn what_is_wanted_again_is_not_taken_for_what_was_wanted_before() {
        let mut exchange = alone();
        let item = Item::part(&Digest::of(Algorithm::Sha256, b"a blob"), 0);
        exchange.want(item, Need::Now, Moment::ZERO);
        let before = fetch(&mut exchange);
        exchange.arrived(item, Moment::ZERO);
        exchange.want(item, Need::Now, Moment::ZERO);
        let after = fetch(&mut exchange);
        assert_ne!(before, after);
        // The first attempt ends late.
        exchange.broke(before, Trouble::Broken, Moment::ZERO);
        assert_eq!(exchange.next_action(), None, "the second goes on");
    }
}
