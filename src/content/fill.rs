//! Fills: content that comes from another registry, each once, whoever asks for it.
//!
//! A fill belongs to nobody who reads it. It writes what comes into a spool, from which every reader takes what
//! it wants at its own pace; it goes on when the last of them has gone, and becomes an object of the storage
//! when its bytes hash to their digest. Until then the last bytes are kept back, of a short blob also those of each
//! range, so that no reader of wrong bytes sees a clean end.

use std::{
    collections::HashMap,
    io,
    ops::Range,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt, stream};
use tokio::sync::watch;

use super::{Content, Error, Remote, intake::Written};
use crate::{
    cache::ChunkLayout,
    oci::{ByteRange, Digest},
    runtime::{Abandoned, FilePiece, Tasks},
    storage::{self, Fault, FileBytes, ObjectStream, Spool, SpoolWindow, layout},
};

/// Bytes at the end that nobody gets before all of them are verified.
const KEPT_BACK_BYTES: u64 = 4 << 10;

/// A blob that has no more is here so soon that a range of it can wait for its end. Of a longer one, ranges are read by
/// clients that read images lazily, while the rest comes for minutes.
const SHORT_BYTES: u64 = ChunkLayout::BEGINNING_BYTES;

/// A range that begins so far ahead of a fill does not wait for it: clients that read images lazily ask for
/// bytes here and there. Several seconds of a fast line.
const FAR_BYTES: u64 = 64 << 20;

/// How far a fill is.
#[derive(Clone, Debug)]
pub(super) enum Progress {
    /// The other registry has not answered yet.
    Opening,
    /// Bytes are coming.
    Running {
        spool: Spool,
        /// Length of the whole.
        size_bytes: u64,
        /// Bytes that can be read.
        written_bytes: u64,
    },
    /// All bytes are here and are the right ones.
    Verified { spool: Spool, size_bytes: u64 },
    /// It has ended without all bytes.
    Failed(Arc<Error>),
}

impl Progress {
    /// Which bytes may be read, from the first; those from `open_end` on only when all are verified.
    fn readable_bytes(&self, open_end: u64) -> u64 {
        match self {
            Self::Opening | Self::Failed(_) => 0,
            Self::Running { written_bytes, .. } => open_end.min(*written_bytes),
            Self::Verified { size_bytes, .. } => *size_bytes,
        }
    }
}

/// A fill that somebody reads.
#[derive(Clone, Debug)]
pub struct Fill {
    digest: Digest,
    remote: Remote,
    number: u64,
    progress: watch::Receiver<Progress>,
}

impl Fill {
    /// What is filled.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// Where the bytes come from.
    #[must_use]
    pub const fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Waits until the other registry has answered, and reads the content or a range of it as it comes.
    ///
    /// # Errors
    /// [`Error::Fill`] if nothing can be had; [`Error::RangeOutside`]. The stream ends in an error if the
    /// bytes stop coming or are not those of the digest.
    pub async fn open(mut self, range: Option<ByteRange>) -> Result<Content, Error> {
        let (spool, size_bytes) = self.begun().await?;
        let range = match range {
            None => 0..size_bytes,
            Some(range) => range
                .resolve(size_bytes)
                .ok_or(Error::RangeOutside { digest: self.digest, size_bytes })?,
        };
        let come_bytes = self.progress.borrow().readable_bytes(size_bytes);
        let is_far = range.start > come_bytes.saturating_add(FAR_BYTES);
        if is_far && let Some(stream) = self.remote.open_range(&self.digest, range.clone()).await {
            return Ok(Content { size_bytes, range, bytes: stream.into() });
        }
        let window = spool.window(range.end - range.start).await?;
        let kept_end = if size_bytes > SHORT_BYTES { size_bytes } else { range.end };
        let reader = Reader::new(self, window, range.clone(), kept_end);
        Ok(Content { size_bytes, range, bytes: reader.stream().into() })
    }

    /// Tells it from others of the same content, before and after it, here and elsewhere.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Waits until the other registry has answered, and says how long the content is.
    ///
    /// # Errors
    /// [`Error::Fill`] if nothing can be had.
    pub async fn size_bytes(mut self) -> Result<u64, Error> {
        Ok(self.begun().await?.1)
    }

    /// Reads a range as it comes, which is all of it within the content, for who holds it against the digest.
    pub(super) async fn read(mut self, range: Range<u64>) -> Result<ObjectStream, Error> {
        let (spool, size_bytes) = self.begun().await?;
        let window = spool.window(range.end - range.start).await?;
        Ok(Reader::new(self, window, range, size_bytes).stream())
    }

    /// The same, to be sent without coming into this process.
    pub(super) async fn pieces(mut self, range: Range<u64>) -> Result<FilePieces, Error> {
        let (spool, size_bytes) = self.begun().await?;
        let reader = Reader::new(self, spool, range, size_bytes);
        Ok(Box::pin(reader.file_bytes().map_ok(FileBytes::pieces).try_flatten()))
    }

    /// Waits until all bytes are here, or no more come; says whether they are the right ones.
    pub(super) async fn ended_well(mut self) -> bool {
        let has_ended = |progress: &Progress| {
            matches!(progress, Progress::Verified { .. } | Progress::Failed(_))
        };
        let ended = self.progress.wait_for(has_ended).await;
        ended.is_ok_and(|progress| matches!(&*progress, Progress::Verified { .. }))
    }

    /// Waits until the fill is over, well or badly, and its content kept, if it will be.
    pub async fn ended(mut self) {
        while self.progress.changed().await.is_ok() {}
    }

    async fn begun(&mut self) -> Result<(Spool, u64), Error> {
        let has_begun = |progress: &Progress| !matches!(progress, Progress::Opening);
        match &*self.progress.wait_for(has_begun).await.map_err(|_gone| Abandoned)? {
            Progress::Running { spool, size_bytes, .. }
            | Progress::Verified { spool, size_bytes } => Ok((spool.clone(), *size_bytes)),
            Progress::Failed(error) => Err(Error::Fill(Arc::clone(error))),
            Progress::Opening => Err(Abandoned.into()),
        }
    }
}

/// Pieces of the file that a fill writes.
pub(super) type FilePieces = Pin<Box<dyn Stream<Item = io::Result<FilePiece>> + Send>>;

/// One client's way through a fill, by way of memory or without.
struct Reader<W> {
    digest: Digest,
    progress: watch::Receiver<Progress>,
    window: W,
    /// What has not been read yet.
    range: Range<u64>,
    /// What lies behind is given when all of the blob is verified.
    open_end: u64,
}

impl<W> Reader<W> {
    /// Reads `range`. The last bytes before `end` are kept back.
    fn new(fill: Fill, window: W, range: Range<u64>, end: u64) -> Self {
        let Fill { digest, progress, .. } = fill;
        let open_end = end.saturating_sub(KEPT_BACK_BYTES);
        Self { digest, progress, window, range, open_end }
    }
}

impl Reader<Spool> {
    fn file_bytes(self) -> impl Stream<Item = io::Result<FileBytes>> + Send {
        stream::try_unfold(self, |mut reader| async {
            if reader.range.is_empty() {
                return Ok(None);
            }
            let readable_bytes = reader.readable().await.map_err(io::Error::other)?;
            let start = reader.range.start;
            reader.range.start = readable_bytes.min(reader.range.end);
            let bytes = reader.window.bytes(start..reader.range.start);
            Ok(Some((bytes, reader)))
        })
    }
}

impl Reader<SpoolWindow> {
    fn stream(self) -> ObjectStream {
        Box::pin(stream::try_unfold(self, |mut reader| async {
            let bytes = reader.next().await?;
            Ok(bytes.map(|bytes| (bytes, reader)))
        }))
    }

    async fn next(&mut self) -> Result<Option<Bytes>, storage::Error> {
        if self.range.is_empty() {
            return Ok(None);
        }
        let readable_bytes = self.readable().await.map_err(|error| {
            storage::Error::failed("fill", &layout::blob(&self.digest), Fault::Unavailable, error)
        })?;
        let most = readable_bytes.min(self.range.end) - self.range.start;
        let bytes = self.window.read(self.range.start, most).await?;
        self.range.start += bytes.len() as u64;
        Ok(Some(bytes))
    }
}

impl<W> Reader<W> {
    /// Waits until there is a byte to read. Returns where those end that can be read.
    async fn readable(&mut self) -> Result<u64, Error> {
        let (start, open_end) = (self.range.start, self.open_end);
        let is_ready = |progress: &Progress| {
            progress.readable_bytes(open_end) > start || matches!(progress, Progress::Failed(_))
        };
        match &*self.progress.wait_for(is_ready).await.map_err(|_gone| Abandoned)? {
            Progress::Failed(error) => Err(Error::Fill(Arc::clone(error))),
            other => Ok(other.readable_bytes(open_end)),
        }
    }
}

/// The fills that are under way.
#[derive(Clone, Debug)]
pub(super) struct Fills {
    running: Arc<Mutex<HashMap<Digest, Fill>>>,
    /// Bytes that have come from other registries so far.
    fetched_bytes: Arc<AtomicU64>,
    pub(super) tasks: Tasks,
}

impl Fills {
    /// No fills yet; they will run in `tasks`.
    pub(super) fn new(tasks: Tasks) -> Self {
        Self { running: Arc::default(), fetched_bytes: Arc::default(), tasks }
    }

    /// The fill of `digest` that is under way, or a new one that `begin` is to work on.
    pub(super) fn join_or_begin(
        &self,
        digest: Digest,
        remote: &Remote,
        begin: impl FnOnce(Ongoing),
    ) -> Fill {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fill) = running.get(&digest) {
            return fill.clone();
        }
        let (sender, progress) = watch::channel(Progress::Opening);
        let fill = Fill { digest, remote: remote.clone(), number: fastrand::u64(..), progress };
        running.insert(digest, fill.clone());
        drop(running);
        begin(Ongoing { fills: self.clone(), digest, progress: Arc::new(sender) });
        fill
    }

    /// How many bytes have come from other registries so far.
    pub(super) fn fetched_bytes(&self) -> u64 {
        self.fetched_bytes.load(Ordering::Relaxed)
    }

    /// The fill of `digest`, if one is under way.
    pub(super) fn join(&self, digest: &Digest) -> Option<Fill> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }
}

/// The end of a fill at which the work is done. However it is dropped, nobody joins it any more.
#[derive(Debug)]
pub(super) struct Ongoing {
    fills: Fills,
    pub(super) digest: Digest,
    progress: Arc<watch::Sender<Progress>>,
}

impl Ongoing {
    /// Tells readers how far it is.
    pub(super) fn publish(&self, progress: Progress) {
        self.progress.send_replace(progress);
    }

    /// Tells readers that nothing more is to come. Whoever asks because of that begins a new fill.
    pub(super) fn fail(&self, error: Arc<Error>) {
        self.leave();
        self.publish(Progress::Failed(error));
    }

    /// From now on nobody joins it.
    fn leave(&self) {
        let own = self.progress.subscribe();
        let mut running = self.fills.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.get(&self.digest).is_some_and(|fill| fill.progress.same_channel(&own)) {
            running.remove(&self.digest);
        }
    }

    /// What tells readers that so many more bytes can be read.
    pub(super) fn written(&self) -> Written {
        let progress = Arc::clone(&self.progress);
        let fetched_bytes = Arc::clone(&self.fills.fetched_bytes);
        Arc::new(move |bytes| {
            fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
            progress.send_modify(|progress| {
                if let Progress::Running { written_bytes, .. } = progress {
                    *written_bytes += bytes;
                }
            });
        })
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        self.leave();
    }
}
