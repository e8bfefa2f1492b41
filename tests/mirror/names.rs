//! Which registry a request means.

use reqwest::{Method, Version};

use crate::{
    fake_upstream::{FakeUpstream, Tls},
    fixture::{Mirror, NAME, REPOSITORY, assert_layer, read},
    node::Backend,
};

async fn tags_at(mirror: &Mirror, path: &str, host: Option<&str>) -> (u16, String) {
    let mut request = mirror.node.http().get(format!("{}{path}", mirror.node.url()));
    if let Some(host) = host {
        request = request.header("host", host);
    }
    let (status, body) = read(request.send().await.unwrap()).await;
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_leads_to_an_upstream_by_its_first_component_its_ns_or_the_host() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    mirror.put_image("v1", 10);
    let ways = [
        (format!("/v2/{NAME}/{REPOSITORY}/tags/list"), None),
        (format!("/v2/{REPOSITORY}/tags/list?ns={NAME}"), None),
        (format!("/v2/{REPOSITORY}/tags/list?ns=alias.example"), None),
        (format!("/v2/{REPOSITORY}/tags/list"), Some("mirror.example:5000")),
        (format!("/v2/{REPOSITORY}/tags/list"), Some("MIRROR.example")),
    ];
    for (path, host) in ways {
        let (status, body) = tags_at(&mirror, &path, host).await;
        assert_eq!(status, 200, "{path} {host:?}: {body}");
        assert!(body.contains("\"v1\""), "{path}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hosted_names_and_mirrored_names_never_lead_to_each_other() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    mirror.put_image("v1", 10);
    let (status, body) = tags_at(&mirror, &format!("/v2/{REPOSITORY}/tags/list"), None).await;
    assert_eq!((status, body.contains("NAME_UNKNOWN")), (404, true), "{body}");
    let (status, body) =
        tags_at(&mirror, &format!("/v2/{REPOSITORY}/tags/list?ns=no.example"), None).await;
    assert_eq!((status, body.contains("no.example")), (404, true), "{body}");
    let (status, body) = tags_at(&mirror, &format!("/v2/{NAME}/tags/list"), None).await;
    assert_eq!((status, body.contains("NAME_UNKNOWN")), (404, true), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ns_is_answered_with_the_namespace() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 10);
    let url = format!("{}/v2/{REPOSITORY}/manifests/v1?ns={NAME}", mirror.node.url());
    let answer = mirror.node.http().get(url).send().await.unwrap();
    assert_eq!(answer.headers()["oci-namespace"], NAME);
    assert_eq!(read(answer).await, (200, image.manifest));
}

#[tokio::test(flavor = "multi_thread")]
async fn writing_to_a_mirrored_name_is_denied_with_where_to_push() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 10);
    let writes = [
        (Method::POST, "blobs/uploads/".to_owned()),
        (Method::PUT, "manifests/v1".to_owned()),
        (Method::DELETE, "manifests/v1".to_owned()),
        (Method::DELETE, format!("blobs/{}", image.layer)),
    ];
    for (method, path) in writes {
        let (status, body) = read(mirror.ask(method.clone(), &path).await).await;
        let body = String::from_utf8_lossy(&body).into_owned();
        assert_eq!(status, 403, "{method} {path}: {body}");
        assert!(body.contains("DENIED") && body.contains(NAME), "{method} {path}: {body}");
    }
    assert!(mirror.upstream.requests().is_empty(), "{:?}", mirror.upstream.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_outside_the_patterns_are_unknown_and_not_asked_for() {
    let mirror = Mirror::start(Backend::Directory, "repositories: {deny: ['team/**']}").await;
    mirror.put_image("v1", 10);
    let (status, _) = read(mirror.get("manifests/v1").await).await;
    assert_eq!(status, 404);
    assert!(mirror.upstream.requests().is_empty(), "{:?}", mirror.upstream.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_tls_that_wants_a_certificate_is_mirrored_like_any_other() {
    let upstream = FakeUpstream::start_with(Tls::WithCertificate).await;
    let file = |name| Tls::file(name).display().to_string();
    let settings = format!(
        "ca_file: {}, client_cert_file: {}, client_key_file: {}",
        file("ca.pem"),
        file("client.pem"),
        file("client.key")
    );
    let node = crate::fixture::node(Backend::Directory, upstream.url(), &settings, "").await;
    let mirror = Mirror { upstream, node };
    let image = mirror.put_image("v1", 100_000);
    assert_eq!(read(mirror.get("manifests/v1").await).await, (200, image.manifest.clone()));
    assert_layer(mirror.get(&image.layer_path()).await, &image).await;
    mirror.assert_kept(&image).await;
    // Many small answers share a connection, and each blob has one of its own.
    let versions: Vec<_> = mirror.upstream.requests().iter().map(|seen| seen.version).collect();
    assert_eq!(versions, [Version::HTTP_2, Version::HTTP_11]);
}
