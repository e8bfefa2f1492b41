//! Following a blob on its way to the node that fetches it from another registry.

use std::{sync::Arc, time::Duration};

use futures_util::TryStreamExt;
use tokio::time::{sleep, timeout};

use super::{
    super::{
        Chunked,
        arrival::{Arrival, Filler, Found, Stage},
        proof::Proof,
        unavailable,
    },
    filling::is_short,
    table::whole,
};
use crate::{
    cache::{ChunkKey, ChunkLayout},
    cluster::{
        exchange::Role,
        wire::{Answer, Origin, PartBody, PartKind, PartName},
    },
    content::{ChunkTable, Fill},
    oci::Digest,
    storage::{Error, ObjectStream, layout},
};

/// How often it is looked whether a blob that is known to be right is in the storage.
const STORED_PAUSE: Duration = Duration::from_millis(500);

/// How long to wait before the same node is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// How long it may take to find out who fetches a blob, while another node waits for the answer.
const FINDING: Duration = Duration::from_secs(1);

/// How the node that fetches a blob stands.
enum State {
    /// It is still at it, as far as is known.
    Coming,
    /// It has all of it, and it is right.
    Verified,
    /// It has nothing of it, or not any more.
    Over,
    /// It does not answer.
    Dead,
}

/// What the node that fetches a blob gives of a part.
enum Given {
    Bytes(Box<PartBody>),
    Nothing,
    Later,
    Dead,
}

impl Chunked {
    /// Reads a blob from now on from the node that fetches it, until the storage has it.
    pub(in crate::content) async fn expect(
        self: &Arc<Self>,
        digest: Digest,
        (origin, from): (Origin, Filler),
    ) {
        let Some(swarm) = &self.swarm else { return };
        let (new, before) = self.arrivals.expect(digest, (origin, from));
        if let Some(before) = before {
            // What came by it was never found right, and is not to be mixed with what comes now.
            let error = unavailable(&digest, "it is fetched anew");
            self.end_arrival(&before, Err(error)).await;
        }
        if let Some(arrival) = new {
            self.lengths.insert(digest, from.blob_bytes).await;
            let follow = Arc::clone(self).follow(arrival);
            swarm.neighbours.tasks.spawn("follow a fill", follow);
        }
    }

    /// Finds out where a blob comes from that another node asks for. Says whether that is known, or need not be.
    pub(super) async fn learn(self: &Arc<Self>, digest: Digest, origin: &Origin) -> bool {
        if self.arrivals.get(&digest).is_some() || self.proofs.has_table(&digest).await {
            return true;
        }
        if self.arrivals.was_given_up(&digest) {
            return false;
        }
        match timeout(FINDING, self.find(digest, origin)).await {
            Ok(Some(Found::Coming(from))) => {
                self.expect(digest, (origin.clone(), from)).await;
                true
            }
            Ok(Some(Found::Held)) => true,
            Ok(None) | Err(_) => false,
        }
    }

    async fn find(&self, digest: Digest, origin: &Origin) -> Option<Found> {
        self.finder.get()?.find(digest, origin.clone()).await
    }

    /// The bytes of `part` from the node that fetches the blob; nothing once the storage has it.
    pub(in crate::content::chunked) async fn open_arrival(
        &self,
        arrival: &Arrival,
        part: std::ops::Range<u64>,
    ) -> Result<Option<ObjectStream>, Error> {
        let Some(swarm) = &self.swarm else { return Ok(None) };
        let digest = arrival.digest;
        loop {
            let from = match arrival.stage() {
                Stage::From(from) => from,
                Stage::Over(ended) => return ended.map(|()| None),
            };
            if from.node.id == swarm.neighbours.me.id {
                match self.own_fill(&digest, from) {
                    Some(fill) => {
                        let read = fill.read(part).await;
                        return read.map(Some).map_err(|error| unavailable(&digest, error));
                    }
                    None => arrival.leaves(from).await,
                }
                continue;
            }
            match self.ask_filler(arrival, from, part.start).await {
                Given::Bytes(body) => {
                    let failed = move |error| unavailable(&digest, error);
                    return Ok(Some(Box::pin(body.map_err(failed))));
                }
                Given::Later => sleep(PAUSE).await,
                Given::Nothing | Given::Dead => arrival.leaves(from).await,
            }
        }
    }

    /// Asks the node that fetches a blob for its bytes from `position` to the end of the part that it lies in.
    async fn ask_filler(&self, arrival: &Arrival, from: Filler, position: u64) -> Given {
        let Some(swarm) = &self.swarm else { return Given::Dead };
        let blob_bytes = arrival.blob_bytes;
        let (part, start) = if is_short(blob_bytes) {
            (0, 0)
        } else {
            let layout = ChunkLayout::of(blob_bytes);
            let index = layout.index_at(position);
            (index.number(), layout.range(index).start)
        };
        let part =
            PartName { digest: arrival.digest, kind: PartKind::Incoming { part, fill: from.fill } };
        let ask = swarm.question(part, Role::Holder, (position - start, blob_bytes));
        match swarm.put(from.node, &ask).await {
            Ok(answered) if answered.node == from.node.id => match answered.answer {
                Answer::Bytes { blob_bytes: told, body, .. } if told == blob_bytes => {
                    Given::Bytes(Box::new(body))
                }
                Answer::Bytes { .. } | Answer::Unknown => Given::Nothing,
                Answer::Refer { .. }
                | Answer::Busy { .. }
                | Answer::Pass
                | Answer::Failed { .. } => Given::Later,
            },
            Ok(_) | Err(_) => Given::Dead,
        }
    }

    fn own_fill(&self, digest: &Digest, from: Filler) -> Option<Fill> {
        self.fills.join(digest).filter(|fill| fill.number() == from.fill)
    }

    /// Follows an arrival until the storage has the blob, or it cannot be had.
    async fn follow(self: Arc<Self>, arrival: Arc<Arrival>) {
        let ended = self.follow_to_end(&arrival).await;
        if let Stage::From(_) = arrival.stage() {
            self.end_arrival(&arrival, ended).await;
        }
    }

    async fn end_arrival(self: &Arc<Self>, arrival: &Arc<Arrival>, ended: Result<(), Error>) {
        self.arrivals.remove(arrival);
        let Err(error) = ended else { return arrival.set_stage(Stage::Over(Ok(()))) };
        let digest = arrival.digest;
        tracing::warn!(%digest, %error, "a blob does not come from the node that fetches it");
        if self.arrivals.get(&digest).is_none() {
            self.arrivals.give_up(digest);
        }
        self.drop_arrived(arrival).await;
        arrival.prove(Err(error.clone()));
        arrival.set_stage(Stage::Over(Err(error.clone())));
        self.fail_parts(&digest, &error);
    }

    async fn follow_to_end(self: &Arc<Self>, arrival: &Arrival) -> Result<(), Error> {
        let mut is_proven = false;
        loop {
            let Stage::From(from) = arrival.stage() else { return Ok(()) };
            let state = self.look_at(arrival, from).await;
            match state {
                State::Coming => {}
                State::Verified => {
                    if !is_proven {
                        self.settle(arrival, from).await?;
                        is_proven = true;
                    }
                    tokio::select! {
                        () = sleep(STORED_PAUSE) => {}
                        () = arrival.doubt.notified() => sleep(PAUSE).await,
                    }
                }
                State::Over | State::Dead => {
                    if self.is_stored(&arrival.digest).await? {
                        if !is_proven {
                            self.settle(arrival, from).await?;
                        }
                        return Ok(());
                    }
                    if matches!(state, State::Over) {
                        return Err(unavailable(&arrival.digest, "it could not be fetched"));
                    }
                    self.find_another(arrival, from).await?;
                }
            }
        }
    }

    /// How the node stands that fetches a blob: waits for its last byte, or until somebody doubts that it comes.
    async fn look_at(&self, arrival: &Arrival, from: Filler) -> State {
        let Some(swarm) = &self.swarm else { return State::Over };
        if from.node.id == swarm.neighbours.me.id {
            let Some(fill) = self.own_fill(&arrival.digest, from) else { return State::Over };
            return match fill.ended_well().await {
                true => State::Verified,
                false => State::Over,
            };
        }
        let last = arrival.blob_bytes.saturating_sub(1);
        match self.ask_filler(arrival, from, last).await {
            Given::Dead => State::Dead,
            Given::Nothing => State::Over,
            Given::Later => {
                sleep(PAUSE).await;
                State::Coming
            }
            Given::Bytes(body) => {
                let came = tokio::select! {
                    whole = whole(*body) => whole.is_ok(),
                    () = arrival.doubt.notified() => false,
                };
                if came {
                    return State::Verified;
                }
                sleep(PAUSE).await;
                State::Coming
            }
        }
    }

    async fn is_stored(&self, digest: &Digest) -> Result<bool, Error> {
        match self.storage.head(&layout::blob(digest)).await {
            Ok(_meta) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Has somebody else fetch a blob, because the node that did is gone.
    async fn find_another(&self, arrival: &Arrival, gone: Filler) -> Result<(), Error> {
        let digest = arrival.digest;
        match self.find(digest, &arrival.origin).await {
            Some(Found::Coming(from)) if from.blob_bytes == arrival.blob_bytes => {
                let (gone, node) = (gone.node.id, from.node.id);
                tracing::info!(%digest, %gone, %node, "another node fetches a blob from the start");
                arrival.set_stage(Stage::From(from));
                Ok(())
            }
            // It is seen when it is looked for.
            Some(Found::Held) => Ok(()),
            Some(Found::Coming(_)) | None => {
                Err(unavailable(&digest, "the node that fetched it is gone, and no other does"))
            }
        }
    }

    /// Holds what has come to this node against the chunk table, which there is because the whole is right.
    async fn settle(self: &Arc<Self>, arrival: &Arrival, from: Filler) -> Result<(), Error> {
        if is_short(arrival.blob_bytes) {
            arrival.prove(Ok(()));
            return Ok(());
        }
        match self.table_of(arrival, from).await {
            Some(table) => {
                let right = arrival.hold_against(Arc::clone(&table));
                self.proofs.know(arrival.digest, Proof::Table(table)).await;
                if right.is_err() {
                    self.pond.mismatched();
                }
                right?;
            }
            // Nothing says that what is here is right, so it is got again.
            None => self.drop_arrived(arrival).await,
        }
        arrival.prove(Ok(()));
        Ok(())
    }

    async fn table_of(&self, arrival: &Arrival, from: Filler) -> Option<Arc<ChunkTable>> {
        let (digest, blob_bytes) = (arrival.digest, arrival.blob_bytes);
        if let Some(Proof::Table(table)) = self.proofs.get(&digest).await {
            return Some(table);
        }
        let told = self.ask_for_table(from.node, Role::Owner, (digest, blob_bytes)).await;
        let table = match told {
            Ok(Some(table)) => Some(table),
            Ok(None) | Err(_) => self.stored_table(&digest, blob_bytes).await.ok().flatten(),
        };
        table.map(Arc::new)
    }

    /// Forgets all that has come of a blob.
    async fn drop_arrived(&self, arrival: &Arrival) {
        arrival.close();
        let (digest, blob_bytes) = (arrival.digest, arrival.blob_bytes);
        for index in ChunkLayout::of(blob_bytes).indexes(0..blob_bytes) {
            self.pond.forget(&ChunkKey { digest, index });
        }
    }

    /// Tells those who wait for parts of a blob that it does not come.
    fn fail_parts(self: &Arc<Self>, digest: &Digest, error: &Error) {
        let Some(swarm) = &self.swarm else { return };
        self.tell(swarm, |state, now| {
            let parts = state.wanted.iter_mut().filter(|(_, wanted)| wanted.part.digest == *digest);
            let items: Vec<_> = parts
                .map(|(item, wanted)| {
                    wanted.error = Some(error.clone());
                    *item
                })
                .collect();
            items.into_iter().for_each(|item| state.exchange.is_gone(item, now));
        });
    }
}
