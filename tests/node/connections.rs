//! Connections: what is spoken on them, how they go on and end.

use std::time::Duration;

use http::Version;

use crate::{
    content::{pattern, sha256, small_index},
    node::{Backend, TestNode},
    raw::Raw,
};

on_both_backends! {
    a_client_that_speaks_tls_is_told_in_plain_text,
    http_1_0_is_answered_and_closed,
    http_1_0_may_keep_the_connection,
    http_2_is_spoken_without_an_upgrade,
    a_connection_goes_on_after_errors,
    requests_may_follow_each_other_unasked,
    a_request_to_close_is_honoured,
    headers_that_are_too_long_are_refused,
    headers_that_are_too_many_are_refused,
    what_is_no_http_is_refused,
    contradictory_lengths_are_refused,
    a_client_that_waits_for_leave_gets_it,
    a_refused_body_does_not_become_a_request,
    a_silent_connection_is_closed,
    a_silent_body_ends_its_request,
    a_client_that_says_nothing_holds_up_nobody,
}

const GET: &str = "GET /v2/ HTTP/1.1\r\nhost: r\r\n\r\n";

async fn a_client_that_speaks_tls_is_told_in_plain_text(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let mut raw = Raw::connect(&node).await;
    // The beginning of a ClientHello.
    raw.send([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0xab, 0xcd]).await;
    let told = raw.rest().await;
    assert!(told.starts_with("HTTP/1.0 400 Bad Request\r\n"), "{told:?}");
    assert!(told.contains("HTTPS request to an HTTP server"), "{told:?}");
}

async fn http_1_0_is_answered_and_closed(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let bytes = pattern(100_000, 1);
    let digest = node.push_blob("a", &bytes).await;
    let mut raw = Raw::connect(&node).await;
    raw.send(format!("GET /v2/a/blobs/{digest} HTTP/1.0\r\n\r\n")).await;
    let answer = raw.answer().await;
    assert_eq!((answer.status, answer.body.len()), (200, bytes.len()), "{}", answer.head);
    assert_eq!(answer.header("transfer-encoding"), None);
    assert_eq!(raw.rest().await, "");
}

async fn http_1_0_may_keep_the_connection(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let mut raw = Raw::connect(&node).await;
    for _ in 0..2 {
        raw.send("GET /v2/ HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await;
        assert_eq!(raw.answer().await.body, b"{}");
    }
}

async fn http_2_is_spoken_without_an_upgrade(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let bytes = pattern(1 << 20, 1);
    let digest = sha256(&bytes);
    let url = format!("{}/v2/a/blobs/uploads/?digest={digest}", node.url());
    let pushed = client.post(&url).body(bytes.clone()).send().await.unwrap();
    assert_eq!((pushed.status().as_u16(), pushed.version()), (201, Version::HTTP_2));
    let url = format!("{}/v2/a/blobs/{digest}", node.url());
    let pulls = (0..8).map(|_| async {
        let pulled = client.get(&url).send().await.unwrap();
        assert_eq!((pulled.status().as_u16(), pulled.version()), (200, Version::HTTP_2));
        assert!(pulled.bytes().await.unwrap() == bytes, "other bytes came back");
    });
    futures_util::future::join_all(pulls).await;
    let head = client.head(&url).send().await.unwrap();
    assert_eq!(head.headers()["content-length"], "1048576");
    let missing = client.get(format!("{}/v2/a/tags/list?n=x", node.url())).send().await.unwrap();
    assert_eq!(missing.status(), 400);
}

async fn a_connection_goes_on_after_errors(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let mut raw = Raw::connect(&node).await;
    let bad = [
        ("GET /nowhere HTTP/1.1\r\nhost: r\r\n\r\n", 404),
        ("DELETE /v2/ HTTP/1.1\r\nhost: r\r\n\r\n", 405),
        ("GET /v2/A/tags/list HTTP/1.1\r\nhost: r\r\n\r\n", 400),
        ("PUT /v2/a/manifests/v1 HTTP/1.1\r\nhost: r\r\ncontent-length: 2\r\n\r\n{}", 400),
        ("PATCH /v2/a/blobs/uploads/x HTTP/1.1\r\nhost: r\r\ncontent-length: 5\r\n\r\nhello", 404),
        ("POST /v2/a/tags/list HTTP/1.1\r\nhost: r\r\ncontent-length: 5\r\n\r\nhello", 405),
    ];
    for (request, status) in bad {
        raw.send(request).await;
        assert_eq!(raw.answer().await.status, status, "{request}");
        raw.send(GET).await;
        assert_eq!(raw.answer().await.body, b"{}", "after {request}");
    }
}

async fn requests_may_follow_each_other_unasked(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let manifest = small_index("x");
    node.push_manifest("a", "v1", &manifest).await;
    let mut raw = Raw::connect(&node).await;
    let all = [
        GET,
        "GET /v2/a/manifests/v1 HTTP/1.1\r\nhost: r\r\n\r\n",
        "HEAD /v2/a/manifests/v1 HTTP/1.1\r\nhost: r\r\n\r\n",
        "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nhost: r\r\ncontent-length: 0\r\n\r\n",
        "GET /nowhere HTTP/1.1\r\nhost: r\r\n\r\n",
    ];
    raw.send(all.concat()).await;
    assert_eq!(raw.answer().await.body, b"{}");
    assert_eq!(raw.answer().await.body, manifest);
    let head = String::from_utf8(raw.read_exactly(12).await).unwrap();
    assert_eq!(head, "HTTP/1.1 200");
    // The rest of the headers, without a body after them.
    let mut rest = String::new();
    while !rest.ends_with("\r\n\r\n") {
        rest.push(char::from(raw.read_exactly(1).await[0]));
    }
    assert_eq!(raw.answer().await.status, 202);
    assert_eq!(raw.answer().await.status, 404);
}

async fn a_request_to_close_is_honoured(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let mut raw = Raw::connect(&node).await;
    raw.send("GET /v2/ HTTP/1.1\r\nhost: r\r\nconnection: close\r\n\r\n").await;
    assert_eq!(raw.answer().await.header("connection"), Some("close"));
    assert_eq!(raw.rest().await, "");
}

async fn headers_that_are_too_long_are_refused(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let fits = format!("x-filler: {}", "a".repeat(8 << 10));
    let mut raw = Raw::connect(&node).await;
    raw.send(format!("GET /v2/ HTTP/1.1\r\nhost: r\r\n{fits}\r\n\r\n")).await;
    assert_eq!(raw.answer().await.status, 200);

    let mut raw = Raw::connect(&node).await;
    let endless = format!("x-filler: {}", "a".repeat(1 << 20));
    // It may close before it has read everything.
    let _refused = raw.try_send(format!("GET /v2/ HTTP/1.1\r\nhost: r\r\n{endless}")).await;
    let told = raw.rest().await;
    assert!(told.is_empty() || told.starts_with("HTTP/1.1 431 "), "{told:?}");
    node.get("/v2/").expect(200).await;
}

async fn headers_that_are_too_many_are_refused(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let mut raw = Raw::connect(&node).await;
    let many: String = (0..200).map(|number| format!("x-{number}: a\r\n")).collect();
    raw.send(format!("GET /v2/ HTTP/1.1\r\nhost: r\r\n{many}\r\n")).await;
    let told = raw.rest().await;
    assert!(told.starts_with("HTTP/1.1 431 "), "{told:?}");
}

async fn what_is_no_http_is_refused(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let bad: [&[u8]; 5] = [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"GET /v2/\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET /v2/ HTTP/9.9\r\nhost: r\r\n\r\n",
    ];
    for request in bad {
        let mut raw = Raw::connect(&node).await;
        raw.send(request).await;
        let told = raw.rest().await;
        let shown = String::from_utf8_lossy(request);
        assert!(told.is_empty() || told.starts_with("HTTP/1.1 400 "), "{shown:?}: {told:?}");
    }
}

async fn contradictory_lengths_are_refused(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let location = node.begin_upload("a").await;
    let bad = [
        "content-length: 5\r\ncontent-length: 6",
        "content-length: 5x",
        "content-length: -5",
        "transfer-encoding: gzip",
    ];
    for lengths in bad {
        let mut raw = Raw::connect(&node).await;
        raw.send(format!("PATCH {location} HTTP/1.1\r\nhost: r\r\n{lengths}\r\n\r\nhello!")).await;
        let told = raw.rest().await;
        assert!(told.is_empty() || told.starts_with("HTTP/1.1 400 "), "{lengths}: {told:?}");
    }
    assert_eq!(node.get(&location).expect(204).await.header("range"), "0-0");
}

async fn a_client_that_waits_for_leave_gets_it(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let location = node.begin_upload("a").await;
    let mut raw = Raw::connect(&node).await;
    let head = format!(
        "PATCH {location} HTTP/1.1\r\nhost: r\r\nexpect: 100-continue\r\ncontent-length: 5"
    );
    raw.send(format!("{head}\r\n\r\n")).await;
    assert_eq!(raw.answer().await.status, 100);
    raw.send("hello").await;
    let answer = raw.answer().await;
    assert_eq!((answer.status, answer.header("range")), (202, Some("0-4")));
}

async fn a_refused_body_does_not_become_a_request(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let mut raw = Raw::connect(&node).await;
    let hidden = "GET /v2/_catalog HTTP/1.1\r\nhost: r\r\n\r\n";
    let head = "PUT /v2/A/manifests/v1 HTTP/1.1\r\nhost: r\r\nconnection: close\r\ncontent-length";
    raw.send(format!("{head}: {}\r\n\r\n{hidden}", hidden.len())).await;
    let told = raw.rest().await;
    assert!(told.starts_with("HTTP/1.1 400 "), "{told}");
    assert_eq!(told.matches("HTTP/1.1 ").count(), 1, "{told}");
}

async fn a_silent_connection_is_closed(backend: Backend) {
    let node = TestNode::start(backend, "api: {header_timeout: 100ms}").await;
    let mut raw = Raw::connect(&node).await;
    assert_eq!(raw.rest().await, "", "nothing was asked");
    let mut raw = Raw::connect(&node).await;
    raw.send("GET /v2/ HT").await;
    let told = raw.rest().await;
    assert!(told.is_empty() || told.starts_with("HTTP/1.1 408 "), "{told}");
    let mut raw = Raw::connect(&node).await;
    raw.send(GET).await;
    assert_eq!(raw.answer().await.status, 200);
    assert_eq!(raw.rest().await, "", "nothing more was asked");
}

async fn a_silent_body_ends_its_request(backend: Backend) {
    let node = TestNode::start(backend, "api: {body_timeout: 100ms}").await;
    let location = node.begin_upload("a").await;
    let mut raw = Raw::connect(&node).await;
    let head = format!("PATCH {location} HTTP/1.1\r\nhost: r\r\ncontent-length: 10\r\n\r\nhello");
    raw.send(head).await;
    assert_eq!(raw.answer().await.status, 408);
    // What came is kept, as when the connection breaks.
    let status = node.get(&location).expect(204).await;
    assert_eq!(status.header("range"), "0-4");
}

async fn a_client_that_says_nothing_holds_up_nobody(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(Raw::connect(&node).await);
    }
    let asked = node.get("/v2/").expect(200);
    tokio::time::timeout(Duration::from_secs(10), asked).await.expect("an answer in time");
}
