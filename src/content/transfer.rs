//! The work of a fill: bytes from another registry, through the hash, into a spool, into the storage.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt, future::BoxFuture, stream};

use super::{
    ContentStore, Error,
    fill::{Fill, Ongoing, Progress},
    hash::HashPipeline,
};
use crate::{
    oci::{Digest, Hasher, RepositoryName},
    runtime::Pieces,
    storage::{self, Appending, Fault, ObjectStream, Spool, layout},
    upstream::{self, RemoteBlob, Upstream},
};

/// Bytes gathered while others are being written. A fill holds at most two such batches and the one that is
/// hashed, which are mostly the same bytes.
const BATCH_BYTES: usize = 512 << 10;

/// What a fill pays for before its first byte.
const WINDOW_BYTES: u64 = 2 * BATCH_BYTES as u64;

/// How often in a row the other registry may fail without a single byte between. Each failure has its own
/// timeout; together they end before clients that wait for the next byte are taken for dead.
const FRUITLESS_ATTEMPTS: u32 = 4;

/// Pause before the first repetition, to which up to as much again is added at random: most connections that
/// break are good again at once.
const PAUSE: Duration = Duration::from_millis(100);

/// By how much pauses grow. All of them together outlast the restart of a registry.
const PAUSE_FACTOR: u32 = 5;

/// Longest wait in the middle of a blob for a registry that wants fewer requests. Whoever reads the blob sees it
/// stand still for so long, which is what a stalled connection may do as well.
const LIMITED_MOST: Duration = Duration::from_secs(30);

/// Where content comes from.
#[derive(Clone, Debug)]
pub struct Remote {
    /// The other registry.
    pub upstream: Arc<Upstream>,
    /// The repository there.
    pub repository: RepositoryName,
}

impl Remote {
    /// Whether `other` is the same place.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.upstream.name() == other.upstream.name() && self.repository == other.repository
    }

    /// A range of a blob straight from there, which nothing can be held against; `None` if it does not give
    /// ranges, or nothing at all.
    pub(super) async fn open_range(
        &self,
        digest: &Digest,
        range: Range<u64>,
    ) -> Option<ObjectStream> {
        let opened = self.upstream.open_blob(&self.repository, digest, range.start).await;
        let blob = opened.ok().filter(|blob| blob.start == range.start)?;
        let key = layout::blob(digest);
        let failed = move |error| storage::Error::failed("fetch", &key, Fault::Unavailable, error);
        let left = (blob.stream.map_err(failed), range.end - range.start);
        Some(Box::pin(stream::try_unfold(left, |(mut stream, left_bytes)| async move {
            if left_bytes == 0 {
                return Ok(None);
            }
            let Some(mut bytes) = stream.try_next().await? else { return Ok(None) };
            bytes.truncate(usize::try_from(left_bytes).unwrap_or(usize::MAX));
            let left_bytes = left_bytes - bytes.len() as u64;
            Ok(Some((bytes, (stream, left_bytes))))
        })))
    }
}

/// How a fill has ended.
#[derive(Clone, Debug)]
pub enum FillEnd {
    /// The content is in the storage.
    Stored {
        /// Its length in bytes.
        size_bytes: u64,
    },
    /// The content is the right one and was given to whoever read it, but could not be stored.
    NotKept(Arc<Error>),
    /// The content could not be had.
    Failed(Arc<Error>),
}

/// What is to be done when a fill has ended, before anybody else looks for its content in the storage.
pub type AfterFill = Box<dyn FnOnce(FillEnd) -> BoxFuture<'static, ()> + Send>;

impl ContentStore {
    /// Joins the fill of `digest`, or begins one from `remote`; `after` is done only in this case.
    #[must_use]
    pub fn fill(&self, digest: Digest, remote: Remote, after: AfterFill) -> Fill {
        let store = self.clone();
        self.fills.join_or_begin(digest, &remote.clone(), move |ongoing| {
            let tasks = store.fills.tasks.clone();
            let transfer = Transfer { store, remote, ongoing };
            tasks.spawn("fill", transfer.run(after));
        })
    }

    /// The fill of `digest` that is under way, if there is one.
    #[must_use]
    pub fn running_fill(&self, digest: &Digest) -> Option<Fill> {
        self.fills.join(digest)
    }
}

struct Transfer {
    store: ContentStore,
    remote: Remote,
    ongoing: Ongoing,
}

impl Transfer {
    async fn run(self, after: AfterFill) {
        let end = self.work().await;
        after(end.clone()).await;
        // Last, so that whoever hears of it finds everything as it is now.
        if let FillEnd::Failed(error) = end {
            self.ongoing.fail(error);
        }
    }

    async fn work(&self) -> FillEnd {
        let digest = self.ongoing.digest;
        match self.fetch().await {
            Ok((spool, size_bytes)) => {
                self.ongoing.publish(Progress::Verified { spool: spool.clone(), size_bytes });
                match self.keep(&spool, size_bytes).await {
                    Ok(()) => FillEnd::Stored { size_bytes },
                    Err(error) => {
                        tracing::error!(%digest, %error, "fetched content could not be kept");
                        FillEnd::NotKept(Arc::new(error))
                    }
                }
            }
            Err(error) => {
                let (upstream, error) = (self.remote.upstream.name(), Arc::new(error));
                tracing::warn!(upstream, %digest, %error, "content could not be fetched");
                FillEnd::Failed(error)
            }
        }
    }

    async fn keep(&self, spool: &Spool, size_bytes: u64) -> Result<(), Error> {
        let digest = self.ongoing.digest;
        self.store.storage.adopt(spool, &layout::blob(&digest)).await?;
        self.store.sizes.insert(digest, size_bytes).await;
        Ok(())
    }

    async fn fetch(&self) -> Result<(Spool, u64), Error> {
        let digest = self.ongoing.digest;
        let source = Source::open(self.remote.clone(), digest).await?;
        let spool = self.store.storage.spool().await?;
        let _paid = spool.reserve(WINDOW_BYTES).await;
        let announced_bytes = source.size_bytes;
        // Without a length nobody can be answered before the end.
        if let Some(size_bytes) = announced_bytes {
            let running = Progress::Running { spool: spool.clone(), size_bytes, written_bytes: 0 };
            self.ongoing.publish(running);
        }
        let hasher = Hasher::new(digest.algorithm());
        let mut hash = self.store.hash_pipeline(hasher, BATCH_BYTES / 2);
        let mut intake = Intake::new(&spool, &self.ongoing);
        take_in(Box::pin(source.stream()), &mut intake, &mut hash).await?;
        let size_bytes = intake.taken_bytes;
        let actual = hash.finish().await?.finish();
        if actual != digest {
            return Err(Error::Mismatch { expected: digest, actual });
        }
        Ok((spool, size_bytes))
    }
}

async fn take_in(
    mut source: impl Stream<Item = Result<Bytes, Error>> + Unpin,
    intake: &mut Intake<'_>,
    hash: &mut HashPipeline,
) -> Result<(), Error> {
    loop {
        tokio::select! {
            written = intake.written(), if intake.is_writing() => written?,
            next = source.try_next(), if !intake.is_full() => {
                let Some(bytes) = next? else { break };
                hash.update(bytes.clone()).await?;
                intake.push(bytes);
            }
        }
    }
    while intake.is_writing() {
        intake.written().await?;
    }
    Ok(())
}

/// Bytes on their way into the spool. What comes while a write is under way becomes the next write: on a slow
/// line every piece can be read as soon as it is here, on a fast one few writes take many bytes.
struct Intake<'f> {
    spool: &'f Spool,
    ongoing: &'f Ongoing,
    gathered: Pieces,
    writing: Option<Appending>,
    taken_bytes: u64,
}

impl<'f> Intake<'f> {
    fn new(spool: &'f Spool, ongoing: &'f Ongoing) -> Self {
        Self { spool, ongoing, gathered: Pieces::default(), writing: None, taken_bytes: 0 }
    }

    fn push(&mut self, bytes: Bytes) {
        self.taken_bytes += bytes.len() as u64;
        self.gathered.push(bytes);
        if self.writing.is_none() {
            self.begin_write();
        }
    }

    const fn is_full(&self) -> bool {
        self.gathered.len() >= BATCH_BYTES
    }

    const fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Waits for the write that is under way and begins the next. May be dropped and called again.
    async fn written(&mut self) -> Result<(), Error> {
        let Some(writing) = &mut self.writing else { return Ok(()) };
        writing.finish().await?;
        self.writing = None;
        if !self.gathered.is_empty() {
            self.begin_write();
        }
        Ok(())
    }

    fn begin_write(&mut self) {
        let pieces = std::mem::take(&mut self.gathered);
        let written = self.ongoing.written(pieces.len() as u64);
        self.writing = Some(self.spool.append(pieces, written));
    }
}

/// A blob of another registry whose connection may break.
struct Source {
    remote: Remote,
    digest: Digest,
    /// Bytes handed out.
    offset: u64,
    /// Length of the whole, if it is known.
    size_bytes: Option<u64>,
    /// The connection, and how many of its first bytes were handed out before.
    connection: Option<(RemoteBlob, u64)>,
    /// Whether the other registry has answered with a blob yet.
    has_begun: bool,
    fruitless: u32,
}

impl Source {
    async fn open(remote: Remote, digest: Digest) -> Result<Self, Error> {
        let (offset, size_bytes, connection) = (0, None, None);
        let (has_begun, fruitless) = (false, 0);
        let mut source =
            Self { remote, digest, offset, size_bytes, connection, has_begun, fruitless };
        source.connect().await?;
        if source.size_bytes.is_none() {
            let Remote { upstream, repository } = &source.remote;
            let size_bytes = upstream.stat_blob(repository, &digest).await.ok().flatten();
            // Some servers write a 0 where they know nothing.
            source.size_bytes = size_bytes.filter(|size_bytes| *size_bytes > 0);
        }
        Ok(source)
    }

    /// All bytes, whatever happens to the connections they come by.
    fn stream(self) -> impl Stream<Item = Result<Bytes, Error>> {
        stream::try_unfold(self, |mut source| async {
            let next = source.next().await?;
            Ok(next.map(|bytes| (bytes, source)))
        })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if self.size_bytes == Some(self.offset) {
                return Ok(None);
            }
            let Some((blob, skip_bytes)) = &mut self.connection else {
                self.connect().await?;
                continue;
            };
            match blob.stream.try_next().await {
                Ok(Some(mut bytes)) => {
                    let skipped = usize::try_from(*skip_bytes).unwrap_or(usize::MAX);
                    let skipped = skipped.min(bytes.len());
                    *skip_bytes -= skipped as u64;
                    let fresh = bytes.split_off(skipped);
                    if !fresh.is_empty() {
                        return self.hand_out(fresh).map(Some);
                    }
                }
                // Without a length this is the end; the digest says whether it is the right one.
                Ok(None) if self.size_bytes.is_none() => return Ok(None),
                Ok(None) => self.lost(None).await?,
                Err(error) => self.lost(Some(error)).await?,
            }
        }
    }

    fn hand_out(&mut self, bytes: Bytes) -> Result<Bytes, Error> {
        self.fruitless = 0;
        self.offset += bytes.len() as u64;
        match self.size_bytes {
            Some(announced) if self.offset > announced => {
                Err(Error::LengthMismatch { digest: self.digest, announced })
            }
            Some(_) | None => Ok(bytes),
        }
    }

    /// Connects from where the bytes ended, as often as makes sense.
    async fn connect(&mut self) -> Result<(), Error> {
        loop {
            let Remote { upstream, repository } = &self.remote;
            match upstream.open_blob(repository, &self.digest, self.offset).await {
                Ok(blob) => return self.connected(blob),
                Err(error) => self.lost(Some(error)).await?,
            }
        }
    }

    fn connected(&mut self, blob: RemoteBlob) -> Result<(), Error> {
        match (self.size_bytes, blob.size_bytes) {
            (Some(announced), Some(now)) if announced != now => {
                return Err(Error::LengthMismatch { digest: self.digest, announced });
            }
            (None, Some(_)) => self.size_bytes = blob.size_bytes,
            (_, _) => {}
        }
        let skip_bytes = self.offset.saturating_sub(blob.start);
        self.connection = Some((blob, skip_bytes));
        self.has_begun = true;
        Ok(())
    }

    /// Takes a broken connection, or none at all, with patience that has an end.
    async fn lost(&mut self, error: Option<upstream::Error>) -> Result<(), Error> {
        self.connection = None;
        self.fruitless += 1;
        let Some(pause) = self.pause_after(error.as_ref()) else {
            return Err(match error {
                Some(error) => Error::Upstream(error),
                None => Error::Truncated { digest: self.digest, offset: self.offset },
            });
        };
        tokio::time::sleep(pause + PAUSE.mul_f64(fastrand::f64())).await;
        Ok(())
    }

    /// How long to wait before the next attempt, if one makes sense.
    fn pause_after(&self, error: Option<&upstream::Error>) -> Option<Duration> {
        use upstream::Error as E;
        if self.fruitless >= FRUITLESS_ATTEMPTS {
            return None;
        }
        let pause = PAUSE * PAUSE_FACTOR.pow(self.fruitless - 1);
        match error {
            // Waiting for a turn, which is nothing that the other registry has to do with.
            None | Some(E::Busy { .. }) => Some(pause),
            // It was asked several times already, and clients that have no answer yet may go elsewhere.
            Some(_) if !self.has_begun => None,
            Some(E::RateLimited { retry_after, .. }) => {
                retry_after.filter(|wait| *wait <= LIMITED_MOST)
            }
            Some(error) => error.is_retryable().then_some(pause),
        }
    }
}
