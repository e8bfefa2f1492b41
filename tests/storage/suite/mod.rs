//! What every storage does, one function per behaviour. Each works in a folder of its own, so that
//! they can follow each other on one storage.

pub(crate) mod listing;
pub(crate) mod objects;
pub(crate) mod spools;
pub(crate) mod writing;

use bytes::Bytes;
use futures_util::TryStreamExt;
use millpond::{
    oci::ByteRange,
    storage::{Error, Key, ListQuery, Storage, WriteOptions},
};

/// Options of a write that is expected to have so many bytes.
pub(crate) fn expecting(expected_bytes: Option<u64>) -> WriteOptions {
    WriteOptions { expected_bytes, ..WriteOptions::default() }
}

pub(crate) fn key(text: impl AsRef<str>) -> Key {
    text.as_ref().parse().unwrap()
}

/// Bytes that differ from place to place, and from seed to seed.
pub(crate) fn pattern(length: usize, seed: u8) -> Bytes {
    // A prime, so that no power of two falls on the same place of another period.
    const PERIOD: usize = 65_521;
    let period: Vec<u8> = (0..PERIOD.min(length)).map(|at| (at / 251 + at) as u8 ^ seed).collect();
    let mut bytes = period.repeat(length.div_ceil(PERIOD));
    bytes.truncate(length);
    bytes.into()
}

/// All bytes of a range of an object.
pub(crate) async fn read(
    storage: &dyn Storage,
    key: &Key,
    range: Option<ByteRange>,
) -> Result<Bytes, Error> {
    let opened = storage.open(key, range).await?;
    let mut stream = opened.bytes.into_stream().await?;
    let mut bytes = Vec::new();
    while let Some(piece) = stream.try_next().await? {
        assert!(!piece.is_empty() || opened.range.is_empty(), "pieces have bytes");
        bytes.extend_from_slice(&piece);
    }
    assert_eq!(bytes.len() as u64, opened.range.end - opened.range.start, "{key} {range:?}");
    Ok(bytes.into())
}

/// Writes an object of these pieces.
pub(crate) async fn write(
    storage: &dyn Storage,
    key: &Key,
    expected_bytes: Option<u64>,
    pieces: impl IntoIterator<Item = Bytes>,
) -> Result<(), Error> {
    let mut writer = storage.write(key, expecting(expected_bytes)).await?;
    for piece in pieces {
        writer.write(piece).await?;
    }
    writer.commit().await
}

/// Bytes in pieces of this length.
pub(crate) fn cut(bytes: &Bytes, length: usize) -> Vec<Bytes> {
    (0..bytes.len())
        .step_by(length)
        .map(|start| bytes.slice(start..bytes.len().min(start + length)))
        .collect()
}

/// The sort keys of one page.
pub(crate) async fn list(
    storage: &dyn Storage,
    prefix: &Key,
    query: ListQuery,
) -> Result<(Vec<String>, bool), Error> {
    let listing = storage.list(prefix, query).await?;
    Ok((listing.entries.iter().map(millpond::storage::Entry::sort_key).collect(), listing.more))
}

/// Compares without printing megabytes.
pub(crate) fn assert_same(actual: &Bytes, expected: &Bytes, what: impl std::fmt::Debug) {
    assert_eq!(actual.len(), expected.len(), "{what:?}");
    if actual != expected {
        let difference = actual.iter().zip(expected).position(|(a, b)| a != b);
        panic!("{what:?}: other bytes from {difference:?} on");
    }
}
