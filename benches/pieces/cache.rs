//! Chunks in memory: looking for one, filling one, reading one.

use std::{
    collections::HashMap, fs::File, hint::black_box, os::unix::fs::FileExt, path::PathBuf,
    sync::Mutex,
};

use criterion::{BatchSize, Criterion, Throughput};
use futures_util::FutureExt;
use millpond::{
    cache::{Chunk, ChunkIndex, ChunkKey, ChunkLayout, Config, DiskConfig, Look, Pond, Purpose},
    oci::{Algorithm, Digest},
    runtime::ByteSize,
};
use rustix::fs::{MemfdFlags, memfd_create};

/// One chunk.
const BLOB_BYTES: u64 = 1 << 20;
/// Bytes that are written at once.
const PIECE_BYTES: usize = 64 << 10;
const LARGE_BLOB_BYTES: u64 = 1 << 30;

/// Nobody says why a chunk does not come.
type NoReason = ();

pub(crate) fn measure(criterion: &mut Criterion) {
    let disk = DiskConfig { path: PathBuf::new(), size: Some(ByteSize(0)) };
    let config = Config { memory: Some(ByteSize::mebibytes(64)), disk };
    let (pond, _no_disk) = Pond::<NoReason>::new(&config, &prometheus::Registry::new());
    cut(criterion);
    look(criterion, &pond);
    fill_and_read(criterion, &pond);
}

/// Which chunks a range is in.
fn cut(criterion: &mut Criterion) {
    criterion.bench_function("cache/cut a range into chunks", |bencher| {
        bencher.iter(|| {
            let layout = ChunkLayout::of(black_box(LARGE_BLOB_BYTES));
            let indexes = layout.indexes(LARGE_BLOB_BYTES / 3..LARGE_BLOB_BYTES / 2);
            indexes.map(|index| layout.range(index).end).max()
        });
    });
}

fn look(criterion: &mut Criterion, pond: &Pond<NoReason>) {
    let there = key(0);
    fill(pond, there, &[0; PIECE_BYTES]);
    let mut group = criterion.benchmark_group("cache/look");
    group.bench_function("for what is there", |bencher| {
        bencher.iter(|| found(pond, black_box(there)));
    });
    group.bench_function("and where its bytes are", |bencher| {
        bencher.iter(|| found(pond, black_box(there)).readable(0).now_or_never());
    });
    group.bench_function("for what is not there", |bencher| {
        // The writer is dropped: nobody fills it, and it is not there the next time.
        bencher.iter(|| {
            matches!(pond.look(black_box(key(1)), BLOB_BYTES, Purpose::Reading), Look::Missing(..))
        });
    });
    let map = Mutex::new(HashMap::from([(there, ())]));
    group.bench_function("limit: a map behind a lock", |bencher| {
        bencher.iter(|| map.lock().map(|map| map.contains_key(black_box(&there))).ok());
    });
    group.finish();
}

/// Chunks that come one after the other, for each of which another one goes; and one that is read again and again.
fn fill_and_read(criterion: &mut Criterion, pond: &Pond<NoReason>) {
    let mut group = criterion.benchmark_group("cache/1 MiB");
    group.throughput(Throughput::Bytes(BLOB_BYTES));
    let piece = vec![1; PIECE_BYTES];
    let mut keys = (2..).map(key);
    let mut next = || keys.next().expect("there is always one more");
    group.bench_function("fill", |bencher| {
        bencher.iter_batched(&mut next, |key| fill(pond, key, &piece), BatchSize::SmallInput);
    });
    group.bench_function("limit of filling: a file in memory", |bencher| {
        bencher.iter(|| write_file(&piece));
    });
    let filled = next();
    fill(pond, filled, &piece);
    let there = found(pond, filled).readable(0).now_or_never();
    let (block, end) = there.and_then(Result::ok).flatten().expect("it was filled just now");
    let mut buffer = vec![0; BLOB_BYTES as usize];
    group.bench_function("read", |bencher| {
        bencher.iter(|| block.piece(0..end).read(black_box(&mut buffer)));
    });
    let source = vec![1; BLOB_BYTES as usize];
    group.bench_function("limit of reading: copy", |bencher| {
        bencher.iter(|| black_box(&mut buffer).copy_from_slice(black_box(&source)));
    });
    group.finish();
}

fn found(pond: &Pond<NoReason>, key: ChunkKey) -> Chunk<NoReason> {
    match pond.look(key, BLOB_BYTES, Purpose::Reading) {
        Look::Found(chunk, _) => chunk,
        Look::Missing(..) => panic!("{key:?} is there"),
    }
}

fn fill(pond: &Pond<NoReason>, key: ChunkKey, piece: &[u8]) {
    let Look::Missing(_, mut writer) = pond.look(key, BLOB_BYTES, Purpose::Reading) else {
        panic!("nobody has filled {key:?}");
    };
    assert!(writer.begin_now(), "nobody else takes memory");
    for _ in (0..BLOB_BYTES).step_by(piece.len()) {
        assert!(writer.write(piece).is_ok(), "the system has no memory");
    }
    writer.finish();
}

/// What filling a chunk cannot do without.
fn write_file(piece: &[u8]) {
    let file = memfd_create("limit", MemfdFlags::CLOEXEC).map(File::from);
    let write = |file: File| {
        let mut starts = (0..BLOB_BYTES).step_by(piece.len());
        starts.try_for_each(|start| file.write_all_at(piece, start))
    };
    assert!(file.is_ok_and(|file| write(file).is_ok()), "the system has no memory");
}

/// The only chunk of one of many blobs.
fn key(blob: u64) -> ChunkKey {
    let digest = Digest::of(Algorithm::Sha256, &blob.to_le_bytes());
    ChunkKey { digest, index: ChunkIndex::new(0) }
}
