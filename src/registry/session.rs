//! Upload sessions as this process knows them.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;
use tokio::sync::Mutex;

use crate::{
    oci::{Algorithm, Hasher, UploadId},
    storage::Piece,
};

/// Sessions remembered at once, about 500 bytes each. One that is forgotten is read back from storage and
/// costs hashing its pieces again.
const SESSIONS: u64 = 10_000;

/// How long a finished or cancelled session is remembered as such.
const ENDED_FOR: Duration = Duration::from_mins(10);

/// What one process knows of an upload.
#[derive(Clone, Debug)]
pub(super) struct Session {
    /// What is stored, in order, without gaps.
    pub(super) pieces: Vec<Piece>,
    /// The hash over all of it, if this process saw all of it pass.
    pub(super) hasher: Option<Hasher>,
}

impl Session {
    /// A session in which nothing is stored.
    pub(super) fn empty(algorithm: Algorithm) -> Self {
        Self { pieces: Vec::new(), hasher: Some(Hasher::new(algorithm)) }
    }

    /// Bytes stored.
    pub(super) fn offset(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.size_bytes).sum()
    }
}

/// A session that one request at a time works on; `None` until it is known.
pub(super) type SharedSession = Arc<Mutex<Option<Session>>>;

/// The sessions this process has heard of.
#[derive(Debug)]
pub(super) struct Sessions {
    open: Cache<UploadId, SharedSession>,
    ended: Cache<UploadId, ()>,
}

impl Sessions {
    /// Sessions that live for `age`.
    pub(super) fn new(age: Duration) -> Self {
        Self {
            open: Cache::builder().max_capacity(SESSIONS).time_to_live(age).build(),
            ended: Cache::builder().max_capacity(SESSIONS).time_to_live(ENDED_FOR).build(),
        }
    }

    /// The session's place, empty if this process has not heard of it.
    pub(super) async fn slot(&self, id: UploadId) -> SharedSession {
        self.open.get_with(id, async { SharedSession::default() }).await
    }

    pub(super) async fn has_ended(&self, id: &UploadId) -> bool {
        self.ended.contains_key(id)
    }

    pub(super) async fn end(&self, id: &UploadId) {
        self.ended.insert(*id, ()).await;
        self.open.invalidate(id).await;
    }

    /// Sessions this process works on.
    pub(super) fn count(&self) -> u64 {
        self.open.entry_count()
    }
}
