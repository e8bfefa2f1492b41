//! What requests are answered that mean nothing, or nothing allowed.

use http::Method;

use crate::{
    content::{pattern, sha256, unknown_digest},
    node::{Backend, TestNode},
    raw::Raw,
};

on_both_backends! {
    unknown_paths_are_not_found,
    malformed_names_are_refused,
    names_of_every_form_are_accepted,
    names_may_contain_the_words_of_paths,
    a_method_that_means_nothing_is_refused_with_those_that_do,
    escapes_in_paths_do_not_climb,
    an_escaped_slash_separates_the_components_of_a_name,
    errors_say_nothing_of_the_inside,
    configured_headers_are_in_every_answer,
}

async fn unknown_paths_are_not_found(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let paths = [
        "/v1/",
        "/v2x/",
        "/v2/a",
        "/v2/a/",
        "/v2/a/tags",
        "/v2/a/tags/list/",
        "/v2/a/tags/other",
        "/v2/a/blobs",
        "/v2/a/manifests",
        "/v2/_catalog/",
        "/v2/_catalog/x",
        "/favicon.ico",
        "//v2/",
        "/v2//",
        "/v2/_oci/ext/discover",
        "/v2/a/_oci/ext/discover",
    ];
    for path in paths {
        let answer = node.get(path).send().await;
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
        assert_eq!(answer.header("content-type"), "application/json", "{path}");
        assert!(answer.json()["errors"][0]["code"].is_string(), "{path}");
    }
}

/// Every kind of path with this name in it.
fn paths(name: &str) -> Vec<(Method, String)> {
    let digest = unknown_digest();
    vec![
        (Method::GET, format!("/v2/{name}/tags/list")),
        (Method::GET, format!("/v2/{name}/manifests/v1")),
        (Method::PUT, format!("/v2/{name}/manifests/v1")),
        (Method::GET, format!("/v2/{name}/blobs/{digest}")),
        (Method::POST, format!("/v2/{name}/blobs/uploads/")),
        (Method::GET, format!("/v2/{name}/referrers/{digest}")),
    ]
}

async fn malformed_names_are_refused(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let long = format!("a/{}", "b".repeat(254));
    let bad = [
        "A", "a/B", "a//b", "-a", "a-", ".a", "a.", "_a", "a_", "a..b", "a___b", "a._b", "a/-b",
        "a%20b", "a%00b", "%C3%A9", "a/..%2fb", "a%2F%2Fb", "a~b", "a%3Ab", &long,
    ];
    for name in bad {
        for (method, path) in paths(name) {
            node.ask(method, &path).refused(400, "NAME_INVALID").await;
        }
    }
}

async fn names_of_every_form_are_accepted(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let long = format!("a/{}", "b".repeat(253));
    let good = ["a", "0", "a.b", "a_b", "a__b", "a-b", "a--b", "a---b", "a/b/c/d/e/f/g/h", &long];
    for name in good {
        let bytes = pattern(10, 1);
        let digest = node.push_blob(name, &bytes).await;
        assert_eq!(node.pull_blob(name, &digest).await, bytes, "{name}");
    }
}

async fn names_may_contain_the_words_of_paths(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let manifest = crate::content::small_index("x");
    let names = ["tags/list", "blobs/uploads", "manifests", "a/manifests/b", "referrers", "v2/v2"];
    for name in names {
        node.push_manifest(name, "latest", &manifest).await;
        let tags = node.get(&format!("/v2/{name}/tags/list")).expect(200).await.json();
        assert_eq!(tags, serde_json::json!({ "name": name, "tags": ["latest"] }));
        let bytes = pattern(10, 1);
        let digest = node.push_blob(name, &bytes).await;
        assert_eq!(node.pull_blob(name, &digest).await, bytes, "{name}");
    }
}

async fn a_method_that_means_nothing_is_refused_with_those_that_do(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let digest = unknown_digest();
    let session = node.begin_upload("a").await;
    let cases = [
        ("/v2/".to_owned(), "GET, HEAD"),
        ("/v2/_catalog".to_owned(), "GET, HEAD"),
        ("/v2/a/tags/list".to_owned(), "GET, HEAD"),
        ("/v2/a/manifests/v1".to_owned(), "GET, HEAD, PUT, DELETE"),
        (format!("/v2/a/blobs/{digest}"), "GET, HEAD, DELETE"),
        ("/v2/a/blobs/uploads/".to_owned(), "POST"),
        (session, "GET, HEAD, PATCH, PUT, DELETE"),
        (format!("/v2/a/referrers/{digest}"), "GET, HEAD"),
    ];
    let methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"];
    for (target, allowed) in cases {
        let wrong = methods.iter().filter(|method| !allowed.split(", ").any(|a| a == **method));
        for method in wrong {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let answer = node.ask(method, &target).refused(405, "UNSUPPORTED").await;
            assert_eq!(answer.header("allow"), allowed);
        }
    }
}

async fn escapes_in_paths_do_not_climb(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    std::fs::write(node.files().join("secret"), "the secret").unwrap();
    let digest = sha256(b"x");
    let paths = [
        "/v2/../secret".to_owned(),
        "/v2/%2e%2e/%2e%2e/manifests/v1".to_owned(),
        "/v2/a%2f..%2f..%2fsecret/tags/list".to_owned(),
        "/v2/a/manifests/..%2f..%2fsecret".to_owned(),
        "/v2/a/manifests/..".to_owned(),
        format!("/v2/a/blobs/{}", digest.replace(":", ":..%2f")),
        "/v2/a/blobs/uploads/..%2f..%2fsecret".to_owned(),
        "/v2/a/blobs/..%5c..%5csecret".to_owned(),
        "/v2/a/tags/list%00".to_owned(),
        "/v2/%ff/tags/list".to_owned(),
        "/v2/a%zz/tags/list".to_owned(),
    ];
    for path in paths {
        // Byte by byte, since clients tidy paths up.
        let mut raw = Raw::connect(&node).await;
        raw.send(format!("GET {path} HTTP/1.1\r\nhost: r\r\n\r\n")).await;
        let answer = raw.answer().await;
        assert!(matches!(answer.status, 400 | 404), "{path}: {answer:?}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("the secret"), "{path}");
    }
}

async fn an_escaped_slash_separates_the_components_of_a_name(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let bytes = pattern(10, 1);
    let digest = node.push_blob("a/b", &bytes).await;
    assert_eq!(node.pull_blob("a%2Fb", &digest).await, bytes);
    assert_eq!(node.pull_blob("a%2Fb", &digest.replace(':', "%3a")).await, bytes);
    // But it does not make a session or a digest of a name.
    let answer = node.get(&format!("/v2/a%2Fb%2Fblobs%2F{digest}")).send().await;
    assert_eq!(answer.status, 404, "{answer:?}");
}

async fn errors_say_nothing_of_the_inside(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let digest = unknown_digest();
    for (method, path) in paths("a").into_iter().chain(paths("A")) {
        let answer = node.ask(method, &path).send().await;
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        for inside in ["docker/registry", "millpond/v1", "/tmp", ".rs:", "panicked"] {
            assert!(!body.contains(inside), "{path}: {body}");
        }
    }
    let answer = node.get(&format!("/v2/a/blobs/{digest}")).refused(404, "BLOB_UNKNOWN").await;
    assert!(String::from_utf8_lossy(&answer.body).contains(&digest), "but what was asked for");
}

async fn configured_headers_are_in_every_answer(backend: Backend) {
    let settings = "api: {headers: {X-Content-Type-Options: nosniff, Server: pond}}";
    let node = TestNode::start(backend, settings).await;
    for path in ["/v2/", "/", "/v2/A/tags/list", "/v2/a/tags/list", "/nowhere"] {
        let answer = node.get(path).send().await;
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("server"), "pond", "{path}");
    }
}
