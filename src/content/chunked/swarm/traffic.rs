//! What went to other nodes, and what they have answered.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Swarm;
use crate::cluster::{
    AskedCounts, Peer,
    exchange::Role,
    wire::{self, Answered, Ask, PartBody, PartName},
};

/// What came to this node and went to others so far, and how many questions to them have ended how.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// From other nodes and from the storage.
    came_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    /// By [`Outcome`].
    asked: [AtomicU64; Outcome::COUNT],
}

/// How a question to another node has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Bytes,
    Referred,
    Busy,
    Unknown,
    Failed,
    Dead,
    /// The answer was not waited for any more.
    GivenUp,
}

impl Outcome {
    const COUNT: usize = Self::GivenUp as usize + 1;

    fn of(to: Peer, answered: &AnsweredPart) -> Self {
        match answered {
            Ok(answered) if answered.node == to.id => match &answered.answer {
                wire::Answer::Bytes { .. } => Self::Bytes,
                wire::Answer::Refer { .. } | wire::Answer::Pass => Self::Referred,
                wire::Answer::Busy { .. } => Self::Busy,
                wire::Answer::Unknown => Self::Unknown,
                wire::Answer::Failed { .. } => Self::Failed,
            },
            // Nobody answers, or another node that is there now.
            Ok(_) | Err(_) => Self::Dead,
        }
    }
}

/// What another node has answered to a question for a part of a blob, or for its table.
pub(super) type AnsweredPart = Result<Answered<wire::Answer<PartBody>>, wire::Error>;

/// A question that is under way. It is counted when it is dropped.
struct Question<'a> {
    traffic: &'a Traffic,
    outcome: Outcome,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.traffic.asked[self.outcome as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl Swarm {
    /// A question of this node's own about a part of a blob of this length, from `offset` on.
    pub(super) fn question(
        &self,
        part: PartName,
        role: Role,
        (offset, blob_bytes): (u64, u64),
    ) -> Ask {
        Ask {
            part,
            from: self.neighbours.me,
            role,
            offset,
            hop: 0,
            load: 0,
            rate: 0,
            avoid: Vec::new(),
            is_served: false,
            epoch: self.neighbours.members.view().epoch(),
            blob_bytes: Some(blob_bytes),
            origin: None,
        }
    }

    /// Puts a question to another node, and counts how that ends.
    pub(super) async fn put(&self, to: Peer, ask: &Ask) -> AnsweredPart {
        let mut question = Question { traffic: &self.traffic, outcome: Outcome::GivenUp };
        let answered = self.neighbours.client.ask(to, ask).await;
        question.outcome = Outcome::of(to, &answered);
        answered
    }
}

impl Traffic {
    /// Counts bytes of blobs that have come.
    pub(super) fn came(&self, bytes: usize) {
        self.came_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// How many that were so far.
    pub(super) fn came_bytes(&self) -> u64 {
        self.came_bytes.load(Ordering::Relaxed)
    }

    /// Counts bytes of blobs that another node is sent.
    pub(super) fn sent(&self, bytes: u64) {
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How many that were so far.
    pub(super) fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// How many questions have ended how.
    pub(super) fn asked(&self) -> AskedCounts {
        let count = |outcome: Outcome| self.asked[outcome as usize].load(Ordering::Relaxed);
        AskedCounts {
            bytes: count(Outcome::Bytes),
            referred: count(Outcome::Referred),
            busy: count(Outcome::Busy),
            unknown: count(Outcome::Unknown),
            failed: count(Outcome::Failed),
            dead: count(Outcome::Dead),
            given_up: count(Outcome::GivenUp),
        }
    }
}
