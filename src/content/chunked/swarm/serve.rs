//! What other nodes get from this one.

use std::{
    collections::hash_map::Entry,
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt, poll, stream};
use tokio::sync::oneshot;

use super::{
    super::{Chunked, proof::Proof, reader::Reader},
    State, Wanted,
    filling::is_short,
};
use crate::{
    cache::{ChunkIndex, ChunkKey, ChunkLayout},
    cluster::{
        exchange::{AskId, Incoming, Reply, Role, Stock},
        wire::{Answer, Ask, PartKind},
    },
    oci::Digest,
    runtime::FilePiece,
    storage::{Error, Fault, layout},
};

/// How long another node waits until it is known how long a blob is, before it is told to come back.
const OPENING: Duration = Duration::from_millis(250);

/// Why the length of a blob is not known.
enum Unknown {
    /// It is being asked for.
    NotYet,
    For(Error),
}

/// What another node has asked for.
pub enum Part {
    /// Bytes of chunks, as they are here or come.
    Bytes(PartBytes),
    /// A chunk table as it is stored.
    Table(Bytes),
}

/// The bytes of a part, from where they were asked for to its end.
pub type PartBytes = Pin<Box<dyn Stream<Item = Result<FilePiece, Error>> + Send>>;

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes(_) => "Part(Bytes)",
            Self::Table(_) => "Part(Table)",
        })
    }
}

impl Chunked {
    /// Answers another node.
    ///
    /// # Cancel safety
    /// Dropping the future, or what it returns, tells the exchange that whoever asked has gone.
    pub(in crate::content) async fn answer(self: Arc<Self>, ask: Ask) -> Answer<Part> {
        if ask.epoch != self.epoch() {
            self.disagrees(&ask);
        }
        let digest = ask.part.digest;
        if let PartKind::Incoming { fill, .. } = ask.part.kind {
            return self.answer_incoming(&ask, fill).await;
        }
        if let (Some(origin), Role::Owner | Role::Deputy) = (&ask.origin, ask.role)
            && !self.learn(digest, origin).await
        {
            return Answer::Busy { after: OPENING };
        }
        if let Some(early) = self.answer_early(&ask) {
            return early;
        }
        let blob_bytes = match self.length_for(&ask).await {
            Ok(Some(blob_bytes)) => blob_bytes,
            Ok(None) => return Answer::Unknown,
            Err(Unknown::NotYet) => {
                let early = self.answer_early(&ask);
                return early.unwrap_or(Answer::Busy { after: OPENING / 4 });
            }
            Err(Unknown::For(error)) if error.is_not_found() => return Answer::Unknown,
            Err(Unknown::For(error)) => {
                return Answer::Failed { is_retryable: error.is_retryable() };
            }
        };
        let Some(range) = range_of(&ask, blob_bytes) else { return Answer::Unknown };
        match ask.part.kind {
            PartKind::Table => self.answer_table(digest, blob_bytes, ask.hop).await,
            PartKind::Part(_) => self.answer_part(ask, (blob_bytes, range)).await,
            PartKind::Incoming { .. } => Answer::Unknown,
        }
    }

    /// What comes to this node from another registry, as it comes.
    async fn answer_incoming(&self, ask: &Ask, number: u64) -> Answer<Part> {
        let fill = self.fills.join(&ask.part.digest).filter(|fill| fill.number() == number);
        let Some(fill) = fill else { return Answer::Unknown };
        let begun = tokio::time::timeout(OPENING, fill.clone().size_bytes()).await;
        let blob_bytes = match begun {
            Err(_elapsed) => return Answer::Busy { after: OPENING },
            Ok(Err(_failed)) => return Answer::Unknown,
            Ok(Ok(blob_bytes)) => blob_bytes,
        };
        let Some(range) = range_of(ask, blob_bytes) else { return Answer::Unknown };
        let (length, key) = (range.end - range.start, layout::blob(&ask.part.digest));
        let traffic = self.swarm.as_ref().map(|swarm| Arc::clone(&swarm.traffic));
        match fill.pieces(range).await {
            Ok(pieces) => {
                let failed = move |error| Error::failed("fill", &key, Fault::Unavailable, error);
                let pieces = pieces.map_err(failed).inspect_ok(move |piece| {
                    traffic.iter().for_each(|traffic| traffic.sent(piece.len()));
                });
                Answer::Bytes { blob_bytes, length, body: Part::Bytes(Box::pin(pieces)) }
            }
            Err(_failed) => Answer::Unknown,
        }
    }

    /// Answers a question for a part of a blob of unknown length, if that is known without it.
    fn answer_early(self: &Arc<Self>, ask: &Ask) -> Option<Answer<Part>> {
        let swarm = self.swarm.as_ref()?;
        let is_known = ask.blob_bytes.is_some() || matches!(ask.part.kind, PartKind::Table);
        if is_known || ask.role == Role::Holder {
            return None;
        }
        let mut state = swarm.state();
        let early = state.exchange.asked_early(&incoming(ask), swarm.now());
        self.act(swarm, &mut state);
        early.map(|_passed_on| Answer::Pass)
    }

    /// The length of the blob that is asked for. A holder knows it or does not have the part.
    async fn length_for(self: &Arc<Self>, ask: &Ask) -> Result<Option<u64>, Unknown> {
        let digest = &ask.part.digest;
        if let Some(known) = self.lengths.get(digest).await {
            return Ok(Some(known));
        }
        if let Some(told) = ask.blob_bytes {
            return Ok(Some(told));
        }
        match (ask.role, ask.hop) {
            // It may have asked for the part itself, and be about to learn how long the blob is.
            (Role::Holder, _) => match self.openings.running(digest) {
                Some(opening) => {
                    let opened = tokio::time::timeout(OPENING, opening.ended()).await;
                    Ok(opened.ok().and_then(|ended| ended.ok()?.ok()))
                }
                None => Ok(None),
            },
            // Not for long: what is open takes its turn with everything else that is fetched.
            (Role::Owner | Role::Deputy, 0) => {
                let length = tokio::time::timeout(OPENING, self.length(digest, None)).await;
                length.map_or(Err(Unknown::NotYet), |length| length.map(Some).map_err(Unknown::For))
            }
            // Whoever passes it on may wait for this node to say so itself.
            (Role::Owner | Role::Deputy, _) => {
                self.stored_length(digest).await.map(Some).map_err(Unknown::For)
            }
        }
    }

    async fn answer_table(
        self: &Arc<Self>,
        digest: Digest,
        blob_bytes: u64,
        hop: u8,
    ) -> Answer<Part> {
        let proof = match hop {
            0 => self.proof(digest, blob_bytes).await,
            _ => self.proof_here(digest, blob_bytes).await,
        };
        match proof {
            Ok(Proof::Table(table)) => {
                let bytes = table.encode(&digest);
                Answer::Bytes { blob_bytes, length: bytes.len() as u64, body: Part::Table(bytes) }
            }
            Ok(Proof::Survey(_)) => Answer::Unknown,
            // It will be known when all of the blob is.
            Ok(Proof::Arrival(_)) => Answer::Failed { is_retryable: true },
            Err(error) => Answer::Failed { is_retryable: error.is_retryable() },
        }
    }

    async fn answer_part(
        self: Arc<Self>,
        ask: Ask,
        (blob_bytes, range): (u64, std::ops::Range<u64>),
    ) -> Answer<Part> {
        let Some(swarm) = &self.swarm else { return Answer::Unknown };
        let id = AskId(swarm.next_ask.fetch_add(1, Ordering::Relaxed));
        let (reply, replied) = oneshot::channel();
        let digest = ask.part.digest;
        // Before the exchange is told, so that it is told in any case that this has ended.
        let lane = Lane::new(&self, id);
        self.hear(ask, blob_bytes, (id, reply));
        match replied.await {
            Ok(Reply::Serve) => {
                let length = range.end - range.start;
                let reader = Reader::for_node(Arc::clone(&self), digest, (blob_bytes, range));
                let body = Part::Bytes(lane.pieces(reader));
                Answer::Bytes { blob_bytes, length, body }
            }
            Ok(Reply::Refer(peers)) => Answer::Refer { peers },
            Ok(Reply::Busy { after }) => Answer::Busy { after },
            Ok(Reply::Pass) => Answer::Pass,
            Ok(Reply::Unknown) => Answer::Unknown,
            Ok(Reply::Failed) | Err(_) => Answer::Failed { is_retryable: true },
        }
    }

    /// Tells the exchange that a part is asked for.
    fn hear(
        self: &Arc<Self>,
        ask: Ask,
        blob_bytes: u64,
        (id, reply): (AskId, oneshot::Sender<Reply>),
    ) {
        let Some(swarm) = &self.swarm else { return };
        let (item, digest) = (ask.part.item(), ask.part.digest);
        let mut state = swarm.state();
        let stock = self.stock(&mut state, &ask, blob_bytes);
        state.asks.insert(id, reply);
        let wanted = state.wanted.get(&item);
        let received = wanted.map_or(0, |wanted| self.received_of(wanted));
        let incoming = incoming(&ask);
        let now = swarm.now();
        state.exchange.progressed(item, received);
        if stock == Stock::Nothing && self.arrivals.get(&digest).is_some() {
            state.exchange.is_incoming(item);
        }
        state.exchange.asked(id, incoming, stock, now);
        self.act(swarm, &mut state);
    }

    /// What there is of a part. What an owner has nothing of it can begin to get.
    fn stock(&self, state: &mut State, ask: &Ask, blob_bytes: u64) -> Stock {
        let Entry::Vacant(vacant) = state.wanted.entry(ask.part.item()) else {
            return Stock::Nothing;
        };
        if self.has(ask, blob_bytes) {
            return Stock::Whole;
        }
        if ask.role == Role::Holder {
            return Stock::Nothing;
        }
        match self.filling_for_others(&ask.part, blob_bytes) {
            Some(filling) => {
                vacant.insert(Wanted::new(ask.part, filling));
                Stock::Nothing
            }
            // All of it has come in between, or is being read from the disk.
            None => Stock::Whole,
        }
    }

    /// Whether all of a part is in memory or on the disk.
    fn has(&self, ask: &Ask, blob_bytes: u64) -> bool {
        let digest = ask.part.digest;
        let layout = ChunkLayout::of(blob_bytes);
        let is_here = |index: ChunkIndex| self.pond.has(&ChunkKey { digest, index });
        match ask.part.kind {
            PartKind::Table | PartKind::Incoming { .. } => false,
            PartKind::Part(_) if is_short(blob_bytes) => layout.indexes(0..blob_bytes).all(is_here),
            PartKind::Part(number) => is_here(ChunkIndex::new(number)),
        }
    }
}

/// A question, as the exchange knows it.
fn incoming(ask: &Ask) -> Incoming {
    Incoming {
        item: ask.part.item(),
        from: ask.from,
        role: ask.role,
        offset: ask.offset,
        hop: ask.hop,
        load: ask.load,
        rate: ask.rate,
        avoid: ask.avoid.clone(),
        is_served: ask.is_served,
    }
}

/// Which bytes of the blob are asked for; `None` if it has none of them.
fn range_of(ask: &Ask, blob_bytes: u64) -> Option<std::ops::Range<u64>> {
    let part = match ask.part.kind {
        PartKind::Table => return Some(0..0),
        PartKind::Part(0) | PartKind::Incoming { part: 0, .. } if is_short(blob_bytes) => {
            0..blob_bytes
        }
        PartKind::Part(_) | PartKind::Incoming { .. } if is_short(blob_bytes) => return None,
        PartKind::Part(number) | PartKind::Incoming { part: number, .. } => {
            ChunkLayout::of(blob_bytes).range(ChunkIndex::new(number))
        }
    };
    let start = part.start.checked_add(ask.offset)?;
    (start < part.end || (blob_bytes == 0 && ask.offset == 0)).then_some(start..part.end)
}

/// A request that is answered. It counts as busy while it could be sent more at once.
struct Lane {
    chunked: Arc<Chunked>,
    id: AskId,
    lanes_busy: Arc<AtomicUsize>,
    is_busy: bool,
}

impl Lane {
    fn new(chunked: &Arc<Chunked>, id: AskId) -> Self {
        let lanes_busy =
            chunked.swarm.as_ref().map(|swarm| Arc::clone(&swarm.lanes_busy)).unwrap_or_default();
        Self { chunked: Arc::clone(chunked), id, lanes_busy, is_busy: false }
    }

    fn set_busy(&mut self, is_busy: bool) {
        if is_busy && !self.is_busy {
            self.lanes_busy.fetch_add(1, Ordering::Relaxed);
        }
        if !is_busy && self.is_busy {
            self.lanes_busy.fetch_sub(1, Ordering::Relaxed);
        }
        self.is_busy = is_busy;
    }

    /// What is read, as long as whoever asked is there.
    fn pieces(mut self, reader: Reader) -> PartBytes {
        // Until it is known whether there is anything to send.
        self.set_busy(true);
        Box::pin(stream::try_unfold((self, reader), |(mut lane, mut reader)| async move {
            let piece = {
                let mut next = std::pin::pin!(reader.next());
                match poll!(&mut next) {
                    std::task::Poll::Ready(piece) => piece?,
                    std::task::Poll::Pending => {
                        lane.set_busy(false);
                        let piece = next.await?;
                        lane.set_busy(true);
                        piece
                    }
                }
            };
            if let (Some(piece), Some(swarm)) = (&piece, &lane.chunked.swarm) {
                swarm.traffic.sent(piece.len());
            }
            Ok(piece.map(|piece| (piece, (lane, reader))))
        }))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.set_busy(false);
        if let Some(swarm) = &self.chunked.swarm {
            let id = self.id;
            self.chunked.tell(swarm, |state, now| {
                state.asks.remove(&id);
                state.exchange.ask_ended(id, now);
            });
        }
    }
}
