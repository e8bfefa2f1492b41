//! Other nodes: who they are, who owns what, and how they give each other what they have.
//!
//! A node that looks for something asks the node that owns it. The owner is the only one that goes to the storage, and
//! it keeps track of who has what: it serves a few, and refers all others to those.

mod colleagues;
mod config;
pub mod exchange;
mod hello;
mod item;
mod members;
mod name;
mod node;
mod status;
mod view;
pub mod wire;

pub use colleagues::{Asked, Colleagues, Turn};
pub use config::{Config, Discovery, GossipConfig, TlsFiles, Trust};
pub use hello::{Hello, NodeState};
pub use item::Item;
pub use members::{Ask, AskError, JoinError, Joined, Known, Members};
pub use name::Place;
pub use node::{InvalidNodeId, NodeId, Peer};
pub use status::{
    AnswerCounts, AskedCounts, ExchangeStatus, NodeStatus, OwnStatus, SourceBytes, Status,
};
pub use view::{Epoch, Member, Owners, RANKS, View, Weight};
