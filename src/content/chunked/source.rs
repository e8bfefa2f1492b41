//! Bytes on their way from the storage.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::TryStreamExt;

use super::{Chunked, corrupt, proof::Check, unavailable};
use crate::{
    cache::{ChunkWriter, Origin},
    oci::{ByteRange, Digest},
    storage::{Error, Fault, ObjectStream, layout},
};

/// So many bytes that came before a connection broke off are worth that another one is asked for.
const WORTH_A_REQUEST_BYTES: u64 = 256 << 10;

/// How often in a row that is done because less than that has come, or something wrong.
const BREAKS_MOST: usize = 3;

/// Pause before the node that fetches a blob is asked again.
const ARRIVAL_PAUSE: Duration = Duration::from_millis(50);

/// A part of a blob, byte for byte, whatever happens to the connections that bring it.
pub(super) struct Source {
    chunked: Arc<Chunked>,
    digest: Digest,
    blob_bytes: u64,
    /// What has not been handed out.
    part: Range<u64>,
    connection: Option<ObjectStream>,
    /// What has come and not been handed out.
    here: Bytes,
    /// What this connection has brought.
    brought_bytes: u64,
    breaks: usize,
    /// Whether it may be asked for again.
    supply: Supply,
}

/// Where bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Supply {
    /// The storage, by as many connections as it takes.
    Storage,
    /// One connection, from another node.
    Node,
}

impl Source {
    /// A part for which there is no connection yet.
    pub(super) fn new(
        chunked: &Arc<Chunked>,
        (digest, blob_bytes): (Digest, u64),
        part: Range<u64>,
    ) -> Self {
        Self {
            chunked: Arc::clone(chunked),
            digest,
            blob_bytes,
            part,
            connection: None,
            here: Bytes::new(),
            brought_bytes: 0,
            breaks: 0,
            supply: Supply::Storage,
        }
    }

    /// A part that comes by one connection and no other.
    pub(super) fn only(
        chunked: &Arc<Chunked>,
        (digest, blob_bytes): (Digest, u64),
        (part, connection): (Range<u64>, ObjectStream),
    ) -> Self {
        let source = Self::new(chunked, (digest, blob_bytes), part);
        Self { supply: Supply::Node, ..source.through(connection) }
    }

    /// Waits until the next byte is here.
    pub(super) async fn begin(&mut self) -> Result<(), Error> {
        let comes_later = self.chunked.arrivals.get(&self.digest).is_some();
        if self.left_bytes() > 0 && (self.supply == Supply::Node || comes_later) {
            self.await_bytes().await?;
        }
        Ok(())
    }

    /// The same with the connection that brings it.
    pub(super) fn through(self, connection: ObjectStream) -> Self {
        Self { connection: Some(connection), ..self }
    }

    /// Where its bytes come from.
    pub(super) const fn origin(&self) -> Origin {
        match self.supply {
            Supply::Storage => Origin::Storage,
            Supply::Node => Origin::Peer,
        }
    }

    /// The place of the next byte within the blob.
    pub(super) const fn position(&self) -> u64 {
        self.part.start
    }

    /// Bytes that have not been handed out.
    pub(super) const fn left_bytes(&self) -> u64 {
        self.part.end - self.part.start
    }

    /// The next bytes, at least one and at most `limit`.
    ///
    /// # Panics
    /// If there are none left.
    pub(super) async fn next(&mut self, limit: u64) -> Result<Bytes, Error> {
        assert!(self.left_bytes() > 0, "only bytes that the part has are asked for");
        self.await_bytes().await?;
        let length = limit.min(self.left_bytes()).min(self.here.len() as u64);
        self.part.start += length;
        self.brought_bytes += length;
        Ok(self.here.split_to(usize::try_from(length).unwrap_or(usize::MAX)))
    }

    async fn await_bytes(&mut self) -> Result<(), Error> {
        while self.here.is_empty() {
            let connection = match &mut self.connection {
                Some(connection) => connection,
                none => none.insert(
                    open(&self.chunked, (&self.digest, self.blob_bytes), self.part.clone()).await?,
                ),
            };
            match connection.try_next().await {
                Ok(Some(bytes)) => {
                    self.chunked.swarm.iter().for_each(|swarm| swarm.came(bytes.len()));
                    self.here = bytes;
                }
                Ok(None) => {
                    self.lost(unavailable(&self.digest, "the object ends too early")).await?;
                }
                Err(error) => self.lost(error).await?,
            }
        }
        Ok(())
    }

    /// Goes on from a place further on, for which the connection is kept if it brings that soon.
    pub(super) async fn skip_to(&mut self, position: u64) {
        while self.part.start < position && self.connection.is_some() {
            if self.next(position - self.part.start).await.is_err() {
                self.let_go();
            }
        }
        self.jump_to(position);
    }

    /// Goes on from another place, by another connection if it is not the same.
    pub(super) fn jump_to(&mut self, position: u64) {
        if position != self.part.start {
            self.let_go();
            self.part.start = position;
        }
    }

    /// Lets go of the connection, if the next byte can come by another.
    pub(super) fn let_go(&mut self) {
        if self.supply == Supply::Storage {
            self.disconnect();
        }
    }

    fn disconnect(&mut self) {
        self.connection = None;
        self.here = Bytes::new();
        self.brought_bytes = 0;
    }

    /// Writes what is missing of a chunk that begins at `chunk_start`, for which there is memory, and publishes what
    /// has passed `check`.
    pub(super) async fn fill(
        &mut self,
        (writer, chunk_start): (&mut ChunkWriter<Error>, u64),
        check: &mut Check<'_>,
    ) -> Result<(), Error> {
        while writer.missing_bytes() > 0 {
            let bytes = self.next(writer.missing_bytes()).await?;
            writer.write(&bytes).map_err(|error| unavailable(&self.digest, error))?;
            let is_right = check.take(&bytes);
            writer.publish(check.checked_end() - chunk_start);
            if !is_right {
                writer.take_back();
                self.again(check)?;
            } else if self.chunked.is_in_cluster() {
                writer.offer();
            }
        }
        Ok(())
    }

    /// Goes back to where the bytes ended that were right, if it makes sense to ask for the others once more.
    pub(super) fn again(&mut self, check: &mut Check<'_>) -> Result<(), Error> {
        self.chunked.pond.mismatched();
        check.go_back();
        self.jump_to(check.checked_end());
        self.broken(corrupt(&self.digest, "bytes do not match the chunk table"))
    }

    async fn lost(&mut self, error: Error) -> Result<(), Error> {
        let was_worth_it = self.brought_bytes >= WORTH_A_REQUEST_BYTES;
        self.disconnect();
        if !error.is_retryable() || self.supply == Supply::Node {
            return Err(error);
        }
        if self.chunked.arrivals.get(&self.digest).is_some() {
            // It may be silent for long. Who is to give it is seen to elsewhere.
            tokio::time::sleep(ARRIVAL_PAUSE).await;
            return Ok(());
        }
        if was_worth_it {
            self.breaks = 0;
            return Ok(());
        }
        self.broken(error)
    }

    fn broken(&mut self, error: Error) -> Result<(), Error> {
        if self.breaks >= BREAKS_MOST {
            return Err(error);
        }
        self.breaks += 1;
        Ok(())
    }
}

/// Opens a part of a blob of a known length.
async fn open(
    chunked: &Chunked,
    (digest, blob_bytes): (&Digest, u64),
    part: Range<u64>,
) -> Result<ObjectStream, Error> {
    if let Some(arrival) = chunked.arrivals.get(digest)
        && arrival.blob_bytes == blob_bytes
        && let Some(bytes) = chunked.open_arrival(&arrival, part.clone()).await?
    {
        return Ok(bytes);
    }
    let range = ByteRange::Bounded { start: part.start, end: part.end };
    let key = layout::blob(digest);
    let opened = match chunked.storage.open(&key, Some(range)).await {
        Err(Error::NotFound { .. }) if chunked.arrivals.was_given_up(digest) => {
            return Err(unavailable(digest, "it could not be fetched a moment ago"));
        }
        other => other?,
    };
    if opened.meta.size_bytes != blob_bytes {
        chunked.lengths.invalidate(digest).await;
        let what = "the object has another length than before";
        return Err(Error::failed("open", &key, Fault::Corrupt, what));
    }
    opened.bytes.into_stream().await
}
