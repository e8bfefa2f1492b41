//! Content by digest, on the shared storage.

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{TryStreamExt, future::join};
use moka::future::Cache;
use tokio::time::timeout;

use super::{
    BlobHash, ChunkTable, ContentBytes, Error, Hashed, Neighbours, Part, Received,
    chunked::{Chunked, Filler, Finder},
    fill::Fills,
    hash::{HASH_BATCH_BYTES, HashPipeline, HashThreads},
};
use crate::{
    cache::Pond,
    cluster::{
        Status,
        wire::{Answer, Ask, Origin},
    },
    oci::{Algorithm, ByteRange, Digest},
    runtime::{BodyStream, ByteBudget, Pieces, Shutdown, Tasks},
    storage::{self, Opened, Piece, SharedStorage, WriteOptions, layout},
};

/// Sizes remembered at once. An entry is about 200 bytes.
const KNOWN_SIZES: u64 = 100_000;

/// Above this length it pays to ask whether the content is there already, before the storage is made to
/// copy it.
const WORTH_ASKING_BYTES: u64 = 64 << 20;

/// How long other nodes may take to bring small content. Who has waited for so long reads the storage.
const OTHERS_PATIENCE: Duration = Duration::from_secs(3);

/// Content that is being read.
pub struct Content {
    /// Length of the whole content in bytes.
    pub size_bytes: u64,
    /// Which of its bytes follow.
    pub range: Range<u64>,
    /// The bytes. They end in an error if not all of them can be given.
    pub bytes: ContentBytes,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").field("range", &self.range).finish_non_exhaustive()
    }
}

/// All content, whoever refers to it.
#[derive(Clone, Debug)]
pub struct ContentStore {
    pub(super) storage: SharedStorage,
    /// A digest's length never changes; but another process may delete the bytes, so this is forgotten
    /// after a while.
    pub(super) sizes: Cache<Digest, u64>,
    hash_threads: HashThreads,
    pub(super) fills: Fills,
    /// For a storage that is not a directory of this machine's.
    chunked: Option<Arc<Chunked>>,
}

impl ContentStore {
    /// Content on `storage`. That something exists is believed for `known_for`. Fills
    /// run in `tasks`.
    #[must_use]
    pub fn new(storage: SharedStorage, known_for: Duration, tasks: Tasks) -> Self {
        let sizes = Cache::builder().max_capacity(KNOWN_SIZES).time_to_live(known_for).build();
        let (hash_threads, fills) = (HashThreads::start(), Fills::new(tasks));
        Self { storage, sizes, hash_threads, fills, chunked: None }
    }

    /// The same, read in chunks through `pond`, which come from `neighbours` too if there are any. Where chunks cannot be
    /// sent from memory, buffers are paid for from `budget`.
    #[must_use]
    pub fn through(
        self,
        pond: Pond<storage::Error>,
        budget: ByteBudget,
        neighbours: Option<Neighbours>,
    ) -> Self {
        let storage = Arc::clone(&self.storage);
        let means = (budget, self.fills.clone(), self.hash_threads.clone());
        let chunked = Chunked::new(pond, storage, means, neighbours);
        Self { chunked: Some(Arc::new(chunked)), ..self }
    }

    /// Whether other nodes may give what this one misses.
    #[must_use]
    pub fn is_in_cluster(&self) -> bool {
        self.chunked.as_ref().is_some_and(|chunked| chunked.is_in_cluster())
    }

    /// Has `finder` say which node fetches a blob from another registry, where that has to be known. It is set once.
    pub fn find_fills_by(&self, finder: Finder) {
        if let Some(chunked) = &self.chunked {
            chunked.ask_of(finder);
        }
    }

    /// Reads a blob from now on from the node that fetches it from `origin`, until the storage has it.
    pub async fn expect(&self, digest: Digest, origin: Origin, from: Filler) {
        if let Some(chunked) = &self.chunked {
            chunked.expect(digest, (origin, from)).await;
        }
    }

    /// Answers another node that asks for a part of some content.
    ///
    /// # Cancel safety
    /// May be dropped at any time, and so may what is returned: that ends the answer.
    pub async fn answer(&self, ask: Ask) -> Answer<Part> {
        match &self.chunked {
            Some(chunked) => Arc::clone(chunked).answer(ask).await,
            None => Answer::Unknown,
        }
    }

    /// What this node knows of its cluster and does in it; `None` if it is in none.
    #[must_use]
    pub fn cluster_status(&self) -> Option<Status> {
        let chunked = self.chunked.as_ref()?;
        chunked.cluster_status(self.fills.fetched_bytes())
    }

    /// Has the metrics tell what the exchange with other nodes is doing, if there is one.
    ///
    /// # Panics
    /// If they are already registered.
    pub fn register_metrics(&self, metrics: &prometheus::Registry) {
        if let Some(chunked) = &self.chunked {
            chunked.register_swarm(metrics);
        }
    }

    /// Takes part in the exchange with other nodes until `shutdown`.
    pub async fn run_exchange(self, shutdown: Shutdown) {
        if let Some(chunked) = self.chunked {
            chunked.run_swarm(shutdown).await;
        }
    }

    /// Where it lies.
    #[must_use]
    pub const fn storage(&self) -> &SharedStorage {
        &self.storage
    }

    /// Length of the content in bytes.
    ///
    /// # Errors
    /// [`Error::Unknown`], or a fault of the storage.
    pub async fn stat(&self, digest: &Digest) -> Result<u64, Error> {
        if let Some(size_bytes) = self.sizes.get(digest).await {
            return Ok(size_bytes);
        }
        let meta =
            self.storage.head(&layout::blob(digest)).await.map_err(|error| named(error, digest))?;
        self.sizes.insert(*digest, meta.size_bytes).await;
        Ok(meta.size_bytes)
    }

    /// Opens the content for reading, whole or at a range.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::RangeOutside`], or a fault of the storage.
    pub async fn open(&self, digest: &Digest, range: Option<ByteRange>) -> Result<Content, Error> {
        if let Some(chunked) = &self.chunked {
            let opened = chunked.open(digest, range).await;
            let (size_bytes, bytes) = opened.map_err(|error| named(error, digest))?;
            let (range, bytes) = (bytes.range(), ContentBytes::Chunks(Box::new(bytes)));
            return Ok(Content { size_bytes, range, bytes });
        }
        let opened = self.storage.open(&layout::blob(digest), range).await;
        let Opened { meta, range, bytes } = opened.map_err(|error| named(error, digest))?;
        self.sizes.insert(*digest, meta.size_bytes).await;
        let bytes = ContentBytes::Object(bytes);
        Ok(Content { size_bytes: meta.size_bytes, range, bytes })
    }

    /// Reads small content whole and checks it against its digest.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Mismatch`] if the stored bytes are not those of the digest; or a
    /// fault, also if there are more than `limit_bytes`.
    pub async fn read(&self, digest: &Digest, limit_bytes: u64) -> Result<Bytes, Error> {
        if let Some(bytes) = self.read_from_others(digest, limit_bytes).await {
            return Ok(bytes);
        }
        let bytes = storage::read(&*self.storage, &layout::blob(digest), limit_bytes).await;
        let bytes = bytes.map_err(|error| named(error, digest))?;
        verify(*digest, Digest::of(digest.algorithm(), &bytes))?;
        Ok(bytes)
    }

    /// The same from other nodes, or by one that reads it for all. Whatever is wrong with that, the storage is asked then,
    /// which says what is wrong.
    async fn read_from_others(&self, digest: &Digest, limit_bytes: u64) -> Option<Bytes> {
        let chunked = self.chunked.as_ref().filter(|chunked| chunked.is_in_cluster())?;
        let read = async {
            let (size_bytes, bytes) = chunked.open(digest, None).await?;
            if size_bytes > limit_bytes {
                return Ok(None);
            }
            let (mut pieces, mut stream) = (Pieces::default(), bytes.into_stream().await?);
            while let Some(bytes) = stream.try_next().await? {
                pieces.push(bytes);
            }
            Ok(Some(pieces.concat()))
        };
        let read: Result<Result<_, storage::Error>, _> = timeout(OTHERS_PATIENCE, read).await;
        match read {
            Ok(Ok(bytes)) => bytes.filter(|bytes| Digest::of(digest.algorithm(), bytes) == *digest),
            Ok(Err(error)) => {
                tracing::debug!(%digest, %error, "content does not come by way of other nodes");
                None
            }
            Err(_elapsed) => {
                tracing::debug!(%digest, "content does not come soon by way of other nodes");
                None
            }
        }
    }

    /// Stores small content under its digest, which it returns.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the bytes hash to something else; or a fault of the storage.
    pub async fn put(&self, expected: Digest, bytes: Bytes) -> Result<(), Error> {
        verify(expected, Digest::of(expected.algorithm(), &bytes))?;
        let size_bytes = bytes.len() as u64;
        self.storage.put(&layout::blob(&expected), bytes).await?;
        self.sizes.insert(expected, size_bytes).await;
        Ok(())
    }

    /// Takes in a body whose digest is known beforehand, straight to its place. Returns its length.
    ///
    /// # Errors
    /// [`Error::Mismatch`], [`Error::Body`], or a fault of the storage; nothing is visible then.
    pub async fn put_stream(
        &self,
        expected: Digest,
        body: BodyStream,
        (expected_bytes, limit_bytes): (Option<u64>, u64),
    ) -> Result<u64, Error> {
        let options = WriteOptions { expected_bytes, ..WriteOptions::default() };
        let mut writer = self.storage.write(&layout::blob(&expected), options).await?;
        let hash = self.begin_hash(expected.algorithm());
        let Received { size_bytes, hash, end } =
            self.receive(&mut *writer, body, hash, limit_bytes).await?;
        end?;
        let Hashed { digest, table } = hash.finish();
        verify(expected, digest)?;
        let (committed, ()) = join(writer.commit(), self.keep_table(&digest, table)).await;
        committed?;
        self.sizes.insert(expected, size_bytes).await;
        Ok(size_bytes)
    }

    /// Makes stored pieces visible under the digest they were verified against.
    ///
    /// # Errors
    /// A fault of the storage; nothing is visible then.
    pub async fn promote(&self, verified: Hashed, pieces: &[Piece]) -> Result<(), Error> {
        let Hashed { digest, table } = verified;
        let size_bytes = pieces.iter().map(|piece| piece.size_bytes).sum();
        let composed = async {
            let held = size_bytes >= WORTH_ASKING_BYTES
                && self.stat(&digest).await.is_ok_and(|held| held == size_bytes);
            if held { Ok(()) } else { self.storage.compose(pieces, &layout::blob(&digest)).await }
        };
        let (composed, ()) = join(composed, self.keep_table(&digest, table)).await;
        composed?;
        self.sizes.insert(digest, size_bytes).await;
        Ok(())
    }

    /// A hash over nothing yet, for bytes that are to become content.
    #[must_use]
    pub fn begin_hash(&self, algorithm: Algorithm) -> BlobHash {
        match self.chunked {
            Some(_) => BlobHash::with_table(algorithm),
            None => BlobHash::new(algorithm),
        }
    }

    /// What the parts of verified content are held against, which is to be kept in a moment.
    pub(super) async fn know_table(&self, digest: &Digest, table: Option<&ChunkTable>) {
        if let (Some(chunked), Some(table)) = (&self.chunked, table) {
            chunked.know_table_of(digest, table).await;
        }
    }

    /// Keeps what the parts of verified content are held against.
    pub(super) async fn keep_table(&self, digest: &Digest, table: Option<ChunkTable>) {
        if let (Some(chunked), Some(table)) = (&self.chunked, table) {
            chunked.keep_table(digest, table).await;
        }
    }

    /// Hashes stored pieces again, for a session whose running hash is gone.
    ///
    /// # Errors
    /// A fault of the storage.
    pub async fn hash_pieces(
        &self,
        pieces: &[Piece],
        mut hash: BlobHash,
    ) -> Result<BlobHash, Error> {
        for piece in pieces {
            let mut stream = self.storage.open(&piece.key, None).await?.bytes.into_stream().await?;
            let mut pipeline = self.hash_pipeline(hash, HASH_BATCH_BYTES);
            while let Some(bytes) = stream.try_next().await? {
                pipeline.update(bytes).await?;
            }
            hash = pipeline.finish().await?;
        }
        Ok(hash)
    }

    pub(super) fn hash_pipeline(&self, hash: BlobHash, batch_bytes: usize) -> HashPipeline {
        HashPipeline::new(self.hash_threads.clone(), hash, batch_bytes)
    }

    /// Forgets what is known of a digest, because it has turned out to be wrong.
    pub async fn forget(&self, digest: &Digest) {
        self.sizes.invalidate(digest).await;
    }
}

fn verify(expected: Digest, actual: Digest) -> Result<(), Error> {
    if expected == actual { Ok(()) } else { Err(Error::Mismatch { expected, actual }) }
}

/// Says which digest a storage error is about.
fn named(error: storage::Error, digest: &Digest) -> Error {
    match error {
        storage::Error::NotFound { .. } => Error::Unknown { digest: *digest },
        storage::Error::RangeOutside { size_bytes, .. } => {
            Error::RangeOutside { digest: *digest, size_bytes }
        }
        failed @ storage::Error::Failed { .. } => Error::Storage(failed),
    }
}
