//! What goes into an exchange and what comes out of it.

use std::{sync::Arc, time::Duration};

use super::{Item, NodeId, Peer};

/// A point in time, counted from any moment that all calls to one exchange agree on.
pub type Moment = Duration;

/// Limits of one node.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Items that this node's own readers want and that are asked for or received at once.
    pub window: usize,
    /// Items that are fetched from where all of it comes from at once, at most. How many it really are follows from
    /// how long they take.
    pub fetches: usize,
    /// Requests of other nodes that are sent something at once, if it is not more that this node receives itself.
    pub lanes: usize,
    /// Nodes to which one node gives the same item while others want it too.
    pub children: usize,
    /// How long another node may take to answer before it is taken for dead.
    pub patience: Duration,
    /// How long a request waits at the owner until somebody can give it something.
    pub wait: Duration,
    /// How often it is looked whether what is received comes fast enough.
    pub check: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            window: 24,
            fetches: 8,
            lanes: 8,
            children: 2,
            patience: Duration::from_secs(2),
            wait: Duration::from_millis(250),
            check: Duration::from_millis(200),
        }
    }
}

/// How soon an item is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Somebody will most likely read it soon.
    Ahead,
    /// Somebody waits for it.
    Now,
    /// Somebody waits for it to learn what else is to be wanted. It takes no turn after what is wanted already: else
    /// what begins late would begin last.
    Open,
}

/// As what a node is asked for an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It owns the item: it gives it, fetches it, or says who has it.
    Owner,
    /// It comes after an owner that does not answer or is too slow, and takes its place.
    Deputy,
    /// Somebody else said that it has the item or receives it.
    Holder,
}

/// Names a request of another node, as long as it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AskId(pub u64);

/// What another node asks.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// What it wants.
    pub item: Item,
    /// Who asks.
    pub from: Peer,
    /// As what this node is asked.
    pub role: Role,
    /// How many bytes of it the other node has.
    pub offset: u64,
    /// How many nodes have passed the request on.
    pub hop: u8,
    /// How many requests the other node answers itself with something that it has or that comes to it.
    pub load: u32,
    /// How many bytes come to the other node in a second, while it wants many; 0 if it does not know.
    pub rate: u64,
    /// Nodes that could not give it.
    pub avoid: Vec<NodeId>,
    /// Whether somebody sends it already, and only one is looked for who has more of it.
    pub is_served: bool,
}

/// What there is of an item on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stock {
    /// Nothing, but for what the exchange knows to be coming.
    Nothing,
    /// All of it.
    Whole,
}

/// One attempt to get an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attempt {
    /// What is wanted.
    pub item: Item,
    /// Which attempt it is. No other one of the same exchange has this number, also none for the same item later.
    pub number: u64,
}

/// What another node has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The bytes come.
    Bytes,
    /// These have it or receive it.
    Refer(Vec<Peer>),
    /// It can give nothing now.
    Busy {
        /// When it should be asked again.
        after: Duration,
    },
    /// It owns it, but is so slow that who comes after it should be asked.
    Pass,
    /// There is no such thing, or it has none of it.
    Unknown,
    /// It could not get it itself.
    Failed,
    /// It cannot be reached, or speaks nonsense.
    Dead,
}

/// Why an attempt has ended without all bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The connection broke, or the bytes were wrong.
    Broken,
    /// There is no such thing.
    Unknown,
    /// It could not be had, and it is of no use to try again.
    Failed,
    /// The bytes were wrong, and so may those be that came before, from whomever: all of it was thrown away.
    Lost,
}

/// What this node answers to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The bytes, as they are here or come.
    Serve,
    /// Who has them.
    Refer(Vec<Peer>),
    /// Ask again later.
    Busy {
        /// When.
        after: Duration,
    },
    /// Ask who comes after this node.
    Pass,
    /// There is no such thing.
    Unknown,
    /// It cannot be had now.
    Failed,
}

/// Why an item is not got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// There is no such thing.
    Unknown,
    /// It could not be had.
    Failed,
    /// Nobody who should know it can be reached, and too many go past them already.
    Overloaded,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask another node, and tell the answer: [`super::Exchange::answered`].
    Ask {
        /// For which attempt.
        attempt: Attempt,
        /// Whom.
        to: Peer,
        /// As what.
        role: Role,
        /// How many nodes have passed the request on.
        hop: u8,
        /// Nodes that could not give it.
        avoid: Arc<[NodeId]>,
        /// Whether somebody sends it already.
        is_served: bool,
    },
    /// Fetch it from where all of it comes from, and tell how it goes.
    Fetch {
        /// For which attempt.
        attempt: Attempt,
    },
    /// Stop an attempt; nothing need be told of it any more.
    Cancel {
        /// Which.
        attempt: Attempt,
    },
    /// Answer a request.
    Reply {
        /// Which.
        ask: AskId,
        /// How.
        reply: Reply,
    },
    /// Tell whoever waits for an item that it does not come.
    Lose {
        /// Which item.
        item: Item,
        /// Why.
        why: Lost,
    },
}
