//! Making one object of many, with as little of it as possible passing through this process.

use std::{ops::Range, sync::Arc};

use aws_sdk_s3::types::CompletedPart;

use super::{
    bucket::Bucket,
    config::{MAX_PART_BYTES, MIN_PART_BYTES},
    fault::failed,
    multipart::{self, MAX_PARTS, Multipart, Source, Target},
    read,
};
use crate::{
    runtime::Pieces,
    storage::{Error, Fault, Key, Piece},
};

/// Bytes that one request has S3 copy: enough that requests do not dominate, and few enough that a
/// large object is copied by many hands.
const COPY_BYTES: u64 = 64 << 20;

const OPERATION: &str = "compose";

/// Makes one object at `to` of `pieces`.
pub(super) async fn compose(bucket: &Arc<Bucket>, pieces: &[Piece], to: &Key) -> Result<(), Error> {
    let size_bytes = pieces.iter().map(|piece| piece.size_bytes).sum();
    match pieces {
        [piece] if size_bytes <= COPY_BYTES => copy(bucket, &piece.key, to).await,
        pieces if size_bytes <= bucket.config.part_bytes => {
            let segments: Vec<Segment> = pieces.iter().map(Segment::whole).collect();
            let _permit = bucket.reserve(size_bytes).await;
            let joined = gather(bucket, &segments).await?;
            bucket.put(OPERATION, to, joined).await
        }
        pieces => {
            let parts = plan(pieces, size_bytes);
            if parts.len() > MAX_PARTS {
                return Err(Error::failed(OPERATION, to, Fault::Other, TooManyParts));
            }
            assemble(bucket, parts, to, size_bytes).await
        }
    }
}

async fn copy(bucket: &Bucket, from: &Key, to: &Key) -> Result<(), Error> {
    let (encryption, kms_key) = bucket.encryption();
    let source = Source { key: from.clone(), range: None };
    bucket
        .client
        .copy_object()
        .bucket(bucket.name())
        .key(bucket.path(to))
        .copy_source(source.path(bucket))
        .set_server_side_encryption(encryption)
        .set_ssekms_key_id(kms_key)
        .set_storage_class(bucket.storage_class())
        .customize()
        .config_override(bucket.server_side())
        .send()
        .await
        .map_err(|error| failed(OPERATION, from, &error))?;
    Ok(())
}

async fn assemble(
    bucket: &Arc<Bucket>,
    parts: Vec<Part>,
    to: &Key,
    size_bytes: u64,
) -> Result<(), Error> {
    let concurrency = bucket.config.compose_concurrency;
    let mut upload = Multipart::begin(bucket, OPERATION, to, concurrency).await?;
    for part in parts {
        match part {
            Part::Copy(segment) => {
                let source = segment.source();
                upload.add(|target| multipart::copy(target, source)).await?;
            }
            Part::Join(segments) => {
                let bucket = Arc::clone(bucket);
                upload.add(|target| join(bucket, target, segments)).await?;
            }
        }
    }
    upload.complete(size_bytes).await
}

/// Reads segments that are too small to be copied and sends them as one part.
async fn join(
    bucket: Arc<Bucket>,
    target: Target,
    segments: Vec<Segment>,
) -> Result<CompletedPart, Error> {
    let size_bytes = segments.iter().map(Segment::length).sum();
    let permit = bucket.reserve(size_bytes).await;
    let joined = gather(&bucket, &segments).await?;
    multipart::send(target, joined, Some(permit)).await
}

async fn gather(bucket: &Bucket, segments: &[Segment]) -> Result<Pieces, Error> {
    let mut joined = Pieces::default();
    for segment in segments {
        let pieces = read::read(bucket, OPERATION, &segment.key, segment.range.clone()).await?;
        pieces.into_iter().for_each(|bytes| joined.push(bytes));
    }
    Ok(joined)
}

/// Bytes of a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    key: Key,
    range: Range<u64>,
    piece_bytes: u64,
}

impl Segment {
    fn whole(piece: &Piece) -> Self {
        Self::of(piece, 0..piece.size_bytes)
    }

    fn of(piece: &Piece, range: Range<u64>) -> Self {
        Self { key: piece.key.clone(), range, piece_bytes: piece.size_bytes }
    }

    const fn length(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// A whole piece is copied without a range: AWS takes no ranges of objects below 5 MiB.
    fn source(self) -> Source {
        let whole = self.range == (0..self.piece_bytes);
        Source { key: self.key, range: (!whole).then_some(self.range) }
    }
}

/// A part of the object to be.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// Copied by S3.
    Copy(Segment),
    /// Read and sent by us: together large enough for a part.
    Join(Vec<Segment>),
}

/// Cuts pieces into parts, none below the smallest size but the last.
fn plan(pieces: &[Piece], size_bytes: u64) -> Vec<Part> {
    // Half of the parts are left for pieces that do not divide evenly.
    let copy_bytes = COPY_BYTES.max(size_bytes.div_ceil(MAX_PARTS as u64 / 2)).min(MAX_PART_BYTES);
    let mut parts = Vec::new();
    let mut small = Vec::new();
    let mut small_bytes = 0;
    for (index, piece) in pieces.iter().enumerate() {
        let last = index + 1 == pieces.len();
        let head_bytes = match small_bytes {
            0 if last || piece.size_bytes >= MIN_PART_BYTES => 0,
            _ => head_bytes(piece.size_bytes, MIN_PART_BYTES - small_bytes),
        };
        if head_bytes > 0 {
            small.push(Segment::of(piece, 0..head_bytes));
            small_bytes += head_bytes;
        }
        if small_bytes >= MIN_PART_BYTES {
            parts.push(Part::Join(std::mem::take(&mut small)));
            small_bytes = 0;
        }
        let tail = head_bytes..piece.size_bytes;
        parts.extend(split(tail, copy_bytes).map(|range| Part::Copy(Segment::of(piece, range))));
    }
    if !small.is_empty() {
        parts.push(Part::Join(small));
    }
    parts
}

/// How much of a piece is read to fill up a part that lacks `missing_bytes`: that, or all of the piece
/// where the rest would be too small to be copied.
const fn head_bytes(piece_bytes: u64, missing_bytes: u64) -> u64 {
    if piece_bytes < missing_bytes + MIN_PART_BYTES { piece_bytes } else { missing_bytes }
}

/// Cuts a range evenly into ranges of at most `most_bytes`.
fn split(range: Range<u64>, most_bytes: u64) -> impl Iterator<Item = Range<u64>> {
    let length = range.end - range.start;
    let count = length.div_ceil(most_bytes);
    let edge = move |index: u64| {
        let offset = u128::from(length) * u128::from(index) / u128::from(count);
        range.start + u64::try_from(offset).expect("a part of a length is no more than it")
    };
    (0..count).map(move |index| edge(index)..edge(index + 1))
}

#[derive(Debug, thiserror::Error)]
#[error("there are more pieces than an object of S3 may have parts")]
struct TooManyParts;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn pieces(sizes: &[u64]) -> Vec<Piece> {
        let piece = |(index, size)| Piece {
            key: format!("piece/{index}").parse().expect("a key"),
            size_bytes: size,
        };
        sizes.iter().copied().enumerate().map(piece).collect()
    }

    /// Length of every part, negative where it is read and sent.
    fn shape(sizes: &[u64]) -> Vec<i64> {
        let mib = |bytes: u64| i64::try_from(bytes / MIB).expect("a small number");
        let length = |part: &Part| match part {
            Part::Copy(segment) => mib(segment.length()),
            Part::Join(segments) => -mib(segments.iter().map(Segment::length).sum()),
        };
        plan(&pieces(sizes), sizes.iter().sum()).iter().map(length).collect()
    }

    #[test]
    fn only_what_is_too_small_passes_through_us() {
        assert_eq!(shape(&[100 * MIB]), [50, 50]);
        assert_eq!(shape(&[8 * MIB, 8 * MIB, MIB]), [8, 8, 1]);
        assert_eq!(shape(&[MIB, 8 * MIB]), [-9]);
        assert_eq!(shape(&[MIB, 20 * MIB]), [-5, 16]);
        assert_eq!(shape(&[8 * MIB, MIB, MIB, 20 * MIB]), [8, -5, 17]);
        assert_eq!(shape(&[3 * MIB; 5]), [-6, -6, 3]);
        assert_eq!(shape(&[20 * MIB, MIB, MIB]), [20, -2]);
    }

    proptest! {
        #[test]
        fn a_plan_has_every_byte_once_and_no_part_that_s3_refuses(
            sizes in proptest::collection::vec(1_u64..(200 * MIB), 1..40),
        ) {
            let pieces = pieces(&sizes);
            let parts = plan(&pieces, sizes.iter().sum());
            let mut segments = Vec::new();
            for (index, part) in parts.iter().enumerate() {
                let of_part = match part {
                    Part::Copy(segment) => std::slice::from_ref(segment),
                    Part::Join(segments) => segments.as_slice(),
                };
                let length: u64 = of_part.iter().map(Segment::length).sum();
                prop_assert!(length >= MIN_PART_BYTES || index + 1 == parts.len());
                if let Part::Copy(segment) = part {
                    let ranged = segment.clone().source().range.is_some();
                    prop_assert!(!ranged || segment.piece_bytes > MIN_PART_BYTES);
                    prop_assert!(segment.length() <= COPY_BYTES);
                }
                segments.extend_from_slice(of_part);
            }
            let mut rest = segments.into_iter().peekable();
            for piece in &pieces {
                let mut position = 0;
                while let Some(segment) = rest.next_if(|segment| segment.key == piece.key) {
                    prop_assert_eq!(segment.range.start, position);
                    position = segment.range.end;
                }
                prop_assert_eq!(position, piece.size_bytes);
            }
            prop_assert!(rest.next().is_none());
        }
    }
}
