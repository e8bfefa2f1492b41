//! Storages that fail, and nodes that stop in the middle.

use std::time::Duration;

use crate::{
    fake_upstream::{Fault, Script},
    fixture::{Mirror, assert_layer, fills, first_bytes, header, read_text, requests},
    node::Backend,
    s3_server::{Action, Injection},
};

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_kept_is_given_all_the_same_and_fetched_again() {
    let cases = [
        (100_000, "PutObject", Action::SlowDown),
        (100_000, "PutObject", Action::Refuse(500, "InternalError")),
        (100_000, "PutObject", Action::Refuse(403, "AccessDenied")),
        (6 * MIB, "UploadPart", Action::Refuse(500, "InternalError")),
        (6 * MIB, "CompleteMultipartUpload", Action::Refuse(503, "ServiceUnavailable")),
    ];
    for (length, operation, action) in cases {
        let mirror = Mirror::start(Backend::S3, "").await;
        let image = mirror.put_image("v1", length);
        let path = image.layer_path();
        mirror.node.s3().inject(Injection::new(action.clone()).on(operation));
        assert_layer(mirror.get(&path).await, &image).await;
        mirror.until_filled("not_kept", 1).await;
        assert_eq!(mirror.keeps(&image.layer), (false, false), "{operation} {action:?}");
        mirror.node.s3().heal();
        assert_layer(mirror.get(&path).await, &image).await;
        mirror.assert_kept(&image).await;
        assert_eq!(mirror.asked("GET", &path), 2, "{operation} {action:?}");
        assert_eq!(mirror.metric(&requests("blob", "fetched")).await, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_without_a_link_is_linked_by_the_next_who_asks() {
    let mirror = Mirror::start(Backend::S3, "").await;
    let image = mirror.put_image("v1", 100_000);
    let path = image.layer_path();
    let links = Injection::new(Action::SlowDown).on("PUT /pond/docker/registry/v2/repositories/");
    mirror.node.s3().inject(links);
    assert_layer(mirror.get(&path).await, &image).await;
    mirror.until_filled("stored", 1).await;
    mirror.node.s3().heal();
    let linked = crate::fixture::until(async || {
        assert_layer(mirror.get(&path).await, &image).await;
        mirror.keeps(&image.layer) == (true, true)
    });
    assert!(linked.await, "the blob does not become part of its repository");
    assert_eq!(mirror.asked("GET", &path), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_does_not_answer_is_told_of_and_the_upstream_is_spared() {
    let mirror = Mirror::start(Backend::S3, "").await;
    let image = mirror.put_image("v1", 100_000);
    mirror.node.s3().inject(Injection::new(Action::SlowDown));
    for path in [image.layer_path(), "manifests/v1".to_owned()] {
        let answer = mirror.get(&path).await;
        assert_ne!(header(&answer, "retry-after"), "", "{path}");
        let (status, body) = read_text(answer).await;
        assert_eq!((status, body.contains("storage")), (503, true), "{path}: {body}");
    }
    assert!(mirror.upstream.requests().is_empty(), "{:?}", mirror.upstream.requests());
    mirror.node.s3().heal();
    assert_layer(mirror.get(&image.layer_path()).await, &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_while_its_storage_is_down() {
    let mirror = Mirror::start(Backend::S3, "").await;
    let image = mirror.put_image("v1", 100_000);
    mirror.node.s3().inject(Injection::new(Action::SlowDown));
    let upstream = mirror.upstream;
    let late = Mirror { upstream, node: mirror.node.sibling().await };
    assert_eq!(late.get(&image.layer_path()).await.status(), 503);
    mirror.node.s3().heal();
    assert_layer(late.get(&image.layer_path()).await, &image).await;
    late.assert_kept(&image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_cannot_be_kept_is_given_all_the_same() {
    let mirror = Mirror::start(Backend::S3, "").await;
    let image = mirror.put_image("v1", 1000);
    mirror.node.s3().inject(Injection::new(Action::SlowDown).on("PutObject"));
    for _ in 0..2 {
        let (status, body) = read_text(mirror.get("manifests/v1").await).await;
        assert_eq!((status, body.as_bytes()), (200, &*image.manifest));
    }
    assert_eq!(mirror.keeps_manifest(&image.digest), (false, false));
    // What is only remembered is believed as long as anything else.
    assert_eq!(mirror.upstream.requests().len(), 1, "{:?}", mirror.upstream.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_in_the_middle_of_a_blob_leaves_nothing_half() {
    for backend in [Backend::Directory, Backend::S3] {
        let mut mirror = Mirror::start_with(backend, "", "api: {drain_timeout: 300ms}").await;
        let image = mirror.put_image("v1", 2 * MIB);
        let path = image.layer_path();
        mirror.upstream.script(Script::new(Fault::StallAfter(MIB)).times(1));
        let mut body = Box::pin(mirror.get(&path).await.bytes_stream());
        first_bytes(&mut body, 1000).await;
        let began = tokio::time::Instant::now();
        assert!(mirror.node.stop().await > 0, "the fill was still under way");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert_eq!(mirror.keeps(&image.layer), (false, false));
        let Mirror { upstream, node } = mirror;
        let next = Mirror { upstream, node: node.sibling().await };
        assert_layer(next.get(&path).await, &image).await;
        next.assert_kept(&image).await;
        // From its beginning, because nothing of what the first node had is left.
        assert_eq!(next.ranges(&path), ["", ""]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_brings_a_blob_to_its_end_if_it_can() {
    for backend in [Backend::Directory, Backend::S3] {
        let mut mirror = Mirror::start(backend, "").await;
        let image = mirror.put_image("v1", 2 * MIB);
        let path = image.layer_path();
        mirror.upstream.script(Script::new(Fault::StallAfter(MIB)).times(1));
        let answer = mirror.get(&path).await;
        mirror.node.begin_stop();
        mirror.upstream.release();
        assert_layer(answer, &image).await;
        assert_eq!(mirror.node.stop().await, 0);
        assert_eq!(mirror.keeps(&image.layer), (true, true));
        let Mirror { upstream, node } = mirror;
        let next = Mirror { upstream, node: node.sibling().await };
        assert_layer(next.get(&path).await, &image).await;
        assert_eq!(next.asked("GET", &path), 1);
        assert_eq!(next.metric(&fills("stored")).await, 0);
    }
}
