//! Where the bytes of a part go.

use std::sync::{Arc, atomic::AtomicU64};

use tokio::sync::{Mutex, oneshot};

use super::super::{
    Chunked, Place,
    fill::{Fill, ShortFill},
};
use crate::{
    cache::{ChunkIndex, ChunkKey, ChunkLayout, Look, Purpose},
    cluster::wire::{PartKind, PartName},
    oci::Digest,
    storage::Error,
};

/// A part's filling, of which one attempt at a time takes hold.
pub(super) type Slot = Arc<Mutex<Filling>>;

/// How many bytes of a short blob have come; 0 of anything else.
pub(super) type Come = Arc<AtomicU64>;

/// Where the bytes of a part go.
#[derive(Debug)]
pub(super) enum Filling {
    /// Nobody knows yet how long the blob is; whoever waits for that is told. If it is short, its bytes are counted as
    /// those of any other.
    Unopened(oneshot::Sender<Result<u64, Error>>, Come),
    /// Into a chunk.
    Chunk(Box<Fill>),
    /// Into the chunks of a short blob, as far as they are missing.
    Short(Box<ShortFill>),
    /// Nowhere any more.
    Over,
}

impl Filling {
    /// Tells whoever waits why nothing more comes.
    pub(super) fn fail(self, error: &Error) {
        match self {
            Self::Unopened(waiting, _) => {
                let _nobody_may_wait = waiting.send(Err(error.clone()));
            }
            Self::Chunk(fill) => fill.1.fail(error.clone()),
            Self::Short(short) => short.fail(error),
            Self::Over => {}
        }
    }

    /// Where it is counted how much of a short blob has come.
    pub(super) fn come(&self) -> Come {
        match self {
            Self::Short(short) => Arc::clone(&short.come),
            Self::Unopened(_, come) => Arc::clone(come),
            Self::Chunk(_) | Self::Over => Come::default(),
        }
    }

    /// Takes it out, because it is done with.
    pub(super) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Over)
    }

    pub(super) fn into_fills(self) -> Vec<Fill> {
        match self {
            Self::Chunk(fill) => vec![*fill],
            Self::Short(short) => short.into_fills(),
            Self::Unopened(..) | Self::Over => Vec::new(),
        }
    }
}

/// Whether a blob is so short that it is exchanged as a whole.
pub(super) const fn is_short(blob_bytes: u64) -> bool {
    blob_bytes <= ChunkLayout::BEGINNING_BYTES
}

/// The part in which a chunk comes.
pub(super) const fn part_of(place: &Place) -> PartName {
    let number = if is_short(place.blob_bytes) { 0 } else { place.key.index.number() };
    PartName { digest: place.key.digest, kind: PartKind::Part(number) }
}

/// The first part of a blob, by which its length is learnt.
pub(super) const fn first_part(digest: Digest) -> PartName {
    PartName { digest, kind: PartKind::Part(0) }
}

impl Chunked {
    /// Where a chunk goes that this node's readers miss: with all others of its blob, if that is short.
    pub(super) fn filling_of(&self, fill: Fill) -> Filling {
        if !is_short(fill.0.blob_bytes) {
            return Filling::Chunk(Box::new(fill));
        }
        let (place, writer) = fill;
        let (own, named) = (place.key.index, (place.key.digest, place.blob_bytes));
        let mut fills = self.missing_chunks(named.0, named.1);
        let at = fills.partition_point(|(other, _)| other.key.index < own);
        fills.insert(at, (place, writer));
        Filling::Short(Box::new(ShortFill::new(self, named, fills)))
    }

    /// Where a part goes that other nodes want; `None` if all of it is here, or comes for somebody else.
    pub(super) fn filling_for_others(&self, part: &PartName, blob_bytes: u64) -> Option<Filling> {
        let PartKind::Part(number) = part.kind else { return None };
        if is_short(blob_bytes) {
            let fills = self.missing_chunks(part.digest, blob_bytes);
            if fills.is_empty() {
                return None;
            }
            let short = ShortFill::new(self, (part.digest, blob_bytes), fills);
            return Some(Filling::Short(Box::new(short)));
        }
        let layout = ChunkLayout::of(blob_bytes);
        let place = Place::of(part.digest, (ChunkIndex::new(number), layout), blob_bytes);
        match self.pond.look(place.key, blob_bytes, Purpose::Ahead) {
            Look::Found(..) => None,
            Look::Missing(_, writer) => Some(Filling::Chunk(Box::new((place, writer)))),
        }
    }

    /// The chunks of a blob that nobody fills and that are not in memory.
    fn missing_chunks(&self, digest: Digest, blob_bytes: u64) -> Vec<Fill> {
        let layout = ChunkLayout::of(blob_bytes);
        let missing = layout.indexes(0..blob_bytes).filter_map(|index| {
            let place = Place::of(digest, (index, layout), blob_bytes);
            match self.pond.look(place.key, blob_bytes, Purpose::Ahead) {
                Look::Found(..) => None,
                Look::Missing(_, writer) => Some((place, writer)),
            }
        });
        missing.collect()
    }

    /// Where a part goes now that the length of its blob is known. Whoever waited for that is told.
    pub(super) async fn open_filling(
        &self,
        filling: &mut Filling,
        digest: Digest,
        blob_bytes: u64,
    ) {
        let Filling::Unopened(_, come) = &*filling else { return };
        let mut opened = if blob_bytes == 0 {
            Filling::Over
        } else {
            self.filling_for_others(&first_part(digest), blob_bytes).unwrap_or(Filling::Over)
        };
        if let Filling::Short(short) = &mut opened {
            short.come = Arc::clone(come);
        }
        // Only now: whoever knows the length may read, and what nobody fills would be fetched once more for that.
        self.lengths.insert(digest, blob_bytes).await;
        if let Filling::Unopened(waiting, _) = std::mem::replace(filling, opened) {
            let _nobody_may_wait = waiting.send(Ok(blob_bytes));
        }
    }

    /// How many bytes of a chunk are here, from its beginning on.
    pub(super) fn received(&self, part: &PartName) -> u64 {
        let PartKind::Part(number) = part.kind else { return 0 };
        let key = ChunkKey { digest: part.digest, index: ChunkIndex::new(number) };
        self.pond.glance(&key).and_then(|chunk| chunk.readable_bytes()).unwrap_or(0)
    }
}
