//! Blobs of mirrored repositories.

use bytes::Bytes;
use futures_util::future::join_all;
use millpond::oci::{Algorithm, Digest};
use reqwest::Method;

use crate::{
    fake_upstream::{Fault, Script},
    fixture::{
        Mirror, REPOSITORY, assert_layer, body_errors, filled_bytes, fills, header, pattern, read,
        read_text, requests,
    },
    node::Backend,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_costs_the_upstream_one_get_and_each_byte_once() {
    for backend in [Backend::Directory, Backend::S3] {
        let mirror = Mirror::start(backend, "").await;
        let image = mirror.put_image("v1", 20 << 20);
        let path = format!("blobs/{}", image.layer);
        let crowd = join_all((0..64).map(|_| async { read(mirror.get(&path).await).await })).await;
        for (status, bytes) in crowd {
            assert_eq!(status, 200);
            assert!(bytes == image.layer_bytes, "other bytes");
        }
        assert_eq!(mirror.asked("GET", &path), 1);
        assert_eq!(mirror.upstream.sent_bytes(), 20 << 20);
        mirror.until_metric(&fills("stored"), 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_for_the_length_moves_no_bytes() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 100_000);
    let answer = mirror.ask(Method::HEAD, &format!("blobs/{}", image.layer)).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-length"], "100000");
    let asked = |method| mirror.asked(method, &image.layer_path());
    assert_eq!((asked("HEAD"), asked("GET")), (1, 0));
    assert_eq!(mirror.upstream.sent_bytes(), 0);
    mirror.assert_no_trace_of(&image.layer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_is_taken_up_by_range() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 3 << 20);
    let path = format!("blobs/{}", image.layer);
    mirror.upstream.script(Script::new(Fault::CutAfter(1 << 20)).times(2));
    assert_layer(mirror.get(&path).await, &image).await;
    assert_eq!(mirror.asked("GET", &path), 3);
    assert_eq!(mirror.upstream.sent_bytes(), 3 << 20);
    mirror.assert_kept(&image).await;
    assert_eq!(mirror.metric(&body_errors("interrupted")).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_blob_is_a_blob() {
    for backend in [Backend::Directory, Backend::S3] {
        let mirror = Mirror::start(backend, "").await;
        let digest = mirror.upstream.put_blob(REPOSITORY, Bytes::new());
        let path = format!("blobs/{digest}");
        assert_eq!(header(&mirror.ask(Method::HEAD, &path).await, "content-length"), "0");
        assert_eq!(read(mirror.get(&path).await).await, (200, Bytes::new()));
        mirror.until_filled("stored", 1).await;
        assert_eq!(mirror.keeps(&digest), (true, true));
        assert_eq!(read(mirror.get(&path).await).await, (200, Bytes::new()));
        assert_eq!(mirror.asked("GET", &path), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_may_be_called_by_its_sha512() {
    let bytes = pattern(100_000, 5);
    let digest = Digest::of(Algorithm::Sha512, &bytes);
    let mut answer = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n".to_vec();
    answer.extend_from_slice(&bytes);
    let mirror = Mirror::of_raw(Backend::Directory, answer, "").await;
    let path = format!("blobs/{digest}");
    for _ in 0..2 {
        let answer = mirror.get(&path).await;
        assert_eq!(header(&answer, "docker-content-digest"), digest.to_string());
        assert_eq!(read(answer).await, (200, bytes.clone()));
        mirror.until_filled("stored", 1).await;
    }
    assert_eq!(mirror.upstream.requests().len(), 1);
    assert_eq!(mirror.keeps(&digest), (true, true));
    assert_eq!(mirror.metric(&filled_bytes()).await, 100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_whose_length_only_a_head_tells_is_given_as_it_comes() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 1 << 20);
    let path = image.layer_path();
    mirror.upstream.script(Script::new(Fault::NoLength).on("GET "));
    mirror.upstream.script(Script::new(Fault::StallAfter(500_000)).on("GET ").times(1));
    let answer = mirror.get(&path).await;
    assert_eq!(header(&answer, "content-length"), "1048576");
    mirror.upstream.release();
    assert_layer(answer, &image).await;
    assert_eq!((mirror.asked("GET", &path), mirror.asked("HEAD", &path)), (1, 1));
    mirror.assert_kept(&image).await;
    assert_eq!(mirror.metric(&requests("blob", "fetched")).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_whose_length_nobody_tells_is_given_when_it_is_here() {
    for backend in [Backend::Directory, Backend::S3] {
        let mirror = Mirror::start(backend, "").await;
        let image = mirror.put_image("v1", 1 << 20);
        mirror.upstream.script(Script::new(Fault::NoLength));
        let answer = mirror.get(&image.layer_path()).await;
        assert_eq!(header(&answer, "content-length"), "1048576");
        assert_layer(answer, &image).await;
        mirror.assert_kept(&image).await;
        assert_eq!(mirror.metric(&requests("blob", "fetched")).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_says_nothing_of_a_length_is_answered_nevertheless() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 100_000);
    mirror.upstream.script(Script::new(Fault::NoLength));
    let answer = mirror.ask(Method::HEAD, &image.layer_path()).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "content-length")), (200, "100000"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_server_without_lengths_and_lasting_connections_is_understood() {
    let bytes = pattern(200_000, 3);
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    let mut answer = b"HTTP/1.0 200 OK\r\n\r\n".to_vec();
    answer.extend_from_slice(&bytes);
    let mirror = Mirror::of_raw(Backend::Directory, answer, "").await;
    let answer = mirror.get(&format!("blobs/{digest}")).await;
    assert_eq!(header(&answer, "content-length"), "200000");
    assert_eq!(read(answer).await, (200, bytes));
    mirror.until_filled("stored", 1).await;
    assert_eq!(mirror.keeps(&digest), (true, true));
    assert_eq!(mirror.metric(&requests("blob", "fetched")).await, 1);
    assert_eq!(mirror.metric(&filled_bytes()).await, 200_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_blob_is_missing_and_asked_for_once_in_a_while() {
    let mirror = Mirror::start(Backend::Directory, "negative_ttl: 1h").await;
    let digest = Digest::of(Algorithm::Sha256, b"nobody has this");
    let path = format!("blobs/{digest}");
    for _ in 0..3 {
        let (status, body) = read_text(mirror.get(&path).await).await;
        assert_eq!((status, body.contains("BLOB_UNKNOWN")), (404, true), "{body}");
        assert_eq!(mirror.ask(Method::HEAD, &path).await.status(), 404);
    }
    assert_eq!(mirror.upstream.requests().len(), 1, "{:?}", mirror.upstream.requests());
    assert_eq!(mirror.metric(&requests("blob", "unknown")).await, 3);
    mirror.assert_no_trace_of(&digest);
}
