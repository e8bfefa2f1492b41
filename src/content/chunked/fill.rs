//! Filling chunks from the storage.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{
    Chunked, Place,
    proof::{Check, Proof},
    source::Source,
    unavailable,
};
use crate::{
    cache::{ChunkLayout, ChunkWriter, Look, Purpose},
    cluster::exchange::Need,
    content::{ChunkTable, hash::HashPipeline},
    oci::{ByteRange, Digest},
    runtime::Permit,
    storage::{Error, ObjectMeta, Opened, layout},
};

/// How often a short blob is fetched whose bytes are not the right ones.
const SHORT_ATTEMPTS: usize = 3;

/// A chunk to be filled.
pub(super) type Fill = (Place, ChunkWriter<Error>);

impl Chunked {
    /// Begins to fill the first chunks, and so learns how long the content is.
    pub(super) async fn open_beginning(self: Arc<Self>, digest: Digest) -> Result<u64, Error> {
        // Whoever began this may have looked for the length just before another one ended that has learnt it.
        if let Some(length) = self.lengths.get(&digest).await {
            return Ok(length);
        }
        if let Some(swarm) = &self.swarm {
            return self.open_with_others(swarm, digest).await;
        }
        let beginning = ByteRange::Bounded { start: 0, end: ChunkLayout::BEGINNING_BYTES };
        let opened = self.storage.open(&layout::blob(&digest), Some(beginning)).await;
        let Opened { meta: ObjectMeta { size_bytes, .. }, range, bytes } = match opened {
            // No byte of an empty object lies in any range.
            Err(Error::RangeOutside { size_bytes: 0, .. }) => {
                self.lengths.insert(digest, 0).await;
                return Ok(0);
            }
            other => other?,
        };
        self.lengths.insert(digest, size_bytes).await;
        let layout = ChunkLayout::of(size_bytes);
        let fills = layout.indexes(range.clone()).filter_map(|index| {
            let place = Place::of(digest, (index, layout), size_bytes);
            match self.pond.look(place.key, size_bytes, Purpose::Ahead) {
                Look::Found(..) => None,
                Look::Missing(_, writer) => Some((place, writer)),
            }
        });
        let fills: Vec<Fill> = fills.collect();
        let source = Source::new(&self, (digest, size_bytes), range);
        let source = source.through(bytes.into_stream().await?);
        let chunked = Arc::clone(&self);
        if size_bytes <= ChunkLayout::BEGINNING_BYTES {
            self.tasks.spawn("fill a short blob", chunked.fill_whole(fills, source));
        } else {
            self.tasks.spawn("fill chunks", chunked.fill_checked(fills, source));
        }
        Ok(size_bytes)
    }

    /// Has chunks of one blob that follow each other filled, as many as possible by one request.
    pub(super) fn fetch_ahead(self: &Arc<Self>, places: impl Iterator<Item = Place>) {
        let mut fills: Vec<Fill> = Vec::new();
        let begin = |fills: &mut Vec<Fill>| {
            if !fills.is_empty() {
                let fills = std::mem::take(fills);
                self.tasks.spawn("fill chunks", Arc::clone(self).fill(fills, Need::Ahead));
            }
        };
        for place in places {
            // Only who reads a chunk counts as one who uses it.
            if self.pond.is_near(&place.key) {
                begin(&mut fills);
                continue;
            }
            match self.pond.look(place.key, place.blob_bytes, Purpose::Ahead) {
                Look::Found(..) => begin(&mut fills),
                Look::Missing(_, writer) => fills.push((place, writer)),
            }
        }
        begin(&mut fills);
    }

    /// Fills chunks of one blob that follow each other from the disk of this machine, or else from the storage or other
    /// nodes.
    pub(super) async fn fill(self: Arc<Self>, fills: Vec<Fill>, need: Need) {
        let mut missing: Vec<Fill> = Vec::new();
        for (place, writer) in fills {
            let digest = place.key.digest;
            match writer.restore().await {
                Ok(None) => {}
                Ok(Some(writer)) => missing.push((place, writer)),
                Err(error) => {
                    tracing::error!(%error, %digest, "there is no memory for a chunk");
                }
            }
        }
        if let Some(swarm) = &self.swarm {
            return missing.into_iter().for_each(|fill| self.want_chunk(swarm, fill, need));
        }
        let (Some((first, writer)), Some((last, _))) = (missing.first(), missing.last()) else {
            return;
        };
        let part = first.range.end - writer.missing_bytes()..last.range.end;
        let source = Source::new(&self, (first.key.digest, first.blob_bytes), part);
        self.fill_checked(missing, source).await;
    }

    /// Fills chunks with what `source` brings, which is held against the table of their blob.
    async fn fill_checked(self: Arc<Self>, fills: Vec<Fill>, mut source: Source) {
        let Some((first, _)) = fills.first() else { return };
        let proof = match self.proof(first.key.digest, first.blob_bytes).await {
            Ok(proof) => proof,
            Err(error) => return fills.into_iter().for_each(|(_, fill)| fill.fail(error.clone())),
        };
        for (place, mut writer) in fills {
            match self.fill_one((&place, &mut writer), &mut source, &proof).await {
                Ok(()) => {
                    let block = writer.finish();
                    if let Proof::Survey(survey) = &proof {
                        survey.filled(&self, &place, block);
                    }
                }
                Err(error) => {
                    writer.fail(error);
                    source.let_go();
                }
            }
        }
    }

    pub(super) async fn fill_one(
        &self,
        (place, writer): (&Place, &mut ChunkWriter<Error>),
        source: &mut Source,
        proof: &Proof,
    ) -> Result<(), Error> {
        let position = place.range.end - writer.missing_bytes();
        writer.comes_from(source.origin());
        source.skip_to(position).await;
        source.begin().await?;
        // Who has to wait for memory lets go of the connection: others may need it to give some back.
        if !writer.begin_now() {
            source.let_go();
            let begun = writer.begin().await;
            begun.map_err(|error| unavailable(&place.key.digest, error))?;
        }
        source.fill((writer, place.range.start), &mut Check::of(proof, position)).await
    }

    /// Fills all chunks of a short blob, which are kept only if the whole has its digest.
    async fn fill_whole(self: Arc<Self>, fills: Vec<Fill>, mut source: Source) {
        let Some((first, _)) = fills.first() else { return };
        let mut short = ShortFill::new(&self, (first.key.digest, first.blob_bytes), fills);
        match self.fetch_short(&mut short, &mut source).await {
            Ok(table) => self.keep_short(short, table).await,
            Err(error) => short.fail(&error),
        }
    }

    /// Fetches a short blob until its bytes are the right ones: they may have been damaged on the way.
    async fn fetch_short(
        &self,
        short: &mut ShortFill,
        source: &mut Source,
    ) -> Result<ChunkTable, Error> {
        let mut attempts = 1;
        loop {
            self.fill_short(short, source).await?;
            match self.verify_short(short).await {
                Err(_) if attempts < SHORT_ATTEMPTS => attempts += 1,
                verified => return verified,
            }
            source.jump_to(0);
        }
    }

    /// Writes what comes of a short blob into its chunks. Other nodes can read it as it comes; clients when all of it was
    /// found right ([`Chunked::keep_short`]).
    ///
    /// # Cancel safety
    /// What has come is not lost: the rest can be had from another source.
    pub(super) async fn fill_short(
        &self,
        short: &mut ShortFill,
        source: &mut Source,
    ) -> Result<(), Error> {
        let digest = short.digest;
        let failed = |error: std::io::Error| unavailable(&digest, error);
        source.begin().await?;
        let memory = match short.memory.clone() {
            Some(memory) => memory,
            None => self.memory_for(short, source).await,
        };
        short.fills.iter_mut().for_each(|(_, writer)| writer.comes_from(source.origin()));
        while source.left_bytes() > 0 {
            let position = source.position();
            let fill = short.fill_at(position);
            let next_end = match &fill {
                Some((place, _)) if place.range.start <= position => place.range.end,
                Some((place, _)) => place.range.start,
                None => short.blob_bytes,
            };
            let bytes = source.next(next_end - position).await?;
            let fill = short.fill_at(position).filter(|(place, _)| place.range.start <= position);
            if let Some((place, writer)) = fill {
                if place.range.start == position {
                    writer.begin_with(&memory).map_err(failed)?;
                }
                writer.write(&bytes).map_err(failed)?;
                if self.is_in_cluster() {
                    writer.offer();
                }
            }
            short.come.store(source.position(), Ordering::Relaxed);
            short.pipeline.update(bytes).await.map_err(|error| unavailable(&digest, error))?;
        }
        Ok(())
    }

    /// Memory for all chunks of a short blob. In one go: who waits for more with some in hand may wait for ever.
    async fn memory_for(&self, short: &mut ShortFill, source: &mut Source) -> Arc<Permit> {
        let memory_bytes = short.fills.iter().map(|(_, writer)| writer.chunk_bytes()).sum();
        let memory = match self.pond.memory_now(memory_bytes) {
            Some(memory) => memory,
            None => {
                source.let_go();
                self.pond.memory(memory_bytes).await
            }
        };
        short.memory = Some(Arc::clone(&memory));
        memory
    }

    /// The table of a short blob of which all bytes have come.
    ///
    /// # Errors
    /// If they are not the right ones. They are then forgotten, and can come again.
    pub(super) async fn verify_short(&self, short: &mut ShortFill) -> Result<ChunkTable, Error> {
        let digest = short.digest;
        let pipeline = std::mem::replace(&mut short.pipeline, self.hash_pipeline(&digest));
        let verified = self.verified(digest, pipeline).await;
        if verified.is_err() {
            short.begin_again();
        }
        verified
    }

    /// Keeps the chunks of a short blob whose bytes are the right ones.
    pub(super) async fn keep_short(&self, short: ShortFill, table: ChunkTable) {
        self.proofs.know(short.digest, Proof::Table(Arc::new(table))).await;
        short.fills.into_iter().for_each(|(_, writer)| _ = writer.finish());
    }
}

/// A short blob on its way: the chunks it is for, and the hash over what has come.
#[derive(Debug)]
pub(super) struct ShortFill {
    pub(super) digest: Digest,
    pub(super) blob_bytes: u64,
    fills: Vec<Fill>,
    pipeline: HashPipeline,
    memory: Option<Arc<Permit>>,
    /// How many bytes have come, from the first.
    pub(super) come: Arc<AtomicU64>,
}

impl ShortFill {
    pub(super) fn new(
        chunked: &Chunked,
        (digest, blob_bytes): (Digest, u64),
        fills: Vec<Fill>,
    ) -> Self {
        let pipeline = chunked.hash_pipeline(&digest);
        Self { digest, blob_bytes, fills, pipeline, memory: None, come: Arc::default() }
    }

    /// The chunk at a place of the blob, or the next one after it.
    fn fill_at(&mut self, position: u64) -> Option<&mut Fill> {
        self.fills.iter_mut().find(|(place, _)| place.range.end > position)
    }

    /// Forgets what has come, because it is not what it should be. The pipeline is one that has seen nothing.
    fn begin_again(&mut self) {
        self.fills.iter_mut().for_each(|(_, writer)| writer.take_back());
        self.come.store(0, Ordering::Relaxed);
    }

    /// Tells whoever reads the chunks why the rest does not come.
    pub(super) fn fail(self, error: &Error) {
        self.fills.into_iter().for_each(|(_, writer)| writer.fail(error.clone()));
    }

    pub(super) fn into_fills(self) -> Vec<Fill> {
        self.fills
    }
}
