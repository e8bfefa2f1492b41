//! Ways to find other nodes.

use std::net::SocketAddr;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};

use super::{JoinError, book::Said, gossip::Gossip, names::Names, pace::Pace};
use crate::{
    cluster::{Discovery as Config, Hello, NodeId},
    runtime::Shutdown,
};

/// A way to find other nodes.
#[async_trait]
pub(super) trait Discovery: Send {
    /// Tells whom it finds, until the end.
    async fn run(self: Box<Self>, scene: Scene);
}

/// What was found.
#[derive(Debug)]
pub(super) enum Found {
    /// All places where nodes may be. Who is there has to be asked.
    Places(Vec<SocketAddr>),
    /// Nodes of which a sign of life came.
    Nodes(Vec<Said>),
}

/// What a discovery hears and whom it tells.
pub(super) struct Scene {
    pub(super) found: mpsc::Sender<Found>,
    /// What this node says of itself.
    pub(super) hello: watch::Receiver<Hello>,
    /// Changes when others are to be looked for at once.
    pub(super) looks: watch::Receiver<u64>,
    pub(super) shutdown: Shutdown,
}

/// The discovery that the configuration asks for.
pub(super) async fn open(
    config: &Config,
    id: NodeId,
    pace: Pace,
) -> Result<Box<dyn Discovery>, JoinError> {
    Ok(match config {
        Config::Members(places) => Box::new(Names::new(places.clone(), pace)),
        Config::Dns(place) => Box::new(Names::new(vec![place.clone()], pace)),
        Config::Gossip(config) => Box::new(Gossip::listen(config.clone(), id, pace).await?),
    })
}
