//! Nodes of one process that ask each other.

use std::collections::{HashMap, HashSet};

use tokio::{task::JoinHandle, time};

use super::*;
use crate::{
    cluster::{Discovery, Place},
    runtime::Shutdown,
};

const WARM_UP: Duration = Duration::from_secs(30);

/// Longer than anything may take.
const PATIENCE: Duration = Duration::from_mins(2);

/// Who answers at which address, and who does not reach whom.
#[derive(Default)]
struct World {
    nodes: Mutex<HashMap<SocketAddr, Members>>,
    cuts: Mutex<HashSet<(SocketAddr, SocketAddr)>>,
    questions: Mutex<HashMap<(SocketAddr, SocketAddr), usize>>,
}

/// A node that runs.
struct Node {
    address: SocketAddr,
    members: Members,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 5003))
}

/// The cluster of these addresses, as the node at the first of them sees it.
fn config(number: u8, others: &[u8]) -> Config {
    let own = [number];
    let places = own.iter().chain(others).map(|number| Place::Address(address(*number)));
    Config {
        listen: Some(address(number)),
        advertise: Some(address(number)),
        discovery: Discovery::Members(places.collect()),
        warm_up: WARM_UP,
        ..Config::none()
    }
}

impl World {
    fn ask(self: &Arc<Self>, from: SocketAddr) -> Ask {
        let world = Arc::clone(self);
        Arc::new(move |to| {
            let world = Arc::clone(&world);
            Box::pin(async move {
                *world.questions.lock().unwrap().entry((from, to)).or_default() += 1;
                if world.cuts.lock().unwrap().contains(&(from, to)) {
                    return std::future::pending().await;
                }
                // As long as it takes on a network.
                time::sleep(Duration::from_millis(1)).await;
                let node = world.nodes.lock().unwrap().get(&to).map(Members::hello);
                node.ok_or_else(|| "nobody is there".into())
            })
        })
    }

    fn cut(&self, one: u8, other: u8) {
        let (one, other) = (address(one), address(other));
        self.cuts.lock().unwrap().extend([(one, other), (other, one)]);
    }

    fn mend(&self) {
        self.cuts.lock().unwrap().clear();
    }

    /// Starts node `id` at its place.
    async fn start(self: &Arc<Self>, id: u128, config: Config) -> Node {
        self.start_together(vec![(id, config)]).await.remove(0)
    }

    /// Starts nodes at their places, so that each finds all others there.
    async fn start_together(self: &Arc<Self>, configs: Vec<(u128, Config)>) -> Vec<Node> {
        let mut ready = Vec::new();
        for (id, config) in configs {
            let address = config.listen.unwrap();
            let (members, joined) =
                Members::join(&config, NodeId::new(id), self.ask(address)).await.unwrap();
            self.nodes.lock().unwrap().insert(address, members.clone());
            ready.push((address, members, joined));
        }
        let start = |(address, members, joined): (SocketAddr, Members, Joined)| {
            let shutdown = Shutdown::new();
            let task = tokio::spawn(joined.run(shutdown.clone()));
            Node { address, members, shutdown, task }
        };
        ready.into_iter().map(start).collect()
    }

    /// Starts nodes that serve and know of each other.
    async fn start_serving(self: &Arc<Self>, count: u8) -> Vec<Node> {
        let all: Vec<u8> = (1..=count).collect();
        let configs = all.iter().map(|number| (u128::from(*number), config(*number, &all)));
        let nodes = self.start_together(configs.collect()).await;
        for node in &nodes {
            node.becomes(NodeState::Serving).await;
        }
        let ids: Vec<u128> = (1..=u128::from(count)).collect();
        for node in &nodes {
            node.sees(&ids).await;
        }
        nodes
    }

    async fn start_two(self: &Arc<Self>) -> [Node; 2] {
        <[Node; 2]>::try_from(self.start_serving(2).await).ok().expect("there are two")
    }

    async fn stop(&self, node: Node) {
        self.nodes.lock().unwrap().remove(&node.address);
        node.shutdown.begin();
        time::timeout(PATIENCE, node.task).await.expect("it ends").unwrap();
    }
}

fn ids(view: &View) -> Vec<u128> {
    view.members().iter().map(|member| member.peer.id.number()).collect()
}

impl Node {
    /// Waits until these nodes own things, as this one sees it.
    async fn sees(&self, expected: &[u128]) {
        let mut changes = self.members.changes();
        let seen = changes.wait_for(|view| ids(view) == expected);
        if time::timeout(PATIENCE, seen).await.is_err() {
            panic!("{expected:?} is not what is seen: {:?}", self.members.all());
        }
    }

    async fn becomes(&self, state: NodeState) {
        let mut hello = self.members.0.hello.subscribe();
        let is_so = hello.wait_for(|hello| hello.state == state);
        time::timeout(PATIENCE, is_so).await.expect("it becomes so").unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_that_start_together_own_everything_at_once_and_agree() {
    let world = Arc::new(World::default());
    let began = Instant::now();
    let configs = (1..=3).map(|number| (u128::from(number), config(number, &[1, 2, 3])));
    let nodes = world.start_together(configs.collect()).await;
    for node in &nodes {
        node.sees(&[1, 2, 3]).await;
    }
    assert!(began.elapsed() < Duration::from_millis(10), "{:?}", began.elapsed());
    let epochs: HashSet<Epoch> = nodes.iter().map(|node| node.members.view().epoch()).collect();
    assert_eq!(epochs.len(), 1);
    assert_eq!(nodes[0].members.hello().epoch, nodes[1].members.view().epoch());
}

#[tokio::test(start_paused = true)]
async fn nodes_that_start_one_after_the_other_serve_when_the_first_is_warm() {
    let world = Arc::new(World::default());
    let began = Instant::now();
    let first = world.start(1, config(1, &[2, 3])).await;
    let pause = Duration::from_secs(10);
    time::advance(pause).await;
    let second = world.start(2, config(2, &[1, 3])).await;
    time::advance(pause).await;
    let third = world.start(3, config(3, &[1, 2])).await;
    for node in [&first, &second, &third] {
        node.sees(&[1, 2, 3]).await;
    }
    assert!(began.elapsed() < 2 * pause + Duration::from_secs(4), "{:?}", began.elapsed());
    for node in [&first, &second, &third] {
        node.becomes(NodeState::Serving).await;
    }
    assert!(began.elapsed() < WARM_UP + Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_single_node_owns_everything_before_it_runs() {
    let world = Arc::new(World::default());
    let ask = world.ask(address(1));
    let (members, _joined) = Members::join(&config(1, &[]), NodeId::new(1), ask).await.unwrap();
    assert_eq!(ids(&members.view()), [1]);
    assert_eq!(members.hello().epoch, members.view().epoch());
}

#[tokio::test(start_paused = true)]
async fn a_node_does_not_ask_itself() {
    let world = Arc::new(World::default());
    let [first, _second] = world.start_two().await;
    assert_eq!(world.questions.lock().unwrap().get(&(first.address, first.address)), None);
    assert!(world.questions.lock().unwrap()[&(first.address, address(2))] > 10);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_joins_owns_nothing_until_it_is_warm() {
    let world = Arc::new(World::default());
    let first = world.start(1, config(1, &[2])).await;
    first.becomes(NodeState::Serving).await;
    let began = Instant::now();
    let second = world.start(2, config(2, &[1])).await;
    second.sees(&[1]).await;
    assert_eq!(second.members.hello().state, NodeState::Warming);
    second.sees(&[1, 2]).await;
    assert_eq!(began.elapsed(), WARM_UP);
    first.sees(&[1, 2]).await;
    assert!(began.elapsed() < WARM_UP + Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_answers_no_more_stays_for_twelve_seconds() {
    let world = Arc::new(World::default());
    let [first, second] = world.start_two().await;
    let began = Instant::now();
    world.stop(second).await;
    first.sees(&[1]).await;
    // It was heard last up to two seconds and a half before.
    let elapsed = began.elapsed().as_secs_f64();
    assert!((9.0..=12.1).contains(&elapsed), "{elapsed}");
    let gone = first.members.all()[1];
    assert_eq!((gone.peer.id.number(), gone.state), (2, NodeState::Serving));
    assert!(gone.silent_for >= Duration::from_secs(12), "{gone:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_away_for_a_moment_keeps_what_is_its_own() {
    let world = Arc::new(World::default());
    let [first, second] = world.start_two().await;
    let mut changes = first.members.changes();
    changes.mark_unchanged();
    world.cut(1, 2);
    time::advance(Duration::from_secs(4)).await;
    world.mend();
    let changed = time::timeout(Duration::from_secs(60), changes.changed()).await;
    assert!(changed.is_err(), "{:?} {:?}", first.members.all(), first.members.view().members());
    drop(second);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_drains_owns_nothing_and_still_answers() {
    let world = Arc::new(World::default());
    let [first, second] = world.start_two().await;
    let began = Instant::now();
    second.members.drain();
    assert_eq!(ids(&second.members.view()), [1]);
    let hello = second.members.hello();
    assert_eq!((hello.state, hello.weight), (NodeState::Draining, 0));
    assert_eq!(hello.epoch, second.members.view().epoch());
    first.sees(&[1]).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(first.members.all()[1].state, NodeState::Draining);
}

#[tokio::test(start_paused = true)]
async fn a_node_without_its_data_takes_the_place_of_the_one_before() {
    let world = Arc::new(World::default());
    let [first, second] = world.start_two().await;
    let began = Instant::now();
    world.stop(second).await;
    let again = world.start(7, config(2, &[1])).await;
    first.sees(&[1]).await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    again.becomes(NodeState::Serving).await;
    first.sees(&[1, 7]).await;
}

#[tokio::test(start_paused = true)]
async fn nodes_that_do_not_reach_each_other_are_two_clusters_and_then_one_again() {
    let world = Arc::new(World::default());
    let nodes = world.start_serving(4).await;
    let whole = nodes[0].members.view().epoch();
    for (one, other) in [(1, 3), (1, 4), (2, 3), (2, 4)] {
        world.cut(one, other);
    }
    for (node, half) in nodes.iter().zip([[1, 2], [1, 2], [3, 4], [3, 4]]) {
        node.sees(&half).await;
    }
    let epoch = |number: usize| nodes[number].members.view().epoch();
    assert_eq!((epoch(0), epoch(2)), (epoch(1), epoch(3)));
    assert_ne!(epoch(0), epoch(2));
    world.mend();
    for node in &nodes {
        node.sees(&[1, 2, 3, 4]).await;
    }
    assert_eq!(epoch(3), whole);
}

#[tokio::test(start_paused = true)]
async fn who_disagrees_has_others_asked_at_once_but_not_more_than_once_a_second() {
    let world = Arc::new(World::default());
    let [first, second] = world.start_two().await;
    let other = Epoch::new(!first.members.view().epoch().number());
    second.members.drain();
    let began = Instant::now();
    first.members.disagrees(first.members.view().epoch());
    assert_eq!(*first.members.0.looks.borrow(), 0, "that is agreement");
    first.members.disagrees(other);
    first.sees(&[1]).await;
    assert!(began.elapsed() < Duration::from_millis(10), "{:?}", began.elapsed());
    for _ in 0..10 {
        first.members.disagrees(other);
    }
    assert_eq!(*first.members.0.looks.borrow(), 1);
    time::advance(Duration::from_secs(1)).await;
    first.members.disagrees(other);
    assert_eq!(*first.members.0.looks.borrow(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_agent_owns_nothing() {
    let world = Arc::new(World::default());
    let agent = world.start(1, Config { weight: 0, ..config(1, &[2]) }).await;
    assert_eq!(ids(&agent.members.view()), []);
    let second = world.start(2, config(2, &[1])).await;
    agent.sees(&[2]).await;
    second.becomes(NodeState::Serving).await;
    second.sees(&[2]).await;
    assert_eq!(second.members.all()[0].peer, second.members.hello().peer);
    while second.members.all().len() < 2 {
        time::advance(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_addresses_that_do_not_answer_hide_nobody() {
    let world = Arc::new(World::default());
    let silent = (0..1000_u16).map(|number| SocketAddr::from(([9, 0, 0, 1], 1000 + number)));
    let silent: Vec<SocketAddr> = silent.collect();
    world.cuts.lock().unwrap().extend(silent.iter().map(|place| (address(1), *place)));
    let mut with_silent = config(1, &[2]);
    if let Discovery::Members(places) = &mut with_silent.discovery {
        places.extend(silent.into_iter().map(Place::Address));
    }
    let first = world.start(1, with_silent).await;
    let second = world.start(2, config(2, &[1])).await;
    second.becomes(NodeState::Serving).await;
    first.sees(&[1, 2]).await;
    let mut changes = first.members.changes();
    changes.mark_unchanged();
    let changed = time::timeout(PATIENCE, changes.changed()).await;
    assert!(changed.is_err(), "{:?} {:?}", first.members.all(), first.members.view().members());
    world.stop(second).await;
}

#[tokio::test]
async fn without_an_address_there_is_nobody_to_join() {
    let world = Arc::new(World::default());
    let joined = Members::join(&Config::none(), NodeId::new(1), world.ask(address(1))).await;
    assert!(matches!(joined, Err(JoinError::NoCluster)));
}
