//! Health, readiness and metrics.

use crate::{
    client::Answer,
    content::{pattern, small_index, unknown_digest},
    node::{Backend, TestNode},
    raw::{Raw, eventually},
    s3_server::{Action, Injection},
};

on_both_backends! {
    a_node_is_alive_and_ready,
    metrics_have_the_format_of_prometheus,
    every_request_is_counted_once,
    sent_bytes_are_counted,
    requests_under_way_are_counted,
    labels_are_bounded,
    open_uploads_are_counted,
    only_reading_is_allowed,
    the_two_listeners_do_not_serve_each_others_paths,
}

async fn admin(node: &TestNode, path: &str) -> Answer {
    node.get(&format!("{}{path}", node.admin_url())).send().await
}

/// The value of a series, 0 if it is not there.
async fn metric(node: &TestNode, series: &str) -> u64 {
    let text = admin(node, "/metrics").await.body;
    let text = String::from_utf8(text.to_vec()).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap_or_else(|_| panic!("{series} {value}")))
}

/// Waits until a series has this value: a request is counted when its last byte is out.
async fn becomes(node: &TestNode, series: &str, expected: u64) {
    eventually(&format!("{series} becomes {expected}"), || async {
        (metric(node, series).await == expected).then_some(())
    })
    .await;
}

fn requests(route: &str, method: &str, status: u16) -> String {
    format!(
        "millpond_http_requests_total{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}}"
    )
}

async fn a_node_is_alive_and_ready(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    for (path, text) in [("/healthz", "alive\n"), ("/readyz", "ready\n")] {
        let answer = admin(&node, path).await;
        assert_eq!((answer.status, answer.body.as_ref()), (200, text.as_bytes()), "{path}");
        let head = node.head(&format!("{}{path}", node.admin_url())).expect(200).await;
        assert!(head.body.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_its_storage_is_alive_and_not_ready() {
    let node = TestNode::start(Backend::S3, "").await;
    node.s3().inject(Injection::new(Action::Refuse(403, "AccessDenied")));
    assert_eq!(admin(&node, "/healthz").await.status, 200);
    let answer = admin(&node, "/readyz").await;
    assert_eq!((answer.status, answer.body.as_ref()), (503, b"the storage fails\n".as_slice()));
    assert_eq!(answer.header("retry-after"), "2");
    node.s3().heal();
    assert_eq!(admin(&node, "/readyz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_of_the_storage_are_counted_by_their_kind() {
    let node = TestNode::start(Backend::S3, "").await;
    let digest = node.push_blob("a", &pattern(10, 1)).await;
    let errors = |operation: &str, fault: &str| {
        format!("millpond_storage_errors_total{{fault=\"{fault}\",operation=\"{operation}\"}}")
    };
    node.s3().inject(Injection::new(Action::SlowDown));
    for expected in 1..=3 {
        node.get(&format!("/v2/a/blobs/{digest}")).expect(503).await;
        assert_eq!(metric(&node, &errors("open", "busy")).await, expected);
    }
    node.get("/v2/a/tags/list").expect(503).await;
    assert_eq!(metric(&node, &errors("list", "busy")).await, 1);
    node.s3().heal();
    node.s3().inject(Injection::new(Action::Refuse(507, "XMinioStorageFull")));
    let put = node.put("/v2/a/manifests/v1", small_index("x"));
    put.header("content-type", crate::content::INDEX).expect(507).await;
    assert_eq!(metric(&node, &errors("put", "full")).await, 1);
    node.s3().heal();
    // That something is not there is no failure.
    node.get(&format!("/v2/b/blobs/{}", unknown_digest())).expect(404).await;
    assert_eq!(metric(&node, &errors("open", "busy")).await, 3);
    assert_eq!(metric(&node, &errors("open", "other")).await, 0);
}

async fn metrics_have_the_format_of_prometheus(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    node.get("/v2/").expect(200).await;
    becomes(&node, &requests("ping", "GET", 200), 1).await;
    let answer = admin(&node, "/metrics").await;
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4");
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        assert!(name.starts_with("millpond_"), "{line:?}");
        assert!(value.parse::<f64>().is_ok(), "{line:?}");
    }
    for name in ["http_requests_total", "http_request_seconds", "storage_operation_seconds"] {
        for about in ["HELP", "TYPE"] {
            let wanted = format!("# {about} millpond_{name} ");
            let told = text.lines().any(|line| line.starts_with(&wanted));
            assert!(told || name.starts_with("storage"), "{wanted} in {text}");
        }
    }
}

async fn every_request_is_counted_once(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let bytes = pattern(100, 1);
    let digest = node.push_blob("a", &bytes).await;
    node.push_manifest("a", "v1", &small_index("x")).await;
    let location = node.begin_upload("a").await;
    node.patch(&location, "x").expect(202).await;
    for _ in 0..5 {
        node.pull_blob("a", &digest).await;
        node.get("/v2/a/manifests/v1").expect(200).await;
    }
    node.head(&format!("/v2/a/blobs/{digest}")).expect(200).await;
    node.get(&format!("/v2/a/blobs/{digest}")).header("range", "bytes=0-1").expect(206).await;
    node.get(&format!("/v2/a/blobs/{}", unknown_digest())).expect(404).await;
    node.get("/v2/A/tags/list").expect(400).await;
    node.get(&format!("/v2/a/referrers/{digest}")).expect(200).await;
    node.get("/v2/_catalog").expect(200).await;
    node.get("/v2/a/tags/list").expect(200).await;
    let expected = [
        ("uploads", "POST", 201, 1),
        ("uploads", "POST", 202, 1),
        ("upload", "PATCH", 202, 1),
        ("manifest", "PUT", 201, 1),
        ("manifest", "GET", 200, 5),
        ("blob", "GET", 200, 5),
        ("blob", "GET", 206, 1),
        ("blob", "GET", 404, 1),
        ("blob", "HEAD", 200, 1),
        ("referrers", "GET", 200, 1),
        ("catalog", "GET", 200, 1),
        ("tags", "GET", 200, 1),
        ("unknown", "GET", 400, 1),
    ];
    for (route, method, status, count) in expected {
        becomes(&node, &requests(route, method, status), count).await;
    }
    let seconds = "millpond_http_request_seconds_count{method=\"GET\",route=\"blob\"}";
    assert_eq!(metric(&node, seconds).await, 7);
}

async fn sent_bytes_are_counted(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let digest = node.push_blob("a", &pattern(100_000, 1)).await;
    node.pull_blob("a", &digest).await;
    node.get(&format!("/v2/a/blobs/{digest}")).header("range", "bytes=0-9").expect(206).await;
    node.head(&format!("/v2/a/blobs/{digest}")).expect(200).await;
    becomes(&node, &requests("blob", "HEAD", 200), 1).await;
    becomes(&node, "millpond_http_sent_bytes_total{route=\"blob\"}", 100_010).await;
}

async fn requests_under_way_are_counted(backend: Backend) {
    const IN_FLIGHT: &str = "millpond_http_requests_in_flight";
    let node = TestNode::start(backend, "").await;
    becomes(&node, IN_FLIGHT, 0).await;
    let location = node.begin_upload("a").await;
    let mut raw = Raw::connect(&node).await;
    raw.send(format!("PATCH {location} HTTP/1.1\r\nhost: r\r\ncontent-length: 10\r\n\r\nhello"))
        .await;
    becomes(&node, IN_FLIGHT, 1).await;
    drop(raw);
    becomes(&node, IN_FLIGHT, 0).await;
}

async fn labels_are_bounded(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    for number in 0..20 {
        let method = http::Method::from_bytes(format!("BREW{number}").as_bytes()).unwrap();
        node.ask(method, &format!("/v2/r{number}/tags/list")).expect(405).await;
        node.get(&format!("/nowhere/{number}")).expect(404).await;
    }
    becomes(&node, &requests("tags", "other", 405), 20).await;
    becomes(&node, &requests("unknown", "GET", 404), 20).await;
    let text = String::from_utf8(admin(&node, "/metrics").await.body.to_vec()).unwrap();
    assert!(!text.contains("BREW") && !text.contains("nowhere") && !text.contains("r19"), "{text}");
}

async fn open_uploads_are_counted(backend: Backend) {
    const OPEN: &str = "millpond_uploads_open";
    let node = TestNode::start(backend, "").await;
    let mut locations = Vec::new();
    for _ in 0..3 {
        locations.push(node.begin_upload("a").await);
    }
    becomes(&node, OPEN, 3).await;
    node.delete(&locations[0]).expect(204).await;
    becomes(&node, OPEN, 2).await;
}

async fn only_reading_is_allowed(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    for path in ["/healthz", "/readyz", "/metrics", "/cluster"] {
        let target = format!("{}{path}", node.admin_url());
        for answer in [node.post(&target).send().await, node.delete(&target).send().await] {
            assert_eq!(answer.status, 405, "{answer:?}");
            assert_eq!(answer.header("allow"), "GET, HEAD");
        }
    }
}

async fn the_two_listeners_do_not_serve_each_others_paths(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    for path in ["/healthz", "/readyz", "/metrics", "/cluster"] {
        assert_eq!(node.get(path).send().await.status, 404, "{path}");
    }
    for path in ["/v2/", "/", "/v2/_catalog", "/metrics/x"] {
        assert_eq!(admin(&node, path).await.status, 404, "{path}");
    }
}
