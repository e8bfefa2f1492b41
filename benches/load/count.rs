//! What the upstream was asked for and what it has sent.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// How many first bytes are remembered. Far more than a measurement has, but no crowd of any size
/// makes the upstream grow.
const FIRST_BYTES: usize = 4096;

/// Counts since the start, or since they were last set to zero.
#[derive(Debug, Default)]
pub(crate) struct Count(Mutex<Figures>);

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Figures {
    pub(crate) manifest_gets: u64,
    pub(crate) manifest_heads: u64,
    pub(crate) blob_gets: u64,
    pub(crate) blob_heads: u64,
    /// Bytes of blobs given to connections. Of one that broke, up to a piece of the line did not
    /// leave.
    pub(crate) blob_bytes: u64,
    /// When each of the first blob bodies began, in the order of time.
    pub(crate) first_bytes: Vec<FirstByte>,
}

/// The beginning of a body.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FirstByte {
    digest: String,
    /// Immediately before it went to the connection.
    unix_nanoseconds: u128,
}

impl Count {
    /// All figures at one moment.
    pub(crate) fn figures(&self) -> Figures {
        self.lock().clone()
    }

    /// Sets everything to zero. Bodies under way go on counting.
    pub(crate) fn reset(&self) {
        *self.lock() = Figures::default();
    }

    pub(crate) fn add(&self, change: impl FnOnce(&mut Figures)) {
        change(&mut self.lock());
    }

    /// Notes that the first byte of a blob is about to leave.
    pub(crate) fn begins(&self, digest: &str) {
        let unix_nanoseconds = unix_nanoseconds();
        let mut figures = self.lock();
        if figures.first_bytes.len() < FIRST_BYTES {
            figures.first_bytes.push(FirstByte { digest: digest.to_owned(), unix_nanoseconds });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Figures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time, comparable between the processes of one machine.
pub(crate) fn unix_nanoseconds() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos())
}
