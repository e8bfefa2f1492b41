//! Spools: content on its way into a storage.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use millpond::{
    runtime::Pieces,
    storage::{Depth, ListQuery, Spool, Storage},
};

use super::{assert_same, key, list, pattern, read};

const MIB: usize = 1 << 20;

/// Writes `bytes` from `offset` on, and waits until they can be read. Returns how many they are.
async fn write(spool: &Spool, offset: u64, bytes: Bytes) -> u64 {
    let (written, length) = (Arc::new(AtomicU64::new(0)), bytes.len() as u64);
    let mut pieces = Pieces::default();
    pieces.push(bytes);
    let counter = Arc::clone(&written);
    let mut writing = spool.write(offset, pieces, move || counter.store(length, Ordering::SeqCst));
    writing.finish().await.unwrap();
    written.load(Ordering::SeqCst)
}

/// Reads a range through one window, piece by piece.
async fn read_spool(spool: &Spool, start: u64, end: u64) -> Vec<u8> {
    let window = spool.window(end - start).await.unwrap();
    let mut bytes = Vec::new();
    while start + (bytes.len() as u64) < end {
        let offset = start + bytes.len() as u64;
        let piece = window.read(offset, end - offset).await.unwrap();
        assert!(!piece.is_empty());
        bytes.extend_from_slice(&piece);
    }
    bytes
}

pub(crate) async fn a_spool_is_read_while_it_grows(storage: &dyn Storage) {
    let (spool, bytes) = (storage.spool().await.unwrap(), pattern(3 * MIB, 5));
    let mut length = 0;
    for piece in bytes.chunks(700_001) {
        length += write(&spool, length, Bytes::copy_from_slice(piece)).await;
        let start = length - piece.len() as u64;
        let piece = Bytes::copy_from_slice(piece);
        assert_same(&read_spool(&spool, start, length).await.into(), &piece, start);
    }
    assert_same(&read_spool(&spool, 0, length).await.into(), &bytes, length);
}

pub(crate) async fn a_spool_is_written_in_any_order(storage: &dyn Storage) {
    let (spool, bytes) = (storage.spool().await.unwrap(), pattern(3 * MIB, 8));
    let middle = MIB + 1;
    write(&spool, middle as u64, bytes.slice(middle..)).await;
    assert_same(
        &read_spool(&spool, middle as u64, bytes.len() as u64).await.into(),
        &bytes.slice(middle..),
        middle,
    );
    write(&spool, 0, bytes.slice(..middle)).await;
    let at = key("spools/any-order");
    storage.adopt(&spool, &at).await.unwrap();
    assert_same(&read(storage, &at, None).await.unwrap(), &bytes, 0);
}

pub(crate) async fn an_adopted_spool_is_an_object_and_can_still_be_read(storage: &dyn Storage) {
    for length in [0, 1, 100_000, 12 * MIB] {
        let (at, bytes) = (key(format!("spools/{length}")), pattern(length, 6));
        let spool = storage.spool().await.unwrap();
        write(&spool, 0, bytes.clone()).await;
        assert!(storage.head(&at).await.is_err_and(|error| error.is_not_found()));
        storage.adopt(&spool, &at).await.unwrap();
        // Repeated, as after an answer that was lost.
        storage.adopt(&spool, &at).await.unwrap();
        assert_same(&read(storage, &at, None).await.unwrap(), &bytes, length);
        assert_same(&read_spool(&spool, 0, length as u64).await.into(), &bytes, length);
    }
}

pub(crate) async fn a_dropped_spool_leaves_nothing(storage: &dyn Storage) {
    let everything = |depth| ListQuery { depth, after: None, limit: 100 };
    let root = key("millpond/v1");
    let (before, _) = list(storage, &root, everything(Depth::All)).await.unwrap();
    let spool = storage.spool().await.unwrap();
    write(&spool, 0, pattern(MIB, 7)).await;
    drop(spool);
    let (after, _) = list(storage, &root, everything(Depth::All)).await.unwrap();
    assert_eq!(before, after);
}
