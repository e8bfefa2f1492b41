//! Manifests of registries that refuse, lie and send something else.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use millpond::oci::{Algorithm, Digest};

use crate::{
    fake_upstream::{Access, Fault, Script},
    fixture::{Image, MANIFEST_TYPE, Mirror, NAME, REPOSITORY, header, read, read_text, requests},
    node::Backend,
};

/// How requests for manifests begin.
const MANIFESTS: &str = "GET /v2/team/app/manifests/";

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_kept_byte_by_byte_however_it_is_written() {
    for backend in [Backend::Directory, Backend::S3] {
        let mirror = Mirror::start(backend, "").await;
        let image = mirror.put_image("v1", 10);
        let manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
        let odd = format!("\n\t {} \r\n\n", serde_json::to_string_pretty(&manifest).unwrap());
        let odd = Bytes::from(odd.replace("\": ", "\"  :\t"));
        let upstream = &mirror.upstream;
        let digest = upstream.put_manifest(REPOSITORY, Some("v1"), MANIFEST_TYPE, odd.clone());
        for path in ["manifests/v1".to_owned(), format!("manifests/{digest}")] {
            assert_eq!(read(mirror.get(&path).await).await, (200, odd.clone()), "{path}");
        }
        mirror.assert_keeps_manifest(&digest).await;
        // From the storage, and from nowhere else.
        mirror.pull(&Image { digest, manifest: odd.clone(), ..image }).await;
        mirror.assert_keeps_tag("v1").await;
        mirror.upstream.stop().await;
        let upstream = mirror.upstream;
        let next = Mirror { upstream, node: mirror.node.sibling().await };
        assert_eq!(read(next.get("manifests/v1").await).await, (200, odd));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn schema_1_is_refused_with_a_word_about_it() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let schema1 = r#"{"schemaVersion": 1, "name": "team/app", "tag": "old", "fsLayers": []}"#;
    let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let digest = mirror.upstream.put_manifest(REPOSITORY, Some("old"), signed, schema1);
    for path in ["manifests/old".to_owned(), format!("manifests/{digest}")] {
        let (status, body) = read_text(mirror.get(&path).await).await;
        assert_eq!((status, body.contains("schema version 1")), (400, true), "{path}: {body}");
    }
    assert_eq!(mirror.metric(&requests("manifest", "failed")).await, 2);
    mirror.assert_no_trace_of(&digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_that_the_bytes_do_not_have_is_an_error() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 10);
    let lie = Digest::of(Algorithm::Sha256, b"something else");
    let lying = Fault::Header("docker-content-digest", lie.to_string());
    mirror.upstream.script(Script::new(lying).times(1));
    let (status, body) = read_text(mirror.get("manifests/v1").await).await;
    assert_eq!((status, body.contains("DIGEST_INVALID")), (502, true), "{body}");
    assert_eq!(mirror.metric(&requests("manifest", "failed")).await, 1);
    mirror.assert_no_trace_of(&image.digest);
    mirror.assert_no_trace_of(&lie);
    assert_eq!(read(mirror.get("manifests/v1").await).await, (200, image.manifest));
    mirror.assert_keeps_manifest(&image.digest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_bytes_than_those_of_the_digest_are_an_error() {
    for backend in [Backend::Directory, Backend::S3] {
        let mirror = Mirror::start(backend, "").await;
        let image = mirror.put_image("v1", 10);
        let path = format!("manifests/{}", image.digest);
        mirror.upstream.script(Script::new(Fault::WrongBytes).times(1));
        let (status, body) = read_text(mirror.get(&path).await).await;
        assert_eq!((status, body.contains("DIGEST_INVALID")), (502, true), "{body}");
        mirror.assert_no_trace_of(&image.digest);
        assert_eq!(read(mirror.get(&path).await).await, (200, image.manifest));
        mirror.assert_keeps_manifest(&image.digest).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_manifest_is_an_error_of_the_upstream() {
    let image = Mirror::start(Backend::Directory, "").await.put_image("v1", 10).manifest;
    let index = "application/vnd.oci.image.index.v1+json";
    let cases = [
        ("text/html", Bytes::from_static(b"<html>Please log in to this network</html>")),
        (MANIFEST_TYPE, Bytes::from_static(b"{\"errors\": []}")),
        (MANIFEST_TYPE, Bytes::new()),
        // An image that is said to be an index.
        (index, image),
    ];
    let mirror = Mirror::start(Backend::Directory, "").await;
    for (media_type, bytes) in cases {
        let digest = mirror.upstream.put_manifest(REPOSITORY, Some("v1"), media_type, bytes);
        let (status, body) = read_text(mirror.get("manifests/v1").await).await;
        assert_eq!((status, body.contains(NAME)), (502, true), "{media_type}: {body}");
        mirror.assert_no_trace_of(&digest);
    }
    assert_eq!(mirror.metric(&requests("manifest", "failed")).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_too_long_is_refused() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 10);
    let mut long = image.manifest.to_vec();
    long.resize(5 << 20, b' ');
    let digest = mirror.upstream.put_manifest(REPOSITORY, Some("long"), MANIFEST_TYPE, long);
    // With its length in the headers, and without.
    for fault in [None, Some(Fault::NoLength)] {
        mirror.upstream.clear_scripts();
        fault.into_iter().for_each(|fault| mirror.upstream.script(Script::new(fault)));
        let (status, body) = read_text(mirror.get("manifests/long").await).await;
        assert_eq!((status, body.contains("4194304")), (502, true), "{body}");
    }
    assert_eq!(mirror.metric(&requests("manifest", "failed")).await, 2);
    mirror.assert_no_trace_of(&digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_without_a_length_is_a_manifest() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 10);
    mirror.upstream.script(Script::new(Fault::NoLength));
    assert_eq!(read(mirror.get("manifests/v1").await).await, (200, image.manifest));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_lets_nobody_in_is_told_of_as_denied() {
    for access in [None, Some(Access::Basic("somebody", "else"))] {
        let mirror = Mirror::start(Backend::Directory, "").await;
        let image = mirror.put_image("v1", 10);
        match access {
            None => mirror.upstream.script(Script::new(Fault::Status(403))),
            Some(access) => mirror.upstream.set_access(access),
        }
        for path in ["manifests/v1", &format!("manifests/{}", image.digest), "tags/list"] {
            let (status, body) = read_text(mirror.get(path).await).await;
            let tells = body.contains("\"DENIED\"") && body.contains(NAME);
            assert_eq!((status, tells), (403, true), "{path}: {body}");
        }
        assert_eq!(mirror.metric(&requests("manifest", "failed")).await, 2);
        mirror.assert_no_trace_of(&image.digest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_wants_fewer_requests_gets_none() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 10);
    mirror.upstream.script(Script::new(Fault::RateLimit(Some("100".to_owned()))));
    let paths = ["manifests/v1".to_owned(), format!("manifests/{}", image.digest)];
    for _ in 0..3 {
        for answer in join_all(paths.iter().map(|path| mirror.get(path))).await {
            let seconds: u64 = header(&answer, "retry-after").parse().unwrap();
            assert!((60..=100).contains(&seconds), "{seconds}");
            let (status, body) = read_text(answer).await;
            assert_eq!((status, body.contains("TOOMANYREQUESTS")), (429, true), "{body}");
        }
    }
    // Both were on their way when the first answer came, at most.
    assert!(mirror.upstream.requests().len() <= 2, "{:?}", mirror.upstream.requests());
    mirror.assert_no_trace_of(&image.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_fails_is_told_of_in_time() {
    let cases = [
        (Fault::Status(500), 502),
        (Fault::Status(503), 502),
        (Fault::Disconnect, 502),
        (Fault::Hang, 504),
        (Fault::StallAfter(10), 504),
        (Fault::CutAfter(10), 502),
        (Fault::Header("content-encoding", "gzip".to_owned()), 502),
        (Fault::Redirect(302, "/v2/team/app/manifests/v1".to_owned()), 502),
    ];
    let cases = cases.map(|(fault, expected)| async move {
        let settings = "response_timeout: 300ms, stall_timeout: 300ms";
        let mirror = Mirror::start(Backend::Directory, settings).await;
        let image = mirror.put_image("v1", 10);
        mirror.upstream.script(Script::new(fault.clone()).on(MANIFESTS));
        let asked = tokio::time::timeout(Duration::from_secs(20), mirror.get("manifests/v1")).await;
        let (status, body) = read_text(asked.expect("an answer in time")).await;
        assert_eq!((status, body.contains(NAME)), (expected, true), "{fault:?}: {body}");
        assert_eq!(mirror.metric(&requests("manifest", "failed")).await, 1, "{fault:?}");
        mirror.assert_no_trace_of(&image.digest);
        mirror.upstream.clear_scripts();
        mirror.upstream.release();
        assert_eq!(read(mirror.get("manifests/v1").await).await, (200, image.manifest));
    });
    join_all(cases).await;
}
