//! Writers, compositions, and what becomes of them when they are not finished.

use std::{
    pin::pin,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::{future::join_all, poll};
use millpond::storage::{Depth, ListQuery, Piece, Purge, Storage, WriteOptions};

use super::{assert_same, cut, expecting, key, list, pattern, read, write};
use crate::fixture::PART_BYTES;

const MIB: usize = 1 << 20;

pub(crate) async fn writers_take_any_pieces(storage: &dyn Storage) {
    let cases = [
        (0, 1, None),
        (1, 1, Some(1)),
        (1000, 7 * MIB, Some(1000)),
        (PART_BYTES, MIB, Some(PART_BYTES)),
        (PART_BYTES + 1, MIB, Some(PART_BYTES + 1)),
        (12 * MIB, MIB, None),
        // Hints that turn out wrong.
        (6 * MIB, 100_000 * 9, Some(10)),
        (12 * MIB, 12 * MIB, Some(1)),
        (10, 3, Some(100 * MIB)),
    ];
    for (index, (length, piece, expected)) in cases.into_iter().enumerate() {
        let (at, bytes) = (key(format!("writers/{index}")), pattern(length, index as u8));
        let expected = expected.map(|bytes| bytes as u64);
        write(storage, &at, expected, cut(&bytes, piece)).await.unwrap();
        assert_same(&read(storage, &at, None).await.unwrap(), &bytes, (length, piece));
    }
}

pub(crate) async fn nothing_is_visible_before_the_commit(storage: &dyn Storage) {
    let at = key("commit/object");
    for (length, seed) in [(10, 1), (12 * MIB, 2)] {
        let before = storage.head(&at).await.map(|meta| meta.size_bytes).ok();
        let mut writer = storage.write(&at, WriteOptions::default()).await.unwrap();
        writer.write(pattern(length, seed)).await.unwrap();
        assert_eq!(storage.head(&at).await.map(|meta| meta.size_bytes).ok(), before);
        let (names, _more) = list(storage, &key("commit"), ListQuery::all(10)).await.unwrap();
        assert_eq!(names.len(), before.iter().count(), "{names:?}");
        writer.commit().await.unwrap();
        assert_same(&read(storage, &at, None).await.unwrap(), &pattern(length, seed), length);
    }
}

pub(crate) async fn a_dropped_writer_leaves_what_was_there(storage: &dyn Storage) {
    let (at, fresh) = (key("dropped/object"), key("dropped/fresh"));
    storage.put(&at, pattern(10, 1)).await.unwrap();
    for key in [&at, &fresh] {
        for length in [0, 10, 12 * MIB] {
            let mut writer = storage.write(key, expecting(Some(length as u64))).await.unwrap();
            writer.write(pattern(length, 2)).await.unwrap();
        }
    }
    assert_eq!(read(storage, &at, None).await.unwrap(), pattern(10, 1));
    assert!(storage.head(&fresh).await.unwrap_err().is_not_found());
}

async fn pieces(storage: &dyn Storage, folder: &str, sizes: &[usize]) -> (Vec<Piece>, Bytes) {
    let (mut pieces, mut whole) = (Vec::new(), Vec::new());
    for (index, size) in sizes.iter().enumerate() {
        let (at, bytes) = (key(format!("{folder}/{index:04}")), pattern(*size, index as u8));
        write(storage, &at, Some(*size as u64), [bytes.clone()]).await.unwrap();
        pieces.push(Piece { key: at, size_bytes: *size as u64 });
        whole.extend_from_slice(&bytes);
    }
    (pieces, whole.into())
}

async fn compose(storage: &dyn Storage, folder: &str, sizes: &[usize]) {
    let (pieces, whole) = pieces(storage, &format!("{folder}/pieces"), sizes).await;
    let to = key(format!("{folder}/whole+of@all=it"));
    storage.compose(&pieces, &to).await.unwrap();
    assert_same(&read(storage, &to, None).await.unwrap(), &whole, sizes);
    assert_eq!(storage.head(&to).await.unwrap().size_bytes, whole.len() as u64);
}

pub(crate) async fn one_piece_is_composed(storage: &dyn Storage) {
    compose(storage, "compose-one/tiny", &[1]).await;
    compose(storage, "compose-one/large", &[12 * MIB]).await;
}

pub(crate) async fn pieces_of_all_sizes_are_composed(storage: &dyn Storage) {
    let cases: [&[usize]; 6] = [
        &[10, 1, 30],
        &[PART_BYTES, PART_BYTES, 1],
        &[MIB, 2 * MIB, 3 * MIB],
        &[1, 11 * MIB, 7],
        &[6 * MIB, MIB, MIB, 6 * MIB],
        &[3 * MIB; 5],
    ];
    for (index, sizes) in cases.into_iter().enumerate() {
        compose(storage, &format!("compose-all/{index}"), sizes).await;
    }
}

pub(crate) async fn a_composition_without_a_piece_leaves_nothing(storage: &dyn Storage) {
    for (folder, size) in
        [("gone/one", None), ("gone/small", Some(10)), ("gone/large", Some(6 * MIB))]
    {
        let (mut all, _whole) = pieces(storage, folder, size.as_slice()).await;
        let gone = key(format!("{folder}/9999"));
        all.push(Piece { key: gone.clone(), size_bytes: 6 << 20 });
        let to = key(format!("{folder}/whole"));
        let error = storage.compose(&all, &to).await.unwrap_err();
        assert!(error.is_not_found(), "{folder}: {error}");
        assert!(storage.head(&to).await.unwrap_err().is_not_found(), "{folder}");
    }
}

pub(crate) async fn writers_of_one_key_do_not_mix(storage: &dyn Storage) {
    let at = key("race/object");
    storage.put(&at, pattern(MIB, 0)).await.unwrap();
    let writers = (0..6_u8).map(|seed| {
        let at = at.clone();
        async move {
            let bytes = pattern(if seed % 2 == 0 { MIB } else { 6 * MIB }, seed);
            write(storage, &at, None, cut(&bytes, 700_000)).await.unwrap();
            let seen = read(storage, &at, None).await.unwrap();
            let whole = (0..6).any(|seed| seen == pattern(seen.len(), seed));
            assert!(whole, "an object of {} bytes that nobody wrote", seen.len());
        }
    });
    join_all(writers).await;
}

pub(crate) async fn dropped_calls_leave_the_old_or_the_new(storage: &dyn Storage) {
    let at = key("cancel/object");
    let (old, new) = (pattern(2 * MIB, 1), pattern(6 * MIB, 2));
    let (pieces, _whole) = pieces(storage, "cancel/pieces", &[6 * MIB]).await;
    let whole = pattern(6 * MIB, 0);
    for polls in [1, 2, 3, 5, 8, 13, 21, 34] {
        storage.put(&at, old.clone()).await.unwrap();
        give_up(write(storage, &at, None, cut(&new, MIB)), polls).await;
        let seen = read(storage, &at, None).await.unwrap();
        assert!(seen == old || seen == new, "a write dropped after {polls} polls");

        storage.put(&at, old.clone()).await.unwrap();
        give_up(storage.put(&at, new.clone()), polls).await;
        let seen = read(storage, &at, None).await.unwrap();
        assert!(seen == old || seen == new, "a put dropped after {polls} polls");

        storage.put(&at, old.clone()).await.unwrap();
        // A directory may use up the piece.
        storage.put(&pieces[0].key, whole.clone()).await.unwrap();
        give_up(storage.compose(&pieces, &at), polls).await;
        let seen = read(storage, &at, None).await.unwrap();
        assert!(
            seen == old || seen == whole || seen == new,
            "a composition dropped after {polls} polls"
        );
    }
}

/// Polls a future so often, and drops it.
async fn give_up<F: Future>(future: F, polls: usize) {
    let mut future = pin!(future);
    for _ in 0..polls {
        if poll!(&mut future).is_ready() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

pub(crate) async fn unfinished_writes_are_found_and_purged(storage: &dyn Storage) {
    let (at, kept) = (key("purge/object"), key("purge/kept"));
    storage.put(&kept, pattern(10, 1)).await.unwrap();
    let mut writer = storage.write(&at, WriteOptions::default()).await.unwrap();
    writer.write(pattern(12 * MIB, 1)).await.unwrap();
    // What a process leaves behind that is killed.
    std::mem::forget(writer);
    let (hour, now) = (Duration::from_secs(3600), SystemTime::now());
    assert_eq!(storage.purge_unfinished(now - hour, Purge::Remove).await.unwrap(), 0, "too young");
    for _ in 0..2 {
        assert_eq!(storage.purge_unfinished(now + hour, Purge::DryRun).await.unwrap(), 1);
    }
    assert_eq!(storage.purge_unfinished(now + hour, Purge::Remove).await.unwrap(), 1);
    assert_eq!(storage.purge_unfinished(now + hour, Purge::Remove).await.unwrap(), 0, "all gone");
    let everything = ListQuery { depth: Depth::All, after: None, limit: 10 };
    let (names, _more) = list(storage, &key("millpond"), everything).await.unwrap();
    assert!(names.is_empty(), "{names:?}");
    assert_eq!(read(storage, &kept, None).await.unwrap(), pattern(10, 1));
    assert!(storage.head(&at).await.unwrap_err().is_not_found());
}
