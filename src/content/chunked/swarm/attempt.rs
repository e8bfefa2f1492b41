//! One attempt to get a part, from another node or from the storage.

use std::sync::Arc;

use futures_util::TryStreamExt;

use super::{
    super::{
        Chunked, Place, corrupt,
        proof::{Check, Proof},
        source::Source,
        unavailable,
    },
    filling::{Filling, Slot, is_short},
};
use crate::{
    cache::{ChunkIndex, ChunkLayout, ChunkWriter},
    cluster::{
        NodeId, Peer,
        exchange::{Answer, Attempt, Limits, Role, Trouble},
        wire::{self, Ask, PartBody, PartKind, PartName},
    },
    oci::ByteRange,
    storage::{Error, ObjectMeta, Opened, layout},
};

/// How much of a blob of unknown length is asked for first: a chunk of one that is not large.
const FIRST_BYTES: u64 = 1 << 20;

/// What another node is told beside the name of the part.
pub(super) struct Words {
    pub(super) role: Role,
    pub(super) hop: u8,
    pub(super) avoid: Arc<[NodeId]>,
    pub(super) is_served: bool,
}

impl Chunked {
    /// Asks a node for a part, and takes in what it gives.
    pub(super) async fn ask(
        self: Arc<Self>,
        attempt: Attempt,
        to: Peer,
        words: Words,
        (part, slot): (PartName, Slot),
    ) {
        let Some(swarm) = &self.swarm else { return };
        let blob_bytes = self.lengths.get(&part.digest).await;
        let offset = match blob_bytes {
            Some(blob_bytes) if !is_short(blob_bytes) => self.received(&part),
            _ => 0,
        };
        let is_served = words.is_served;
        let ask = Ask {
            part,
            from: swarm.neighbours.me,
            role: words.role,
            offset,
            hop: words.hop,
            load: u32::try_from(swarm.lanes_busy()).unwrap_or(u32::MAX),
            avoid: words.avoid.to_vec(),
            is_served,
            epoch: swarm.neighbours.members.view().epoch(),
            blob_bytes,
            origin: None,
        };
        let (answer, body) = self.put(to, &ask).await;
        // What of a short blob has been read cannot be taken back, so nobody takes over in the middle of it.
        let is_of_use = !is_served || blob_bytes.is_some_and(|blob_bytes| !is_short(blob_bytes));
        let answer = if answer == Answer::Bytes && !is_of_use {
            Answer::Busy { after: Limits::default().check }
        } else {
            answer
        };
        let is_given = answer == Answer::Bytes;
        self.tell(swarm, |state, now| state.exchange.answered(attempt, answer, now));
        if let Some((blob_bytes, body)) = body.filter(|_| is_given) {
            let taken = self.take_in(&slot, part, (blob_bytes, offset), body).await;
            if matches!(taken, Err((_, Trouble::Broken))) {
                tracing::debug!(node = %to.id, digest = %part.digest, "a part from another node broke off");
            }
            self.end_part(swarm, attempt, taken);
        }
    }

    /// Puts a question, and says what the answer means to the exchange.
    async fn put(&self, to: Peer, ask: &Ask) -> (Answer, Option<(u64, PartBody)>) {
        let Some(swarm) = &self.swarm else { return (Answer::Dead, None) };
        let answered = match swarm.neighbours.client.ask(to, ask).await {
            Ok(answered) if answered.node == to.id => answered,
            // Another node is there now.
            Ok(_) => return (Answer::Dead, None),
            Err(error) => {
                tracing::debug!(node = %to.id, address = %to.address, %error, "a node does not answer");
                return (Answer::Dead, None);
            }
        };
        if answered.epoch != ask.epoch {
            swarm.neighbours.members.disagrees(answered.epoch);
        }
        match answered.answer {
            wire::Answer::Bytes { blob_bytes, body, .. } => {
                (Answer::Bytes, Some((blob_bytes, body)))
            }
            wire::Answer::Refer { peers } => (Answer::Refer(peers), None),
            wire::Answer::Busy { after } => (Answer::Busy { after }, None),
            wire::Answer::Unknown => (Answer::Unknown, None),
            wire::Answer::Failed { .. } => (Answer::Failed, None),
        }
    }

    /// Takes in the bytes of a part from `offset` on.
    async fn take_in(
        self: &Arc<Self>,
        slot: &Slot,
        part: PartName,
        (blob_bytes, offset): (u64, u64),
        body: PartBody,
    ) -> Result<(), (Error, Trouble)> {
        let digest = part.digest;
        let mut filling = slot.lock().await;
        self.open_filling(&mut filling, digest, blob_bytes).await;
        let expected = self.lengths.get(&digest).await;
        if expected.is_some_and(|expected| expected != blob_bytes) {
            let what = "another node says that the blob has another length";
            return Err((corrupt(&digest, what), Trouble::Broken));
        }
        match std::mem::replace(&mut *filling, Filling::Over) {
            Filling::Chunk(place, mut writer) => {
                let taken = self.take_chunk((&place, &mut writer), offset, body).await;
                match taken {
                    Ok(proof) => self.finish_chunk(&place, writer, &proof),
                    Err(error) => {
                        *filling = Filling::Chunk(place, writer);
                        return Err((error, Trouble::Broken));
                    }
                }
                Ok(())
            }
            Filling::Whole(fills) => {
                let failed = move |error| unavailable(&digest, error);
                let stream = Box::pin(body.map_err(failed));
                let source = Source::only(self, (digest, blob_bytes), stream);
                self.fill_whole(fills, source).await.map_err(|error| (error, Trouble::Lost))
            }
            Filling::Unopened(_) | Filling::Over => Ok(()),
        }
    }

    /// Writes the bytes of a chunk that come from another node.
    async fn take_chunk(
        self: &Arc<Self>,
        (place, writer): (&Place, &mut ChunkWriter<Error>),
        offset: u64,
        mut body: PartBody,
    ) -> Result<Proof, Error> {
        let digest = place.key.digest;
        // Who had it before may have been stopped in the middle.
        writer.take_back();
        let proof = self.proof(digest, place.blob_bytes).await?;
        let mut position = place.range.start + offset;
        let mut check = Check::of(&proof, place.range.end - writer.missing_bytes());
        while writer.missing_bytes() > 0 {
            let Some(mut bytes) = body.try_next().await.map_err(|e| unavailable(&digest, e))?
            else {
                return Err(unavailable(&digest, "another node has ended too early"));
            };
            let wanted = place.range.end - writer.missing_bytes();
            let known = wanted.saturating_sub(position).min(bytes.len() as u64);
            position += bytes.len() as u64;
            drop(bytes.split_to(usize::try_from(known).unwrap_or(usize::MAX)));
            let room = usize::try_from(writer.missing_bytes()).unwrap_or(usize::MAX);
            bytes.truncate(room);
            if bytes.is_empty() {
                continue;
            }
            // Only now: who has memory for a chunk that does not come yet keeps it from those that do.
            writer.begin().await.map_err(|error| unavailable(&digest, error))?;
            writer.write(&bytes).map_err(|error| unavailable(&digest, error))?;
            let is_right = check.take(&bytes);
            writer.publish(check.checked_end() - place.range.start);
            if !is_right {
                self.pond.mismatched();
                return Err(corrupt(&digest, "another node has given bytes that do not match"));
            }
        }
        Ok(proof)
    }

    fn finish_chunk(self: &Arc<Self>, place: &Place, writer: ChunkWriter<Error>, proof: &Proof) {
        let block = writer.finish();
        if let Proof::Survey(survey) = proof {
            survey.filled(self, place, block);
        }
    }

    /// Fetches a part from the storage.
    pub(super) async fn fetch(self: Arc<Self>, attempt: Attempt, (part, slot): (PartName, Slot)) {
        let Some(swarm) = &self.swarm else { return };
        let fetched = self.fetch_part(part, &slot).await;
        let fetched = fetched.map_err(|error| {
            let trouble = if error.is_not_found() { Trouble::Unknown } else { Trouble::Failed };
            (error, trouble)
        });
        self.end_part(swarm, attempt, fetched);
    }

    async fn fetch_part(self: &Arc<Self>, part: PartName, slot: &Slot) -> Result<(), Error> {
        let digest = part.digest;
        let mut filling = slot.lock().await;
        let mut source = None;
        if matches!(*filling, Filling::Unopened(_)) {
            let (blob_bytes, opened) = self.open_first(part).await?;
            self.open_filling(&mut filling, digest, blob_bytes).await;
            source = opened;
        }
        match std::mem::replace(&mut *filling, Filling::Over) {
            Filling::Chunk(place, mut writer) => {
                writer.take_back();
                let position = place.range.end - writer.missing_bytes();
                let rest = position..place.range.end;
                let named = (digest, place.blob_bytes);
                let mut source = source.unwrap_or_else(|| Source::new(self, named, rest));
                let fetched = async {
                    let proof = self.proof(digest, place.blob_bytes).await?;
                    self.fill_one((&place, &mut writer), &mut source, &proof).await?;
                    Ok::<_, Error>(proof)
                };
                match fetched.await {
                    Ok(proof) => self.finish_chunk(&place, writer, &proof),
                    Err(error) => {
                        *filling = Filling::Chunk(place, writer);
                        return Err(error);
                    }
                }
                Ok(())
            }
            Filling::Whole(fills) => {
                let Some((first, _)) = fills.first() else { return Ok(()) };
                let blob_bytes = first.blob_bytes;
                let named = (digest, blob_bytes);
                let source = source.unwrap_or_else(|| Source::new(self, named, 0..blob_bytes));
                self.fill_whole(fills, source).await
            }
            Filling::Unopened(_) | Filling::Over => Ok(()),
        }
    }

    /// Opens a blob of unknown length at its beginning. Returns its length, and what brings its first part.
    async fn open_first(self: &Arc<Self>, part: PartName) -> Result<(u64, Option<Source>), Error> {
        let digest = part.digest;
        let beginning = ByteRange::Bounded { start: 0, end: FIRST_BYTES };
        let opened = self.storage.open(&layout::blob(&digest), Some(beginning)).await;
        let Opened { meta: ObjectMeta { size_bytes, .. }, bytes, .. } = match opened {
            // No byte of an empty object lies in any range.
            Err(Error::RangeOutside { size_bytes: 0, .. }) => return Ok((0, None)),
            other => other?,
        };
        debug_assert!(part.kind == PartKind::Part(0), "the length comes with the first part");
        let end = if is_short(size_bytes) {
            size_bytes
        } else {
            ChunkLayout::of(size_bytes).range(ChunkIndex::new(0)).end
        };
        // It brings the first bytes; the rest comes by another request, if there is one.
        let source = Source::new(self, (digest, size_bytes), 0..end);
        Ok((size_bytes, Some(source.through(bytes.into_stream().await?))))
    }
}
