//! Large blobs, which may come by several connections.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use millpond::oci::Digest;
use reqwest::Response;

use crate::{
    fake_upstream::{Fault, Script},
    fixture::{Mirror, REPOSITORY, fills, until},
    node::Backend,
};

/// Enough to be worth a second connection when the first has run for a while.
const LARGE: usize = 288 << 20;

/// Slow enough for each connection that several are faster.
fn slow() -> Fault {
    Fault::Slow(16 << 10, Duration::from_millis(1))
}

/// Puts a large blob at the upstream of which no part is like another.
fn put_large(mirror: &Mirror) -> Digest {
    let mut bytes = vec![0_u8; LARGE];
    for (number, chunk) in (0_u64..).zip(bytes.chunks_exact_mut(4096)) {
        chunk[..8].copy_from_slice(&number.to_be_bytes());
    }
    mirror.upstream.put_blob(REPOSITORY, Bytes::from(bytes))
}

/// Reads a blob to its end. `None` if that is no clean one.
async fn read_large(answer: Response) -> Option<(u64, Digest)> {
    assert_eq!(answer.status(), 200);
    let mut hasher = millpond::oci::Hasher::new(millpond::oci::Algorithm::Sha256);
    let (mut length, mut body) = (0, answer.bytes_stream());
    while let Some(piece) = body.next().await {
        let piece = piece.ok()?;
        length += piece.len() as u64;
        hasher.update(&piece);
    }
    Some((length, hasher.finish()))
}

/// First bytes of the parts that were asked for beside the whole.
fn parts(mirror: &Mirror, path: &str) -> Vec<u64> {
    let ranges = mirror.ranges(path);
    let first = |range: &String| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok();
    ranges.iter().filter_map(first).collect()
}

/// Waits until the blob is held, and counted as fetched.
async fn assert_kept(mirror: &Mirror, blob: &Digest) {
    let stored = fills("stored");
    assert!(until(async || mirror.metric(&stored).await == 1).await, "it is not kept");
    assert_eq!(mirror.keeps(blob), (true, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_each_connection_is_slow_a_large_blob_comes_by_several() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let blob = put_large(&mirror);
    let path = format!("blobs/{blob}");
    mirror.upstream.script(Script::new(slow()));
    // And one of them breaks.
    mirror.upstream.script(Script::new(Fault::CutAfter(3 << 20)).skip(2).times(1));
    let read = read_large(mirror.get(&path).await).await;
    assert_eq!(read, Some((LARGE as u64, blob)));
    let parts = parts(&mirror, &path);
    assert!(parts.len() >= 2, "{parts:?}");
    assert_eq!(mirror.ranges(&path).len(), parts.len() + 1, "{:?}", mirror.ranges(&path));
    // What was on its way when a connection was not needed any more is lost, and nothing else.
    let sent_bytes = mirror.upstream.sent_bytes();
    assert!(sent_bytes <= (LARGE + LARGE / 20) as u64, "{sent_bytes} bytes");
    assert_kept(&mirror, &blob).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_connections_share_a_line_a_large_blob_comes_by_one() {
    let mirror = Mirror::start(Backend::Directory, "bytes_per_second: 60MiB").await;
    let blob = put_large(&mirror);
    let path = format!("blobs/{blob}");
    assert_eq!(read_large(mirror.get(&path).await).await, Some((LARGE as u64, blob)));
    // One that was tried, and one where that ended.
    let parts = parts(&mirror, &path);
    assert!(parts.len() <= 2, "{parts:?}");
    assert_kept(&mirror, &blob).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_one_connection_is_allowed_a_large_blob_comes_by_one() {
    let settings = "connections_per_blob: 1, bytes_per_second: 100MiB";
    let mirror = Mirror::start(Backend::Directory, settings).await;
    let blob = put_large(&mirror);
    let path = format!("blobs/{blob}");
    assert_eq!(read_large(mirror.get(&path).await).await, Some((LARGE as u64, blob)));
    assert_eq!(mirror.ranges(&path), [""]);
    assert_eq!(mirror.upstream.sent_bytes(), LARGE as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_gives_no_parts_of_a_large_blob_gives_the_whole() {
    let mirror = Mirror::start(Backend::Directory, "bytes_per_second: 100MiB").await;
    let blob = put_large(&mirror);
    let path = format!("blobs/{blob}");
    mirror.upstream.script(Script::new(Fault::IgnoreRange));
    assert_eq!(read_large(mirror.get(&path).await).await, Some((LARGE as u64, blob)));
    // It is not asked again and again.
    assert!(mirror.ranges(&path).len() <= 2, "{:?}", mirror.ranges(&path));
    assert_kept(&mirror, &blob).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_in_a_part_never_end_well_and_are_not_kept() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let blob = put_large(&mirror);
    let path = format!("blobs/{blob}");
    mirror.upstream.script(Script::new(slow()));
    mirror.upstream.script(Script::new(Fault::WrongBytes).skip(1).times(1));
    assert_eq!(read_large(mirror.get(&path).await).await, None);
    assert!(!parts(&mirror, &path).is_empty());
    assert_eq!(mirror.metric(&fills("mismatch")).await, 1);
    mirror.assert_no_trace_of(&blob);
}
