//! Reading a file as a stream of pieces.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt, path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures_util::stream;
use tokio::task::JoinHandle;

use super::super::buffers::{BufferPool, Buffers, WINDOW_PIECES};
use super::super::{Error, Fault, Key, ObjectMeta, ObjectStream, Opened, READ_PATIENCE};
use super::{blocking, failed, object_meta};
use crate::{
    oci::ByteRange,
    runtime::{ByteBudget, Permit},
};

/// Objects up to this length are read while they are opened: one hop to the blocking pool for links and
/// manifests.
const SMALL_BYTES: u64 = 64 << 10;

/// What is to be read, and into which buffers.
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) key: Key,
    pub(super) buffers: Buffers,
}

/// What one visit to the blocking pool finds.
struct Found {
    file: File,
    meta: ObjectMeta,
    range: Range<u64>,
    /// The bytes, if they are few.
    bytes: Option<Bytes>,
}

pub(super) async fn open(
    source: Source,
    range: Option<ByteRange>,
    budget: &ByteBudget,
) -> Result<Opened, Error> {
    let Source { path, key, buffers } = source;
    let found = blocking("open", &key, move || find(&path, range)).await?;
    let size_bytes = found.meta.size_bytes;
    let Ok(Found { file, meta, range, bytes }) = found.within_range() else {
        return Err(Error::RangeOutside { key, size_bytes });
    };
    let stream = match bytes {
        Some(bytes) => Box::pin(stream::once(async { Ok(bytes) })) as ObjectStream,
        None => {
            let buffers = buffers.for_stream(budget).clone();
            let window_bytes = WINDOW_PIECES * buffers.buffer_bytes() as u64;
            let window_bytes = window_bytes.min(range.end - range.start);
            let permit = budget.acquire_within(window_bytes, READ_PATIENCE).await;
            let permit = permit.map_err(|error| Error::failed("open", &key, Fault::Busy, error))?;
            stream_file(FileReader {
                file: Arc::new(file),
                range: range.clone(),
                key,
                buffers,
                permit,
            })
        }
    };
    Ok(Opened { meta, range, stream })
}

fn find(path: &std::path::Path, range: Option<ByteRange>) -> io::Result<Found> {
    let file = File::open(path)?;
    let meta = object_meta(&file.metadata()?)?;
    let whole = 0..meta.size_bytes;
    // An empty range stands for "none of the bytes"; the caller tells it from an empty object.
    let range =
        range.map_or(whole, |range| range.resolve(meta.size_bytes).unwrap_or(u64::MAX..u64::MAX));
    let length = range.end - range.start;
    let bytes = if length <= SMALL_BYTES { Some(read_at(&file, range.clone())?) } else { None };
    Ok(Found { file, meta, range, bytes })
}

impl Found {
    fn within_range(self) -> Result<Self, Self> {
        if self.range.start == u64::MAX { Err(self) } else { Ok(self) }
    }
}

fn read_at(file: &File, range: Range<u64>) -> io::Result<Bytes> {
    let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
    let mut buffer = vec![0; length];
    file.read_exact_at(&mut buffer, range.start)?;
    Ok(buffer.into())
}

struct FileReader {
    file: Arc<File>,
    /// What has not been read yet.
    range: Range<u64>,
    key: Key,
    buffers: BufferPool,
    permit: Permit,
}

type Reading = JoinHandle<io::Result<Bytes>>;

impl FileReader {
    /// Begins to read the next piece, if there is one.
    fn read_next(&mut self) -> Option<Reading> {
        let start = self.range.start;
        let end = self.range.end.min(start + self.buffers.buffer_bytes() as u64);
        if start == end {
            return None;
        }
        self.range.start = end;
        let (file, buffers) = (Arc::clone(&self.file), self.buffers.clone());
        let length = usize::try_from(end - start).unwrap_or(usize::MAX);
        Some(tokio::task::spawn_blocking(move || {
            buffers.filled(length, |buffer| file.read_exact_at(buffer, start))
        }))
    }
}

/// Reads one piece ahead of the one that is handed out.
fn stream_file(mut reader: FileReader) -> ObjectStream {
    let first = reader.read_next();
    Box::pin(stream::try_unfold((reader, first), |(mut reader, reading)| async move {
        debug_assert!(reader.permit.bytes() > 0, "the window is paid for");
        let Some(reading) = reading else { return Ok(None) };
        let next = reader.read_next();
        let bytes = reading.await.map_err(io::Error::other).flatten();
        let bytes = bytes.map_err(|error| failed("read", &reader.key, error))?;
        Ok(Some((bytes, (reader, next))))
    }))
}
