//! Blobs that one node of the cluster fetches from another registry, while others read them already.
//!
//! The node that fetches has what came so far, and gives it out as it comes: to the owners of its parts, each of which
//! then has a part to be passed on. There is nothing yet to hold these parts against. So sums are taken of all that comes
//! to this node, and of the last chunk nothing is taken before the whole is known to be right: then its chunk table is
//! there, which the sums have to be equal to. Nobody comes to the end of a blob of which anything was wrong.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{corrupt, unavailable};
use crate::{
    cache::{Block, SEGMENT_BYTES},
    cluster::{Peer, wire::Origin},
    content::ChunkTable,
    oci::Digest,
    storage::Error,
};

/// How long nobody else has a blob fetched again that could not be had: they may not have heard of that yet.
const GIVEN_UP_FOR: Duration = Duration::from_secs(1);

/// A fill of some node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filler {
    /// The node that fetches the blob.
    pub node: Peer,
    /// Which of its fills.
    pub fill: u64,
    /// Length of the blob.
    pub blob_bytes: u64,
}

/// Who has a blob that is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It comes to a node.
    Coming(Filler),
    /// The storage has it.
    Held,
}

/// Finds out who fetches a blob from another registry, or has somebody do it; nothing if it cannot be had.
pub struct Finder(Box<dyn Fn(Digest, Origin) -> BoxFuture<'static, Option<Found>> + Send + Sync>);

impl Finder {
    /// Finds out by asking `find`.
    pub fn new(
        find: impl Fn(Digest, Origin) -> BoxFuture<'static, Option<Found>> + Send + Sync + 'static,
    ) -> Self {
        Self(Box::new(find))
    }

    pub(super) async fn find(&self, digest: Digest, origin: Origin) -> Option<Found> {
        (self.0)(digest, origin).await
    }
}

impl fmt::Debug for Finder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Finder")
    }
}

/// A blob that a node fetches from another registry.
pub(super) struct Arrival {
    pub(super) digest: Digest,
    pub(super) blob_bytes: u64,
    pub(super) origin: Origin,
    stage: watch::Sender<Stage>,
    proven: watch::Sender<Option<Result<(), Error>>>,
    noted: Mutex<Noted>,
    /// Somebody could not get anything from the node that fetches it.
    pub(super) doubt: Notify,
}

/// Where the bytes of an arrival are.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    /// They come by this fill.
    From(Filler),
    /// The storage has them; or they cannot be had.
    Over(Result<(), Error>),
}

/// What is known of the bytes that have come to this node.
enum Noted {
    /// The sum of each part that has come, as chunk tables have them.
    Sums(Vec<Option<u32>>),
    /// What they have to be.
    Table(Arc<ChunkTable>),
    /// They were thrown away.
    Nothing,
}

impl Arrival {
    fn new(digest: Digest, (origin, from): (Origin, Filler)) -> Self {
        Self {
            digest,
            blob_bytes: from.blob_bytes,
            origin,
            stage: watch::Sender::new(Stage::From(from)),
            proven: watch::Sender::new(None),
            noted: Mutex::new(Noted::Sums(Vec::new())),
            doubt: Notify::new(),
        }
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage.borrow().clone()
    }

    pub(super) fn set_stage(&self, stage: Stage) {
        self.stage.send_replace(stage);
    }

    /// Waits until it does not come by `filler` any more, because somebody could get nothing there.
    pub(super) async fn leaves(&self, filler: Filler) {
        self.doubt.notify_one();
        let mut stage = self.stage.subscribe();
        let has_left = |stage: &Stage| !matches!(stage, Stage::From(from) if *from == filler);
        // The sender is this arrival's own.
        let _left = stage.wait_for(has_left).await;
    }

    /// Waits until the storage has it.
    pub(super) async fn leaves_all(&self) -> Result<(), Error> {
        let mut stage = self.stage.subscribe();
        match stage.wait_for(|stage| matches!(stage, Stage::Over(_))).await {
            Ok(stage) => match &*stage {
                Stage::Over(ended) => ended.clone(),
                Stage::From(_) => Ok(()),
            },
            Err(gone) => Err(unavailable(&self.digest, gone)),
        }
    }

    /// Waits until what has come to this node was held against the chunk table.
    pub(super) async fn proof(&self) -> Result<(), Error> {
        let mut proven = self.proven.subscribe();
        match proven.wait_for(Option::is_some).await {
            Ok(proven) => proven.clone().unwrap_or(Ok(())),
            Err(gone) => Err(unavailable(&self.digest, gone)),
        }
    }

    /// Tells those who wait for it whether what has come is right.
    pub(super) fn prove(&self, right: Result<(), Error>) {
        self.proven.send_if_modified(|proven| {
            let is_new = proven.is_none();
            proven.get_or_insert(right);
            is_new
        });
    }

    /// Notes the sums of parts that have come, from the one with this number on.
    pub(super) fn note(&self, first: u64, sums: &[u32]) -> Result<(), Error> {
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        let mut noted = self.noted();
        let is_right = match &mut *noted {
            Noted::Sums(known) => {
                let end = first.saturating_add(sums.len());
                if known.len() < end {
                    known.resize(end, None);
                }
                let places = known[first..end].iter_mut().zip(sums);
                // Of two that differ, one is wrong; which, nobody knows.
                places.fold(true, |is_right, (known, sum)| {
                    *known.get_or_insert(*sum) == *sum && is_right
                })
            }
            Noted::Table(table) => is_equal(table, first, sums.iter().copied().map(Some)),
            Noted::Nothing => false,
        };
        drop(noted);
        if is_right { Ok(()) } else { Err(self.wrong()) }
    }

    /// Holds what has come, and all that comes from now on, against the table.
    pub(super) fn hold_against(&self, table: Arc<ChunkTable>) -> Result<(), Error> {
        let before = std::mem::replace(&mut *self.noted(), Noted::Table(Arc::clone(&table)));
        let is_right = match before {
            Noted::Sums(known) => is_equal(&table, 0, known.into_iter()),
            Noted::Table(_) => true,
            Noted::Nothing => false,
        };
        if is_right { Ok(()) } else { Err(self.wrong()) }
    }

    /// Takes nothing more.
    pub(super) fn close(&self) {
        *self.noted() = Noted::Nothing;
    }

    fn wrong(&self) -> Error {
        corrupt(
            &self.digest,
            "something else has come to this node than to the one that fetched it",
        )
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_equal(table: &ChunkTable, first: usize, sums: impl Iterator<Item = Option<u32>>) -> bool {
    sums.enumerate().all(|(index, sum)| {
        let position = (first + index) as u64 * SEGMENT_BYTES;
        sum.is_none_or(|sum| table.part_at(position).is_some_and(|(_, expected)| expected == sum))
    })
}

/// The sums of all parts of a chunk.
pub(super) fn sums_of(block: &Block) -> std::io::Result<Vec<u32>> {
    let mut piece = block.piece(0..block.len());
    let mut buffer = vec![0; usize::try_from(SEGMENT_BYTES).unwrap_or(usize::MAX)];
    let mut sums = Vec::new();
    while !piece.is_empty() {
        let length = usize::try_from(piece.len()).unwrap_or(usize::MAX).min(buffer.len());
        piece.read(&mut buffer[..length])?;
        sums.push(crc32c::crc32c(&buffer[..length]));
    }
    Ok(sums)
}

/// What comes to some node of the cluster at the moment, as far as this one is concerned.
#[derive(Default)]
pub(super) struct Arrivals {
    coming: Mutex<HashMap<Digest, Arc<Arrival>>>,
    given_up: Mutex<HashMap<Digest, Instant>>,
}

impl Arrivals {
    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<Arrival>> {
        self.coming().get(digest).cloned()
    }

    /// Expects a blob by this fill. Returns its arrival if that is new, and another one that it takes the place of.
    pub(super) fn expect(
        &self,
        digest: Digest,
        (origin, from): (Origin, Filler),
    ) -> (Option<Arc<Arrival>>, Option<Arc<Arrival>>) {
        let mut coming = self.coming();
        // Where nodes do not agree who is to fetch it, two may: then it goes on to come by the one that was first.
        let is_there = |known: &Arc<Arrival>| match known.stage() {
            Stage::From(other) => other.fill == from.fill || other.node.id != from.node.id,
            Stage::Over(_) => false,
        };
        if coming.get(&digest).is_some_and(is_there) {
            return (None, None);
        }
        let new = Arc::new(Arrival::new(digest, (origin, from)));
        let before = coming.insert(digest, Arc::clone(&new));
        drop(coming);
        self.given_up().remove(&digest);
        (Some(new), before)
    }

    pub(super) fn remove(&self, arrival: &Arc<Arrival>) {
        let mut coming = self.coming();
        if coming.get(&arrival.digest).is_some_and(|known| Arc::ptr_eq(known, arrival)) {
            coming.remove(&arrival.digest);
        }
    }

    pub(super) fn give_up(&self, digest: Digest) {
        let mut given_up = self.given_up();
        given_up.retain(|_, since| since.elapsed() < GIVEN_UP_FOR);
        given_up.insert(digest, Instant::now());
    }

    pub(super) fn was_given_up(&self, digest: &Digest) -> bool {
        self.given_up().get(digest).is_some_and(|since| since.elapsed() < GIVEN_UP_FOR)
    }

    fn coming(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Arrival>>> {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn given_up(&self) -> MutexGuard<'_, HashMap<Digest, Instant>> {
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival").field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl fmt::Debug for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrivals").field("coming", &self.coming().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        cluster::NodeId,
        content::{BlobHash, Hashed},
        oci::Algorithm,
    };

    const LENGTH: usize = 300_000;

    fn sums_of_bytes(bytes: &[u8]) -> Vec<u32> {
        bytes.chunks(SEGMENT_BYTES as usize).map(crc32c::crc32c).collect()
    }

    fn bytes() -> Bytes {
        (0..LENGTH).map(|at| (at % 251) as u8).collect::<Vec<u8>>().into()
    }

    fn table() -> Arc<ChunkTable> {
        let mut hash = BlobHash::with_table(Algorithm::Sha256);
        hash.update(&bytes());
        let Hashed { table, .. } = hash.finish();
        Arc::new(table.expect("it was wanted"))
    }

    fn arrival() -> Arrival {
        let node = Peer { id: NodeId::new(1), address: "127.0.0.1:1".parse().unwrap() };
        let from = Filler { node, fill: 7, blob_bytes: LENGTH as u64 };
        let repository = "a/b".parse().unwrap();
        let origin = Origin { upstream: "other.example".to_owned(), repository };
        Arrival::new(Digest::of(Algorithm::Sha256, &bytes()), (origin, from))
    }

    #[test]
    fn what_has_come_is_held_against_the_table_that_comes_later() {
        let (sums, segment) = (sums_of_bytes(&bytes()), SEGMENT_BYTES as usize);
        let arrival = arrival();
        arrival.note(2, &sums[2..4]).unwrap();
        arrival.note(0, &sums[..1]).unwrap();
        arrival.note(2, &sums[2..3]).unwrap();
        arrival.hold_against(table()).unwrap();
        arrival.note(1, &sums[1..2]).unwrap();
        let mut damaged = bytes().to_vec();
        damaged[3 * segment] ^= 1;
        let damaged = sums_of_bytes(&damaged);
        assert!(arrival.note(3, &damaged[3..4]).is_err());
    }

    #[test]
    fn a_wrong_part_is_found_when_the_table_comes() {
        let mut damaged = bytes().to_vec();
        damaged[LENGTH - 1] ^= 1;
        let arrival = arrival();
        arrival.note(0, &sums_of_bytes(&damaged)).unwrap();
        assert!(arrival.hold_against(table()).is_err());
    }

    #[test]
    fn parts_that_came_twice_and_differ_are_an_error() {
        let arrival = arrival();
        arrival.note(1, &[1, 2]).unwrap();
        assert!(arrival.note(2, &[3]).is_err());
    }
}
