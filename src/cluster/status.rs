//! What one node knows of its cluster and does in it, for those who look after it.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Members, NodeId, NodeState, Weight};

/// What one node knows of its cluster and does in it. The names of the fields are those of the JSON that people and
/// their programs read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The node that says this.
    pub node: OwnStatus,
    /// Every node that it knows: itself, and then the others by their ids.
    pub nodes: Vec<NodeStatus>,
    /// What it does with the others.
    pub exchange: ExchangeStatus,
    /// Bytes of blobs, by where it had them from, since its start.
    pub bytes: SourceBytes,
}

/// The node that is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OwnStatus {
    /// Its name.
    pub id: NodeId,
    /// Where others reach it.
    pub address: SocketAddr,
    /// Its weight; 0 also while it drains.
    pub weight: Weight,
    /// What it is about to do.
    pub state: NodeState,
    /// Names what it knows of who owns what, in hexadecimal digits: nodes with the same epoch agree.
    pub epoch: String,
    /// How often that has become another since its start.
    pub view_changes: u64,
    /// The part of everything that it owns, from 0 to 1.
    pub share: f64,
}

/// A node, as another one knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub id: NodeId,
    /// Where others reach it.
    pub address: SocketAddr,
    /// The weight that it told.
    pub weight: Weight,
    /// What it said that it is about to do.
    pub state: NodeState,
    /// For how long nothing was heard of it, in seconds.
    pub silent_seconds: u64,
    /// Whether that is so long that it owns nothing any more.
    pub is_silent: bool,
    /// The part of everything that it owns, from 0 to 1.
    pub share: f64,
    /// In how many seconds it may be asked for something again, if it is left alone because it could not be reached.
    pub breaker_seconds: Option<u64>,
}

/// What a node does with others. Numbers of things that have happened count from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeStatus {
    /// Parts that others are being sent, and that could be sent faster.
    pub lanes_busy: u64,
    /// How many that are at most while there are more who want some, as `cluster.uploads` says.
    pub lanes_limit: u64,
    /// Bytes of blobs that others were sent.
    pub sent_bytes: u64,
    /// Parts of blobs that are on their way to this node, or wait for their turn.
    pub parts_coming: u64,
    /// Parts that are being fetched from the storage.
    pub fetches_running: u64,
    /// How many that are at most now.
    pub fetches_limit: u64,
    /// What it has answered to others.
    pub answers: AnswerCounts,
    /// What others have answered to it.
    pub asked: AskedCounts,
    /// Questions whether somebody has more of a part that takes long.
    pub slow: u64,
    /// Parts that took so long that they were asked of who comes after their owner.
    pub deputies: u64,
    /// Parts of others that it has fetched from the storage, because no owner could be reached.
    pub direct: u64,
}

/// Answers of a node to questions for parts of blobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerCounts {
    /// The bytes.
    pub served: u64,
    /// Who has them.
    pub referred: u64,
    /// That they cannot be had here, or not now.
    pub refused: u64,
}

/// How questions of a node to others have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedCounts {
    /// With the bytes.
    pub bytes: u64,
    /// With who has them.
    pub referred: u64,
    /// The other had nothing to give at that moment.
    pub busy: u64,
    /// It did not know it.
    pub unknown: u64,
    /// It could not get it.
    pub failed: u64,
    /// Nobody answered.
    pub dead: u64,
    /// The answer was not waited for any more, because it took too long or was not needed.
    pub given_up: u64,
}

/// Bytes of blobs, by where they came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceBytes {
    /// This node's memory, where somebody had read them before, or was reading them.
    pub memory: u64,
    /// This node's disk.
    pub disk: u64,
    /// Other nodes.
    pub peer: u64,
    /// The storage.
    pub storage: u64,
    /// Other registries.
    pub upstream: u64,
}

impl Status {
    /// What `members` knows, with the rest. `broken` are nodes that are left alone, and for how long still.
    #[must_use]
    pub fn of(
        members: &Members,
        exchange: ExchangeStatus,
        broken: &[(NodeId, Duration)],
        bytes: SourceBytes,
    ) -> Self {
        let (hello, view) = (members.hello(), members.view());
        let node = OwnStatus {
            id: hello.peer.id,
            address: hello.peer.address,
            weight: hello.weight,
            state: hello.state,
            epoch: view.epoch().to_string(),
            view_changes: members.view_changes(),
            share: view.share_of(hello.peer.id),
        };
        let nodes = members.all().into_iter().map(|known| {
            let id = known.peer.id;
            let breaker = broken.iter().find(|(node, _)| *node == id);
            NodeStatus {
                id,
                address: known.peer.address,
                weight: known.weight,
                state: known.state,
                silent_seconds: known.silent_for.as_secs(),
                is_silent: known.is_silent,
                share: view.share_of(id),
                // Rounded up: 0 would say that it may be asked.
                breaker_seconds: breaker.map(|(_, left)| left.as_secs_f64().ceil() as u64),
            }
        });
        Self { node, nodes: nodes.collect(), exchange, bytes }
    }
}
