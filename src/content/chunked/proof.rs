//! What the bytes of chunks are held against before anybody reads them.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use moka::future::Cache;

use super::{
    Chunked, Place, arrival::Arrival, corrupt, source::Source, survey::Survey,
    swarm::table::FromOwner, unavailable,
};
use crate::{
    cache::{ChunkLayout, SEGMENT_BYTES},
    content::{
        BlobHash, ChunkTable, Hashed,
        hash::{HASH_BATCH_BYTES, HashPipeline},
    },
    oci::Digest,
    runtime::{SingleFlight, Tasks},
    storage::{self, Error, Fault, layout},
};

/// Memory for the tables of blobs that were read last: those of 512 GiB.
const TABLES_BYTES: u64 = 32 << 20;

/// What an entry takes beside its table.
const ENTRY_BYTES: u64 = 300;

/// How often a stored table is asked for whose bytes stop coming.
const TABLE_ATTEMPTS: usize = 3;

/// What bytes of a blob are held against.
#[derive(Clone, Debug)]
pub(super) enum Proof {
    /// The sums of its parts.
    Table(Arc<ChunkTable>),
    /// Nothing yet, because another program has stored it: bytes are passed on as they are, while it is found out
    /// whether they are right.
    Survey(Arc<Survey>),
    /// Nothing yet, because it is on its way from another registry: sums are taken of what is passed on.
    Arrival(Arc<Arrival>),
}

impl Proof {
    /// What has to be read to check `part`.
    pub(super) fn parts_around(&self, part: Range<u64>) -> Range<u64> {
        let blob_bytes = match self {
            Self::Table(table) => table.blob_bytes(),
            Self::Arrival(arrival) => arrival.blob_bytes,
            Self::Survey(_) => return part,
        };
        let end = part.end.next_multiple_of(SEGMENT_BYTES).min(blob_bytes);
        part.start - part.start % SEGMENT_BYTES..end
    }
}

/// What is known to hold bytes against.
#[derive(Debug)]
pub(super) struct Proofs {
    known: Cache<Digest, Proof>,
    finding: SingleFlight<Digest, Result<Proof, Error>>,
}

impl Proofs {
    pub(super) fn new(tasks: Tasks) -> Self {
        let weight = |_: &Digest, proof: &Proof| {
            let table_bytes = match proof {
                Proof::Table(table) => ChunkTable::stored_bytes(table.blob_bytes()),
                Proof::Survey(_) | Proof::Arrival(_) => 0,
            };
            u32::try_from(ENTRY_BYTES + table_bytes).unwrap_or(u32::MAX)
        };
        let known = Cache::builder().max_capacity(TABLES_BYTES).weigher(weight).build();
        Self { known, finding: SingleFlight::new("find a chunk table", tasks) }
    }

    pub(super) async fn know(&self, digest: Digest, proof: Proof) {
        self.known.insert(digest, proof).await;
    }

    pub(super) async fn get(&self, digest: &Digest) -> Option<Proof> {
        self.known.get(digest).await
    }

    pub(super) async fn has_table(&self, digest: &Digest) -> bool {
        matches!(self.known.get(digest).await, Some(Proof::Table(_)))
    }

    pub(super) async fn forget(&self, digest: &Digest) {
        self.known.invalidate(digest).await;
    }
}

impl Chunked {
    /// What bytes of a blob are held against.
    pub(super) async fn proof(
        self: &Arc<Self>,
        digest: Digest,
        blob_bytes: u64,
    ) -> Result<Proof, Error> {
        let arrival = self.arrivals.get(&digest);
        let arrival = arrival.filter(|_| blob_bytes > ChunkLayout::BEGINNING_BYTES);
        match (self.proofs.known.get(&digest).await, arrival) {
            (Some(table @ Proof::Table(_)), _) => return Ok(table),
            (_, Some(arrival)) => return Ok(Proof::Arrival(arrival)),
            (Some(survey), None) => return Ok(survey),
            (None, None) => {}
        }
        let finding = Arc::clone(self).find_proof(digest, blob_bytes);
        let found = self.proofs.finding.run(digest, finding).await;
        found.unwrap_or_else(|abandoned| Err(unavailable(&digest, abandoned)))
    }

    /// What the bytes of a chunk are held against. The last one of a blob on its way from another registry waits until
    /// there is a chunk table, which all others are held against then.
    pub(super) async fn proof_of(self: &Arc<Self>, place: &Place) -> Result<Proof, Error> {
        loop {
            match self.proof(place.key.digest, place.blob_bytes).await? {
                Proof::Arrival(arrival) if place.range.end == place.blob_bytes => {
                    arrival.proof().await?;
                    if !self.proofs.has_table(&place.key.digest).await {
                        // There is none; whether the storage has the right bytes is found out from there.
                        arrival.leaves_all().await?;
                    }
                }
                other => return Ok(other),
            }
        }
    }

    /// Knows the table of a blob that is about to be kept.
    pub(in crate::content) async fn know_table_of(&self, digest: &Digest, table: &ChunkTable) {
        if table.blob_bytes() > ChunkLayout::BEGINNING_BYTES {
            self.proofs.know(*digest, Proof::Table(Arc::new(table.clone()))).await;
        }
    }

    /// Keeps the table of a blob in the storage, unless it is so short that reading it whole is as good.
    pub(in crate::content) async fn keep_table(&self, digest: &Digest, table: ChunkTable) {
        if table.blob_bytes() <= ChunkLayout::BEGINNING_BYTES {
            return;
        }
        let key = layout::chunk_table(digest);
        if let Err(error) = self.storage.put(&key, table.encode(digest)).await {
            tracing::warn!(%key, %error, "a chunk table could not be kept; it is made again from the blob");
        }
        self.proofs.know(*digest, Proof::Table(Arc::new(table))).await;
    }

    async fn find_proof(self: Arc<Self>, digest: Digest, blob_bytes: u64) -> Result<Proof, Error> {
        if blob_bytes > ChunkLayout::BEGINNING_BYTES
            && let FromOwner::Said(table) = self.table_from_owner(digest, blob_bytes).await
        {
            return Ok(self.know_table(digest, blob_bytes, table).await);
        }
        self.proof_here(digest, blob_bytes).await
    }

    /// What bytes of a blob are held against, without asking other nodes.
    pub(super) async fn proof_here(
        self: &Arc<Self>,
        digest: Digest,
        blob_bytes: u64,
    ) -> Result<Proof, Error> {
        if let Some(known) = self.proofs.known.get(&digest).await {
            return Ok(known);
        }
        let table = if blob_bytes <= ChunkLayout::BEGINNING_BYTES {
            Some(self.table_of_whole(digest, blob_bytes).await?)
        } else {
            self.stored_table(&digest, blob_bytes).await?
        };
        Ok(self.know_table(digest, blob_bytes, table).await)
    }

    async fn know_table(
        &self,
        digest: Digest,
        blob_bytes: u64,
        table: Option<ChunkTable>,
    ) -> Proof {
        let proof = match table {
            Some(table) => Proof::Table(Arc::new(table)),
            None => Proof::Survey(Arc::new(Survey::new(digest, blob_bytes))),
        };
        self.proofs.know(digest, proof.clone()).await;
        proof
    }

    /// The table that was kept when the blob came; `None` if there is none that can be used.
    pub(super) async fn stored_table(
        &self,
        digest: &Digest,
        blob_bytes: u64,
    ) -> Result<Option<ChunkTable>, Error> {
        let key = layout::chunk_table(digest);
        let mut attempts = 1;
        let form = loop {
            let limit_bytes = ChunkTable::stored_bytes(blob_bytes);
            match storage::read(&*self.storage, &key, limit_bytes).await {
                Ok(form) => break form,
                Err(Error::NotFound { .. }) => return Ok(None),
                // Too long.
                Err(Error::Failed { fault: Fault::Corrupt, .. }) => break Bytes::new(),
                Err(error) if error.is_retryable() && attempts < TABLE_ATTEMPTS => attempts += 1,
                Err(error) => return Err(error),
            }
        };
        let table = ChunkTable::decode(&form, digest);
        let table = table.filter(|table| table.blob_bytes() == blob_bytes);
        if table.is_none() {
            tracing::warn!(%key, "a chunk table is damaged; it is made again from the blob");
        }
        Ok(table)
    }

    /// The table of a short blob, for which all of it is read.
    async fn table_of_whole(
        self: &Arc<Self>,
        digest: Digest,
        blob_bytes: u64,
    ) -> Result<ChunkTable, Error> {
        let mut source = Source::new(self, (digest, blob_bytes), 0..blob_bytes);
        let mut pipeline = self.hash_pipeline(&digest);
        while source.left_bytes() > 0 {
            let bytes = source.next(u64::MAX).await?;
            pipeline.update(bytes).await.map_err(|error| unavailable(&digest, error))?;
        }
        self.verified(digest, pipeline).await
    }

    pub(super) fn hash_pipeline(&self, digest: &Digest) -> HashPipeline {
        let hash = BlobHash::with_table(digest.algorithm());
        HashPipeline::new(self.hash_threads.clone(), hash, HASH_BATCH_BYTES)
    }

    /// The table of a blob of which all bytes went into `pipeline`, if they are the right ones.
    pub(super) async fn verified(
        &self,
        digest: Digest,
        pipeline: HashPipeline,
    ) -> Result<ChunkTable, Error> {
        let hash = pipeline.finish().await.map_err(|error| unavailable(&digest, error))?;
        match hash.finish() {
            Hashed { digest: actual, table: Some(table) } if actual == digest => Ok(table),
            Hashed { digest: actual, .. } => {
                self.pond.mismatched();
                Err(corrupt(&digest, format!("the bytes hash to {actual}")))
            }
        }
    }
}

/// Bytes that come one after the other, held against what they should be.
#[derive(Debug)]
pub(super) struct Check<'p> {
    table: Option<&'p ChunkTable>,
    position: u64,
    /// Of the part that has begun; `None` if its beginning was not seen.
    sum: Option<u32>,
    /// Where the bytes end that may be read.
    checked_end: u64,
}

impl<'p> Check<'p> {
    /// For bytes from `position` on.
    pub(super) fn of(proof: &'p Proof, position: u64) -> Self {
        let table = match proof {
            Proof::Table(table) => Some(&**table),
            Proof::Survey(_) | Proof::Arrival(_) => None,
        };
        let is_at_beginning = position.is_multiple_of(SEGMENT_BYTES);
        let sum = is_at_beginning.then_some(0);
        Self { table, position, sum, checked_end: position }
    }

    /// Where the bytes end that may be read.
    pub(super) const fn checked_end(&self) -> u64 {
        self.checked_end
    }

    /// Takes in the next bytes. Says whether they are what they should be, as far as can be told now.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> bool {
        let Some(table) = self.table else {
            self.position += bytes.len() as u64;
            self.checked_end = self.position;
            return true;
        };
        while !bytes.is_empty() {
            let Some((end, expected)) = table.part_at(self.position) else { return false };
            let room = usize::try_from(end - self.position).unwrap_or(usize::MAX);
            let (part, later) = bytes.split_at(room.min(bytes.len()));
            self.sum = self.sum.map(|sum| crc32c::crc32c_append(sum, part));
            self.position += part.len() as u64;
            if self.position == end {
                if self.sum.is_some_and(|sum| sum != expected) {
                    return false;
                }
                self.sum = Some(0);
                self.checked_end = end;
            }
            bytes = later;
        }
        true
    }

    /// Forgets the bytes that have not been found right.
    pub(super) fn go_back(&mut self) {
        self.position = self.checked_end;
        self.sum = self.position.is_multiple_of(SEGMENT_BYTES).then_some(0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::Algorithm;

    const LENGTH: usize = 200_000;

    fn bytes() -> Vec<u8> {
        (0..LENGTH).map(|at| (at % 251) as u8).collect()
    }

    fn proof() -> Proof {
        let mut hash = BlobHash::with_table(Algorithm::Sha256);
        hash.update(&bytes());
        Proof::Table(Arc::new(hash.finish().table.expect("it was wanted")))
    }

    proptest! {
        #[test]
        fn nothing_is_passed_from_a_wrong_byte_on(
            start in 0_usize..4,
            wrong in 0_usize..LENGTH,
            piece_bytes in 1_usize..100_000,
        ) {
            let (proof, mut damaged) = (proof(), bytes());
            damaged[wrong] ^= 1;
            let start = start * SEGMENT_BYTES as usize;
            let mut check = Check::of(&proof, start as u64);
            let stopped = damaged[start..].chunks(piece_bytes).find(|piece| !check.take(piece));
            prop_assert_eq!(stopped.is_some(), wrong >= start);
            let passed = check.checked_end() as usize;
            if wrong < start {
                prop_assert_eq!(passed, LENGTH);
            } else {
                prop_assert!(passed <= wrong && wrong - passed < SEGMENT_BYTES as usize);
                check.go_back();
                prop_assert!(check.take(&bytes()[passed..]));
                prop_assert_eq!(check.checked_end() as usize, LENGTH);
            }
        }
    }

    #[test]
    fn a_part_whose_beginning_was_not_seen_is_passed_and_what_follows_is_checked() {
        let (proof, mut bytes) = (proof(), bytes());
        bytes[70_000] ^= 1;
        let mut check = Check::of(&proof, 10);
        assert!(check.take(&bytes[10..65_536]) && check.checked_end() == 65_536);
        assert!(!check.take(&bytes[65_536..]));
    }

    #[test]
    fn more_than_the_blob_has_is_wrong() {
        let (proof, bytes) = (proof(), bytes());
        let mut check = Check::of(&proof, 0);
        assert!(check.take(&bytes) && !check.take(b"x"));
    }

    #[test]
    fn what_it_takes_to_check_a_part_is_whole_parts() {
        let proof = proof();
        let expected =
            [(0..1, 0..65_536), (65_535..65_537, 0..131_072), (199_999..200_000, 196_608..200_000)];
        for (part, around) in expected {
            assert_eq!(proof.parts_around(part), around);
        }
        let unknown = Proof::Survey(Arc::new(Survey::new(Digest::of(Algorithm::Sha256, b""), 9)));
        assert_eq!(unknown.parts_around(3..5), 3..5);
    }
}
