//! What is done to every byte, or to every piece of some.

use std::{
    hint::black_box,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use futures_util::FutureExt;
use millpond::{
    oci::{Algorithm, Hasher},
    runtime::{ByteBudget, Pieces},
};

const PIECE_BYTES: usize = 64 << 10;
const MIB: usize = 1 << 20;

pub(crate) fn measure(criterion: &mut Criterion) {
    for (what, length) in [("64 KiB", PIECE_BYTES), ("1 MiB", MIB)] {
        hash(criterion, what, length);
    }
    join(criterion);
    pay(criterion);
}

fn hash(criterion: &mut Criterion, what: &str, length: usize) {
    let bytes = some_bytes(length);
    let mut group = criterion.benchmark_group(format!("hash {what}"));
    group.throughput(Throughput::Bytes(length as u64));
    for algorithm in Algorithm::ALL {
        group.bench_function(algorithm.name(), |bencher| {
            bencher.iter(|| {
                let mut hasher = Hasher::new(algorithm);
                hasher.update(black_box(&bytes));
                hasher.finish()
            });
        });
    }
    // What the disk of the cache is checked by.
    group.bench_function("crc32c", |bencher| bencher.iter(|| crc32c::crc32c(black_box(&bytes))));
    let mut copy = vec![0; length];
    group.bench_function("limit: copy", |bencher| {
        bencher.iter(|| black_box(&mut copy).copy_from_slice(black_box(&bytes)));
    });
    group.finish();
}

/// Pieces that came one after the other, as one.
fn join(criterion: &mut Criterion) {
    let whole = Bytes::from(some_bytes(MIB));
    let mut pieces = Pieces::default();
    for start in (0..MIB).step_by(PIECE_BYTES) {
        pieces.push(whole.slice(start..start + PIECE_BYTES));
    }
    let mut group = criterion.benchmark_group("join 1 MiB");
    group.throughput(Throughput::Bytes(MIB as u64));
    group.bench_function("pieces of 64 KiB", |bencher| bencher.iter(|| pieces.clone().concat()));
    group.bench_function("limit: copy into new memory", |bencher| {
        bencher.iter(|| black_box(&whole).to_vec());
    });
    group.finish();
}

/// Memory that is paid for and given back.
fn pay(criterion: &mut Criterion) {
    let budget = ByteBudget::new(MIB as u64);
    let part = budget.part(MIB as u64 / 2);
    let mut group = criterion.benchmark_group("pay for 64 KiB");
    for (what, budget) in [("from a budget", &budget), ("from a part of one", &part)] {
        group.bench_function(what, |bencher| {
            bencher.iter(|| budget.acquire(PIECE_BYTES as u64).now_or_never());
        });
        group.bench_function(format!("{what}, at once or never"), |bencher| {
            bencher.iter(|| budget.try_acquire(PIECE_BYTES as u64));
        });
    }
    let free = AtomicU64::new(MIB as u64);
    group.bench_function("limit: a counter", |bencher| {
        bencher.iter(|| {
            free.fetch_sub(PIECE_BYTES as u64, Ordering::Acquire);
            free.fetch_add(PIECE_BYTES as u64, Ordering::Release)
        });
    });
    group.finish();
}

fn some_bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}
