//! Nodes that tell each other whom they know.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use async_trait::async_trait;
use chitchat::{
    Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, NodeState as Told,
    ProtocolVersion, spawn_chitchat,
};
use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant},
};

use super::{
    JoinError,
    book::Said,
    discovery::{Discovery, Found, Scene},
    names::Names,
    pace::{Pace, jittered},
    signed::{SignedTransport, Signer},
};
use crate::cluster::{GossipConfig, Hello, NodeId, NodeState, Peer, Weight};

/// Names the protocol: nodes that tell another one do not understand each other.
const CLUSTER: &str = "millpond 1";

/// What nodes tell of themselves.
const ADDRESS: &str = "address";
const WEIGHT: &str = "weight";
const STATE: &str = "state";

/// How long a node that is gone is remembered, so that it does not come back by what others say; half of it is told.
const REMEMBERED: Duration = Duration::from_mins(2);

/// Intervals of signs of life from which chitchat learns whom to talk to.
const SAMPLES: usize = 100;

/// Nodes tell each other whom they know, by chitchat.
///
/// That a node is there is decided here, by whether its sign of life has changed, as for nodes that are asked; what
/// chitchat thinks of it decides only whom it talks to.
pub(super) struct Gossip {
    config: GossipConfig,
    id: NodeId,
    pace: Pace,
    transport: SignedTransport,
}

/// What the last look at chitchat's state has shown.
#[derive(Default)]
struct Heard {
    signs_of_life: HashMap<ChitchatId, u64>,
}

impl Gossip {
    pub(super) async fn listen(
        config: GossipConfig,
        id: NodeId,
        pace: Pace,
    ) -> Result<Self, JoinError> {
        let address = config.listen;
        let transport = SignedTransport::listen(address, Signer::new(&config.secret)).await;
        let transport = transport.map_err(|source| JoinError::Listen { address, source })?;
        Ok(Self { config, id, pace, transport })
    }

    async fn begin(&self, hello: Hello) -> anyhow::Result<ChitchatHandle> {
        let advertise = self.config.advertise;
        let config = ChitchatConfig {
            // A start of its own, so that what others remember of an earlier one is not taken for this one's.
            chitchat_id: ChitchatId::new(self.id.to_string(), fastrand::u64(..), advertise),
            cluster_id: CLUSTER.to_owned(),
            gossip_interval: self.pace.gossip_again,
            listen_addr: self.config.listen,
            // It would look names up once a minute, in a task that nobody owns.
            seed_nodes: Vec::new(),
            failure_detector_config: FailureDetectorConfig {
                sampling_window_size: SAMPLES,
                initial_interval: self.pace.gossip_again,
                dead_node_grace_period: REMEMBERED,
                ..FailureDetectorConfig::default()
            },
            marked_for_deletion_grace_period: REMEMBERED,
            catchup_callback: None,
            extra_liveness_predicate: None,
            protocol_version: ProtocolVersion::V1,
        };
        spawn_chitchat(config, told(hello), &self.transport).await
    }

    /// Hears what there is, tells what changes, and looks for those that it lost.
    async fn talk(
        &self,
        handle: &ChitchatHandle,
        scene: &mut Scene,
        mut seeds: watch::Receiver<Vec<SocketAddr>>,
    ) {
        let mut heard = Heard::default();
        let mut round = Instant::now();
        loop {
            if Instant::now() >= round {
                round = Instant::now() + jittered(self.pace.gossip_again);
                let seeds = seeds.borrow_and_update().clone();
                self.greet(handle, &seeds);
            }
            let nodes = handle.with_chitchat(|chitchat| heard.look(chitchat)).await;
            if !nodes.is_empty() && scene.found.send(Found::Nodes(nodes)).await.is_err() {
                return;
            }
            tokio::select! {
                () = scene.shutdown.begun() => return,
                () = time::sleep_until(round) => {}
                Ok(()) = scene.looks.changed() => round = Instant::now(),
                // They have just been found.
                Ok(()) = seeds.changed() => round = Instant::now(),
                Ok(()) = scene.hello.changed() => {
                    let told = told(*scene.hello.borrow_and_update());
                    handle.with_chitchat(|chitchat| tell(chitchat, &told)).await;
                }
            }
        }
    }

    /// Talks to one of the seeds, also if it knows others: so two halves that lost each other find together again.
    fn greet(&self, handle: &ChitchatHandle, seeds: &[SocketAddr]) {
        let others: Vec<&SocketAddr> =
            seeds.iter().filter(|seed| **seed != self.config.advertise).collect();
        if let Some(seed) = fastrand::choice(others)
            && let Err(error) = handle.gossip(*seed)
        {
            tracing::error!(error = &*error, "gossip has ended");
        }
    }
}

#[async_trait]
impl Discovery for Gossip {
    async fn run(self: Box<Self>, mut scene: Scene) {
        let hello = *scene.hello.borrow_and_update();
        let handle = match self.begin(hello).await {
            Ok(handle) => handle,
            Err(error) => {
                tracing::error!(
                    error = &*error,
                    "gossip cannot begin; no other node will be found"
                );
                return;
            }
        };
        let (found_sender, found) = mpsc::channel(1);
        let (seeds_sender, seeds) = watch::channel(Vec::new());
        let names = Box::new(Names::new(self.config.seeds.clone(), self.pace));
        let looking = names.run(Scene {
            found: found_sender,
            hello: scene.hello.clone(),
            looks: scene.looks.clone(),
            shutdown: scene.shutdown.clone(),
        });
        tokio::join!(looking, take(found, seeds_sender), self.talk(&handle, &mut scene, seeds));
        if let Err(error) = handle.shutdown().await {
            tracing::warn!(error = &*error, "gossip has not ended well");
        }
    }
}

/// Passes the addresses of the seeds on.
async fn take(mut found: mpsc::Receiver<Found>, seeds: watch::Sender<Vec<SocketAddr>>) {
    while let Some(Found::Places(places)) = found.recv().await {
        seeds.send_replace(places);
    }
}

impl Heard {
    /// The nodes that gave a sign of life since the last look.
    fn look(&mut self, chitchat: &Chitchat) -> Vec<Said> {
        let others: Vec<(&ChitchatId, &Told)> = chitchat
            .node_states()
            .iter()
            .filter(|(id, _)| *id != chitchat.self_chitchat_id())
            .collect();
        let alive = others.iter().filter(|(id, told)| {
            // That there is one says nothing: it may be what others remember of a node that is gone.
            let before = self.signs_of_life.get(id);
            before.is_some_and(|before| *before != u64::from(told.heartbeat()))
        });
        let nodes = alive.filter_map(|(id, told)| read(id, told)).collect();
        let sign = |(id, told): &(&ChitchatId, &Told)| ((*id).clone(), told.heartbeat().into());
        self.signs_of_life = others.iter().map(sign).collect();
        nodes
    }
}

/// What this node tells of itself.
fn told(hello: Hello) -> Vec<(String, String)> {
    let state = match hello.state {
        NodeState::Warming => "warming",
        NodeState::Serving => "serving",
        NodeState::Draining => "draining",
    };
    let told = [
        (ADDRESS, hello.peer.address.to_string()),
        (WEIGHT, hello.weight.to_string()),
        (STATE, state.to_owned()),
    ];
    told.map(|(key, value)| (key.to_owned(), value)).into()
}

fn tell(chitchat: &mut Chitchat, told: &[(String, String)]) {
    let own = chitchat.self_node_state();
    told.iter().for_each(|(key, value)| own.set(key, value));
}

/// What another node tells of itself, if it is complete and makes sense.
fn read(id: &ChitchatId, told: &Told) -> Option<Said> {
    let id: NodeId = id.node_id.parse().ok()?;
    let address: SocketAddr = told.get(ADDRESS)?.parse().ok()?;
    let weight: Weight = told.get(WEIGHT)?.parse().ok()?;
    let state = match told.get(STATE)? {
        "warming" => NodeState::Warming,
        "serving" => NodeState::Serving,
        "draining" => NodeState::Draining,
        _ => return None,
    };
    Some(Said { peer: Peer { id, address }, weight, state })
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, sync::Arc};

    use tokio::task::JoinHandle;

    use super::{
        super::{Members, book::Patience},
        *,
    };
    use crate::{
        cluster::{Config, Discovery as How, Epoch, Place},
        runtime::{Secret, Shutdown},
    };

    /// Longer than anything may take.
    const PATIENCE: Duration = Duration::from_mins(1);

    const SECRET: &str = "a secret of the cluster";

    /// Ten times as quick as usual.
    fn pace() -> Pace {
        let patience = Patience { silence: Duration::from_millis(1200), warm_up: Duration::ZERO };
        Pace { gossip_again: Duration::from_millis(100), patience, ..Pace::usual(Duration::ZERO) }
    }

    struct Node {
        members: Members,
        shutdown: Shutdown,
        task: JoinHandle<()>,
    }

    /// A part of the loopback network that no other test uses.
    fn network() -> [u8; 2] {
        [fastrand::u8(100..200), fastrand::u8(..)]
    }

    /// Starts a node whose only seed is the first one, or the second one for the first.
    async fn start(network: [u8; 2], number: u8, secret: &str) -> Node {
        let address = |number, port| {
            SocketAddr::from((Ipv4Addr::new(127, network[0], network[1], number), port))
        };
        let seed = if number == 1 { 2 } else { 1 };
        let gossip = GossipConfig {
            listen: address(number, 5004),
            advertise: address(number, 5004),
            seeds: vec![Place::Address(address(seed, 5004))],
            secret: Secret::new(secret.to_owned()),
        };
        let config = Config {
            listen: Some(address(number, 5003)),
            advertise: Some(address(number, 5003)),
            discovery: How::Gossip(gossip),
            weight: number.into(),
            ..Config::none()
        };
        let nobody = Arc::new(|_| panic!("nobody is asked"));
        let id = NodeId::new(number.into());
        let (members, joined) = Members::join_at(&config, id, nobody, pace()).await.unwrap();
        let shutdown = Shutdown::new();
        let task = tokio::spawn(joined.run(shutdown.clone()));
        Node { members, shutdown, task }
    }

    impl Node {
        /// Waits until these nodes own things, as this one sees it, each with its number as its weight.
        async fn sees(&self, numbers: &[u8]) -> Epoch {
            let expected: Vec<(u128, u32)> =
                numbers.iter().map(|number| ((*number).into(), (*number).into())).collect();
            let mut changes = self.members.changes();
            let seen = changes.wait_for(|view| {
                let members = view.members().iter();
                members.map(|one| (one.peer.id.number(), one.weight)).eq(expected.iter().copied())
            });
            match time::timeout(PATIENCE, seen).await {
                Ok(view) => view.unwrap().epoch(),
                Err(_) => panic!("{numbers:?} is not what is seen: {:?}", self.members.all()),
            }
        }

        async fn stop(self) {
            self.shutdown.begin();
            time::timeout(PATIENCE, self.task).await.expect("it ends").unwrap();
        }
    }

    #[tokio::test]
    async fn five_nodes_agree_and_one_that_stops_leaves_all_views() {
        let network = network();
        let mut nodes = Vec::new();
        for number in 1..=5 {
            nodes.push(start(network, number, SECRET).await);
        }
        let mut epochs = Vec::new();
        for node in &nodes {
            epochs.push(node.sees(&[1, 2, 3, 4, 5]).await);
        }
        epochs.dedup();
        assert_eq!(epochs.len(), 1);
        // The first one is everybody's seed.
        nodes.remove(0).stop().await;
        for node in &nodes {
            node.sees(&[2, 3, 4, 5]).await;
        }
        nodes[3].members.drain();
        for node in &nodes {
            node.sees(&[2, 3, 4]).await;
        }
        // It comes back without its data, at its old address.
        let again = start(network, 1, SECRET).await;
        again.sees(&[1, 2, 3, 4]).await;
        nodes[0].sees(&[1, 2, 3, 4]).await;
        for node in nodes.into_iter().chain([again]) {
            node.stop().await;
        }
    }

    #[tokio::test]
    async fn a_node_with_another_secret_hears_nobody_and_is_not_heard() {
        let network = network();
        let stranger = start(network, 3, "a secret of another cluster").await;
        let nodes = [start(network, 1, SECRET).await, start(network, 2, SECRET).await];
        for node in &nodes {
            node.sees(&[1, 2]).await;
        }
        // A third one is heard by both, after several rounds in which the stranger could have been.
        let third = start(network, 4, SECRET).await;
        for node in &nodes {
            node.sees(&[1, 2, 4]).await;
            assert_eq!(node.members.all().len(), 3, "{:?}", node.members.all());
        }
        assert_eq!(stranger.members.all().len(), 1);
        for node in nodes.into_iter().chain([third, stranger]) {
            node.stop().await;
        }
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_told_at_once() {
        let network = network();
        let first = start(network, 1, SECRET).await;
        let address = SocketAddr::from((Ipv4Addr::new(127, network[0], network[1], 1), 5004));
        let gossip = GossipConfig {
            listen: address,
            advertise: address,
            seeds: Vec::new(),
            secret: Secret::new(SECRET.to_owned()),
        };
        let second = Gossip::listen(gossip, NodeId::new(2), pace()).await;
        assert!(matches!(second, Err(JoinError::Listen { .. })));
        first.stop().await;
    }
}
