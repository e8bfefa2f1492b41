//! Upload sessions as this process knows them.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;
use tokio::sync::{Mutex, MutexGuard, watch};

use crate::{
    content::BlobHash,
    oci::UploadId,
    storage::{Key, Piece},
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
    pub(super) hash: Option<BlobHash>,
    /// What was seen beside it, of connections that were given up: to be deleted with it.
    pub(super) strays: Vec<Key>,
}

impl Session {
    /// A session in which nothing is stored, with a hash over nothing.
    pub(super) const fn empty(hash: BlobHash) -> Self {
        Self { pieces: Vec::new(), hash: Some(hash), strays: Vec::new() }
    }

    /// Everything that is stored of it, as far as this process knows.
    pub(super) fn keys(self) -> Vec<Key> {
        let pieces = self.pieces.into_iter().map(|piece| piece.key);
        pieces.chain(self.strays).collect()
    }

    /// Bytes stored.
    pub(super) fn offset(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.size_bytes).sum()
    }
}

/// The place of a session, on which one request at a time works.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// `None` until the session is known.
    session: Mutex<Option<Session>>,
    /// Counts the requests that want to change the session.
    requests: watch::Sender<u64>,
}

impl Slot {
    /// Waits for the session, and has whoever receives bytes for it stop: its client has come back with
    /// another request, so the old connection is dead and only nobody has noticed yet.
    pub(super) async fn take_over(&self) -> MutexGuard<'_, Option<Session>> {
        self.requests.send_modify(|count| *count = count.wrapping_add(1));
        self.session.lock().await
    }

    /// The session, if nobody works on it.
    pub(super) fn look(&self) -> Option<MutexGuard<'_, Option<Session>>> {
        self.session.try_lock().ok()
    }

    /// Ends when another request wants the session.
    pub(super) fn taken_over(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut requests = self.requests.subscribe();
        async move {
            if requests.changed().await.is_err() {
                // The session is gone; then so is every other request.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// The sessions this process has heard of.
#[derive(Debug)]
pub(super) struct Sessions {
    open: Cache<UploadId, Arc<Slot>>,
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
    pub(super) async fn slot(&self, id: UploadId) -> Arc<Slot> {
        self.open.get_with(id, async { Arc::default() }).await
    }

    pub(super) async fn has_ended(&self, id: &UploadId) -> bool {
        self.ended.contains_key(id)
    }

    pub(super) async fn end(&self, id: &UploadId) {
        self.ended.insert(*id, ()).await;
        self.open.invalidate(id).await;
    }

    /// Has whoever receives bytes for a session stop, because its client has come back through another process; what
    /// this one knows of it counts no more.
    pub(super) async fn let_go(&self, id: &UploadId) {
        if let Some(slot) = self.open.remove(id).await {
            slot.requests.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// Sessions this process works on.
    pub(super) fn count(&self) -> u64 {
        // The cache's own count is only brought up to date now and then.
        self.open.iter().count() as u64
    }
}
