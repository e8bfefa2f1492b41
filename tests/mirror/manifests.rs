//! Manifests and tags of mirrored repositories.

use futures_util::future::join_all;

use crate::{
    fake_upstream::{Fault, Script},
    fixture::{MANIFEST_TYPE, Mirror, NAME, read, requests},
    node::Backend,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_comes_unaltered_and_is_asked_for_once() {
    for backend in [Backend::Directory, Backend::S3] {
        let mirror = Mirror::start(backend, "").await;
        let image = mirror.put_image("v1", 10);
        let asked = join_all((0..100).map(|_| mirror.get("manifests/v1"))).await;
        for answer in asked {
            assert_eq!(answer.headers()["docker-content-digest"], image.digest.to_string());
            assert_eq!(answer.headers()["content-type"], MANIFEST_TYPE);
            assert_eq!(read(answer).await, (200, image.manifest.clone()));
        }
        let by_digest = mirror.get(&format!("manifests/{}", image.digest)).await;
        assert_eq!(read(by_digest).await, (200, image.manifest.clone()));
        assert_eq!(mirror.upstream.requests().len(), 1, "{:?}", mirror.upstream.requests());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_its_time_a_tag_is_checked_by_head_and_followed() {
    let mirror = Mirror::start(Backend::Directory, "tag_ttl: 0s").await;
    let first = mirror.put_image("v1", 10);
    assert_eq!(read(mirror.get("manifests/v1").await).await, (200, first.manifest.clone()));
    assert_eq!(read(mirror.get("manifests/v1").await).await, (200, first.manifest));
    assert_eq!((mirror.asked("GET", "manifests/v1"), mirror.asked("HEAD", "manifests/v1")), (1, 1));
    let second = mirror.put_image("v1", 20);
    assert_eq!(read(mirror.get("manifests/v1").await).await, (200, second.manifest));
    assert_eq!((mirror.asked("GET", "manifests/v1"), mirror.asked("HEAD", "manifests/v1")), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_upstream_gone_what_is_held_whole_is_served_as_stale() {
    for backend in [Backend::Directory, Backend::S3] {
        let mut mirror = Mirror::start(backend, "tag_ttl: 0s").await;
        let image = mirror.put_image("v1", 100_000);
        assert_eq!(read(mirror.get("manifests/v1").await).await.0, 200);
        mirror.pull(&image).await;
        mirror.upstream.stop().await;
        mirror.node.restart().await;
        for _ in 0..3 {
            let answer = mirror.get("manifests/v1").await;
            assert!(answer.headers()["warning"].to_str().unwrap().starts_with("110 "));
            assert_eq!(read(answer).await, (200, image.manifest.clone()));
        }
        assert_eq!(mirror.metric(&requests("manifest", "stale")).await, 3);
        let layer = mirror.get(&format!("blobs/{}", image.layer)).await;
        assert_eq!(read(layer).await, (200, image.layer_bytes));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_upstream_gone_a_manifest_without_its_blobs_is_refused() {
    let mirror = Mirror::start(Backend::Directory, "tag_ttl: 0s").await;
    let image = mirror.put_image("v1", 10);
    assert_eq!(read(mirror.get("manifests/v1").await).await.0, 200);
    mirror.upstream.stop().await;
    for path in ["manifests/v1".to_owned(), format!("manifests/{}", image.digest)] {
        let (status, body) = read(mirror.get(&path).await).await;
        let body = String::from_utf8_lossy(&body).into_owned();
        assert_eq!(status, 502, "{path}: {body}");
        assert!(body.contains(NAME), "{path}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn within_its_time_too_a_tag_without_its_blobs_is_refused_while_the_upstream_is_gone() {
    let mirror = Mirror::start(Backend::Directory, "tag_ttl: 1h").await;
    let image = mirror.put_image("v1", 10);
    assert_eq!(read(mirror.get("manifests/v1").await).await.0, 200);
    mirror.upstream.stop().await;
    // Whoever pulls now is the first to notice, and the last to whom that happens.
    assert_eq!(read(mirror.get(&image.layer_path()).await).await.0, 502);
    for path in ["manifests/v1".to_owned(), format!("manifests/{}", image.digest)] {
        assert_eq!(read(mirror.get(&path).await).await.0, 502, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whether_an_upstream_is_still_there_is_asked_once_for_a_crowd() {
    let mirror = Mirror::start(Backend::Directory, "tag_ttl: 1h").await;
    let image = mirror.put_image("v1", 10);
    assert_eq!(read(mirror.get("manifests/v1").await).await.0, 200);
    mirror.upstream.script(Script::new(Fault::Status(500)).times(1));
    assert_eq!(read(mirror.get(&image.layer_path()).await).await.0, 502);
    mirror.upstream.script(Script::new(Fault::Hang).on("HEAD ").times(1));
    let by_digest = format!("manifests/{}", image.digest);
    let crowd = join_all((0..50).map(|_| mirror.get("manifests/v1")));
    let release = async {
        mirror.until_asked("HEAD", &by_digest, 1).await;
        mirror.upstream.release();
    };
    for answer in tokio::join!(crowd, release).0 {
        assert_eq!(read(answer).await, (200, image.manifest.clone()));
    }
    // Those who came after the answer know it.
    assert_eq!(mirror.asked("HEAD", &by_digest), 1);
    assert_eq!(mirror.asked("GET", "manifests/v1"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_asked_for_once_in_a_while() {
    let mirror = Mirror::start(Backend::Directory, "negative_ttl: 1h").await;
    for _ in 0..3 {
        assert_eq!(read(mirror.get("manifests/none").await).await.0, 404);
    }
    assert_eq!(mirror.upstream.requests().len(), 1);
}
