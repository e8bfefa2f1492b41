//! When the storage fails, clients crowd or dawdle, and the node stops.

use std::{fs, path::Path};

use futures_util::future::join_all;
use http::Method;

use crate::{
    client::with_query,
    content::{INDEX, pattern, sha256, small_index, unknown_digest},
    node::{Backend, TestNode},
    raw::{Raw, eventually},
    s3_server::{Action, Injection},
};

/// A node with a manifest and a blob in the repository `a`, which it has forgotten.
async fn forgetful(settings: &str) -> (TestNode, String) {
    let mut node = TestNode::start(Backend::S3, settings).await;
    node.push_manifest("a", "v1", &small_index("x")).await;
    let digest = node.push_blob("a", &pattern(300_000, 1)).await;
    node.restart().await;
    (node, digest)
}

/// A request of every kind that needs the storage.
fn everything(node: &TestNode, digest: &str) -> Vec<crate::client::Ask> {
    let other = pattern(10, 2);
    let push = format!("/v2/a/blobs/uploads/?digest={}", sha256(&other));
    vec![
        node.get("/v2/a/manifests/v1"),
        node.get(&format!("/v2/a/blobs/{digest}")),
        node.get(&format!("/v2/a/blobs/{digest}")).header("range", "bytes=1-2,5-6"),
        node.get("/v2/a/tags/list"),
        node.get("/v2/_catalog"),
        node.get(&format!("/v2/a/referrers/{digest}")),
        node.ask(Method::POST, &push).bytes(other),
        node.put("/v2/a/manifests/v2", small_index("y")).header("content-type", INDEX),
        node.post(&format!("/v2/b/blobs/uploads/?mount={digest}&from=a")),
        node.delete("/v2/a/manifests/v1"),
        node.delete(&format!("/v2/a/blobs/{digest}")),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_storage_is_a_reason_to_try_again() {
    let (node, digest) = forgetful("").await;
    let actions = [
        Action::SlowDown,
        Action::Refuse(500, "InternalError"),
        Action::Refuse(403, "AccessDenied"),
    ];
    for action in actions {
        node.s3().inject(Injection::new(action));
        for ask in everything(&node, &digest) {
            let answer = ask.refused(503, "UNAVAILABLE").await;
            let seconds: u32 = answer.header("retry-after").parse().unwrap();
            assert!((1..=60).contains(&seconds), "{answer:?}");
            let told = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(!told.contains("S3") && !told.contains("pond/"), "{told}");
        }
        let location = node.begin_upload("a").await;
        node.patch(&location, "x").refused(503, "UNAVAILABLE").await;
        node.s3().heal();
        // The session is none the worse for it.
        let location = node.patch(&location, "x").expect(202).await.location();
        let target = with_query(&location, &format!("digest={}", sha256(b"x")));
        node.put(&target, "").expect(201).await;
        assert_eq!(node.status_of("/v2/a/manifests/v1").await, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_storage_is_told_from_a_busy_one() {
    let (node, _digest) = forgetful("").await;
    node.s3().inject(Injection::new(Action::Refuse(507, "XMinioStorageFull")).on("PUT "));
    let bytes = pattern(300_000, 3);
    let push = format!("/v2/a/blobs/uploads/?digest={}", sha256(&bytes));
    node.ask(Method::POST, &push).bytes(bytes.clone()).refused(507, "UNAVAILABLE").await;
    let location = node.begin_upload("a").await;
    node.patch(&location, bytes.clone()).refused(507, "UNAVAILABLE").await;
    let put = node.put("/v2/a/manifests/v2", small_index("y")).header("content-type", INDEX);
    put.refused(507, "UNAVAILABLE").await;
    // What is there can still be read.
    assert_eq!(node.status_of("/v2/a/manifests/v1").await, 200);
    node.s3().heal();
    node.ask(Method::POST, &push).bytes(bytes).expect(201).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_storage_takes_no_large_blob() {
    let (node, _digest) = forgetful("").await;
    node.s3().inject(Injection::new(Action::Refuse(507, "XMinioStorageFull")).on("UploadPart"));
    let bytes = pattern(12 << 20, 3);
    let push = format!("/v2/a/blobs/uploads/?digest={}", sha256(&bytes));
    node.ask(Method::POST, &push).bytes(bytes.clone()).refused(507, "UNAVAILABLE").await;
    assert_eq!(node.status_of(&format!("/v2/a/blobs/{}", sha256(&bytes))).await, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_breaks_off_never_ends_cleanly() {
    let (node, digest) = forgetful("").await;
    let target = format!("/v2/a/blobs/{digest}");
    let whole = node.get(&target).expect(200).await.body;
    for cut in [0, 1, 100_000, 299_999] {
        for range in ["bytes=0-", "bytes=0-299999", "bytes=0-149999,150000-299999"] {
            node.s3().inject(Injection::new(Action::CutBody(cut)).on("blobs/sha256"));
            match node.get(&target).header("range", range).attempt().await {
                Err(_broken) => {}
                // Nothing was sent yet, or the rest came from another request.
                Ok(answer) => {
                    let good = answer.status == 503 || answer.body.len() >= whole.len();
                    assert!(good, "{range} cut at {cut}: {} bytes", answer.body.len());
                }
            }
            node.s3().heal();
        }
    }
    assert_eq!(node.get(&target).expect(200).await.body, whole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_breaks_off_is_not_sent_at_all() {
    let (node, _digest) = forgetful("").await;
    node.s3().inject(Injection::new(Action::CutBody(5)).on("blobs/sha256"));
    node.get("/v2/a/manifests/v1").refused(503, "UNAVAILABLE").await;
    node.s3().heal();
    assert_eq!(node.get("/v2/a/manifests/v1").expect(200).await.body, small_index("x"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passing_failure_is_not_seen() {
    let (node, digest) = forgetful("").await;
    for action in [Action::SlowDown, Action::LoseAnswer] {
        for skip in 0..3 {
            node.s3().inject(Injection::new(action.clone()).skip(skip).times(1));
            node.get("/v2/a/manifests/v1").expect(200).await;
            node.s3().heal();
            node.s3().inject(Injection::new(action.clone()).skip(skip).times(1));
            node.push_blob("a", &pattern(10, skip as u64)).await;
            node.s3().heal();
            node.s3().inject(Injection::new(action.clone()).skip(skip).times(1));
            let location = node.begin_upload("a").await;
            let location = node.patch(&location, "hello").expect(202).await.location();
            let target = with_query(&location, &format!("digest={}", sha256(b"hello")));
            node.put(&target, "").expect(201).await;
            node.s3().heal();
        }
    }
    node.pull_blob("a", &digest).await;
}

on_both_backends! {
    a_stored_manifest_that_rotted_is_the_servers_fault,
    a_lost_blob_is_unknown,
    a_broken_link_is_as_good_as_none,
    many_clients_push_one_blob_at_once,
    many_clients_push_one_tag_at_once,
    clients_that_stop_reading_hold_up_nobody,
    a_request_under_way_is_finished_when_the_node_stops,
    idle_connections_do_not_hold_up_the_end,
    a_request_that_never_ends_is_cut_off_when_the_grace_is_over,
    a_push_goes_on_when_its_client_is_gone,
}

fn data(node: &TestNode, digest: &str) -> std::path::PathBuf {
    let hex = &digest["sha256:".len()..];
    node.files().join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
}

async fn a_stored_manifest_that_rotted_is_the_servers_fault(backend: Backend) {
    let mut node = TestNode::start(backend, "").await;
    let manifest = small_index("x");
    node.push_manifest("a", "v1", &manifest).await;
    for rotten in [small_index("y").to_vec(), b"not JSON".to_vec(), Vec::new()] {
        fs::write(data(&node, &sha256(&manifest)), &rotten).unwrap();
        node.restart().await;
        for reference in ["v1", &sha256(&manifest)] {
            let get = node.get(&format!("/v2/a/manifests/{reference}"));
            get.refused(500, "UNKNOWN").await;
        }
    }
    // Pushing again mends it.
    node.push_manifest("a", "v1", &manifest).await;
    node.restart().await;
    assert_eq!(node.get("/v2/a/manifests/v1").expect(200).await.body, manifest);
}

async fn a_lost_blob_is_unknown(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let bytes = pattern(100, 1);
    let digest = node.push_blob("a", &bytes).await;
    fs::remove_file(data(&node, &digest)).unwrap();
    let other = node.sibling().await;
    let target = format!("/v2/a/blobs/{digest}");
    other.get(&target).refused(404, "BLOB_UNKNOWN").await;
    other.head(&target).refused(404, "BLOB_UNKNOWN").await;
    // Also where it was known a moment ago.
    node.get(&target).refused(404, "BLOB_UNKNOWN").await;
    node.push_blob("a", &bytes).await;
    assert_eq!(other.pull_blob("a", &digest).await, bytes);
}

async fn a_broken_link_is_as_good_as_none(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let manifest = small_index("x");
    node.push_manifest("a", "v1", &manifest).await;
    let link =
        node.files().join("docker/registry/v2/repositories/a/_manifests/tags/v1/current/link");
    for broken in ["", "sha256:", "x", "sha256:zz", &"a".repeat(200), "../../secret"] {
        fs::write(&link, broken).unwrap();
        node.get("/v2/a/manifests/v1").refused(404, "MANIFEST_UNKNOWN").await;
    }
    // An editor was here.
    fs::write(&link, format!("{}\n", sha256(&manifest))).unwrap();
    assert_eq!(node.get("/v2/a/manifests/v1").expect(200).await.body, manifest);
    fs::write(&link, unknown_digest()).unwrap();
    node.get("/v2/a/manifests/v1").refused(404, "MANIFEST_UNKNOWN").await;
    node.push_manifest("a", "v1", &manifest).await;
    assert_eq!(node.get("/v2/a/manifests/v1").expect(200).await.body, manifest);
}

/// Every file below a folder.
fn files_below(folder: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

async fn many_clients_push_one_blob_at_once(backend: Backend) {
    let mut node = TestNode::start(backend, "").await;
    let bytes = pattern(200_000, 1);
    let digest = sha256(&bytes);
    let pushes = (0..64).map(|number| {
        let (node, bytes, digest) = (&node, &bytes, &digest);
        async move {
            let style = crate::blobs::Style::ALL[number % 5];
            crate::blobs::push(node, "a", style, (digest, bytes)).await
        }
    });
    for answer in join_all(pushes).await {
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    assert_eq!(node.pull_blob("a", &digest).await, bytes);
    // Once everything under way has ended there is one copy, and nothing else is left.
    node.restart().await;
    assert_eq!(files_below(&node.files().join("docker/registry/v2/blobs")), [data(&node, &digest)]);
    assert_eq!(
        files_below(&node.files().join("millpond/v1")),
        [""; 0].map(std::path::PathBuf::from)
    );
}

async fn many_clients_push_one_tag_at_once(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let manifests: Vec<_> = (0..32).map(|number| small_index(&number.to_string())).collect();
    let pushes = manifests.iter().map(|manifest| node.push_manifest("a", "v1", manifest));
    join_all(pushes).await;
    let found = node.get("/v2/a/manifests/v1").expect(200).await.body;
    assert!(manifests.contains(&found), "the tag is one of them");
    for manifest in &manifests {
        let target = format!("/v2/a/manifests/{}", sha256(manifest));
        assert_eq!(node.get(&target).expect(200).await.body, manifest);
    }
}

async fn clients_that_stop_reading_hold_up_nobody(backend: Backend) {
    let node = TestNode::start(backend, "memory: {buffers: 64MiB}").await;
    // More than the kernel's buffers take, so that the node has to wait for each of them.
    let large = pattern(24 << 20, 1);
    let digest = node.push_blob("a", &large).await;
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let mut raw = Raw::connect(&node).await;
        raw.send(format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nhost: r\r\n\r\n")).await;
        raw.read_exactly(1_000).await;
        stalled.push(raw);
    }
    let small = pattern(1_000, 2);
    let pulls = async {
        let small_digest = node.push_blob("a", &small).await;
        node.push_manifest("a", "v1", &small_index("x")).await;
        node.get("/v2/a/manifests/v1").expect(200).await;
        assert_eq!(node.pull_blob("a", &small_digest).await, small);
        assert!(node.pull_blob("a", &digest).await == large, "other bytes came back");
    };
    let deadline = std::time::Duration::from_secs(20);
    tokio::time::timeout(deadline, pulls).await.expect("the others are served meanwhile");
}

async fn connects(node: &TestNode) -> bool {
    tokio::net::TcpStream::connect(&node.url()["http://".len()..]).await.is_ok()
}

async fn readiness(node: &TestNode) -> (u16, String) {
    let answer = node.get(&format!("{}/readyz", node.admin_url())).send().await;
    (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
}

async fn a_request_under_way_is_finished_when_the_node_stops(backend: Backend) {
    let mut node = TestNode::start(backend, "").await;
    let location = node.begin_upload("a").await;
    let mut raw = Raw::connect(&node).await;
    let head = format!("PATCH {location} HTTP/1.1\r\nhost: r\r\nexpect: 100-continue\r\n");
    raw.send(format!("{head}content-length: 10\r\n\r\n")).await;
    assert_eq!(raw.answer().await.status, 100, "the handler runs");
    raw.send("hello").await;
    assert_eq!(readiness(&node).await.0, 200);
    node.begin_stop();
    eventually("new connections are refused", || async { (!connects(&node).await).then_some(()) })
        .await;
    assert_eq!(readiness(&node).await, (503, "stopping\n".to_owned()));
    raw.send(" pond").await;
    let answer = raw.answer().await;
    assert_eq!((answer.status, answer.header("range")), (202, Some("0-9")));
    assert_eq!(raw.rest().await, "", "the connection ends with its request");
    assert_eq!(node.stop().await, 0);
    let next = node.sibling().await;
    assert_eq!(next.get(&location).expect(204).await.header("range"), "0-9");
}

async fn idle_connections_do_not_hold_up_the_end(backend: Backend) {
    let mut node = TestNode::start(backend, "").await;
    let mut silent = Raw::connect(&node).await;
    let mut idle = Raw::connect(&node).await;
    idle.send("GET /v2/ HTTP/1.1\r\nhost: r\r\n\r\n").await;
    assert_eq!(idle.answer().await.status, 200);
    let deadline = std::time::Duration::from_secs(10);
    let stopped = tokio::time::timeout(deadline, node.stop()).await;
    assert_eq!(stopped.expect("the node stops in time"), 0);
    assert_eq!((silent.rest().await, idle.rest().await), (String::new(), String::new()));
}

async fn a_request_that_never_ends_is_cut_off_when_the_grace_is_over(backend: Backend) {
    let mut node = TestNode::start(backend, "api: {drain_timeout: 200ms}").await;
    let location = node.begin_upload("a").await;
    let mut raw = Raw::connect(&node).await;
    let head = format!("PATCH {location} HTTP/1.1\r\nhost: r\r\nexpect: 100-continue\r\n");
    raw.send(format!("{head}content-length: 10\r\n\r\n")).await;
    assert_eq!(raw.answer().await.status, 100, "the handler runs");
    assert!(node.stop().await > 0, "the request was cut off");
}

async fn a_push_goes_on_when_its_client_is_gone(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let bytes = pattern(100_000, 1);
    let digest = sha256(&bytes);
    let mut raw = Raw::connect(&node).await;
    let head = format!("POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nhost: r\r\n");
    raw.send(format!("{head}content-length: {}\r\n\r\n", bytes.len())).await;
    raw.send(&bytes).await;
    drop(raw);
    // Everything was sent, and nobody waits for the answer.
    eventually("the blob is stored", || async {
        (node.status_of(&format!("/v2/a/blobs/{digest}")).await == 200).then_some(())
    })
    .await;
    assert_eq!(node.pull_blob("a", &digest).await, bytes);
}
