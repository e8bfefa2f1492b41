//! Objects: written, read, replaced, deleted.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::TryStreamExt;
use millpond::{
    oci::ByteRange,
    storage::{Error, ListQuery, Storage},
};

use super::{assert_same, key, list, pattern, read};

pub(crate) async fn a_put_object_is_read_back(storage: &dyn Storage) {
    let (at, bytes) = (key("readback/folder+of@a=b/object"), pattern(100_000, 1));
    storage.put(&at, bytes.clone()).await.unwrap();
    let meta = storage.head(&at).await.unwrap();
    assert_eq!(meta.size_bytes, 100_000);
    let age = SystemTime::now().duration_since(meta.modified).unwrap_or_default();
    assert!(age < Duration::from_secs(120), "{meta:?}");
    let opened = storage.open(&at, None).await.unwrap();
    assert_eq!((opened.meta.size_bytes, opened.range), (100_000, 0..100_000));
    assert_same(&read(storage, &at, None).await.unwrap(), &bytes, &at);
}

pub(crate) async fn a_put_replaces_what_was_there(storage: &dyn Storage) {
    let at = key("replace/object");
    for (length, seed) in [(1000, 1), (10, 2), (0, 3), (70_000, 4)] {
        let bytes = pattern(length, seed);
        storage.put(&at, bytes.clone()).await.unwrap();
        assert_same(&read(storage, &at, None).await.unwrap(), &bytes, length);
        assert_eq!(storage.head(&at).await.unwrap().size_bytes, length as u64);
    }
}

pub(crate) async fn an_empty_object_is_an_object(storage: &dyn Storage) {
    let at = key("empty/object");
    storage.put(&at, Bytes::new()).await.unwrap();
    assert_eq!(storage.head(&at).await.unwrap().size_bytes, 0);
    assert!(read(storage, &at, None).await.unwrap().is_empty());
    let error = storage.open(&at, Some(ByteRange::From(0))).await.unwrap_err();
    assert!(matches!(error, Error::RangeOutside { size_bytes: 0, .. }), "{error}");
    let (names, _more) = list(storage, &key("empty"), ListQuery::all(10)).await.unwrap();
    assert_eq!(names, ["object"]);
}

pub(crate) async fn ranges_are_those_asked_for(storage: &dyn Storage) {
    const LENGTH: u64 = 300_000;
    let (at, bytes) = (key("ranges/object"), pattern(300_000, 7));
    storage.put(&at, bytes.clone()).await.unwrap();
    let ranges = [
        (ByteRange::Bounded { start: 0, end: 1 }, 0..1),
        (ByteRange::Bounded { start: 0, end: LENGTH }, 0..LENGTH),
        (ByteRange::Bounded { start: 65_535, end: 200_001 }, 65_535..200_001),
        (ByteRange::Bounded { start: LENGTH - 1, end: LENGTH }, LENGTH - 1..LENGTH),
        (ByteRange::Bounded { start: 299_990, end: LENGTH + 5 }, 299_990..LENGTH),
        (ByteRange::Bounded { start: 5, end: u64::MAX }, 5..LENGTH),
        (ByteRange::From(0), 0..LENGTH),
        (ByteRange::From(123_456), 123_456..LENGTH),
        (ByteRange::Last(1), LENGTH - 1..LENGTH),
        (ByteRange::Last(LENGTH), 0..LENGTH),
        (ByteRange::Last(LENGTH + 1), 0..LENGTH),
        (ByteRange::Last(u64::MAX), 0..LENGTH),
    ];
    for (range, expected) in ranges {
        let opened = storage.open(&at, Some(range)).await.unwrap();
        assert_eq!(opened.range, expected, "{range:?}");
        assert_eq!(opened.meta.size_bytes, LENGTH, "{range:?}");
        drop(opened);
        let part = bytes.slice(expected.start as usize..expected.end as usize);
        assert_same(&read(storage, &at, Some(range)).await.unwrap(), &part, range);
    }
}

pub(crate) async fn ranges_outside_tell_the_size(storage: &dyn Storage) {
    let at = key("outside/object");
    storage.put(&at, pattern(10, 1)).await.unwrap();
    let ranges = [
        ByteRange::Bounded { start: 10, end: 11 },
        ByteRange::Bounded { start: u64::MAX - 1, end: u64::MAX },
        ByteRange::From(10),
        ByteRange::From(u64::MAX),
        ByteRange::Last(0),
    ];
    for range in ranges {
        let error = storage.open(&at, Some(range)).await.unwrap_err();
        assert!(matches!(error, Error::RangeOutside { size_bytes: 10, .. }), "{range:?}: {error}");
    }
}

pub(crate) async fn what_is_missing_is_not_found(storage: &dyn Storage) {
    storage.put(&key("missing/folder/object"), pattern(10, 1)).await.unwrap();
    for at in ["missing/nothing", "missing/nothing/at/all", "missing/folder/obj"].map(key) {
        assert!(storage.head(&at).await.unwrap_err().is_not_found());
        assert!(storage.open(&at, None).await.unwrap_err().is_not_found());
        for range in [ByteRange::From(1), ByteRange::Last(0)] {
            let error = storage.open(&at, Some(range)).await.unwrap_err();
            assert!(error.is_not_found(), "{range:?}: {error}");
        }
    }
    assert!(storage.head(&key("missing/folder")).await.unwrap_err().is_not_found());
}

pub(crate) async fn an_open_object_does_not_change(storage: &dyn Storage) {
    let (replaced, deleted) = (key("outlive/replaced"), key("outlive/deleted"));
    let bytes = pattern(12 << 20, 5);
    let mut streams = Vec::new();
    for at in [&replaced, &deleted] {
        super::write(storage, at, None, [bytes.clone()]).await.unwrap();
        let opened = storage.open(at, None).await.unwrap();
        streams.push(opened.bytes.into_stream().await.unwrap());
    }
    storage.put(&replaced, pattern(100, 6)).await.unwrap();
    storage.delete(&[deleted]).await.unwrap();
    for mut stream in streams {
        let mut read = Vec::new();
        let end = loop {
            match stream.try_next().await {
                Ok(Some(piece)) => read.extend_from_slice(&piece),
                end => break end.map(|_none| ()),
            }
        };
        // Not every server has the old bytes to the end; but it never has others.
        assert!(bytes.starts_with(&read), "other bytes among the first {}", read.len());
        assert!(
            end.is_err() || read.len() == bytes.len(),
            "a clean end after {} bytes",
            read.len()
        );
    }
}

pub(crate) async fn deleting_is_repeatable(storage: &dyn Storage) {
    let (at, neighbour) = (key("delete/one"), key("delete/one-more"));
    storage.put(&at, pattern(10, 1)).await.unwrap();
    storage.put(&neighbour, pattern(10, 2)).await.unwrap();
    storage.delete(&[]).await.unwrap();
    for _ in 0..2 {
        storage.delete(std::slice::from_ref(&at)).await.unwrap();
        assert!(storage.head(&at).await.unwrap_err().is_not_found());
    }
    storage.delete(&[at.clone(), key("delete/never/was")]).await.unwrap();
    assert_eq!(read(storage, &neighbour, None).await.unwrap(), pattern(10, 2));
    storage.put(&at, pattern(3, 3)).await.unwrap();
    assert_eq!(read(storage, &at, None).await.unwrap(), pattern(3, 3));
}

pub(crate) async fn many_are_deleted_at_once(storage: &dyn Storage) {
    let keys: Vec<_> = (0..40).map(|n| key(format!("batch/{}/{n}", n % 4))).collect();
    for at in &keys {
        storage.put(at, pattern(5, 1)).await.unwrap();
    }
    let (kept, gone) = keys.split_at(3);
    storage.delete(gone).await.unwrap();
    let (names, more) = list(storage, &key("batch"), ListQuery::all(100)).await.unwrap();
    assert_eq!((names, more), (vec!["0/0".into(), "1/1".into(), "2/2".into()], false));
    storage.delete(kept).await.unwrap();
    storage.delete(&keys).await.unwrap();
    let (names, _more) = list(storage, &key("batch"), ListQuery::all(100)).await.unwrap();
    assert!(names.is_empty(), "{names:?}");
}
