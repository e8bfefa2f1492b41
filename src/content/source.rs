//! Where content comes from: a blob of another registry, whose connection may break.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt, stream};

use super::Error;
use crate::{
    oci::{Digest, RepositoryName},
    storage::{self, Fault, ObjectStream, layout},
    upstream::{self, RemoteBlob, Upstream},
};

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

/// A blob of another registry whose connection may break, or a part of it.
pub(super) struct Source {
    remote: Remote,
    digest: Digest,
    /// Where the bytes that were handed out end.
    offset: u64,
    /// Where the bytes end that are wanted. May move towards the beginning while they come.
    end: Arc<AtomicU64>,
    /// Length of the whole, if it is known.
    size_bytes: Option<u64>,
    /// The connection, and how many of its first bytes were handed out before.
    connection: Option<(RemoteBlob, u64)>,
    /// Whether the other registry has answered with a blob yet.
    has_begun: bool,
    /// Connections in a row that brought nothing.
    fruitless: u32,
    /// Connections that brought too little to wait for.
    slow: u32,
}

/// A blob whose length is known, and parts of which may be asked for.
pub(super) struct Whole {
    pub(super) remote: Remote,
    digest: Digest,
    pub(super) size_bytes: u64,
}

impl Whole {
    /// The bytes from `offset` to `end`, for which there is no connection yet.
    pub(super) fn part(&self, offset: u64, end: Arc<AtomicU64>) -> Source {
        Source {
            remote: self.remote.clone(),
            digest: self.digest,
            offset,
            end,
            size_bytes: Some(self.size_bytes),
            connection: None,
            has_begun: true,
            fruitless: 0,
            slow: 0,
        }
    }
}

impl Source {
    /// Waits for the other registry to give the blob from its first byte on.
    pub(super) async fn open(remote: Remote, digest: Digest) -> Result<Self, Error> {
        let mut source = Self {
            remote,
            digest,
            offset: 0,
            end: Arc::new(AtomicU64::new(u64::MAX)),
            size_bytes: None,
            connection: None,
            has_begun: false,
            fruitless: 0,
            slow: 0,
        };
        source.connect().await?;
        if source.size_bytes.is_none() {
            let Remote { upstream, repository } = &source.remote;
            let size_bytes = upstream.stat_blob(repository, &digest).await.ok().flatten();
            // Some servers write a 0 where they know nothing.
            source.size_bytes = size_bytes.filter(|size_bytes| *size_bytes > 0);
        }
        Ok(source)
    }

    /// Length of the whole in bytes, if it is known.
    pub(super) const fn size_bytes(&self) -> Option<u64> {
        self.size_bytes
    }

    /// Where the bytes end that are wanted.
    pub(super) fn end(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.end)
    }

    /// The blob that this is of, if its length is known.
    pub(super) fn whole(&self) -> Option<Whole> {
        let (remote, digest) = (self.remote.clone(), self.digest);
        self.size_bytes.map(|size_bytes| Whole { remote, digest, size_bytes })
    }

    /// All bytes, whatever happens to the connections they come by.
    pub(super) fn stream(self) -> impl Stream<Item = Result<Bytes, Error>> {
        stream::try_unfold(self, |mut source| async {
            let next = source.next().await?;
            Ok(next.map(|bytes| (bytes, source)))
        })
    }

    /// Opens the connection of a part, unless the other registry would begin with the first byte: then there
    /// is none, and `false` is returned.
    pub(super) async fn open_part(&mut self) -> Result<bool, Error> {
        let Remote { upstream, repository } = &self.remote;
        let blob = upstream.open_blob(repository, &self.digest, self.offset).await?;
        let is_part = blob.start == self.offset;
        if is_part {
            self.connected(blob)?;
        }
        Ok(is_part)
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Cancel safety
    /// No byte is lost; a pause before the next attempt is cut short.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if self.offset >= self.end.load(Ordering::Relaxed)
                || self.size_bytes == Some(self.offset)
            {
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

    fn hand_out(&mut self, mut bytes: Bytes) -> Result<Bytes, Error> {
        self.fruitless = 0;
        let after = self.offset + bytes.len() as u64;
        if let Some(announced) = self.size_bytes
            && after > announced
        {
            return Err(Error::LengthMismatch { digest: self.digest, announced });
        }
        // What comes after the end is somebody else's.
        let wanted_bytes = self.end.load(Ordering::Relaxed).saturating_sub(self.offset);
        bytes.truncate(usize::try_from(wanted_bytes).unwrap_or(usize::MAX));
        self.offset += bytes.len() as u64;
        Ok(bytes)
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
        self.slow += u32::from(matches!(error, Some(upstream::Error::Slow { .. })));
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
        if self.fruitless.max(self.slow) >= FRUITLESS_ATTEMPTS {
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
