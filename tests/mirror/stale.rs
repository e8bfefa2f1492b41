//! What is served while the other registry does not answer.

use std::time::Duration;

use futures_util::future::join_all;

use crate::{
    fake_upstream::{FakeUpstream, Fault, Script, Tls},
    fixture::{Image, Mirror, NAME, REPOSITORY, header, read, read_text, requests},
    listeners::Daemon,
    node::Backend,
};

/// The tag and everything it leads to is held.
async fn pull(mirror: &Mirror, image: &Image) {
    assert_eq!(read(mirror.get("manifests/v1").await).await.0, 200);
    mirror.pull(image).await;
}

async fn assert_stale(mirror: &Mirror, image: &Image) {
    let answer = mirror.get("manifests/v1").await;
    assert_eq!(header(&answer, "warning"), "110 - \"Response is Stale\"");
    assert_eq!(header(&answer, "docker-content-digest"), image.digest.to_string());
    assert_eq!(read(answer).await, (200, image.manifest.clone()));
    let layer = mirror.get(&image.layer_path()).await;
    assert_eq!(read(layer).await, (200, image.layer_bytes.clone()));
}

async fn assert_current(mirror: &Mirror, image: &Image) {
    let answer = mirror.get("manifests/v1").await;
    assert_eq!(header(&answer, "warning"), "");
    assert_eq!(read(answer).await, (200, image.manifest.clone()));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_upstream_suffers_from_a_tag_is_served_as_it_was_until_it_is_well() {
    let faults = [
        Fault::RateLimit(Some("0".to_owned())),
        Fault::Status(500),
        Fault::Status(503),
        Fault::Status(403),
        Fault::Disconnect,
        Fault::Hang,
    ];
    let cases = faults.map(|fault| async move {
        let settings = "tag_ttl: 0s, negative_ttl: 0s, response_timeout: 300ms";
        let mirror = Mirror::start(Backend::Directory, settings).await;
        let image = mirror.put_image("v1", 1000);
        pull(&mirror, &image).await;
        mirror.upstream.script(Script::new(fault.clone()));
        assert_stale(&mirror, &image).await;
        assert_eq!(mirror.metric(&requests("manifest", "stale")).await, 1, "{fault:?}");
        mirror.upstream.clear_scripts();
        mirror.upstream.release();
        assert_current(&mirror, &image).await;
        let moved = mirror.put_image("v1", 2000);
        assert_current(&mirror, &moved).await;
        assert_eq!(mirror.metric(&requests("manifest", "stale")).await, 1, "{fault:?}");
    });
    join_all(cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_gone_and_comes_back_is_noticed() {
    for backend in [Backend::Directory, Backend::S3] {
        let mirror = Mirror::start(backend, "tag_ttl: 0s, negative_ttl: 0s").await;
        let image = mirror.put_image("v1", 1000);
        pull(&mirror, &image).await;
        mirror.upstream.stop().await;
        assert_stale(&mirror, &image).await;
        mirror.upstream.restart().await;
        assert_current(&mirror, &image).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_whose_certificate_is_not_trusted_is_as_good_as_gone() {
    let mirror = Mirror::start(Backend::Directory, "tag_ttl: 0s").await;
    let image = mirror.put_image("v1", 1000);
    pull(&mirror, &image).await;
    mirror.assert_keeps_tag("v1").await;
    let stranger = FakeUpstream::start_with(Tls::Anybody).await;
    let mut config = mirror.node.config();
    config.upstreams.upstreams[0].urls = vec![stranger.url().parse().unwrap()];
    let daemon = Daemon::start(config).await;
    let repository = format!("{}/v2/{NAME}/{REPOSITORY}", daemon.urls[0]);
    let http = mirror.node.http();
    let answer = http.get(format!("{repository}/manifests/v1")).send().await.unwrap();
    assert_eq!(header(&answer, "warning"), "110 - \"Response is Stale\"");
    assert_eq!(read(answer).await, (200, image.manifest));
    // What is not held cannot be had.
    for path in ["manifests/v2", "tags/list?n=0", &format!("blobs/sha256:{}", "cd".repeat(32))] {
        let answer = http.get(format!("{repository}/{path}")).send().await.unwrap();
        let (status, body) = read_text(answer).await;
        let expected = if path.starts_with("tags") { 200 } else { 502 };
        assert_eq!(status, expected, "{path}: {body}");
    }
    assert!(stranger.requests().is_empty(), "{:?}", stranger.requests());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_is_unwell_an_upstream_is_not_asked_for_each_pull() {
    let mirror = Mirror::start(Backend::Directory, "tag_ttl: 0s, negative_ttl: 1h").await;
    let image = mirror.put_image("v1", 1000);
    pull(&mirror, &image).await;
    mirror.upstream.script(Script::new(Fault::Status(500)));
    mirror.upstream.forget_requests();
    for _ in 0..20 {
        assert_stale(&mirror, &image).await;
    }
    assert_eq!(mirror.upstream.requests().len(), 1, "{:?}", mirror.upstream.requests());
    assert_eq!(mirror.metric(&requests("manifest", "stale")).await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_too_old_is_an_error() {
    let mirror = Mirror::start(Backend::Directory, "tag_ttl: 0s, max_stale: 0s").await;
    let image = mirror.put_image("v1", 1000);
    pull(&mirror, &image).await;
    mirror.upstream.script(Script::new(Fault::Status(500)));
    let (status, body) = read_text(mirror.get("manifests/v1").await).await;
    assert_eq!((status, body.contains(NAME)), (502, true), "{body}");
    assert_eq!(mirror.metric(&requests("manifest", "failed")).await, 1);
    // By its digest nothing is too old.
    let by_digest = mirror.get(&format!("manifests/{}", image.digest)).await;
    assert_eq!(read(by_digest).await, (200, image.manifest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_served_as_it_was_for_as_long_as_the_settings_say() {
    let settings = "tag_ttl: 0s, negative_ttl: 0s, max_stale: 1h";
    let mut mirror = Mirror::start(Backend::Directory, settings).await;
    let image = mirror.put_image("v1", 1000);
    pull(&mirror, &image).await;
    mirror.upstream.stop().await;
    mirror.age_tag("v1", Duration::from_mins(59)).await;
    assert_stale(&mirror, &image).await;
    assert_eq!(mirror.metric(&requests("manifest", "stale")).await, 1);
    mirror.age_tag("v1", Duration::from_mins(61)).await;
    let (status, body) = read_text(mirror.get("manifests/v1").await).await;
    assert_eq!((status, body.contains(NAME)), (502, true), "{body}");
    assert_eq!(mirror.metric(&requests("manifest", "failed")).await, 1);
    // Once it was heard of again, its time begins anew.
    mirror.upstream.restart().await;
    assert_current(&mirror, &image).await;
    mirror.upstream.stop().await;
    assert_stale(&mirror, &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_whose_new_manifest_cannot_be_had_stays_where_it_was() {
    let settings = "tag_ttl: 0s, negative_ttl: 0s";
    let faults = [Fault::Status(500), Fault::WrongBytes, Fault::Status(404)];
    for fault in faults {
        let mirror = Mirror::start(Backend::Directory, settings).await;
        let image = mirror.put_image("v1", 1000);
        pull(&mirror, &image).await;
        let moved = mirror.put_image("v1", 2000);
        mirror.upstream.script(Script::new(fault.clone()).on("GET ").times(1));
        assert_stale(&mirror, &image).await;
        assert_current(&mirror, &moved).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_an_upstream_is_kept_while_what_is_held_is_served() {
    let mirror = Mirror::start(Backend::Directory, "tag_ttl: 0s, negative_ttl: 0s").await;
    let image = mirror.put_image("v1", 1000);
    pull(&mirror, &image).await;
    mirror.upstream.forget_requests();
    mirror.upstream.script(Script::new(Fault::RateLimit(Some("3600".to_owned()))));
    for _ in 0..5 {
        assert_stale(&mirror, &image).await;
    }
    assert_eq!(mirror.upstream.requests().len(), 1, "{:?}", mirror.upstream.requests());
    let other = mirror.get("manifests/v2").await;
    assert_ne!(header(&other, "retry-after"), "");
    assert_eq!(other.status(), 429);
}
