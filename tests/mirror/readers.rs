//! Who reads a blob while it comes.

use crate::{
    fake_upstream::{Fault, Script},
    fixture::{Mirror, assert_layer, first_bytes, header, requests, rest_of},
    node::Backend,
};

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn the_first_byte_is_given_long_before_the_last_one_came() {
    for backend in [Backend::Directory, Backend::S3] {
        let mirror = Mirror::start(backend, "").await;
        let image = mirror.put_image("v1", 2 * MIB);
        mirror.upstream.script(Script::new(Fault::StallAfter(MIB)).times(1));
        let answer = mirror.get(&image.layer_path()).await;
        assert_eq!(header(&answer, "content-length"), "2097152");
        let mut body = Box::pin(answer.bytes_stream());
        let mut read = first_bytes(&mut body, MIB).await;
        // The upstream has not sent more, and nothing is visible yet.
        assert_eq!(mirror.upstream.sent_bytes(), MIB as u64);
        assert_eq!(mirror.keeps(&image.layer), (false, false));
        mirror.upstream.release();
        read.extend(rest_of(body).await);
        assert!(read == image.layer_bytes, "other bytes");
        mirror.assert_kept(&image).await;
        assert_eq!(mirror.metric(&requests("blob", "fetched")).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_upstream_is_followed_byte_by_byte() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 10_000);
    let slow = Fault::Slow(500, std::time::Duration::from_millis(5));
    mirror.upstream.script(Script::new(slow).times(1));
    mirror.upstream.script(Script::new(Fault::StallAfter(1000)).times(1));
    let mut body = Box::pin(mirror.get(&image.layer_path()).await.bytes_stream());
    let mut read = first_bytes(&mut body, 1000).await;
    // All that has come, however little that is.
    assert_eq!((read.len(), mirror.upstream.sent_bytes()), (1000, 1000));
    assert_eq!(mirror.keeps(&image.layer), (false, false));
    mirror.upstream.release();
    read.extend(rest_of(body).await);
    assert!(read == image.layer_bytes, "other bytes");
    assert_eq!(mirror.asked("GET", &image.layer_path()), 1);
    mirror.assert_kept(&image).await;
    assert_eq!(mirror.metric(&requests("blob", "fetched")).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_bytes_are_kept_back_until_all_are_verified() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", MIB);
    // All but the last byte, which decides.
    mirror.upstream.script(Script::new(Fault::StallAfter(MIB - 1)).times(1));
    let mut body = Box::pin(mirror.get(&image.layer_path()).await.bytes_stream());
    let open_bytes = MIB - (4 << 10);
    let mut read = first_bytes(&mut body, open_bytes).await;
    assert_eq!(read.len(), open_bytes, "bytes that are not verified were given");
    mirror.upstream.release();
    read.extend(rest_of(body).await);
    assert!(read == image.layer_bytes, "other bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_stops_nobody() {
    for backend in [Backend::Directory, Backend::S3] {
        let mirror = Mirror::start(backend, "").await;
        let image = mirror.put_image("v1", 16 * MIB);
        let path = image.layer_path();
        let asleep = mirror.get(&path).await;
        let mut slow = Box::pin(mirror.get(&path).await.bytes_stream());
        let mut read = first_bytes(&mut slow, 1000).await;
        assert_layer(mirror.get(&path).await, &image).await;
        mirror.assert_kept(&image).await;
        read.extend(rest_of(slow).await);
        assert!(read == image.layer_bytes, "other bytes");
        assert_layer(asleep, &image).await;
        assert_eq!(mirror.asked("GET", &path), 1);
        assert_eq!(mirror.upstream.sent_bytes(), 16 << 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_nobody_waits_for_any_more_comes_to_its_end() {
    for backend in [Backend::Directory, Backend::S3] {
        let mirror = Mirror::start(backend, "").await;
        let image = mirror.put_image("v1", 6 * MIB);
        let path = image.layer_path();
        mirror.upstream.script(Script::new(Fault::StallAfter(MIB)).times(1));
        let mut readers = Vec::new();
        for _ in 0..3 {
            let mut body = Box::pin(mirror.get(&path).await.bytes_stream());
            first_bytes(&mut body, 1000).await;
            readers.push(body);
        }
        drop(readers);
        mirror.upstream.release();
        mirror.assert_kept(&image).await;
        assert_layer(mirror.get(&path).await, &image).await;
        assert_eq!(mirror.upstream.requests().len(), 1, "{:?}", mirror.upstream.requests());
        assert_eq!(mirror.metric(&requests("blob", "served")).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_reader_joins_and_begins_at_the_beginning() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 2 * MIB);
    let path = image.layer_path();
    mirror.upstream.script(Script::new(Fault::StallAfter(MIB)).times(1));
    let mut early = Box::pin(mirror.get(&path).await.bytes_stream());
    let mut early_read = first_bytes(&mut early, MIB).await;
    let mut late = Box::pin(mirror.get(&path).await.bytes_stream());
    let mut late_read = first_bytes(&mut late, MIB).await;
    mirror.upstream.release();
    early_read.extend(rest_of(early).await);
    late_read.extend(rest_of(late).await);
    assert!(early_read == image.layer_bytes && late_read == image.layer_bytes, "other bytes");
    assert_eq!(mirror.upstream.requests().len(), 1, "{:?}", mirror.upstream.requests());
    assert_eq!(mirror.upstream.sent_bytes(), 2 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_notice_nothing_of_a_connection_that_breaks_again_and_again() {
    let mirror = Mirror::start(Backend::S3, "").await;
    let image = mirror.put_image("v1", 6 * MIB);
    let path = image.layer_path();
    mirror.upstream.script(Script::new(Fault::CutAfter(MIB)).times(5));
    let crowd = (0..8).map(|_| async { assert_layer(mirror.get(&path).await, &image).await });
    futures_util::future::join_all(crowd).await;
    let begins = (0..6).map(|n| n * MIB);
    let ranges: Vec<_> = begins
        .map(|begin| if begin == 0 { String::new() } else { format!("bytes={begin}-") })
        .collect();
    assert_eq!(mirror.ranges(&path), ranges);
    assert_eq!(mirror.upstream.sent_bytes(), 6 << 20);
    mirror.assert_kept(&image).await;
}
