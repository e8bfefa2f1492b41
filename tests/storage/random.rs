//! Random operations on a storage and on a model of it, side by side.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use millpond::{
    oci::ByteRange,
    storage::{Depth, Error, Key, ListQuery, Piece, Storage, WriteOptions, s3::Config},
};
use proptest::{collection::vec, option, prelude::*, sample::select};
use tokio::runtime::Runtime;

use crate::{
    fixture::{Fixture, config, connect},
    model::Model,
    s3_server::S3Server,
    suite::{assert_same, cut, key, list, pattern, read, write},
};

/// Keys none of which is a folder of another, in folders whose names share beginnings.
const KEYS: [&str; 10] =
    ["p/a-b", "p/a.b", "p/a/x", "p/a/y/z", "p/a0", "p/aa/x", "p/b", "q/a/x", "q/a+/x", "q/c"];

const FOLDERS: [&str; 6] = ["p", "p/a", "p/a/y", "p/aa", "q", "r"];

#[derive(Clone, Debug)]
enum Step {
    Put { at: &'static str, length: usize, seed: u8 },
    Write { at: &'static str, length: usize, piece: usize, seed: u8 },
    Abandon { at: &'static str, length: usize },
    Delete(Vec<&'static str>),
    Compose { pieces: Vec<&'static str>, to: &'static str },
    Read { at: &'static str, range: Option<ByteRange> },
    List { folder: &'static str, query: ListQuery },
}

fn ranges() -> impl Strategy<Value = ByteRange> {
    prop_oneof![
        (0..2000_u64, 1..2000_u64)
            .prop_map(|(start, length)| ByteRange::Bounded { start, end: start + length }),
        (0..2000_u64).prop_map(ByteRange::From),
        (0..2000_u64).prop_map(ByteRange::Last),
    ]
}

fn queries() -> impl Strategy<Value = ListQuery> {
    let depths = select(&[Depth::Children, Depth::All][..]);
    (depths, option::of("[abxyz.0+/-]{0,4}"), 1..5_usize)
        .prop_map(|(depth, after, limit)| ListQuery { depth, after, limit })
}

fn steps() -> impl Strategy<Value = Step> {
    let at = || select(&KEYS[..]);
    prop_oneof![
        3 => (at(), 0..1500_usize, any::<u8>())
            .prop_map(|(at, length, seed)| Step::Put { at, length, seed }),
        2 => (at(), 0..1500_usize, 1..700_usize, any::<u8>())
            .prop_map(|(at, length, piece, seed)| Step::Write { at, length, piece, seed }),
        1 => (at(), 0..1500_usize).prop_map(|(at, length)| Step::Abandon { at, length }),
        2 => vec(at(), 0..4).prop_map(Step::Delete),
        2 => (vec(at(), 1..4), at()).prop_map(|(pieces, to)| Step::Compose { pieces, to }),
        3 => (at(), option::of(ranges())).prop_map(|(at, range)| Step::Read { at, range }),
        3 => (select(&FOLDERS[..]), queries()).prop_map(|(folder, query)| Step::List { folder, query }),
    ]
}

async fn take(storage: &dyn Storage, model: &mut Model, step: Step) {
    match step {
        Step::Put { at, length, seed } => {
            storage.put(&key(at), pattern(length, seed)).await.unwrap();
            model.objects.insert(at.to_owned(), pattern(length, seed));
        }
        Step::Write { at, length, piece, seed } => {
            let bytes = pattern(length, seed);
            write(storage, &key(at), None, cut(&bytes, piece)).await.unwrap();
            model.objects.insert(at.to_owned(), bytes);
        }
        Step::Abandon { at, length } => {
            let mut writer = storage.write(&key(at), WriteOptions::default()).await.unwrap();
            writer.write(pattern(length, 0)).await.unwrap();
        }
        Step::Delete(keys) => {
            let all: Vec<Key> = keys.iter().map(key).collect();
            storage.delete(&all).await.unwrap();
            keys.iter().for_each(|at| drop(model.objects.remove(*at)));
        }
        Step::Compose { pieces, to } => compose(storage, model, &pieces, to).await,
        Step::Read { at, range } => {
            let actual = read(storage, &key(at), range).await;
            compare(actual, model.objects.get(at), range);
        }
        Step::List { folder, query } => {
            let actual = list(storage, &key(folder), query.clone()).await.unwrap();
            assert_eq!(actual, model.list(folder, &query), "{folder} {query:?}");
        }
    }
}

/// Composes the pieces that have bytes. What becomes of them is the driver's choice, so they are deleted
/// as callers do.
async fn compose(storage: &dyn Storage, model: &mut Model, pieces: &[&str], to: &str) {
    let mut names: Vec<&str> = pieces.to_vec();
    names.sort_unstable();
    names.dedup();
    names.retain(|at| *at != to && model.objects.get(*at).is_some_and(|bytes| !bytes.is_empty()));
    if names.is_empty() {
        return;
    }
    let length = |at: &str| model.objects[at].len() as u64;
    let pieces: Vec<Piece> =
        names.iter().map(|at| Piece { key: key(at), size_bytes: length(at) }).collect();
    storage.compose(&pieces, &key(to)).await.unwrap();
    let parts: Vec<Bytes> = names.iter().filter_map(|at| model.objects.remove(*at)).collect();
    model.objects.insert(to.to_owned(), parts.concat().into());
    let keys: Vec<Key> = pieces.into_iter().map(|piece| piece.key).collect();
    storage.delete(&keys).await.unwrap();
}

fn compare(actual: Result<Bytes, Error>, expected: Option<&Bytes>, range: Option<ByteRange>) {
    let size = expected.map(|bytes| bytes.len() as u64);
    let part = size.and_then(|size| range.map_or(Some(0..size), |range| range.resolve(size)));
    match (actual, expected, part) {
        (Ok(actual), Some(expected), Some(part)) => {
            assert_same(&actual, &expected.slice(part.start as usize..part.end as usize), range);
        }
        (Err(Error::RangeOutside { size_bytes, .. }), Some(_), None)
            if size == Some(size_bytes) => {}
        (Err(error), None, _) if error.is_not_found() => {}
        (actual, ..) => {
            panic!("{range:?} of {size:?} bytes gives {:?}", actual.map(|bytes| bytes.len()))
        }
    }
}

async fn walk(storage: &dyn Storage, steps: Vec<Step>) {
    let mut model = Model::default();
    for step in steps {
        take(storage, &mut model, step).await;
    }
    for at in KEYS {
        compare(read(storage, &key(at), None).await, model.objects.get(at), None);
    }
    let left: Vec<Key> = KEYS.iter().map(key).collect();
    storage.delete(&left).await.unwrap();
    for folder in FOLDERS {
        let (names, _more) = list(storage, &key(folder), ListQuery::all(10)).await.unwrap();
        assert!(names.is_empty(), "{names:?}");
    }
}

fn check(cases: u32, test: impl Fn(Vec<Step>)) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let result = runner.run(&vec(steps(), 1..40), |steps| {
        test(steps);
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn the_directory_does_what_the_model_does() {
    let runtime = Runtime::new().unwrap();
    check(48, |steps| {
        runtime.block_on(async { walk(&*Fixture::directory().await.storage, steps).await });
    });
}

#[test]
fn s3_does_what_the_model_does() {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(S3Server::start());
    // A folder of its own for each case: one that fails leaves objects.
    let case = AtomicUsize::new(0);
    check(32, |steps| {
        let prefix = format!("case-{}", case.fetch_add(1, Ordering::Relaxed));
        let config = Config { prefix: Some(key(prefix)), ..config(&server) };
        runtime.block_on(async { walk(&connect(config).await, steps).await });
    });
}
