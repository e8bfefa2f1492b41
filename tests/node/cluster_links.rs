//! What the nodes of one cluster tell each other of links, tags and uploads.

use std::{net::TcpListener, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use http::Method;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::{
    cluster::Cluster,
    content::{pattern, sha256, small_index},
    node::TestNode,
    raw::{Raw, eventually},
    s3_server::{Action, Injection},
};

const NODES: usize = 3;
const READERS: usize = 50;
const ROUNDS: usize = 100;

const TAG: &str = "/v2/a/manifests/v1";

/// As long as anything may take that waits for no node that does not answer.
const SOON: Duration = Duration::from_secs(10);

/// A node that is not in the cluster, on the same bucket: what it does, the nodes of the cluster are not told.
async fn stranger(cluster: &Cluster) -> TestNode {
    let disk = Arc::new(TempDir::new().expect("a temporary directory"));
    TestNode::on(Arc::clone(&cluster.nodes[0].ground), disk, "").await
}

/// How many requests there were since the last call, whose line ends like that.
fn count(requests: &[String], end: &str) -> usize {
    requests.iter().filter(|line| line.starts_with("GET ") && line.ends_with(end)).count()
}

/// So many readers of a path on each node at once, who all get that.
async fn storm(cluster: &Cluster, path: &str, expected: &Bytes) {
    let readers = cluster.nodes.iter().flat_map(|node| (0..READERS).map(|_| node.get(path)));
    for answer in join_all(readers.map(|ask| ask.expect(200))).await {
        assert!(answer.body == *expected, "{path}: other bytes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_on_all_nodes_cost_the_bucket_a_few_requests() {
    let blob = pattern(1_000, 1);
    let cluster = Cluster::of(NODES, std::slice::from_ref(&blob)).await;
    let manifest = small_index("x");
    stranger(&cluster).await.push_manifest("a", "v1", &manifest).await;
    let s3 = cluster.nodes[0].s3();
    s3.take_requests();
    let (blob_digest, digest) = (sha256(&blob), sha256(&manifest));
    let contents = [
        (format!("/v2/a/blobs/{blob_digest}"), &blob),
        (format!("/v2/a/manifests/{digest}"), &manifest),
    ];
    for (path, content) in contents {
        storm(&cluster, &path, content).await;
        let requests = s3.take_requests();
        assert_eq!(count(&requests, "/link"), 1, "{requests:#?}");
        assert_eq!(count(&requests, "/data"), 1, "{requests:#?}");
    }
    // As long as all readers need to come.
    s3.inject(Injection::new(Action::Delay(Duration::from_millis(100))).on("/link"));
    storm(&cluster, TAG, &manifest).await;
    let requests = s3.take_requests();
    let tags = count(&requests, "/tags/v1/current/link");
    assert!(tags <= 3 && tags == requests.len(), "{requests:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_is_read_on_every_node_as_it_was_pushed_last() {
    let cluster = Cluster::of(NODES, &[]).await;
    for number in 0..ROUNDS {
        let manifest = small_index(&number.to_string());
        let pusher = &cluster.nodes[number % NODES];
        pusher.push_manifest("a", "v1", &manifest).await;
        for answer in join_all(cluster.nodes.iter().map(|node| node.get(TAG).expect(200))).await {
            assert!(answer.body == manifest, "{number}: an older manifest");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_deleted_on_one_node_is_gone_on_every_other_at_once() {
    let cluster = Cluster::of(NODES, &[]).await;
    for number in 0..30 {
        let node = &cluster.nodes[number % NODES];
        let (blob, manifest) = (pattern(100, number as u64), small_index(&number.to_string()));
        let digest = node.push_blob("a", &blob).await;
        node.push_manifest("a", "v1", &manifest).await;
        let paths =
            [format!("/v2/a/blobs/{digest}"), format!("/v2/a/manifests/{}", sha256(&manifest))];
        for path in &paths {
            // All of them believe it from now on.
            join_all(cluster.nodes.iter().map(|node| node.head(path).expect(200))).await;
            cluster.nodes[(number + 1) % NODES].delete(path).expect(202).await;
            for node in &cluster.nodes {
                assert_eq!(node.status_of(path).await, 404, "{number}: {path}");
            }
        }
        for node in &cluster.nodes {
            assert_eq!(node.status_of(TAG).await, 404, "{number}");
        }
    }
}

/// Reads, pushes and deletes on the first two nodes, in a repository of its own.
async fn everything_works(cluster: &Cluster, name: &str) {
    let [one, two] = &cluster.nodes[..2] else { panic!("there are two nodes") };
    for number in 0..20 {
        let (blob, manifest) = (pattern(1_000, number), small_index(&format!("{name} {number}")));
        let digest = one.push_blob(name, &blob).await;
        let tag = format!("v{number}");
        let path = format!("/v2/{name}/manifests/{tag}");
        assert_eq!(two.status_of(&path).await, 404, "{path}");
        one.push_manifest(name, &tag, &manifest).await;
        assert_eq!(two.get(&path).expect(200).await.body, manifest);
        assert_eq!(two.pull_blob(name, &digest).await, blob);
    }
    let path = format!("/v2/{name}/manifests/v0");
    two.delete(&path).expect(202).await;
    assert_eq!(one.status_of(&path).await, 404);
    let blob = format!("/v2/{name}/blobs/{}", sha256(&pattern(1_000, 0)));
    two.delete(&blob).expect(202).await;
    assert_eq!(one.status_of(&blob).await, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_gone_or_hangs_keeps_nobody_from_anything() {
    let mut cluster = Cluster::of(NODES, &[]).await;
    let address = cluster.nodes[2].config().cluster.listen.expect("it is a node of a cluster");
    assert_eq!(cluster.nodes[2].stop().await, 0);
    let began = Instant::now();
    everything_works(&cluster, "gone").await;
    assert!(began.elapsed() < SOON, "gone: {:?}", began.elapsed());
    // The kernel takes connections, and nobody answers.
    let _hanging = TcpListener::bind(address).expect("the address of the stopped node");
    let began = Instant::now();
    everything_works(&cluster, "hangs").await;
    assert!(began.elapsed() < 2 * SOON, "hangs: {:?}", began.elapsed());
}

/// Begins a request that sends a part of its body and no more.
async fn hang(node: &TestNode, location: &str, bytes: &[u8]) -> Raw {
    let path = location.strip_prefix(node.url()).unwrap_or(location);
    let mut raw = Raw::connect(node).await;
    let length = bytes.len() + 1;
    let head = format!("PATCH {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
    raw.send(head).await;
    raw.send(bytes).await;
    raw
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_goes_on_elsewhere_lets_go_of_the_connection_that_hangs() {
    let cluster = Cluster::of(NODES, &[]).await;
    let [first, second, third] = &cluster.nodes[..] else { panic!("there are three nodes") };
    let bytes = pattern(9_000, 1);
    let location = first.begin_upload("a").await;
    let mut hanging = hang(first, &location, &bytes[..4_000]).await;
    let working =
        async || (crate::disk::metric(first, "millpond_uploads_open").await == 1).then_some(());
    eventually("the first node works on it", working).await;
    // Asking where it stands disturbs nobody.
    third.get(&location).expect(204).await;
    let path = location.strip_prefix(first.url()).unwrap_or(&location).to_owned();
    let location = second.ask(Method::PATCH, &path).bytes(bytes.slice(..3_000)).send().await;
    assert!(matches!(location.status, 202 | 416), "{location:?}");
    assert_eq!(hanging.answer().await.status, 409);
    let location = location.location();
    let stored = third.get(&location).expect(204).await;
    let end: usize = stored.header("range").split('-').next_back().unwrap().parse().unwrap();
    let digest = sha256(&bytes);
    let target = crate::client::with_query(&stored.location(), &format!("digest={digest}"));
    third.put(&target, bytes.slice(end + 1..)).expect(201).await;
    for node in &cluster.nodes {
        assert_eq!(node.pull_blob("a", &digest).await, bytes);
        let ended = async || (node.get(&location).send().await.status == 404).then_some(());
        eventually("every node knows that it has ended", ended).await;
    }
}
