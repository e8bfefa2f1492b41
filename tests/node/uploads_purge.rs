//! Uploads that nobody finishes expire, and are removed.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use millpond::{
    content::ContentStore,
    oci::{Algorithm, RepositoryName, UploadId},
    registry::Registry,
    runtime::{ByteBudget, Tasks},
    storage::Driver,
    upstream::Upstreams,
};

use crate::{
    client::with_query,
    content::{pattern, sha256, small_index},
    node::{Backend, TestNode},
    raw::eventually,
};

on_both_backends! {
    an_expired_upload_is_removed,
    a_dry_run_only_counts,
    an_upload_that_is_young_stays,
    everything_that_is_no_upload_stays,
    an_expired_upload_is_unknown,
    a_node_purges_on_its_own,
    traces_of_cancelled_and_finished_uploads_go_too,
}

const HOUR: Duration = Duration::from_hours(1);

/// Purges the node's storage as if it were `later` than it is.
async fn purge(node: &TestNode, later: Duration) -> u64 {
    let config = node.config();
    let driver = Driver::open(&config.storage, ByteBudget::new(64 << 20)).await.unwrap();
    let tasks = Tasks::new();
    let registry = {
        let metrics = prometheus::Registry::new();
        let upstreams =
            Upstreams::new(&config.upstreams, &tasks, &metrics).expect("there are none");
        let content = ContentStore::new(driver.shared(), config.registry.known_for, tasks.clone());
        Registry::new(config.registry, content, upstreams, None, (&tasks, &metrics))
    };
    let found = registry.purge_uploads(SystemTime::now() + later).await.unwrap();
    drop(registry);
    assert_eq!(tasks.finish(HOUR).await, 0);
    driver.finish(HOUR).await;
    found
}

fn files(node: &TestNode, folder: &str) -> Vec<PathBuf> {
    let mut folders = vec![node.files().join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files
}

fn pieces(node: &TestNode) -> usize {
    files(node, "millpond/v1/uploads").len()
}

/// Begins an upload and sends it two chunks.
async fn unfinished(node: &TestNode) -> String {
    let location = node.begin_upload("a").await;
    let location = node.patch(&location, pattern(1_000, 1)).expect(202).await.location();
    node.patch(&location, pattern(1_000, 2)).expect(202).await.location()
}

async fn an_expired_upload_is_removed(backend: Backend) {
    let node = TestNode::start(backend, "registry: {uploads: {age: 1h}}").await;
    unfinished(&node).await;
    unfinished(&node).await;
    assert_eq!(pieces(&node), 4);
    assert_eq!(purge(&node, 2 * HOUR).await, 2);
    assert_eq!(pieces(&node), 0);
    assert_eq!(purge(&node, 2 * HOUR).await, 0, "nothing is left to be found");
}

async fn a_dry_run_only_counts(backend: Backend) {
    let node = TestNode::start(backend, "registry: {uploads: {age: 1h, dry_run: true}}").await;
    let location = unfinished(&node).await;
    for _ in 0..2 {
        assert_eq!(purge(&node, 2 * HOUR).await, 1);
        assert_eq!(pieces(&node), 2);
    }
    assert_eq!(node.get(&location).expect(204).await.header("range"), "0-1999");
}

async fn an_upload_that_is_young_stays(backend: Backend) {
    let node = TestNode::start(backend, "registry: {uploads: {age: 1h}}").await;
    let location = unfinished(&node).await;
    assert_eq!(purge(&node, HOUR / 2).await, 0);
    assert_eq!(pieces(&node), 2);
    let bytes = [pattern(1_000, 1), pattern(1_000, 2)].concat();
    let target = with_query(&location, &format!("digest={}", sha256(&bytes)));
    node.put(&target, "").expect(201).await;
}

async fn everything_that_is_no_upload_stays(backend: Backend) {
    let node = TestNode::start(backend, "registry: {uploads: {age: 1h}}").await;
    let bytes = pattern(1_000, 3);
    let digest = node.push_blob("a", &bytes).await;
    node.push_manifest("a", "v1", &small_index("x")).await;
    unfinished(&node).await;
    let foreign = ["notes.txt", "not-an-id/piece", "0198c5f0-0000-4000-zzzz-000000000000/piece"];
    for name in foreign {
        let path = node.files().join("millpond/v1/uploads").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    }
    let before = files(&node, "docker").len();
    assert_eq!(purge(&node, 1_000 * HOUR).await, 1);
    assert_eq!(pieces(&node), foreign.len());
    assert_eq!(files(&node, "docker").len(), before);
    assert_eq!(node.pull_blob("a", &digest).await, bytes);
    node.get("/v2/a/manifests/v1").expect(200).await;
}

/// A session of the repository `a` that began so long ago, as its URL.
fn session(age: Duration) -> (UploadId, String) {
    let name: RepositoryName = "a".parse().unwrap();
    let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - age;
    let id = UploadId::new(&name, Algorithm::Sha256, began, 7);
    (id, format!("/v2/a/blobs/uploads/{id}"))
}

async fn an_expired_upload_is_unknown(backend: Backend) {
    let node = TestNode::start(backend, "registry: {uploads: {age: 1h}}").await;
    let (_, young) = session(HOUR / 2);
    node.patch(&young, "x").expect(202).await;
    let (_, old) = session(2 * HOUR);
    node.get(&old).refused(404, "BLOB_UPLOAD_UNKNOWN").await;
    node.patch(&old, "x").refused(404, "BLOB_UPLOAD_UNKNOWN").await;
    let target = with_query(&old, &format!("digest={}", sha256(b"x")));
    node.put(&target, "x").refused(404, "BLOB_UPLOAD_UNKNOWN").await;
    node.delete(&old).refused(404, "BLOB_UPLOAD_UNKNOWN").await;
}

async fn a_node_purges_on_its_own(backend: Backend) {
    let node = TestNode::start(backend, "registry: {uploads: {age: 1h, interval: 1s}}").await;
    unfinished(&node).await;
    let (id, _) = session(2 * HOUR);
    let folder = node.files().join(format!("millpond/v1/uploads/{id}"));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{:020}-{:016x}", 0, 1)), "hello").unwrap();
    eventually("the old piece is removed", || async { (pieces(&node) == 2).then_some(()) }).await;
}

async fn traces_of_cancelled_and_finished_uploads_go_too(backend: Backend) {
    let mut node = TestNode::start(backend, "registry: {uploads: {age: 1h}}").await;
    let location = unfinished(&node).await;
    node.delete(&location).expect(204).await;
    let location = unfinished(&node).await;
    let bytes = [pattern(1_000, 1), pattern(1_000, 2)].concat();
    let target = with_query(&location, &format!("digest={}", sha256(&bytes)));
    node.put(&target, "").expect(201).await;
    // The note that one was cancelled is all that is left when the node has tidied up.
    node.restart().await;
    assert_eq!(pieces(&node), 1);
    assert_eq!(purge(&node, 2 * HOUR).await, 1);
    assert_eq!(pieces(&node), 0);
}
