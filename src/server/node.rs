//! This node among others: what it asks them with, and what it answers them.

use std::{
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, TryStreamExt};

use super::{Error, bind_with};
use crate::{
    api::{Listener, PEER_LIMITS, PartError, PartStream, PeerFace, PeerHandler, Transport},
    cache,
    cluster::{
        self, Colleagues, Epoch, Hello, Joined, Members, NodeId,
        wire::{
            Answer, Ask, CallAnswer, CertificateFiles, CertificateKeeper, PeerCertificates,
            PeerClient, SharedSecret, Trust,
        },
    },
    config::Config,
    content::{ContentStore, Neighbours, Part},
    registry::Registry,
    runtime::{ByteBudget, Shutdown, Tasks},
    telemetry::{register_counter, register_gauge},
};

/// How long another node may take for the head of an answer. What it has to wait for itself takes less, or it says so.
const PATIENCE: Duration = Duration::from_secs(5);

/// The call by which a node says that it is about to end.
const LEAVING: &str = "leaving";

/// How long others may take to note that. Who does not hears nothing of this node soon.
const LEAVING_PATIENCE: Duration = Duration::from_millis(500);

/// How long connections with other nodes may go on when nothing else does.
const GRACE: Duration = Duration::from_secs(1);

/// What a node of a cluster has that a single one has not.
#[derive(Debug)]
pub(super) struct Node {
    members: Members,
    joined: Joined,
    client: PeerClient,
    colleagues: Colleagues,
    trust: Trust,
    certificates: Option<CertificateKeeper>,
    listener: Listener,
    /// They go on while everything else comes to its end, which others may wait for.
    tasks: Tasks,
}

/// What runs of a node.
#[derive(Debug)]
pub(super) struct RunningNode {
    members: Members,
    client: PeerClient,
    colleagues: Colleagues,
    tasks: Tasks,
    shutdown: Shutdown,
}

impl Node {
    /// Binds the address for other nodes, if there is to be one; nobody is asked or answered yet.
    pub(super) async fn bind(
        config: &Config,
        metrics: &prometheus::Registry,
    ) -> Result<Option<Self>, Error> {
        let Some(listen) = config.cluster.listen else { return Ok(None) };
        let (trust, certificates) = trust(&config.cluster.trust)?;
        let transport = match &trust {
            Trust::Certificates(certificates) => Transport::tls(certificates.server()),
            Trust::Loopback | Trust::Secret(_) => Transport::Plain,
        };
        let listener = bind_with(listen, transport, PEER_LIMITS).await?;
        let tasks = Tasks::new();
        let client = PeerClient::new(trust.clone(), PATIENCE, tasks.clone());
        let id = node_id(&config.cache.disk);
        let asking = client.clone();
        let ask = move |address: SocketAddr| {
            let client = asking.clone();
            async move { Ok(serde_json::from_slice::<Hello>(&client.hello(address).await?)?) }
                .boxed()
        };
        let (members, joined) = Members::join(&config.cluster, id, Arc::new(ask)).await?;
        register_members(metrics, &members);
        let me = (members.hello().peer, members.clone());
        let colleagues = Colleagues::new(me, client.clone(), (tasks.clone(), metrics));
        Ok(Some(Self { members, joined, client, colleagues, trust, certificates, listener, tasks }))
    }

    /// What content needs to know of the other nodes.
    pub(super) fn neighbours(&self, config: &Config) -> Neighbours {
        Neighbours {
            me: self.members.hello().peer,
            members: self.members.clone(),
            client: self.client.clone(),
            uploads: config.cluster.uploads,
            tasks: self.tasks.clone(),
        }
    }

    /// What a registry asks other nodes with.
    pub(super) fn colleagues(&self) -> Colleagues {
        self.colleagues.clone()
    }

    /// Begins to look for other nodes and to answer them, questions about links as long as the registry is there. Copies
    /// of what they are sent are paid for from `budget`.
    pub(super) fn run(
        self,
        (content, registry): (ContentStore, Weak<Registry>),
        budget: ByteBudget,
    ) -> RunningNode {
        let Self { members, joined, client, colleagues, trust, certificates, listener, tasks } =
            self;
        let shutdown = Shutdown::new();
        let answers = Answers { content: content.clone(), registry, members: members.clone() };
        let handler = Arc::new(answers);
        let face = PeerFace::new(handler, &trust, budget, tasks.clone());
        tasks.spawn("peer listener", listener.serve(face, tasks.clone(), shutdown.clone()));
        tasks.spawn("members", joined.run(shutdown.clone()));
        tasks.spawn("exchange", content.run_exchange(shutdown.clone()));
        if let Some(certificates) = certificates {
            tasks.spawn("peer certificates", certificates.keep_fresh(shutdown.clone()));
        }
        RunningNode { members, client, colleagues, tasks, shutdown }
    }
}

impl RunningNode {
    /// Tells the others that this node is going to end.
    pub(super) fn drain(&self) {
        self.members.drain();
        let (colleagues, hello) = (self.colleagues.clone(), hello(&self.members));
        self.tasks.spawn("say that this node is about to end", async move {
            colleagues.tell_all(LEAVING, hello, LEAVING_PATIENCE).await
        });
    }

    /// Ends what there is with other nodes.
    pub(super) async fn finish(self) {
        self.shutdown.begin();
        self.client.close();
        self.tasks.finish(GRACE).await;
    }
}

/// Has the metrics tell who there is.
fn register_members(metrics: &prometheus::Registry, members: &Members) {
    let gauge = |named, read: fn(&Members) -> u64| {
        let members = members.clone();
        register_gauge(metrics, named, move || read(&members));
    };
    let owning = ("millpond_cluster_members", "Nodes that own something, as this one knows them");
    gauge(owning, |members| members.view().members().len() as u64);
    let known = ("millpond_cluster_nodes", "Nodes that this one knows, itself among them");
    gauge(known, |members| members.all().len() as u64);
    let silent = ("millpond_cluster_nodes_silent", "Nodes of which nothing is heard any more");
    gauge(silent, |members| members.all().iter().filter(|known| known.is_silent).count() as u64);
    let share = ("millpond_cluster_share_permille", "The part of everything that this node owns");
    gauge(share, |members| {
        (members.view().share_of(members.hello().peer.id) * 1000.0).round() as u64
    });
    let changes = (
        "millpond_cluster_view_changes_total",
        "Times that what each node owns has become something else, as this one knows them",
    );
    let members = members.clone();
    register_counter(metrics, changes, move || members.view_changes());
}

/// The identity that is kept with the cache; another one each time if there is no disk for that.
fn node_id(disk: &cache::DiskConfig) -> NodeId {
    let kept = cache::node_id(disk).and_then(|text| text.parse().ok());
    kept.unwrap_or_else(|| NodeId::new(fastrand::u128(..)))
}

fn trust(config: &cluster::Trust) -> Result<(Trust, Option<CertificateKeeper>), Error> {
    Ok(match config {
        cluster::Trust::ThisMachine => (Trust::Loopback, None),
        cluster::Trust::Secret(secret) => (Trust::Secret(SharedSecret::new(secret)?), None),
        cluster::Trust::Tls(files) => {
            let cluster::TlsFiles { ca_file, cert_file, key_file } = files.clone();
            let files = CertificateFiles { ca_file, cert_file, key_file };
            let (certificates, keeper) = PeerCertificates::load(files)?;
            (Trust::Certificates(certificates), Some(keeper))
        }
    })
}

/// What this node has to say to others.
#[derive(Debug)]
struct Answers {
    content: ContentStore,
    /// It ends before this does.
    registry: Weak<Registry>,
    members: Members,
}

impl PeerHandler for Answers {
    async fn ask(&self, ask: Ask) -> Answer<PartStream> {
        self.content.answer(ask).await.map(|part| match part {
            Part::Table(bytes) => PartStream::Bytes(bytes),
            Part::Bytes(pieces) => PartStream::Pieces(Box::pin(pieces.map_err(PartError::from))),
        })
    }

    async fn call(&self, name: &str, question: Bytes) -> CallAnswer {
        if name == LEAVING {
            return match serde_json::from_slice(&question) {
                Ok(hello) => {
                    self.members.told(hello);
                    CallAnswer::Answered(Bytes::new())
                }
                Err(_nonsense) => CallAnswer::Failed { is_retryable: false },
            };
        }
        match self.registry.upgrade() {
            Some(registry) => registry.answer(name, &question).await,
            None => CallAnswer::Failed { is_retryable: true },
        }
    }

    fn hello(&self) -> Bytes {
        hello(&self.members)
    }

    fn node(&self) -> (NodeId, Epoch) {
        let hello = self.members.hello();
        (hello.peer.id, hello.epoch)
    }
}

/// What this node says of itself, in JSON.
fn hello(members: &Members) -> Bytes {
    let hello = serde_json::to_vec(&members.hello());
    Bytes::from(hello.expect("numbers and words have a form in JSON"))
}
