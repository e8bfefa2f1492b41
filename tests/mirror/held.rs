//! Bytes that one repository has and another one asks for.

use bytes::Bytes;
use millpond::oci::Digest;
use reqwest::{Method, Response};

use crate::{
    fake_upstream::{Fault, Script},
    fixture::{Mirror, REPOSITORY, assert_layer, first_bytes, pattern, read, rest_of, until},
    node::Backend,
};

/// Another repository of the same upstream.
const OTHER: &str = "team/other";

const MIB: usize = 1 << 20;

async fn ask_other(mirror: &Mirror, method: Method, digest: &Digest) -> Response {
    let url = mirror.url_of(OTHER, &format!("blobs/{digest}"));
    mirror.node.http().request(method, url).send().await.unwrap()
}

fn asked_other(mirror: &Mirror, method: &str, digest: &Digest) -> usize {
    mirror.upstream.count(method, &format!("/v2/{OTHER}/blobs/{digest}"))
}

async fn until_linked_in_other(mirror: &Mirror, digest: &Digest) {
    let linked = until(async || mirror.keeps_in(OTHER, digest) == (true, true)).await;
    assert!(linked, "the blob does not become part of the other repository");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_repositories_want_comes_once_and_a_head_for_the_second() {
    for backend in [Backend::Directory, Backend::S3] {
        let mirror = Mirror::start(backend, "").await;
        let image = mirror.put_image("v1", 2 * MIB);
        mirror.upstream.put_blob(OTHER, image.layer_bytes.clone());
        mirror.upstream.script(Script::new(Fault::StallAfter(MIB)).times(1));
        let first = mirror.get(&image.layer_path()).await;
        let second = ask_other(&mirror, Method::GET, &image.layer).await;
        let mut second = Box::pin(second.bytes_stream());
        let mut read = first_bytes(&mut second, 1000).await;
        mirror.upstream.release();
        read.extend(rest_of(second).await);
        assert!(read == image.layer_bytes, "other bytes");
        assert_layer(first, &image).await;
        until_linked_in_other(&mirror, &image.layer).await;
        mirror.assert_kept(&image).await;
        let heads = asked_other(&mirror, "HEAD", &image.layer);
        assert_eq!((heads, asked_other(&mirror, "GET", &image.layer)), (1, 0));
        assert_eq!(mirror.asked("GET", &image.layer_path()), 1);
        assert_eq!(mirror.upstream.sent_bytes(), 2 << 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_repository_holds_is_seen_only_if_the_upstream_says_so() {
    for backend in [Backend::Directory, Backend::S3] {
        let mirror = Mirror::start(backend, "negative_ttl: 0s").await;
        let image = mirror.put_image("v1", 100_000);
        assert_layer(mirror.get(&image.layer_path()).await, &image).await;
        mirror.assert_kept(&image).await;
        for method in [Method::GET, Method::HEAD] {
            let answer = ask_other(&mirror, method.clone(), &image.layer).await;
            assert_eq!(answer.status(), 404, "{method}");
        }
        assert_eq!(asked_other(&mirror, "HEAD", &image.layer), 2);
        assert_eq!(mirror.keeps_in(OTHER, &image.layer), (true, false));
        mirror.upstream.put_blob(OTHER, image.layer_bytes.clone());
        assert_layer(ask_other(&mirror, Method::GET, &image.layer).await, &image).await;
        assert_eq!(mirror.keeps_in(OTHER, &image.layer), (true, true));
        assert_eq!(asked_other(&mirror, "GET", &image.layer), 0);
        // Nothing more is asked from now on.
        mirror.upstream.stop().await;
        assert_layer(ask_other(&mirror, Method::GET, &image.layer).await, &image).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_repository_holds_is_not_seen_while_the_upstream_is_gone() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 100_000);
    assert_layer(mirror.get(&image.layer_path()).await, &image).await;
    mirror.assert_kept(&image).await;
    mirror.upstream.stop().await;
    assert_eq!(ask_other(&mirror, Method::GET, &image.layer).await.status(), 502);
    assert_eq!(mirror.keeps_in(OTHER, &image.layer), (true, false));
    assert_layer(mirror.get(&image.layer_path()).await, &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosted_and_mirrored_blobs_are_not_seen_under_each_others_names() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 1000);
    assert_layer(mirror.get(&image.layer_path()).await, &image).await;
    mirror.assert_kept(&image).await;
    let http = mirror.node.http();
    let hosted = format!("{}/v2/{REPOSITORY}", mirror.node.url());
    let seen = http.get(format!("{hosted}/{}", image.layer_path())).send().await.unwrap();
    assert_eq!(seen.status(), 404);
    let bytes = Bytes::from_static(b"ours alone");
    let digest = Digest::of(millpond::oci::Algorithm::Sha256, &bytes);
    let push = http.post(format!("{hosted}/blobs/uploads/?digest={digest}")).body(bytes);
    assert_eq!(push.send().await.unwrap().status(), 201);
    assert_eq!(read(mirror.get(&format!("blobs/{digest}")).await).await.0, 404);
    assert_eq!(mirror.keeps(&digest), (true, false));
    // Nor can a blob of a mirrored name be mounted from there.
    let mount = format!("{hosted}/blobs/uploads/?mount={}&from={}", image.layer, OTHER);
    assert_eq!(http.post(mount).send().await.unwrap().status(), 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn that_one_repository_does_not_have_it_says_nothing_about_another() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let bytes = pattern(100_000, 9);
    let digest = mirror.upstream.put_blob(OTHER, bytes.clone());
    let path = format!("blobs/{digest}");
    let held_up = format!("GET /v2/{REPOSITORY}/");
    mirror.upstream.script(Script::new(Fault::Hang).on(held_up).times(1));
    let missing = async { mirror.get(&path).await.status() };
    let there = async {
        mirror.until_asked("GET", &path, 1).await;
        let wait_and_release = async {
            mirror.upstream.until_asked("HEAD", &format!("/v2/{OTHER}/{path}"), 1).await;
            mirror.upstream.release();
        };
        tokio::join!(ask_other(&mirror, Method::GET, &digest), wait_and_release).0
    };
    let (missing, there) = tokio::join!(missing, there);
    assert_eq!(missing, 404);
    assert_eq!(read(there).await, (200, bytes));
    until_linked_in_other(&mirror, &digest).await;
    assert_eq!(mirror.keeps(&digest), (true, false));
}
