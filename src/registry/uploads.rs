//! Uploads: blobs on their way in.
//!
//! What a client has sent is stored as pieces before it is acknowledged; so a session outlives this
//! process, and any process that shares the storage can take it up from its URL alone. A process that
//! saw every byte also has the running hash; another one hashes the pieces again at the end.
//!
//! A body that comes with its digest, in a session that holds nothing yet, goes straight to its place.

use std::{
    fmt,
    ops::Range,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;

use super::{
    Error, Repository,
    links::LinkKind,
    pieces::StoredPieces,
    session::{Session, Slot},
    words::Forget,
};
use crate::{
    content::{BlobHash, Hashed, Received},
    oci::{Algorithm, Digest, UploadId, UploadPosition},
    runtime::{BodyStream, until},
    storage::{Durability, Entry, Key, ListQuery, Piece, WriteOptions, layout},
};

/// Bytes that a client sends into an upload.
pub struct Chunk {
    /// Where the client says they belong.
    pub range: Option<Range<u64>>,
    /// How many there are, where the client says so beforehand.
    pub length: Option<u64>,
    /// The bytes.
    pub body: BodyStream,
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { range, length, .. } = self;
        f.debug_struct("Chunk")
            .field("range", range)
            .field("length", length)
            .finish_non_exhaustive()
    }
}

/// Where an upload stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadStatus {
    /// The session.
    pub id: UploadId,
    /// Bytes stored.
    pub offset: u64,
}

impl UploadStatus {
    /// The session part of the URL for the next request.
    #[must_use]
    pub const fn position(&self) -> UploadPosition {
        UploadPosition { id: self.id, offset: Some(self.offset) }
    }
}

impl Repository {
    /// Begins an upload. Stores nothing: the session is its identity.
    pub async fn start_upload(&self, algorithm: Algorithm) -> UploadStatus {
        let id = UploadId::new(&self.name, algorithm, now(), fastrand::u64(..));
        let slot = self.registry.sessions.slot(id).await;
        *slot.take_over().await = Some(self.empty_session(algorithm));
        UploadStatus { id, offset: 0 }
    }

    /// Where an upload stands, as the storage has it.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`], or a fault of the storage.
    pub async fn upload_status(&self, position: UploadPosition) -> Result<UploadStatus, Error> {
        let slot = self.upload_slot(position).await?;
        // While bytes are coming in, what is stored so far is the answer.
        let mut unknown = None;
        let mut guard = slot.look();
        let known = guard.as_deref_mut().unwrap_or(&mut unknown);
        let session = self.session_at(known, position, None).await?;
        Ok(UploadStatus { id: position.id, offset: session.offset() })
    }

    /// Adds a chunk to an upload. What came before a broken end is kept, so that the client can ask
    /// where it stands and go on from there.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`], [`Error::UploadOffset`] and [`Error::UploadLength`] with the session as
    /// it was; [`Error::Body`]; or a fault of the storage.
    ///
    /// # Cancel safety
    /// To be run detached: dropping the future loses what is being received.
    pub async fn append_upload(
        &self,
        position: UploadPosition,
        chunk: Chunk,
    ) -> Result<UploadStatus, Error> {
        let slot = self.upload_slot(position).await?;
        let mut known = slot.take_over().await;
        let mut session = self.session_for(&mut known, position, chunk.range.as_ref()).await?;
        let chunk = Chunk { body: until(chunk.body, slot.taken_over()), ..chunk };
        let appended = self.append(position.id, &mut session, chunk).await;
        let offset = session.offset();
        *known = Some(session);
        appended?;
        Ok(UploadStatus { id: position.id, offset })
    }

    /// Ends an upload with its last bytes, if any: verifies the whole against `digest` and makes it a blob
    /// of this repository. Repeating it after success is success.
    ///
    /// # Errors
    /// As [`Repository::append_upload`]; [`Error::DigestMismatch`] with the session as it was.
    ///
    /// # Cancel safety
    /// To be run detached. Content, then link: stopping anywhere leaves only garbage.
    pub async fn finish_upload(
        &self,
        position: UploadPosition,
        digest: &Digest,
        chunk: Chunk,
    ) -> Result<(), Error> {
        let slot = match self.upload_slot(position).await {
            Err(error) => return self.already_finished(position, digest, error).await,
            Ok(slot) => slot,
        };
        let mut known = slot.take_over().await;
        let mut session = match self.session_for(&mut known, position, chunk.range.as_ref()).await {
            Err(error) => return self.already_finished(position, digest, error).await,
            Ok(session) => session,
        };
        let chunk = Chunk { body: until(chunk.body, slot.taken_over()), ..chunk };
        let finished = if session.pieces.is_empty() {
            self.store_whole(digest, chunk).await
        } else {
            self.finish_pieces(position.id, &mut session, (digest, chunk)).await
        };
        let is_gone = matches!(&finished, Err(Error::Storage(error)) if error.is_not_found());
        if is_gone {
            let error = self.learn_anew(&mut known, position).await;
            if matches!(error, Error::UploadUnknown) {
                self.registry.reaper.remove(session.keys());
            }
            return self.already_finished(position, digest, error).await;
        }
        *known = Some(session.clone());
        finished?;
        self.registry.links.add(LinkKind::Layer, &self.name, digest).await?;
        self.end_session(&position.id).await;
        self.registry.reaper.remove(session.keys());
        Ok(())
    }

    /// What `error` means to a client that ends its upload once more, because the answer to the first time
    /// was lost.
    async fn already_finished(
        &self,
        position: UploadPosition,
        digest: &Digest,
        error: Error,
    ) -> Result<(), Error> {
        let may_be = match &error {
            Error::UploadUnknown => true,
            // After a restart a finished session looks like one that has not begun, and while its pieces are being
            // deleted like one that has lost some.
            Error::UploadOffset { offset } => {
                *offset == 0 || position.offset.is_some_and(|stored| stored > *offset)
            }
            _ => false,
        };
        if may_be && self.stat_blob(digest).await.is_ok() { Ok(()) } else { Err(error) }
    }

    /// Stores a blob that comes in one request with its digest.
    ///
    /// # Errors
    /// As [`Repository::finish_upload`].
    ///
    /// # Cancel safety
    /// To be run detached.
    pub async fn put_blob(&self, digest: &Digest, chunk: Chunk) -> Result<(), Error> {
        self.store_whole(digest, chunk).await?;
        self.registry.links.add(LinkKind::Layer, &self.name, digest).await
    }

    /// Ends an upload and forgets its bytes.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`], or a fault of the storage.
    pub async fn cancel_upload(&self, position: UploadPosition) -> Result<(), Error> {
        let slot = self.upload_slot(position).await?;
        let mut known = slot.take_over().await;
        let session = self.take_session(&mut known, position, None).await?;
        // For the other processes, which would take the bare identity for a new session.
        self.registry.storage.put(&layout::upload_cancelled(&position.id), Bytes::new()).await?;
        self.end_session(&position.id).await;
        self.registry.reaper.remove(session.keys());
        Ok(())
    }

    async fn upload_slot(&self, position: UploadPosition) -> Result<Arc<Slot>, Error> {
        let expired = position.id.started() + self.registry.config.uploads.age < now();
        if expired || self.registry.sessions.has_ended(&position.id).await {
            return Err(Error::UploadUnknown);
        }
        Ok(self.registry.sessions.slot(position.id).await)
    }

    /// The session, known to be where the client believes it is.
    async fn session_for(
        &self,
        known: &mut Option<Session>,
        position: UploadPosition,
        range: Option<&Range<u64>>,
    ) -> Result<Session, Error> {
        let claimed = range.map(|range| range.start).or(position.offset);
        let session = self.take_session(known, position, claimed).await?;
        let offset = session.offset();
        let agrees = |claim: u64| claim == offset;
        if claimed.is_none_or(agrees) && position.offset.is_none_or(agrees) {
            Ok(session)
        } else {
            Err(Error::UploadOffset { offset })
        }
    }

    /// As [`Self::session_at`], for who changes the session. A process that has to look into the storage has not been the
    /// last one to work on it: whoever that is shall know that its client is here now.
    async fn take_session(
        &self,
        known: &mut Option<Session>,
        position: UploadPosition,
        claimed: Option<u64>,
    ) -> Result<Session, Error> {
        if !is_known_at(known.as_ref(), claimed) {
            self.registry.news.tell(&Forget::UploadTaken(position.id)).await;
        }
        self.session_at(known, position, claimed).await
    }

    /// The session, from memory if it ends there at `claimed`, else from storage.
    async fn session_at(
        &self,
        known: &mut Option<Session>,
        position: UploadPosition,
        claimed: Option<u64>,
    ) -> Result<Session, Error> {
        // Another request may have ended it while this one waited for the slot.
        if self.registry.sessions.has_ended(&position.id).await {
            return Err(Error::UploadUnknown);
        }
        if let Some(session) = &*known
            && is_known_at(Some(session), claimed)
        {
            return Ok(session.clone());
        }
        let stored = self.stored_pieces(&position.id).await?;
        let mut session = stored.session(claimed, known.as_ref());
        if session.pieces.is_empty() {
            if position.offset.is_some_and(|offset| offset > 0) {
                // There was something, or the URL would not say so: another process has ended the session.
                return Err(Error::UploadUnknown);
            }
            session.hash = Some(self.begin_hash(position.id.algorithm()));
        }
        *known = Some(session.clone());
        Ok(session)
    }

    /// What to say of a session whose pieces are not where this process knew them: another one has ended it, or has
    /// taken another way.
    async fn learn_anew(&self, known: &mut Option<Session>, position: UploadPosition) -> Error {
        *known = None;
        match self.session_at(known, position, None).await {
            Ok(session) if session.pieces.is_empty() => Error::UploadUnknown,
            Ok(session) => Error::UploadOffset { offset: session.offset() },
            Err(error) => error,
        }
    }

    /// Everything stored of a session.
    async fn stored_pieces(&self, id: &UploadId) -> Result<StoredPieces, Error> {
        let folder = layout::upload(id);
        let mut query = ListQuery::children(1000);
        let mut pieces = StoredPieces::default();
        loop {
            let page = self.registry.storage.list(&folder, query.clone()).await?;
            for entry in &page.entries {
                let Entry::Object { name, meta } = entry else { continue };
                if name == layout::CANCELLED {
                    return Err(Error::UploadUnknown);
                }
                let Some(start) = layout::upload_piece_offset(name) else { continue };
                let size_bytes = meta.size_bytes;
                pieces.push(start, Piece { key: folder.join(name), size_bytes });
            }
            match page.entries.last() {
                Some(last) if page.more => query = query.after(last.sort_key()),
                _ => return Ok(pieces),
            }
        }
    }

    /// Stores a chunk as the session's next piece.
    async fn append(&self, id: UploadId, session: &mut Session, chunk: Chunk) -> Result<(), Error> {
        let offset = session.offset();
        let announced = chunk.range.map(|range| range.end - range.start);
        if let (Some(announced), Some(received)) = (announced, chunk.length)
            && announced != received
        {
            return Err(Error::UploadLength { announced, received });
        }
        let limit_bytes = self.registry.config.blob_max.0.saturating_sub(offset);
        let key = layout::upload_piece(&id, offset, fastrand::u64(..));
        let options =
            WriteOptions { expected_bytes: chunk.length, durability: Durability::Composed };
        let mut writer = self.registry.storage.write(&key, options).await?;
        let seen_all = session.hash.is_some();
        let hash = session.hash.clone().unwrap_or_else(|| self.begin_hash(id.algorithm()));
        let Received { size_bytes, hash, end } =
            self.registry.content.receive(&mut *writer, chunk.body, hash, limit_bytes).await?;
        if let (Some(announced), Ok(())) = (announced, &end)
            && announced != size_bytes
        {
            return Err(Error::UploadLength { announced, received: size_bytes });
        }
        if end.is_err() && size_bytes > 0 && !self.is_still_at(&id, session).await? {
            // Dropping the writer leaves nothing of what came.
            return Ok(end?);
        }
        if size_bytes > 0 {
            writer.commit().await?;
            session.pieces.push(Piece { key, size_bytes });
            session.hash = seen_all.then_some(hash);
        }
        Ok(end?)
    }

    /// Whether nobody has gone on with the session through another process, or ended it. Asked where a connection has
    /// broken, perhaps long after its client had given it up.
    async fn is_still_at(&self, id: &UploadId, session: &Session) -> Result<bool, Error> {
        match self.stored_pieces(id).await {
            Ok(stored) => Ok(stored.hold(&session.pieces) && !stored.go_on_from(session.offset())),
            Err(Error::UploadUnknown) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn store_whole(&self, digest: &Digest, chunk: Chunk) -> Result<(), Error> {
        let limits = (chunk.length, self.registry.config.blob_max.0);
        self.registry.content.put_stream(*digest, chunk.body, limits).await?;
        Ok(())
    }

    async fn finish_pieces(
        &self,
        id: UploadId,
        session: &mut Session,
        (digest, chunk): (&Digest, Chunk),
    ) -> Result<(), Error> {
        let before = session.clone();
        self.append(id, session, chunk).await?;
        let verified = self.verify(session, digest).await;
        if verified.is_err() && session.pieces.len() > before.pieces.len() {
            // The last bytes came with a wrong digest: the session is what it was before them.
            let added = session.pieces.split_off(before.pieces.len());
            let added: Vec<Key> = added.into_iter().map(|piece| piece.key).collect();
            self.registry.storage.delete(&added).await?;
            *session = before;
        }
        Ok(self.registry.content.promote(verified?, &session.pieces).await?)
    }

    async fn verify(&self, session: &Session, digest: &Digest) -> Result<Hashed, Error> {
        let hash = match &session.hash {
            Some(hash) if hash.algorithm() == digest.algorithm() => hash.clone(),
            _ => {
                let hash = self.begin_hash(digest.algorithm());
                self.registry.content.hash_pieces(&session.pieces, hash).await?
            }
        };
        let hashed = hash.finish();
        if hashed.digest == *digest {
            Ok(hashed)
        } else {
            Err(Error::DigestMismatch { expected: *digest, actual: hashed.digest })
        }
    }

    /// Ends a session here, and soon on every other node.
    async fn end_session(&self, id: &UploadId) {
        self.registry.sessions.end(id).await;
        self.registry.news.tell_later(Forget::UploadEnded(*id));
    }

    fn begin_hash(&self, algorithm: Algorithm) -> BlobHash {
        self.registry.content.begin_hash(algorithm)
    }

    fn empty_session(&self, algorithm: Algorithm) -> Session {
        Session::empty(self.begin_hash(algorithm))
    }
}

/// Whether a session is known to end where the client says.
fn is_known_at(known: Option<&Session>, claimed: Option<u64>) -> bool {
    claimed.is_some() && known.map(Session::offset) == claimed
}

fn now() -> std::time::Duration {
    // Before 1970 nothing is an upload.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
