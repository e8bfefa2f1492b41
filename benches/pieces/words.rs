//! The words of a request, and the keys that are made of them.

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::Criterion;
use millpond::{
    api::route::Route,
    oci::{Algorithm, Digest, RangeHeader, RepositoryName, Tag, UploadId},
    storage::layout,
};

const NAME: &str = "library/team/application";
const TAG: &str = "v1.27.3-alpine";
const RANGE: &str = "bytes=1048576-2097151";
const BLOB_BYTES: u64 = 64 << 20;

pub(crate) fn measure(criterion: &mut Criterion) {
    let digest = Digest::of(Algorithm::Sha256, b"a layer");
    parse(criterion, &digest);
    route(criterion, &digest);
    key(criterion, &digest);
}

fn parse(criterion: &mut Criterion, digest: &Digest) {
    let name: RepositoryName = NAME.parse().expect("it is a name");
    let upload = UploadId::new(&name, Algorithm::Sha256, Duration::from_secs(1 << 30), 1 << 40);
    let (digest, upload) = (digest.to_string(), upload.to_string());
    let mut group = criterion.benchmark_group("parse");
    group.bench_function("digest", |bencher| {
        bencher.iter(|| black_box(&digest).parse::<Digest>());
    });
    group.bench_function("repository name", |bencher| {
        bencher.iter(|| black_box(NAME).parse::<RepositoryName>());
    });
    group.bench_function("tag", |bencher| bencher.iter(|| black_box(TAG).parse::<Tag>()));
    group.bench_function("limit of a name: its copy", |bencher| {
        bencher.iter(|| Arc::<str>::from(black_box(NAME)));
    });
    group.bench_function("range", |bencher| {
        bencher.iter(|| match RangeHeader::parse(black_box(RANGE)) {
            RangeHeader::Ranges(ranges) => ranges[0].resolve(BLOB_BYTES),
            RangeHeader::Ignored | RangeHeader::Unsatisfiable => None,
        });
    });
    group.bench_function("upload", |bencher| {
        bencher.iter(|| UploadId::parse(black_box(&upload), &name));
    });
    group.finish();
}

fn route(criterion: &mut Criterion, digest: &Digest) {
    let mut group = criterion.benchmark_group("route");
    for (what, path) in [
        ("manifest by tag", format!("/v2/{NAME}/manifests/{TAG}")),
        ("manifest by digest", format!("/v2/{NAME}/manifests/{digest}")),
        ("blob", format!("/v2/{NAME}/blobs/{digest}")),
    ] {
        assert!(Route::parse(&path).is_ok(), "{path}");
        group.bench_function(what, |bencher| bencher.iter(|| Route::parse(black_box(&path))));
    }
    group.finish();
}

fn key(criterion: &mut Criterion, digest: &Digest) {
    let name: RepositoryName = NAME.parse().expect("it is a name");
    let tag: Tag = TAG.parse().expect("it is a tag");
    let mut group = criterion.benchmark_group("key");
    group.bench_function("blob", |bencher| bencher.iter(|| layout::blob(black_box(digest))));
    group.bench_function("tag", |bencher| {
        bencher.iter(|| layout::tag_current(black_box(&name), black_box(&tag)));
    });
    let text = layout::tag_current(&name, &tag);
    group.bench_function("limit of a tag's: its copy", |bencher| {
        bencher.iter(|| Arc::<str>::from(black_box(text.as_str())));
    });
    group.finish();
}
