//! Reading objects.

use std::{ops::Range, time::Duration};

use aws_sdk_s3::{
    error::SdkError,
    operation::get_object::{GetObjectError, GetObjectOutput},
    primitives::ByteStream,
};
use bytes::Bytes;
use futures_util::stream;

use super::{
    bucket::{Bucket, meta, nonsense},
    fault::{Failure, failed, header},
};
use crate::{
    oci::ByteRange,
    runtime::{Permit, Pieces},
    storage::{Error, Fault, Key, ObjectBytes, ObjectMeta, ObjectStream, Opened, READ_PATIENCE},
};

/// What an open object is taken to hold in buffers: those of its connection.
const STREAM_BUFFER_BYTES: u64 = 256 << 10;

/// Opens an object with a single request.
pub(super) async fn open(
    bucket: &Bucket,
    key: &Key,
    range: Option<ByteRange>,
) -> Result<Opened, Error> {
    let permit = bucket.budget.acquire_within(STREAM_BUFFER_BYTES, READ_PATIENCE).await;
    let permit = permit.map_err(|error| Error::failed("open", key, Fault::Busy, error))?;
    let answer = get(bucket, "open", key, range).await?;
    let object = Object::of(key, range, answer)?;
    let range = object.wanted.clone();
    let meta = object.meta;
    let stream = Body::new(bucket, key, object, Some(permit)).stream();
    Ok(Opened { meta, range, bytes: ObjectBytes::Stream(stream) })
}

/// Reads all of a small object whose size is known. The caller has paid for the memory.
pub(super) async fn read(
    bucket: &Bucket,
    operation: &'static str,
    key: &Key,
    range: Range<u64>,
) -> Result<Pieces, Error> {
    let range = ByteRange::Bounded { start: range.start, end: range.end };
    let object = Object::of(key, Some(range), get(bucket, operation, key, Some(range)).await?)?;
    let mut body = Body::new(bucket, key, object, None);
    let mut pieces = Pieces::default();
    while let Some(bytes) = body.next().await? {
        pieces.push(bytes);
    }
    Ok(pieces)
}

async fn get(
    bucket: &Bucket,
    operation: &'static str,
    key: &Key,
    range: Option<ByteRange>,
) -> Result<GetObjectOutput, Error> {
    let header = match range.map(range_header) {
        None => None,
        Some(Some(header)) => Some(header),
        Some(None) => return Err(outside(bucket, operation, key, None).await),
    };
    let request = bucket.client.get_object().bucket(bucket.name()).key(bucket.path(key));
    match request.set_range(header).send().await {
        Ok(answer) => Ok(answer),
        Err(error) if Failure::of(&error).status() == Some(416) => {
            Err(outside(bucket, operation, key, size_of_unsatisfied(&error)).await)
        }
        Err(error) => Err(failed(operation, key, &error)),
    }
}

/// The `Range` header, or `None` where the range is empty for every object.
fn range_header(range: ByteRange) -> Option<String> {
    // Beyond the largest object; some servers keep positions in signed integers.
    const MOST: u64 = i64::MAX as u64;
    match range {
        ByteRange::Bounded { start, end } if start >= end || start >= MOST => None,
        ByteRange::Bounded { start, end } if end <= MOST => {
            Some(format!("bytes={start}-{}", end - 1))
        }
        ByteRange::Bounded { start, .. } => Some(format!("bytes={start}-")),
        ByteRange::From(start) => (start < MOST).then(|| format!("bytes={start}-")),
        ByteRange::Last(length) => (length > 0).then(|| format!("bytes=-{}", length.min(MOST))),
    }
}

fn size_of_unsatisfied(error: &SdkError<GetObjectError>) -> Option<u64> {
    let range = header(error.raw_response()?, "content-range")?;
    range.trim().strip_prefix("bytes")?.trim().strip_prefix("*/")?.parse().ok()
}

async fn outside(
    bucket: &Bucket,
    operation: &'static str,
    key: &Key,
    size_bytes: Option<u64>,
) -> Error {
    let size_bytes = match size_bytes {
        Some(size_bytes) => size_bytes,
        None => match bucket.head(operation, key).await {
            Ok(head) => head.meta.size_bytes,
            Err(error) => return error,
        },
    };
    Error::RangeOutside { key: key.clone(), size_bytes }
}

/// An answer to a GET that was found to be what was asked for.
struct Object {
    meta: ObjectMeta,
    /// Which of its bytes are wanted.
    wanted: Range<u64>,
    /// Position of the first byte that comes: before the wanted ones where a server ignores ranges.
    position: u64,
    body: ByteStream,
}

impl Object {
    fn of(key: &Key, asked: Option<ByteRange>, answer: GetObjectOutput) -> Result<Self, Error> {
        let corrupt = |what| nonsense("open", key, what);
        let length = answer.content_length.ok_or_else(|| corrupt("no length"))?;
        let (sent, total) = match answer.content_range.as_deref().map(parse_content_range) {
            Some(Some((range, total))) => (range, total),
            Some(None) => return Err(corrupt("a strange Content-Range")),
            None => {
                let total =
                    u64::try_from(length).map_err(|_negative| corrupt("a negative length"))?;
                (0..total, total)
            }
        };
        let meta = meta(i64::try_from(total).ok(), answer.last_modified);
        let meta = meta.ok_or_else(|| corrupt("no size or no date"))?;
        let wanted = match asked {
            None => 0..total,
            Some(range) => match range.resolve(total) {
                Some(wanted) => wanted,
                None => return Err(Error::RangeOutside { key: key.clone(), size_bytes: total }),
            },
        };
        let whole = 0..total;
        if sent != wanted && sent != whole {
            return Err(corrupt("another range than the one asked for"));
        }
        Ok(Self { meta, wanted, position: sent.start, body: answer.body })
    }
}

/// `bytes <first>-<last>/<total>`.
fn parse_content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, total) = text.trim().strip_prefix("bytes")?.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, total): (u64, u64, u64) =
        (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
    (first <= last && last < total).then(|| (first..last + 1, total))
}

/// The bytes that come, counted.
struct Body {
    key: Key,
    body: ByteStream,
    position: u64,
    wanted: Range<u64>,
    longest_silence: Duration,
    _permit: Option<Permit>,
}

impl Body {
    fn new(bucket: &Bucket, key: &Key, object: Object, permit: Option<Permit>) -> Self {
        let Object { wanted, position, body, .. } = object;
        let longest_silence = bucket.config.request_timeout;
        Self { key: key.clone(), body, position, wanted, longest_silence, _permit: permit }
    }

    fn stream(self) -> ObjectStream {
        Box::pin(stream::try_unfold(self, |mut body| async move {
            Ok(body.next().await?.map(|bytes| (bytes, body)))
        }))
    }

    /// The next wanted bytes.
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while self.position < self.wanted.end {
            let frame = tokio::time::timeout(self.longest_silence, self.body.next()).await;
            let Ok(frame) = frame else { return Err(self.broken(Fault::Unavailable, Silent)) };
            let frame = match frame {
                Some(Ok(bytes)) => bytes,
                Some(Err(error)) => return Err(self.broken(Fault::Unavailable, error)),
                None => return Err(self.broken(Fault::Unavailable, Short)),
            };
            if let Some(bytes) = self.cut(frame) {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// What of a frame is wanted.
    fn cut(&mut self, mut frame: Bytes) -> Option<Bytes> {
        let start = self.position;
        self.position += frame.len() as u64;
        if self.position > self.wanted.end {
            frame.truncate(narrow(self.wanted.end - start));
        }
        if start < self.wanted.start {
            let early = narrow(self.wanted.start - start).min(frame.len());
            drop(frame.split_to(early));
        }
        (!frame.is_empty()).then_some(frame)
    }

    fn broken(
        &self,
        fault: Fault,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        Error::failed("read", &self.key, fault, source)
    }
}

/// A distance within a frame, or more than any frame has.
fn narrow(distance: u64) -> usize {
    usize::try_from(distance).unwrap_or(usize::MAX)
}

#[derive(Debug, thiserror::Error)]
#[error("S3 went silent within the body")]
struct Silent;

#[derive(Debug, thiserror::Error)]
#[error("the body from S3 ended before the last byte")]
struct Short;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_asked_for_as_every_server_can_read_them() {
        let cases = [
            (ByteRange::Bounded { start: 0, end: 10 }, Some("bytes=0-9")),
            (ByteRange::Bounded { start: 5, end: u64::MAX }, Some("bytes=5-")),
            (ByteRange::Bounded { start: 5, end: 5 }, None),
            (ByteRange::From(7), Some("bytes=7-")),
            (ByteRange::From(u64::MAX), None),
            (ByteRange::Last(3), Some("bytes=-3")),
            (ByteRange::Last(0), None),
            (ByteRange::Last(u64::MAX), Some("bytes=-9223372036854775807")),
        ];
        for (range, expected) in cases {
            assert_eq!(range_header(range).as_deref(), expected, "{range:?}");
        }
    }

    #[test]
    fn content_ranges_are_read_strictly() {
        assert_eq!(parse_content_range("bytes 0-9/10"), Some((0..10, 10)));
        assert_eq!(parse_content_range("bytes 5-9/11"), Some((5..10, 11)));
        for bad in ["", "bytes */10", "bytes 0-9/*", "bytes 9-0/10", "bytes 0-10/10", "0-9/10"] {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }
}
