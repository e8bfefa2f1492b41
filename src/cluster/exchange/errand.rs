//! One item's way to this node.

use super::{Moment, Need, NodeId, Peer, RANKS, Role};

/// An item that is on its way here, or is to be.
#[derive(Debug)]
pub(super) struct Errand {
    /// How soon a reader of this node needs it; `None` if it is for other nodes only.
    pub(super) need: Option<Need>,
    /// How many nodes have passed on the request that it is for.
    pub(super) hop: u8,
    /// Whether this node is to fetch it itself if it has to, whoever owns it.
    pub(super) is_deputy: bool,
    pub(super) quest: Quest,
    pub(super) source: Option<Source>,
    /// Bytes of it that are here.
    pub(super) received: u64,
    /// Nodes that were named and have not been asked.
    pub(super) candidates: Vec<Peer>,
    /// Nodes that could not give it.
    pub(super) avoid: Vec<NodeId>,
    /// Attempts that brought nothing, in a row.
    pub(super) fruitless: u32,
    /// How often it was fetched in vain.
    pub(super) failures: u32,
    /// How often another node could not get it, or what came from one broke off or was wrong.
    pub(super) breaks: u32,
    /// How often it was fetched anew because nothing came.
    pub(super) refetches: u32,
    /// The rank of the owner that is asked.
    pub(super) rank: usize,
    /// When it was begun.
    pub(super) since: Moment,
    /// How many items had arrived when that one was asked first.
    pub(super) arrivals_before: u64,
    /// Looks in a row at which nobody was found who has more.
    pub(super) checks: u32,
    /// Whether nothing has come of it for a while: it then takes no place of others.
    pub(super) is_stalled: bool,
    /// Whether it was much slower than other things when it was last looked at: what is passed on of it then takes no
    /// place of others either.
    pub(super) is_behind: bool,
    /// When somebody was last asked.
    pub(super) asked: Moment,
    /// When it is to be looked at again.
    pub(super) check: Moment,
}

/// How somebody is looked for who can give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quest {
    /// Nobody is looked for.
    Idle,
    /// Other things are looked for first.
    Queued,
    /// It waits for its turn to be fetched.
    FetchTurn,
    /// Somebody was asked.
    Asking { number: u64, to: NodeId, role: Role },
    /// It is looked for again later.
    Pausing,
}

/// Where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) number: u64,
    /// `None` if it is fetched from where all of it comes from.
    pub(super) from: Option<NodeId>,
    /// Whether it is one of those that take turns at being fetched.
    pub(super) takes_turn: bool,
    pub(super) since: Moment,
    /// What was here when it was last looked at, and when that was.
    pub(super) marked: u64,
    pub(super) marked_at: Moment,
    /// How much was here when it was last found that something had come, and when that was.
    pub(super) moved: u64,
    pub(super) moved_at: Moment,
}

impl Source {
    pub(super) const fn new(number: u64, from: Option<NodeId>, now: Moment) -> Self {
        Self {
            number,
            from,
            takes_turn: false,
            since: now,
            marked: 0,
            marked_at: now,
            moved: 0,
            moved_at: now,
        }
    }

    /// The same, when so much is here.
    pub(super) fn looked_at(self, received: u64, now: Moment) -> Self {
        if received == self.moved {
            return self;
        }
        Self { moved: received, moved_at: now, ..self }
    }

    /// How much has come since it was last looked at, in bytes per second.
    pub(super) fn rate(&self, received: u64, now: Moment) -> u64 {
        let passed = now.saturating_sub(self.marked_at).as_secs_f64();
        let came = received.saturating_sub(self.marked);
        if passed > 0.0 { (came as f64 / passed) as u64 } else { 0 }
    }
}

/// What failed so often is asked of who comes after its owner, who fetches it anew: the owner may never get it, and all that
/// it gives may be wrong. If each node fetched it instead, there would be as many copies as nodes.
const BREAKS_MOST: u32 = 3;

/// So many nodes are named at most as such that could not give it.
const AVOIDED: usize = 16;

impl Errand {
    pub(super) const fn new(need: Option<Need>, hop: u8) -> Self {
        Self {
            need,
            hop,
            is_deputy: false,
            quest: Quest::Idle,
            source: None,
            received: 0,
            candidates: Vec::new(),
            avoid: Vec::new(),
            fruitless: 0,
            failures: 0,
            breaks: 0,
            refetches: 0,
            rank: 0,
            since: Moment::ZERO,
            arrivals_before: 0,
            checks: 0,
            is_stalled: false,
            is_behind: false,
            asked: Moment::ZERO,
            check: Moment::MAX,
        }
    }

    /// Whether others may be promised that it comes.
    pub(super) const fn is_under_way(&self) -> bool {
        self.source.is_some() || matches!(self.quest, Quest::Asking { .. } | Quest::FetchTurn)
    }

    /// Whether it is to be fetched and nothing of it comes yet.
    pub(super) fn waits_for_turn(&self) -> bool {
        self.quest == Quest::FetchTurn && self.source.is_none()
    }

    /// The attempt by which somebody is asked.
    pub(super) const fn question(&self) -> Option<u64> {
        match self.quest {
            Quest::Asking { number, .. } => Some(number),
            Quest::Idle | Quest::Queued | Quest::FetchTurn | Quest::Pausing => None,
        }
    }

    /// Whether it comes from that node.
    pub(super) fn comes_from(&self, node: NodeId) -> bool {
        self.source.is_some_and(|source| source.from == Some(node))
    }

    /// Whether it takes a place in the window of this node's readers.
    pub(super) fn is_in_window(&self) -> bool {
        self.need.is_some() && self.quest != Quest::Queued && !self.is_stalled
    }

    /// Whether it is fetched, or waits for its turn.
    pub(super) fn is_fetched(&self) -> bool {
        self.quest == Quest::FetchTurn || self.source.is_some_and(|source| source.from.is_none())
    }

    /// Notes that an attempt to get it from another node has failed.
    pub(super) fn broke(&mut self) {
        self.breaks += 1;
        if self.breaks.is_multiple_of(BREAKS_MOST) {
            self.pass_over_owner();
        }
    }

    /// Asks who comes after its owner from now on; and after the last of those, nobody any more.
    pub(super) fn pass_over_owner(&mut self) {
        self.rank += 1;
        self.is_deputy |= self.rank >= RANKS;
    }

    pub(super) fn avoid(&mut self, node: NodeId) {
        if !self.avoid.contains(&node) {
            if self.avoid.len() >= AVOIDED {
                self.avoid.remove(0);
            }
            self.avoid.push(node);
        }
    }
}
