//! Chunk tables from other nodes, so that the storage is asked for each only once.

use std::{sync::Arc, time::Duration};

use futures_util::TryStreamExt;

use super::{super::Chunked, missing};
use crate::{
    cluster::{
        Epoch, Item, Peer,
        exchange::Role,
        wire::{Answer, Ask, PartBody, PartKind, PartName},
    },
    content::ChunkTable,
    oci::Digest,
    runtime::Pieces,
    storage::{Error, layout},
};

/// How long the bytes of a table may take. They are few.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the owner of a table said.
pub(in crate::content::chunked) enum FromOwner {
    /// Here it is; or there is none.
    Said(Option<ChunkTable>),
    /// It is this node that has to know, or nobody else could be asked.
    Here,
}

impl Chunked {
    /// What this node knows of the others.
    pub(super) fn epoch(&self) -> Epoch {
        let members = self.swarm.as_ref().map(|swarm| &swarm.neighbours.members);
        members.map_or(Epoch::new(0), |members| members.view().epoch())
    }

    pub(super) fn disagrees(&self, ask: &Ask) {
        if let Some(swarm) = &self.swarm {
            swarm.neighbours.members.disagrees(ask.epoch);
        }
    }

    /// The length of a blob, as the storage has it.
    pub(super) async fn stored_length(&self, digest: &Digest) -> Result<u64, Error> {
        let meta = self.storage.head(&layout::blob(digest)).await?;
        self.lengths.insert(*digest, meta.size_bytes).await;
        Ok(meta.size_bytes)
    }

    /// Asks the owner of a chunk table for it, or who comes after it.
    pub(in crate::content::chunked) async fn table_from_owner(
        self: &Arc<Self>,
        digest: Digest,
        blob_bytes: u64,
    ) -> FromOwner {
        let Some(swarm) = &self.swarm else { return FromOwner::Here };
        let owners = swarm.neighbours.members.view().owners(Item::table(&digest));
        for (rank, owner) in owners.iter().enumerate() {
            if owner.id == swarm.neighbours.me.id {
                return FromOwner::Here;
            }
            // It is short, but a slow line may have much to carry before it.
            if rank + 1 < owners.iter().count() && swarm.is_slow(owner.id) {
                continue;
            }
            let role = if rank == 0 { Role::Owner } else { Role::Deputy };
            match self.ask_for_table(*owner, role, (digest, blob_bytes)).await {
                Ok(table) => return FromOwner::Said(table),
                Err(error) => {
                    tracing::debug!(node = %owner.id, %digest, %error, "no chunk table from its owner");
                }
            }
        }
        FromOwner::Here
    }

    pub(super) async fn ask_for_table(
        &self,
        to: Peer,
        role: Role,
        (digest, blob_bytes): (Digest, u64),
    ) -> Result<Option<ChunkTable>, Error> {
        let Some(swarm) = &self.swarm else { return Err(missing(&digest)) };
        let failed =
            |error: Box<dyn std::error::Error + Send + Sync>| super::unavailable(&digest, error);
        let part = PartName { digest, kind: PartKind::Table };
        let ask = swarm.question(part, role, (0, blob_bytes));
        let answered = swarm.put(to, &ask).await;
        let answered = answered.map_err(|error| failed(error.into()))?;
        let (length, body) = match answered.answer {
            Answer::Bytes { length, body, .. } => (length, body),
            Answer::Unknown => return Ok(None),
            Answer::Refer { .. } | Answer::Busy { .. } | Answer::Pass | Answer::Failed { .. } => {
                return Err(failed("the node could not give it".into()));
            }
        };
        if length > ChunkTable::stored_bytes(blob_bytes) {
            return Err(failed("the table is longer than one of such a blob".into()));
        }
        let read = tokio::time::timeout(PATIENCE, whole(body)).await;
        let bytes = read.map_err(|late| failed(late.into()))?;
        let bytes = bytes.map_err(|error| failed(error.into()))?;
        let table = ChunkTable::decode(&bytes, &digest);
        let table = table.filter(|table| table.blob_bytes() == blob_bytes);
        table.map(Some).ok_or_else(|| failed("the table is damaged".into()))
    }
}

pub(super) async fn whole(mut body: PartBody) -> Result<bytes::Bytes, crate::cluster::wire::Error> {
    let mut pieces = Pieces::default();
    while let Some(bytes) = body.try_next().await? {
        pieces.push(bytes);
    }
    Ok(pieces.concat())
}
