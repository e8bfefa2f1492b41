//! Durable objects under keys: the only place where acknowledged state lives.
//!
//! [`Storage`] is implemented by a directory ([`fs`]) and by S3 ([`s3`]); both pass the suite in
//! `tests/`, plain and wrapped in fault injection. [`layout`] alone knows which key holds what.

mod cached;
mod config;
mod error;
mod file_bytes;
pub mod fs;
mod key;
pub mod layout;
mod metered;
pub mod s3;
mod spool;
mod vectored;

use std::{
    fmt,
    ops::Range,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};

pub use config::{Config, Driver};
pub use error::{Error, Fault};
pub use file_bytes::FileBytes;
pub use key::{InvalidKey, Key};
pub use metered::Metered;
pub use spool::{Spool, SpoolWindow, SpoolWrite};

use crate::{oci::ByteRange, runtime::Pieces};

/// How long a reader waits for memory before it is told to come back later: clients give up after 15 to 30
/// seconds without an answer.
pub(crate) const READ_PATIENCE: Duration = Duration::from_secs(10);

/// Objects under keys, in a flat namespace whose `/` only matters to listings.
///
/// # Contract
/// - **Atomic**: an object appears whole or not at all, whatever is interrupted. For a reader that has it
///   open when it is replaced or deleted, the old bytes go on or the stream ends in an error; other
///   bytes never come.
/// - **Durable**: when a method that changes something returns `Ok`, the change outlives a crash.
/// - **Read after write**: what returned `Ok` here is seen by every later call of every process that
///   shares the storage.
/// - **Last writer wins.** There is no conditional write, because not every S3 server has one.
/// - **Idempotent**: every method may be repeated after an error of unknown outcome.
/// - Dropping a future may leave the change done or undone, never half done.
#[async_trait]
pub trait Storage: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// What reading a small object costs.
    fn read_cost(&self) -> ReadCost;

    /// All bytes of a small object, if the storage can say without waiting what they are now. `None` says nothing: the
    /// object has to be opened.
    ///
    /// # Errors
    /// [`Error::NotFound`], or a fault of the storage.
    fn get(&self, key: &Key) -> Option<Result<Bytes, Error>>;

    /// Size and age of an object.
    ///
    /// # Errors
    /// [`Error::NotFound`], or a fault of the storage.
    async fn head(&self, key: &Key) -> Result<ObjectMeta, Error>;

    /// Opens an object for reading, from the start (`None`) or at a range.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::RangeOutside`] where the object has none of the bytes; or a fault.
    /// The stream ends in an error, never cleanly, if it cannot give every byte of the range.
    async fn open(&self, key: &Key, range: Option<ByteRange>) -> Result<Opened, Error>;

    /// Stores a small object, replacing what is there.
    ///
    /// # Errors
    /// A fault of the storage; the object is then either the old or the new one.
    async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), Error>;

    /// Begins an object whose length is not known. It becomes visible by [`Writer::commit`] only.
    ///
    /// # Errors
    /// A fault of the storage.
    async fn write(&self, key: &Key, options: WriteOptions) -> Result<Box<dyn Writer>, Error>;

    /// Makes one object at `to` of the bytes of `pieces`, in order, without moving them through this
    /// process where the storage can join them itself. The pieces may or may not exist afterwards:
    /// the caller deletes them.
    ///
    /// # Errors
    /// [`Error::NotFound`] if a piece is missing, or a fault; nothing is visible at `to` then.
    async fn compose(&self, pieces: &[Piece], to: &Key) -> Result<(), Error>;

    /// A spool for bytes on their way here, which can be read before they are an object.
    ///
    /// # Errors
    /// A fault of this machine's disk.
    async fn spool(&self) -> Result<Spool, Error>;

    /// Makes all bytes of `spool` the object at `to`, durably. The spool can still be read.
    ///
    /// # Errors
    /// A fault of the storage; the object is then either whole or not there.
    async fn adopt(&self, spool: &Spool, to: &Key) -> Result<(), Error>;

    /// Lists what lies under `prefix`, a folder, in the byte order of full keys, where a folder's key
    /// ends in `/`.
    ///
    /// A folder without any object in it is none. An unknown folder is an empty list. Names that
    /// are no keys are passed over. Pages of [`Depth::All`] are to be asked for soon after each other: some
    /// servers go on well only from a token, which a driver does not keep for ever.
    ///
    /// # Errors
    /// A fault of the storage.
    async fn list(&self, prefix: &Key, query: ListQuery) -> Result<Listing, Error>;

    /// Deletes objects. One that does not exist is no error.
    ///
    /// # Errors
    /// A fault of the storage; any of the objects may be gone then.
    async fn delete(&self, keys: &[Key]) -> Result<(), Error>;

    /// Removes what unfinished writes have left behind and that began before `before`: temporary files,
    /// multipart uploads. Returns how many were found; `purge` says whether they are removed.
    ///
    /// # Errors
    /// A fault of the storage.
    async fn purge_unfinished(&self, before: SystemTime, purge: Purge) -> Result<u64, Error>;
}

/// An object that is being written. Dropping it without [`Writer::commit`] abandons it: nothing becomes
/// visible, and what was stored so far is removed, at the latest by [`Storage::purge_unfinished`].
#[async_trait]
pub trait Writer: Send + fmt::Debug {
    /// Bytes it gathers before it does something with them. Whoever works on the same bytes keeps them in
    /// memory no longer by taking as many at a time.
    fn batch_bytes(&self) -> usize;

    /// Takes in the next bytes. Waits while the storage is slower than its caller.
    ///
    /// # Errors
    /// A fault of the storage; the object is then lost and the writer should be dropped.
    async fn write(&mut self, bytes: Bytes) -> Result<(), Error>;

    /// Makes the object visible, durably.
    ///
    /// # Errors
    /// A fault of the storage; whether the object became visible is then unknown.
    async fn commit(self: Box<Self>) -> Result<(), Error>;
}

/// What a storage may know of an object that is to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// How many bytes are likely to come, which lets a driver size its buffers.
    pub expected_bytes: Option<u64>,
    /// When the object must be safe from a power cut.
    pub durability: Durability,
}

/// When an object must be safe from a power cut. From a crash of this process it is safe when it is visible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When the call that makes it visible returns.
    #[default]
    Visible,
    /// When it has been composed into another object. For pieces, whose client keeps the bytes until then.
    Composed,
}

/// Whether to remove what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purge {
    /// Remove it.
    Remove,
    /// Only count it.
    DryRun,
}

/// What reading a small object costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadCost {
    /// A few calls of this machine's kernel, less than to find out who else reads the same.
    Calls,
    /// A request to another machine.
    Request,
}

/// What is known of an object without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its length in bytes.
    pub size_bytes: u64,
    /// When it was written, by the clock of the storage.
    pub modified: SystemTime,
}

/// The bytes of an object, as they arrive. Holds what its buffers cost.
pub type ObjectStream = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

/// The bytes of an object that was opened, before any of them is asked for.
pub enum ObjectBytes {
    /// They come to this process.
    Stream(ObjectStream),
    /// They lie in a file of this machine.
    File(fs::OpenFile),
}

impl fmt::Debug for ObjectBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(_) => f.write_str("Stream"),
            Self::File(file) => file.fmt(f),
        }
    }
}

impl ObjectBytes {
    /// Has the bytes come to this process.
    ///
    /// # Errors
    /// [`Fault::Busy`] if there is no memory for them for 10 seconds.
    pub async fn into_stream(self) -> Result<ObjectStream, Error> {
        match self {
            Self::Stream(stream) => Ok(stream),
            Self::File(file) => file.into_stream().await,
        }
    }
}

/// An object opened for reading.
pub struct Opened {
    /// The object as a whole.
    pub meta: ObjectMeta,
    /// Which of its bytes follow.
    pub range: Range<u64>,
    /// The bytes.
    pub bytes: ObjectBytes,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("meta", &self.meta).field("range", &self.range).finish()
    }
}

/// A stored piece of an object to be composed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it lies.
    pub key: Key,
    /// Its length in bytes; at least one.
    pub size_bytes: u64,
}

/// What a listing covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListQuery {
    /// How deep to look.
    pub depth: Depth,
    /// List only what sorts after `prefix/` followed by this text.
    pub after: Option<String>,
    /// At most this many entries; drivers may cap it at 1000.
    pub limit: usize,
}

impl ListQuery {
    /// The first `limit` entries directly in the folder.
    #[must_use]
    pub const fn children(limit: usize) -> Self {
        Self { depth: Depth::Children, after: None, limit }
    }

    /// The first `limit` objects anywhere below the folder.
    #[must_use]
    pub const fn all(limit: usize) -> Self {
        Self { depth: Depth::All, after: None, limit }
    }

    /// The same, from after `name` on.
    #[must_use]
    pub fn after(self, name: impl Into<String>) -> Self {
        Self { after: Some(name.into()), ..self }
    }
}

/// How deep a listing looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Objects and folders directly in the folder.
    Children,
    /// Every object below it; no folders.
    All,
}

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The entries, in order.
    pub entries: Vec<Entry>,
    /// Whether more may follow the last one.
    pub more: bool,
}

/// Something found in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// An object.
    Object {
        /// Its key below the listed folder.
        name: String,
        /// Size and age.
        meta: ObjectMeta,
    },
    /// A folder with something in it.
    Folder {
        /// Its name below the listed folder, without a slash at the end.
        name: String,
    },
}

impl Entry {
    /// The name below the listed folder.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Object { name, .. } | Self::Folder { name } => name,
        }
    }

    /// The text by which entries are ordered, and from which a listing goes on.
    #[must_use]
    pub fn sort_key(&self) -> String {
        match self {
            Self::Object { name, .. } => name.clone(),
            Self::Folder { name } => format!("{name}/"),
        }
    }
}

/// A storage, shared by everything that uses it.
pub type SharedStorage = Arc<dyn Storage>;

/// Writes, reads and deletes an object, to find out whether a storage can be used at all.
///
/// # Errors
/// Whatever fails first; [`Fault::Corrupt`] if what is read back is something else.
pub async fn probe(storage: &dyn Storage) -> Result<(), Error> {
    let key = layout::probe(fastrand::u64(..));
    let written = Bytes::from_static(b"millpond");
    storage.put(&key, written.clone()).await?;
    let found = read(storage, &key, written.len() as u64).await;
    storage.delete(std::slice::from_ref(&key)).await?;
    if found? == written {
        Ok(())
    } else {
        Err(Error::failed("probe", &key, Fault::Corrupt, "other bytes than were written"))
    }
}

/// Reads an object of at most `limit_bytes` whole.
///
/// # Errors
/// As [`Storage::open`]; [`Fault::Corrupt`] if the object is longer than the limit.
pub async fn read(storage: &dyn Storage, key: &Key, limit_bytes: u64) -> Result<Bytes, Error> {
    match storage.get(key) {
        Some(Ok(bytes)) if bytes.len() as u64 <= limit_bytes => Ok(bytes),
        Some(Err(error)) => Err(error),
        // What takes memory for opening is in a box of its own, so that what is at hand does without.
        _ => Box::pin(read_opened(storage, key, limit_bytes)).await,
    }
}

async fn read_opened(storage: &dyn Storage, key: &Key, limit_bytes: u64) -> Result<Bytes, Error> {
    let Opened { meta, bytes, .. } = storage.open(key, None).await?;
    if meta.size_bytes > limit_bytes {
        let message = format!("{} bytes where at most {limit_bytes} belong", meta.size_bytes);
        return Err(Error::failed("read", key, Fault::Corrupt, message));
    }
    let (mut pieces, mut stream) = (Pieces::default(), bytes.into_stream().await?);
    while let Some(bytes) = stream.try_next().await? {
        pieces.push(bytes);
    }
    Ok(pieces.concat())
}
