//! What tags of mirrored repositories point to, and for how long.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use reqwest::Method;

use crate::{
    fake_upstream::{Fault, Script},
    fixture::{MANIFEST_TYPE, Mirror, REPOSITORY, header, read, read_text, requests, until},
    node::Backend,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_requests_for_a_tag_are_one_for_the_upstream() {
    for backend in [Backend::Directory, Backend::S3] {
        let mirror = Mirror::start(backend, "").await;
        let image = mirror.put_image("v1", 10);
        for _ in 0..10 {
            for answer in join_all((0..100).map(|_| mirror.get("manifests/v1"))).await {
                assert_eq!(header(&answer, "warning"), "");
                assert_eq!(read(answer).await, (200, image.manifest.clone()));
            }
        }
        assert_eq!(mirror.upstream.requests().len(), 1);
        assert_eq!(mirror.metric(&requests("manifest", "served")).await, 1000);
        mirror.assert_keeps_manifest(&image.digest).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_is_answered_like_a_get_without_the_bytes() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 10);
    for path in ["manifests/v1".to_owned(), format!("manifests/{}", image.digest)] {
        let answer = mirror.ask(Method::HEAD, &path).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(header(&answer, "docker-content-digest"), image.digest.to_string());
        assert_eq!(header(&answer, "content-type"), MANIFEST_TYPE);
        assert_eq!(header(&answer, "content-length"), image.manifest.len().to_string());
        assert_eq!(read(answer).await.1, Bytes::new());
    }
    // What is known by then is not asked for again.
    assert_eq!(read(mirror.get("manifests/v1").await).await, (200, image.manifest));
    assert_eq!(mirror.upstream.requests().len(), 1, "{:?}", mirror.upstream.requests());
    assert_eq!(mirror.ask(Method::HEAD, "manifests/none").await.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_comes_when_the_time_is_over_is_one_head() {
    let mirror = Mirror::start(Backend::Directory, "tag_ttl: 0s").await;
    let image = mirror.put_image("v1", 10);
    assert_eq!(mirror.get("manifests/v1").await.status(), 200);
    mirror.upstream.script(Script::new(Fault::Hang).on("HEAD ").times(1));
    let crowd = join_all((0..50).map(|_| mirror.get("manifests/v1")));
    let release = async {
        mirror.until_asked("HEAD", "manifests/v1", 1).await;
        mirror.upstream.release();
    };
    for answer in tokio::join!(crowd, release).0 {
        assert_eq!(read(answer).await, (200, image.manifest.clone()));
    }
    // Those who came after the answer may have asked once more.
    assert!(mirror.asked("HEAD", "manifests/v1") < 50);
    assert_eq!(mirror.asked("GET", "manifests/v1"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moved_is_followed_once_its_time_is_over() {
    for backend in [Backend::Directory, Backend::S3] {
        let mirror = Mirror::start(backend, "tag_ttl: 50ms").await;
        let first = mirror.put_image("v1", 10);
        assert_eq!(read(mirror.get("manifests/v1").await).await, (200, first.manifest.clone()));
        let second = mirror.put_image("v1", 20);
        let moved = until(async || {
            let (status, manifest) = read(mirror.get("manifests/v1").await).await;
            assert!(status == 200 && (manifest == first.manifest || manifest == second.manifest));
            manifest == second.manifest
        });
        assert!(moved.await, "the tag stays where it was");
        // By the digest that the HEAD told, for which a GET by tag is not needed.
        assert_eq!(mirror.asked("GET", "manifests/v1"), 1);
        assert_eq!(mirror.asked("GET", &format!("manifests/{}", second.digest)), 1);
        mirror.assert_keeps_manifest(&first.digest).await;
        mirror.assert_keeps_manifest(&second.digest).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moved_to_what_nobody_tells_by_head_is_followed_by_get() {
    let mirror = Mirror::start(Backend::Directory, "tag_ttl: 0s").await;
    let first = mirror.put_image("v1", 10);
    assert_eq!(read(mirror.get("manifests/v1").await).await, (200, first.manifest));
    let nothing = Fault::Header("docker-content-digest", String::new());
    mirror.upstream.script(Script::new(nothing).on("HEAD "));
    let second = mirror.put_image("v1", 20);
    assert_eq!(read(mirror.get("manifests/v1").await).await, (200, second.manifest));
    assert_eq!(mirror.asked("GET", "manifests/v1"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_was_deleted_is_unknown_once_its_time_is_over() {
    let mirror = Mirror::start(Backend::Directory, "tag_ttl: 0s, negative_ttl: 1h").await;
    let image = mirror.put_image("v1", 10);
    assert_eq!(mirror.get("manifests/v1").await.status(), 200);
    mirror.upstream.script(Script::new(Fault::Status(404)));
    for _ in 0..3 {
        let answer = mirror.get("manifests/v1").await;
        assert_eq!(header(&answer, "warning"), "");
        let (status, body) = read_text(answer).await;
        assert_eq!((status, body.contains("MANIFEST_UNKNOWN")), (404, true), "{body}");
    }
    assert_eq!(mirror.upstream.requests().len(), 2, "{:?}", mirror.upstream.requests());
    assert_eq!(mirror.metric(&requests("manifest", "unknown")).await, 3);
    // By its digest it is still here.
    mirror.assert_keeps_manifest(&image.digest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missing_is_found_once_its_time_is_over() {
    let mirror = Mirror::start(Backend::Directory, "negative_ttl: 50ms").await;
    let absent = mirror.get("manifests/v1").await;
    assert_eq!(absent.status(), 404);
    let image = mirror.put_image("v1", 1000);
    for path in ["manifests/v1".to_owned(), image.layer_path()] {
        let found = until(async || mirror.get(&path).await.status() == 200).await;
        assert!(found, "{path}");
    }
    mirror.assert_keeps_manifest(&image.digest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_on_one_storage_ask_for_a_tag_once() {
    for backend in [Backend::Directory, Backend::S3] {
        let mirror = Mirror::start(backend, "").await;
        let image = mirror.put_image("v1", 10);
        assert_eq!(read(mirror.get("manifests/v1").await).await, (200, image.manifest.clone()));
        mirror.assert_keeps_tag("v1").await;
        let upstream = mirror.upstream;
        let second = Mirror { upstream, node: mirror.node.sibling().await };
        for path in ["manifests/v1".to_owned(), format!("manifests/{}", image.digest)] {
            let answer = second.get(&path).await;
            assert_eq!(header(&answer, "warning"), "");
            assert_eq!(read(answer).await, (200, image.manifest.clone()));
        }
        assert_eq!(second.asked("GET", "manifests/v1"), 1);
        assert_eq!(second.asked("HEAD", "manifests/v1"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_a_tag_goes_on_while_a_node_is_stopped() {
    let mut mirror = Mirror::start(Backend::Directory, "tag_ttl: 1h").await;
    let image = mirror.put_image("v1", 1000);
    assert_eq!(read(mirror.get("manifests/v1").await).await.0, 200);
    mirror.pull(&image).await;
    mirror.upstream.forget_requests();
    for (minutes, heads) in [(59, 0), (61, 1)] {
        mirror.age_tag("v1", Duration::from_mins(minutes)).await;
        for _ in 0..2 {
            assert_eq!(read(mirror.get("manifests/v1").await).await, (200, image.manifest.clone()));
        }
        assert_eq!(mirror.asked("HEAD", "manifests/v1"), heads, "after {minutes} minutes");
        assert_eq!(mirror.upstream.requests().len(), heads, "{:?}", mirror.upstream.requests());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_and_the_image_for_one_platform_are_two_requests() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("amd64", 10);
    let media_type = "application/vnd.oci.image.index.v1+json";
    let child = |digest: &str, size: usize| serde_json::json!({"mediaType": MANIFEST_TYPE, "digest": digest, "size": size});
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type,
        "manifests": [
            child(&image.digest.to_string(), image.manifest.len()),
            // Nobody wants this one.
            child(&format!("sha256:{}", "ab".repeat(32)), 7),
        ],
    });
    let index = Bytes::from(index.to_string());
    let upstream = &mirror.upstream;
    let digest = upstream.put_manifest(REPOSITORY, Some("multi"), media_type, index.clone());
    for _ in 0..2 {
        let answer = mirror.get("manifests/multi").await;
        assert_eq!(header(&answer, "content-type"), media_type);
        assert_eq!(read(answer).await, (200, index.clone()));
        let child = mirror.get(&format!("manifests/{}", image.digest)).await;
        assert_eq!(read(child).await, (200, image.manifest.clone()));
    }
    assert_eq!(mirror.upstream.requests().len(), 2, "{:?}", mirror.upstream.requests());
    mirror.assert_keeps_manifest(&digest).await;
    mirror.assert_keeps_manifest(&image.digest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_is_asked_for_once_and_never_again() {
    let mirror = Mirror::start(Backend::Directory, "tag_ttl: 0s").await;
    let image = mirror.put_image("v1", 10);
    let path = format!("manifests/{}", image.digest);
    assert_eq!(read(mirror.get(&path).await).await, (200, image.manifest.clone()));
    mirror.pull(&image).await;
    mirror.upstream.forget_requests();
    for _ in 0..3 {
        assert_eq!(read(mirror.get(&path).await).await, (200, image.manifest.clone()));
    }
    assert!(mirror.upstream.requests().is_empty(), "{:?}", mirror.upstream.requests());
}
