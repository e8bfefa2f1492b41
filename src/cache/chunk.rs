//! A chunk that can be read, maybe while it comes.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use tokio::sync::watch;

use super::arena::Block;

/// A chunk that is there, or comes. It can be read by many at once, none of whom keeps it there.
#[derive(Clone)]
pub struct Chunk<E>(Kind<E>);

#[derive(Clone)]
enum Kind<E> {
    Complete(Weak<Block>),
    Coming(watch::Receiver<Progress<E>>),
}

/// How far a chunk has come.
pub(super) enum Progress<E> {
    /// Nobody has begun yet.
    Waiting,
    /// Bytes from its beginning on can be read.
    Partial(Come),
    /// All of it can be read, as long as the pond keeps it.
    Complete(Weak<Block>),
    Failed(E),
}

/// What has come of a chunk, and where it ends.
pub(super) struct Come {
    pub(super) block: Arc<Block>,
    /// Where the bytes end that were found right.
    pub(super) right_end: u64,
    /// Where those end that may be wrong.
    pub(super) maybe_end: u64,
}

/// Why a chunk does not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfilled<E> {
    /// Whoever filled it failed, and says why.
    Failed(E),
    /// Whoever filled it has given up without a word.
    Abandoned,
}

impl<E: Clone> Chunk<E> {
    pub(super) fn complete(block: &Arc<Block>) -> Self {
        Self(Kind::Complete(Arc::downgrade(block)))
    }

    pub(super) const fn coming(progress: watch::Receiver<Progress<E>>) -> Self {
        Self(Kind::Coming(progress))
    }

    /// Waits until the byte at `offset` can be read. Returns where it is, and where what can be read ends; `None` if
    /// the chunk was there and has gone.
    ///
    /// # Errors
    /// [`Unfilled`], also of a byte that the chunk does not have.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn readable(&mut self, offset: u64) -> Readable<E> {
        self.come(offset, |come| come.right_end).await
    }

    /// As [`Chunk::readable`], of bytes that need not be right: whoever is given them holds them against the digest.
    pub async fn passable(&mut self, offset: u64) -> Readable<E> {
        self.come(offset, |come| come.maybe_end).await
    }

    async fn come(&mut self, offset: u64, end_of: impl Fn(&Come) -> u64) -> Readable<E> {
        let progress = match &mut self.0 {
            Kind::Complete(block) => return readable_of(block, offset),
            Kind::Coming(progress) => progress,
        };
        let is_decided = |progress: &Progress<E>| match progress {
            Progress::Waiting => false,
            Progress::Partial(come) => offset < end_of(come),
            Progress::Complete(_) | Progress::Failed(_) => true,
        };
        let found = progress.wait_for(is_decided).await.map_err(|_gone| Unfilled::Abandoned)?;
        match &*found {
            Progress::Waiting => Err(Unfilled::Abandoned),
            Progress::Partial(come) => Ok(Some((Arc::clone(&come.block), end_of(come)))),
            Progress::Complete(block) => readable_of(block, offset),
            Progress::Failed(error) => Err(Unfilled::Failed(error.clone())),
        }
    }
}

impl<E> Chunk<E> {
    /// How many bytes of it can be read now, from its beginning on; `None` if it was there and has gone.
    #[must_use]
    pub fn readable_bytes(&self) -> Option<u64> {
        let progress = match &self.0 {
            Kind::Complete(block) => return block.upgrade().map(|block| block.len()),
            Kind::Coming(progress) => progress.borrow(),
        };
        match &*progress {
            Progress::Waiting | Progress::Failed(_) => Some(0),
            Progress::Partial(come) => Some(come.right_end),
            Progress::Complete(block) => block.upgrade().map(|block| block.len()),
        }
    }
}

type Readable<E> = Result<Option<(Arc<Block>, u64)>, Unfilled<E>>;

fn readable_of<E>(block: &Weak<Block>, offset: u64) -> Readable<E> {
    match block.upgrade() {
        Some(block) if offset >= block.len() => Err(Unfilled::Abandoned),
        found => Ok(found.map(|block| {
            let end = block.len();
            (block, end)
        })),
    }
}

impl<E> fmt::Debug for Chunk<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Kind::Complete(_) => "Chunk(Complete)",
            Kind::Coming(_) => "Chunk(Coming)",
        })
    }
}
