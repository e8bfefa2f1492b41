//! How often a chunk is read.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::disk::DiskMark;

/// Why a chunk is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Somebody reads it now.
    Reading,
    /// Somebody may read it soon.
    Ahead,
}

/// Whether somebody has read a chunk before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Nobody has: it was only fetched ahead.
    First,
    /// Somebody has, or does.
    Again,
}

/// How often a chunk was read.
#[derive(Debug, Default)]
pub(super) struct Reads {
    count: AtomicU32,
    /// It was fetched ahead if it was not read before it was there.
    is_read: AtomicBool,
    is_from_disk: AtomicBool,
    pub(super) mark: DiskMark,
}

impl Reads {
    /// No reads of a chunk that is on the disk, or is not.
    pub(super) fn of(is_on_disk: bool) -> Self {
        Self { is_from_disk: AtomicBool::new(is_on_disk), ..Self::default() }
    }

    /// Counts one more, and returns how many there were.
    pub(super) fn add(&self, purpose: Purpose) -> u32 {
        let more = u32::from(purpose == Purpose::Reading);
        self.count.fetch_add(more, Ordering::Relaxed).saturating_add(more)
    }

    /// How many there were.
    pub(super) fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// Notes that somebody begins to read it, and says whether somebody has before.
    pub(super) fn begin(&self) -> Use {
        if self.is_read.swap(true, Ordering::Relaxed) { Use::Again } else { Use::First }
    }

    /// Whether it was on the disk when it was looked for.
    pub(super) fn is_from_disk(&self) -> bool {
        self.is_from_disk.load(Ordering::Relaxed)
    }
}
