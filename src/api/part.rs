//! Bytes that one node gives another.

use std::{error::Error as StdError, fmt, pin::Pin, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt, stream};

use super::{
    body::{Body, Copies, Error},
    sendfile::FileLane,
};
use crate::runtime::{BufferPool, Buffers, ByteBudget, FilePiece, Permit, WINDOW_PIECES};

/// How long memory for copies is waited for: less than the other node waits for a byte.
const MEMORY_PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no rest of what another node asked for.
pub type PartError = Box<dyn StdError + Send + Sync>;

/// What another node asked for.
pub enum PartStream {
    /// Bytes that lie in files in memory, or come there. No piece is longer than 4 MiB. An error cuts the connection,
    /// so that the other node knows that something is missing.
    Pieces(Pin<Box<dyn Stream<Item = Result<FilePiece, PartError>> + Send>>),
    /// All bytes at once. A table has to be given so: only then is it proven to come from this node.
    Bytes(Bytes),
}

impl fmt::Debug for PartStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pieces(_) => f.debug_tuple("Pieces").finish_non_exhaustive(),
            Self::Bytes(bytes) => f.debug_tuple("Bytes").field(&bytes.len()).finish(),
        }
    }
}

/// What copies are made in, where a connection has no lane for files.
#[derive(Debug)]
pub(super) struct CopyMemory {
    budget: ByteBudget,
    buffers: Buffers,
}

impl CopyMemory {
    pub(super) fn new(budget: ByteBudget) -> Self {
        Self { budget, buffers: Buffers::new() }
    }

    /// The body with these bytes, past this process if the connection has a lane for them.
    pub(super) fn body(&self, part: PartStream, length_bytes: u64, lane: Option<FileLane>) -> Body {
        match (part, lane) {
            (PartStream::Bytes(bytes), _) => Body::full(bytes),
            (PartStream::Pieces(pieces), Some(lane)) => {
                Body::files(Box::pin(pieces.map_err(Error::Source)), length_bytes, lane)
            }
            (PartStream::Pieces(pieces), None) => {
                let pieces = pieces.map_err(Error::Source);
                Body::copies(self.copies(pieces, length_bytes), length_bytes)
            }
        }
    }

    /// Memory is waited for when the first piece is wanted, because the head of the answer does not need any.
    fn copies(
        &self,
        pieces: impl Stream<Item = Result<FilePiece, Error>> + Send + 'static,
        length_bytes: u64,
    ) -> Copies {
        let pool = self.buffers.for_stream(&self.budget).clone();
        let window_bytes = (WINDOW_PIECES * pool.buffer_bytes() as u64).min(length_bytes);
        let budget = self.budget.clone();
        let paid = async move {
            let permit = budget.acquire_within(window_bytes, MEMORY_PATIENCE).await;
            let permit = permit.map_err(|exhausted| Error::Source(exhausted.into()))?;
            let copied = pieces.map_ok(move |piece| copied(piece, pool.clone(), &permit));
            Ok::<_, Error>(copied.try_flatten())
        };
        Box::pin(stream::once(paid).try_flatten())
    }
}

/// The bytes of a piece, a buffer at a time. They lie in memory, so that nothing is waited for.
fn copied(
    mut piece: FilePiece,
    pool: BufferPool,
    permit: &Permit,
) -> impl Stream<Item = Result<Bytes, Error>> + Send + use<> {
    debug_assert!(permit.bytes() > 0 || piece.is_empty(), "the window is paid for");
    stream::iter(std::iter::from_fn(move || {
        let length = usize::try_from(piece.len()).unwrap_or(usize::MAX).min(pool.buffer_bytes());
        (length > 0).then(|| pool.filled(length, |buffer| piece.read(buffer)).map_err(Error::File))
    }))
}
