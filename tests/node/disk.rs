//! Chunks on the disk of a node: they outlive it, and whatever becomes of them no wrong byte is served.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    content::pattern,
    node::{Backend, TestNode},
    raw::eventually,
};

const MIB: usize = 1 << 20;

/// A node on whose disk all chunks of the blob are, but in whose memory nothing is; and where the blob is.
async fn node_with(bytes: &Bytes) -> (TestNode, String) {
    let mut node = TestNode::start(Backend::S3, "").await;
    let digest = node.push_blob("a", bytes).await;
    let path = format!("/v2/a/blobs/{digest}");
    read_twice(&node, &path, bytes).await;
    restart(&mut node).await;
    (node, path)
}

/// Has all chunks of a blob written to the disk.
async fn read_twice(node: &TestNode, path: &str, bytes: &Bytes) {
    let before = metric(node, "millpond_cache_disk_written_bytes_total").await;
    for _ in 0..2 {
        assert!(node.get(path).expect(200).await.body == *bytes, "other bytes");
    }
    let expected = before + bytes.len() as u64;
    wait_for(node, "millpond_cache_disk_written_bytes_total", expected).await;
}

/// Restarts the node, and waits until it has its disk.
async fn restart(node: &mut TestNode) {
    node.restart().await;
    wait_for_disk(node).await;
    node.s3().take_requests();
}

async fn wait_for_disk(node: &TestNode) {
    let limit = "millpond_cache_disk_limit_bytes";
    eventually("the disk is open", async || (metric(node, limit).await > 0).then_some(())).await;
}

async fn metrics(node: &TestNode) -> String {
    let answer = node.http().get(format!("{}/metrics", node.admin_url())).send().await.unwrap();
    answer.text().await.unwrap()
}

pub(crate) async fn metric(node: &TestNode, name: &str) -> u64 {
    let text = metrics(node).await;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().expect("a whole number"))
}

async fn wait_for(node: &TestNode, name: &str, value: u64) {
    eventually(&format!("{name} is {value}"), async || {
        (metric(node, name).await == value).then_some(())
    })
    .await;
}

async fn faults(node: &TestNode, kind: &str) -> u64 {
    metric(node, &format!("millpond_cache_disk_faults_total{{fault=\"{kind}\"}}")).await
}

/// How often bytes of a blob were asked of the bucket since the last call.
fn gets(node: &TestNode) -> usize {
    let requests = node.s3().take_requests();
    requests.iter().filter(|line| line.starts_with("GET ") && line.ends_with("/data")).count()
}

/// The files of the chunks that are on the disk, in no order.
fn files(node: &TestNode) -> Vec<PathBuf> {
    let folders = fs::read_dir(node.disk.path().join("chunks-1")).unwrap();
    let files = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
    files.map(|file| file.unwrap().path()).collect()
}

fn flip(file: &PathBuf, at: u64) {
    let file = File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

async fn pull(node: &TestNode, path: &str) -> Bytes {
    node.get(path).expect(200).await.body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_twice_is_not_asked_of_the_bucket_after_a_restart() {
    // One chunk, some small ones, and some large ones.
    for length in [1, 6 * MIB + 7, 65 * MIB] {
        let bytes = pattern(length, 1);
        let (node, path) = node_with(&bytes).await;
        assert!(pull(&node, &path).await == bytes, "{length}: other bytes");
        let tail = node.get(&path).header("range", "bytes=-1").expect(206).await;
        assert_eq!(tail.body, bytes.slice(length - 1..), "{length}");
        assert_eq!(gets(&node), 0, "{length}");
        let found = metric(&node, "millpond_cache_lookups_total{found=\"disk\"}").await;
        assert_eq!(found, files(&node).len() as u64, "{length}");
        let filled = metric(&node, "millpond_cache_filled_bytes_total{from=\"disk\"}").await;
        assert_eq!(filled, length as u64, "{length}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_once_is_not_written_to_the_disk() {
    let (once, twice) = (pattern(6 * MIB, 1), pattern(2 * MIB, 2));
    let mut node = TestNode::start(Backend::S3, "").await;
    let digest = node.push_blob("a", &once).await;
    assert!(pull(&node, &format!("/v2/a/blobs/{digest}")).await == once);
    let digest = node.push_blob("a", &twice).await;
    // What is written is written in order.
    read_twice(&node, &format!("/v2/a/blobs/{digest}"), &twice).await;
    assert_eq!(files(&node).len(), 2);
    assert_eq!(metric(&node, "millpond_cache_disk_left_out_total").await, 0);
    restart(&mut node).await;
    assert_eq!(files(&node).len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_keeps_its_identity_with_its_disk() {
    let mut node = TestNode::start(Backend::S3, "").await;
    let identity = async |node: &TestNode| {
        eventually("the node is named", async || {
            let text = metrics(node).await;
            text.lines().find(|line| line.starts_with("millpond_node_info{")).map(str::to_owned)
        })
        .await
    };
    let before = identity(&node).await;
    assert_ne!(before, identity(&node.sibling().await).await);
    node.restart().await;
    assert_eq!(before, identity(&node).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_anywhere_in_a_file_is_found_and_the_chunk_heals() {
    let bytes = pattern(3 * MIB, 1);
    let (mut node, path) = node_with(&bytes).await;
    let length = MIB as u64;
    // In the bytes, at the edges of what is checked at once; in their sums; in the sum of these.
    for at in [0, 65_535, 65_536, length - 1, length, length + 63, length + 64, length + 67] {
        for file in files(&node) {
            flip(&file, at);
        }
        assert!(pull(&node, &path).await == bytes, "{at}: other bytes");
        // Once for what to hold the chunks against.
        assert!((2..=4).contains(&gets(&node)), "{at}: the bucket is asked");
        assert_eq!(faults(&node, "rotten").await, 3, "{at}");
        // Read once more, the chunks are worth the disk again.
        assert!(pull(&node, &path).await == bytes, "{at}: other bytes");
        wait_for(&node, "millpond_cache_disk_written_bytes_total", bytes.len() as u64).await;
        restart(&mut node).await;
        assert!(pull(&node, &path).await == bytes, "{at}: other bytes");
        assert_eq!(gets(&node), 0, "{at}: it has healed");
        restart(&mut node).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_cut_or_swapped_or_something_else_are_misses() {
    let bytes = pattern(3 * MIB, 1);
    let (node, path) = node_with(&bytes).await;
    let [first, second, third] = files(&node).try_into().unwrap();
    File::options().write(true).open(&first).unwrap().set_len(1000).unwrap();
    fs::copy(&third, &second).unwrap();
    fs::remove_file(&third).unwrap();
    fs::create_dir(&third).unwrap();
    assert!(pull(&node, &path).await == bytes, "other bytes");
    assert_eq!(faults(&node, "rotten").await + faults(&node, "unreadable").await, 3);
    assert!(pull(&node, &path).await == bytes, "other bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_deleted_is_missed_and_made_again() {
    let bytes = pattern(3 * MIB, 1);
    let (mut node, path) = node_with(&bytes).await;
    fs::remove_dir_all(node.disk.path()).unwrap();
    assert!(pull(&node, &path).await == bytes, "other bytes");
    assert_eq!(faults(&node, "missing").await, 3);
    assert!(pull(&node, &path).await == bytes, "other bytes");
    wait_for(&node, "millpond_cache_disk_written_bytes_total", bytes.len() as u64).await;
    restart(&mut node).await;
    assert!(pull(&node, &path).await == bytes, "other bytes");
    assert_eq!(gets(&node), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_cannot_be_used_costs_nothing_but_the_cache() {
    let bytes = pattern(3 * MIB, 1);
    let mut node = TestNode::start(Backend::S3, "").await;
    let digest = node.push_blob("a", &bytes).await;
    let path = format!("/v2/a/blobs/{digest}");
    node.stop().await;
    fs::remove_dir_all(node.disk.path()).unwrap();
    fs::write(node.disk.path(), "a file").unwrap();
    node.start_again().await;
    for _ in 0..2 {
        assert!(pull(&node, &path).await == bytes, "other bytes");
    }
    assert!(faults(&node, "unusable").await >= 1);
    // It is used as soon as it can be.
    fs::remove_file(node.disk.path()).unwrap();
    wait_for_disk(&node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_processes_one_has_the_folder_and_the_other_gets_it_afterwards() {
    let bytes = pattern(3 * MIB, 1);
    let (mut node, path) = node_with(&bytes).await;
    let (ground, disk) = (Arc::clone(&node.ground), Arc::clone(&node.disk));
    let other = TestNode::on(ground, disk, &node.settings).await;
    assert!(pull(&other, &path).await == bytes, "other bytes");
    eventually("the folder is found in use", async || {
        (faults(&other, "unusable").await > 0).then_some(())
    })
    .await;
    assert_eq!(metric(&other, "millpond_cache_disk_limit_bytes").await, 0);
    node.stop().await;
    wait_for_disk(&other).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_into_a_smaller_cache_is_dropped() {
    let bytes = pattern(100 * MIB, 1);
    let (mut node, path) = node_with(&bytes).await;
    assert_eq!(files(&node).len(), 25);
    "cache: {disk: {size: 64MiB}}".clone_into(&mut node.settings);
    restart(&mut node).await;
    eventually("the rest is dropped", async || (files(&node).len() == 15).then_some(())).await;
    assert!(metric(&node, "millpond_cache_disk_bytes").await <= 64 << 20);
    assert!(pull(&node, &path).await == bytes, "other bytes");
    // Ten chunks are missing; those that follow each other come at once.
    assert!((1..=10).contains(&gets(&node)));
    // As much as is written goes.
    assert!(pull(&node, &path).await == bytes, "other bytes");
    eventually("others are kept", async || {
        (metric(&node, "millpond_cache_disk_evictions_total").await >= 10).then_some(())
    })
    .await;
    assert!(files(&node).len() <= 15);
}
