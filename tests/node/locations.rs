//! The form of `Location` headers.

use crate::{
    client::Ask,
    content::{pattern, sha256, small_index},
    node::{Backend, TestNode},
};

on_both_backends! {
    locations_are_paths_by_default,
    locations_are_urls_where_that_is_configured,
    a_trusted_proxy_says_how_clients_come,
    an_untrusted_client_does_not_say_how_clients_come,
    an_external_url_comes_before_everything,
    a_malformed_host_does_no_harm,
}

const ABSOLUTE: &str = "api: {location: absolute}";
const TRUSTED: &str = "api: {location: absolute, trusted_proxies: [127.0.0.0/8]}";

/// What comes before `/v2/` in the locations of an upload, of a blob and of a manifest.
async fn bases(node: &TestNode, headers: &[(&str, &str)]) -> Vec<String> {
    let with = |ask: Ask| headers.iter().fold(ask, |ask, (name, value)| ask.header(name, value));
    let bytes = pattern(10, 1);
    let blob = format!("/v2/a/blobs/uploads/?digest={}", sha256(&bytes));
    let manifest = node.put("/v2/a/manifests/v1", small_index("x"));
    let manifest = manifest.header("content-type", crate::content::INDEX);
    let answers = [
        with(node.post("/v2/a/blobs/uploads/")).expect(202).await,
        with(node.ask(http::Method::POST, &blob).bytes(bytes)).expect(201).await,
        with(manifest).expect(201).await,
    ];
    let base = |location: String| location.split_once("/v2/").unwrap().0.to_owned();
    answers.iter().map(|answer| base(answer.location())).collect()
}

async fn locations_are_paths_by_default(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let forwarded = [("x-forwarded-host", "evil.example"), ("x-forwarded-proto", "https")];
    assert_eq!(bases(&node, &forwarded).await, ["", "", ""]);
}

async fn locations_are_urls_where_that_is_configured(backend: Backend) {
    let node = TestNode::start(backend, ABSOLUTE).await;
    assert_eq!(bases(&node, &[]).await, [node.url(); 3]);
    let host = [("host", "registry.example:5000")];
    assert_eq!(bases(&node, &host).await, ["http://registry.example:5000"; 3]);
}

async fn a_trusted_proxy_says_how_clients_come(backend: Backend) {
    let node = TestNode::start(backend, TRUSTED).await;
    let headers = [("x-forwarded-host", "r.example"), ("x-forwarded-proto", "https")];
    assert_eq!(bases(&node, &headers).await, ["https://r.example"; 3]);
    let chain = [("x-forwarded-host", "r.example, inner"), ("x-forwarded-proto", "https, http")];
    assert_eq!(bases(&node, &chain).await, ["https://r.example"; 3]);
    assert_eq!(bases(&node, &[]).await, [node.url(); 3]);
    let scheme = [("x-forwarded-proto", "https")];
    assert_eq!(bases(&node, &scheme).await, vec![node.url().replace("http:", "https:"); 3]);
    let strange = [("x-forwarded-proto", "javascript"), ("x-forwarded-host", "r.example")];
    assert_eq!(bases(&node, &strange).await, ["http://r.example"; 3]);
}

async fn an_untrusted_client_does_not_say_how_clients_come(backend: Backend) {
    for settings in [ABSOLUTE, "api: {location: absolute, trusted_proxies: [10.0.0.0/8]}"] {
        let node = TestNode::start(backend, settings).await;
        let headers = [("x-forwarded-host", "evil.example"), ("x-forwarded-proto", "https")];
        assert_eq!(bases(&node, &headers).await, [node.url(); 3], "{settings}");
    }
}

async fn an_external_url_comes_before_everything(backend: Backend) {
    let settings = "api: {location: absolute, external_url: 'https://r.example/', \
                    trusted_proxies: [127.0.0.1]}";
    let node = TestNode::start(backend, settings).await;
    let headers = [("x-forwarded-host", "other.example"), ("host", "third.example")];
    assert_eq!(bases(&node, &headers).await, ["https://r.example"; 3]);
}

async fn a_malformed_host_does_no_harm(backend: Backend) {
    let node = TestNode::start(backend, TRUSTED).await;
    let headers = [("x-forwarded-host", "a b\"><script>"), ("x-forwarded-proto", "https")];
    for base in bases(&node, &headers).await {
        assert!(!base.contains(['<', '"', ' ']), "{base}");
    }
}
