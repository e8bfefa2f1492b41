//! One attempt to get a part, from another node or from the storage.

use std::sync::{Arc, atomic::Ordering};

use futures_util::TryStreamExt;

use super::{
    super::{
        Chunked, Place as ChunkPlace,
        arrival::sums_of,
        corrupt,
        proof::{Check, Proof},
        source::Source,
        unavailable,
    },
    filling::{Come, Filling, Slot, is_short},
};
use crate::{
    cache::{ChunkIndex, ChunkLayout, ChunkWriter, Origin, SEGMENT_BYTES},
    cluster::{
        NodeId, Peer,
        exchange::{Answer, Attempt, Role, Trouble},
        wire::{self, Ask, PartBody, PartKind, PartName},
    },
    oci::ByteRange,
    storage::{Error, ObjectMeta, ObjectStream, Opened, layout},
};

/// How much of a blob of unknown length is asked for first: a chunk of one that is not large.
const FIRST_BYTES: u64 = 1 << 20;

/// What is to be got, and where it goes.
pub(super) struct Place {
    pub(super) part: PartName,
    pub(super) slot: Slot,
    pub(super) come: Come,
}

/// What another node is told beside the name of the part.
pub(super) struct Words {
    pub(super) role: Role,
    pub(super) hop: u8,
    pub(super) avoid: Arc<[NodeId]>,
    pub(super) is_served: bool,
    pub(super) load: u32,
    pub(super) rate: u64,
}

impl Chunked {
    /// Asks a node for a part, and takes in what it gives.
    pub(super) async fn ask(
        self: Arc<Self>,
        attempt: Attempt,
        to: Peer,
        words: Words,
        place: Place,
    ) {
        let Some(swarm) = &self.swarm else { return };
        let part = place.part;
        let blob_bytes = self.lengths.get(&part.digest).await;
        let offset = match blob_bytes {
            Some(blob_bytes) if is_short(blob_bytes) => place.come.load(Ordering::Relaxed),
            Some(_) => self.received(&part),
            None => 0,
        };
        let ask = Ask {
            part,
            from: swarm.neighbours.me,
            role: words.role,
            offset,
            hop: words.hop,
            load: words.load,
            rate: words.rate,
            avoid: words.avoid.to_vec(),
            is_served: words.is_served,
            epoch: swarm.neighbours.members.view().epoch(),
            blob_bytes,
            origin: self.arrivals.get(&part.digest).map(|arrival| arrival.origin.clone()),
        };
        let (answer, body) = self.put(to, &ask).await;
        let is_given = answer == Answer::Bytes;
        self.tell(swarm, |state, now| state.exchange.answered(attempt, answer, now));
        if let Some((blob_bytes, body)) = body.filter(|_| is_given) {
            let taken = self.take_in(&place, (blob_bytes, offset), body).await;
            if matches!(taken, Err((_, Trouble::Broken))) {
                tracing::debug!(node = %to.id, digest = %part.digest, "a part from another node broke off");
            }
            self.end_part(swarm, attempt, taken);
        }
    }

    /// Puts a question, and says what the answer means to the exchange.
    async fn put(&self, to: Peer, ask: &Ask) -> (Answer, Option<(u64, PartBody)>) {
        let Some(swarm) = &self.swarm else { return (Answer::Dead, None) };
        let answered = match swarm.put(to, ask).await {
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
            wire::Answer::Pass => (Answer::Pass, None),
            // It may have heard later than this node that it comes.
            wire::Answer::Unknown if ask.origin.is_some() => (Answer::Failed, None),
            wire::Answer::Unknown => (Answer::Unknown, None),
            wire::Answer::Failed { .. } => (Answer::Failed, None),
        }
    }

    /// Takes in the bytes of a part from `offset` on.
    async fn take_in(
        self: &Arc<Self>,
        place: &Place,
        (blob_bytes, offset): (u64, u64),
        body: PartBody,
    ) -> Result<(), (Error, Trouble)> {
        let digest = place.part.digest;
        let mut filling = place.slot.lock().await;
        self.open_filling(&mut filling, digest, blob_bytes).await;
        let expected = self.lengths.get(&digest).await;
        if expected.is_some_and(|expected| expected != blob_bytes) {
            let what = "another node says that the blob has another length";
            return Err((corrupt(&digest, what), Trouble::Broken));
        }
        // It stays where it is until it is whole: this may be stopped at any time, and another attempt go on with it.
        match &mut *filling {
            Filling::Chunk(fill) => {
                let (place, writer) = &mut **fill;
                let taken = self.take_chunk((place, writer), offset, body).await;
                let proof = taken.map_err(|error| (error, Trouble::Broken))?;
                self.finish_chunk(&mut filling, &proof);
                Ok(())
            }
            Filling::Short(short) => {
                let failed = move |error| unavailable(&digest, error);
                let connection = Box::pin(body.map_err(failed));
                let part = (offset..blob_bytes, connection as ObjectStream);
                let mut source = Source::only(self, (digest, blob_bytes), part);
                // More may have come by another connection since this one was asked for.
                source.skip_to(short.come.load(Ordering::Relaxed)).await;
                let filled = self.fill_short(short, &mut source).await;
                filled.map_err(|error| (error, Trouble::Broken))?;
                self.finish_whole(&mut filling).await.map_err(|error| (error, Trouble::Lost))
            }
            Filling::Unopened(..) | Filling::Over => Ok(()),
        }
    }

    /// Writes the bytes of a chunk that come from another node.
    async fn take_chunk(
        self: &Arc<Self>,
        (place, writer): (&ChunkPlace, &mut ChunkWriter<Error>),
        offset: u64,
        mut body: PartBody,
    ) -> Result<Proof, Error> {
        let digest = place.key.digest;
        // Who had it before may have been stopped in the middle.
        writer.take_back();
        writer.comes_from(Origin::Peer);
        let proof = self.proof_of(place).await?;
        let mut position = place.range.start + offset;
        let mut check = Check::of(&proof, place.range.end - writer.missing_bytes());
        while writer.missing_bytes() > 0 {
            let Some(mut bytes) = body.try_next().await.map_err(|e| unavailable(&digest, e))?
            else {
                return Err(unavailable(&digest, "another node has ended too early"));
            };
            self.swarm.iter().for_each(|swarm| swarm.came(bytes.len()));
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
            writer.offer();
            if !is_right {
                writer.take_back();
                self.pond.mismatched();
                return Err(corrupt(&digest, "another node has given bytes that do not match"));
            }
        }
        self.note_chunk(place, &proof).await?;
        Ok(proof)
    }

    /// Notes what has come of a blob that is on its way from another registry.
    async fn note_chunk(&self, place: &ChunkPlace, proof: &Proof) -> Result<(), Error> {
        let Proof::Arrival(arrival) = proof else { return Ok(()) };
        let digest = place.key.digest;
        let failed = |error| unavailable(&digest, error);
        let Some(mut chunk) = self.pond.glance(&place.key) else { return Ok(()) };
        let Ok(Some((block, _))) = chunk.readable(place.length() - 1).await else { return Ok(()) };
        let summed = tokio::task::spawn_blocking(move || sums_of(&block)).await;
        let sums = summed.map_err(std::io::Error::other).flatten().map_err(failed)?;
        arrival.note(place.range.start / SEGMENT_BYTES, &sums)
    }

    fn finish_chunk(self: &Arc<Self>, filling: &mut Filling, proof: &Proof) {
        let Filling::Chunk(fill) = filling.take() else { return };
        let (place, writer) = *fill;
        let block = writer.finish();
        if let Proof::Survey(survey) = proof {
            survey.filled(self, &place, block);
        }
    }

    /// Keeps a short blob of which all bytes have come. If they are not the right ones, it begins anew.
    async fn finish_whole(&self, filling: &mut Filling) -> Result<(), Error> {
        let Filling::Short(short) = &mut *filling else { return Ok(()) };
        let table = self.verify_short(short).await?;
        if let Filling::Short(short) = filling.take() {
            self.keep_short(*short, table).await;
        }
        Ok(())
    }

    /// Fetches a part from the storage.
    pub(super) async fn fetch(self: Arc<Self>, attempt: Attempt, place: Place) {
        let Some(swarm) = &self.swarm else { return };
        let fetched = self.fetch_part(place.part, &place.slot).await;
        let fetched = fetched.map_err(|error| {
            let trouble = match &error {
                error if error.is_not_found() => Trouble::Unknown,
                error if error.is_retryable() => Trouble::Broken,
                _ => Trouble::Failed,
            };
            (error, trouble)
        });
        self.end_part(swarm, attempt, fetched);
    }

    async fn fetch_part(self: &Arc<Self>, part: PartName, slot: &Slot) -> Result<(), Error> {
        let digest = part.digest;
        let mut filling = slot.lock().await;
        let mut source = None;
        if matches!(*filling, Filling::Unopened(..)) {
            let (blob_bytes, opened) = self.open_first(part).await?;
            self.open_filling(&mut filling, digest, blob_bytes).await;
            source = opened;
        }
        match &mut *filling {
            Filling::Chunk(fill) => {
                let (place, writer) = &mut **fill;
                writer.take_back();
                let position = place.range.end - writer.missing_bytes();
                let rest = position..place.range.end;
                let named = (digest, place.blob_bytes);
                let mut source = source.unwrap_or_else(|| Source::new(self, named, rest));
                let proof = self.proof_of(place).await?;
                self.fill_one((place, writer), &mut source, &proof).await?;
                self.note_chunk(place, &proof).await?;
                self.finish_chunk(&mut filling, &proof);
                Ok(())
            }
            Filling::Short(short) => {
                let (blob_bytes, come) = (short.blob_bytes, short.come.load(Ordering::Relaxed));
                let named = (digest, blob_bytes);
                let mut source =
                    source.unwrap_or_else(|| Source::new(self, named, come..blob_bytes));
                self.fill_short(short, &mut source).await?;
                self.finish_whole(&mut filling).await
            }
            Filling::Unopened(..) | Filling::Over => Ok(()),
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
