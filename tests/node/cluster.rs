//! Several nodes in front of one bucket that give each other what they have.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use tempfile::TempDir;

use crate::{
    content::{pattern, sha256},
    disk::metric,
    node::{Backend, TestNode},
    ports::free_ports,
};

const MIB: usize = 1 << 20;

/// Nodes of one cluster, and where they expect each other.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<TestNode>,
}

fn settings(ports: &[u16], own: u16, more: &str) -> String {
    let members: Vec<String> = ports.iter().map(|port| format!("'127.0.0.1:{port}'")).collect();
    let members = members.join(", ");
    format!(
        "cache: {{memory: 128MiB, disk: {{size: 64MiB}}}}\n\
         cluster: {{listen: '127.0.0.1:{own}', members: [{members}], \
         secret: a-secret-of-the-test-nodes, warm_up: 0s{more}}}"
    )
}

impl Cluster {
    /// So many nodes that know each other, on a bucket in which `blobs` lie in the repository `a`.
    pub(crate) async fn of(count: usize, blobs: &[Bytes]) -> Self {
        Self::with_agents(count, 0, blobs).await
    }

    /// The same, of which the last `agents` own nothing.
    pub(crate) async fn with_agents(count: usize, agents: usize, blobs: &[Bytes]) -> Self {
        let first = TestNode::start(Backend::S3, "").await;
        for blob in blobs {
            first.push_blob("a", blob).await;
        }
        let ground = Arc::clone(&first.ground);
        drop(first);
        let ports = free_ports(count);
        let mut nodes = Vec::new();
        for (number, port) in ports.iter().enumerate() {
            let disk = Arc::new(TempDir::new().expect("a temporary directory"));
            let more = if number < count - agents { "" } else { ", weight: 0" };
            let settings = settings(&ports, *port, more);
            nodes.push(TestNode::on(Arc::clone(&ground), disk, &settings).await);
        }
        let cluster = Self { nodes };
        cluster.agree(count - agents).await;
        cluster.nodes[0].s3().take_requests();
        cluster
    }

    /// Waits until all nodes know all others, of which `owners` own something.
    pub(crate) async fn agree(&self, owners: usize) {
        let expected = (self.nodes.len() as u64, owners as u64);
        let wait = async {
            loop {
                let members = join_all(self.nodes.iter().map(members)).await;
                if members.iter().all(|members| *members == expected) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .expect("all nodes find each other");
    }

    /// How often the bucket was asked for each of its objects with bytes of blobs, by key and range.
    fn asked(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for line in self.nodes[0].s3().take_requests() {
            if line.ends_with("/data") || line.ends_with("/table") {
                *counts.entry(line).or_default() += 1;
            }
        }
        counts
    }
}

/// How many nodes one knows, and how many of them own something.
async fn members(node: &TestNode) -> (u64, u64) {
    let known = metric(node, "millpond_cluster_nodes").await;
    (known, metric(node, "millpond_cluster_members").await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_all_nodes_are_asked_for_costs_the_bucket_one_copy() {
    for length in [1, 100_000, 3 * MIB, 9 * MIB, 66 * MIB] {
        let blob = pattern(length, 5);
        let cluster = Cluster::of(3, std::slice::from_ref(&blob)).await;
        let path = format!("/v2/a/blobs/{}", sha256(&blob));
        let pulls = cluster.nodes.iter().map(|node| node.get(&path).expect(200));
        for answer in join_all(pulls).await {
            assert!(answer.body == blob, "{length}: other bytes");
        }
        let asked = cluster.asked();
        let chunk = if length < 64 * MIB { MIB } else { 4 * MIB };
        let gets: usize = asked.values().sum();
        // A chunk table, and the rest of what begins with a chunk of unknown length.
        let most = length.div_ceil(chunk) + if length > 8 * MIB { 2 } else { 1 };
        assert!(gets <= most, "{length}: {gets} requests for at most {most}: {asked:?}");
        let pulls = cluster.nodes.iter().map(|node| node.get(&path).expect(200));
        for answer in join_all(pulls).await {
            assert!(answer.body == blob, "{length}: other bytes");
        }
        assert_eq!(cluster.asked(), BTreeMap::new(), "{length}: it is all there");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_blob_that_all_nodes_are_asked_for_at_once_is_given_by_all_of_them() {
    let cluster = Cluster::of(3, &[]).await;
    for (round, node) in (0..30).zip(cluster.nodes.iter().cycle()) {
        let blob = pattern(100, round);
        let digest = node.push_blob("a", &blob).await;
        let path = format!("/v2/a/blobs/{digest}");
        // Twice as long as a node that does not answer holds others up.
        let pulls = cluster.nodes.iter().map(|node| node.get(&path).expect(200));
        let answers = tokio::time::timeout(Duration::from_secs(4), join_all(pulls)).await;
        let answers = answers.unwrap_or_else(|_| panic!("round {round}: they wait for each other"));
        assert!(answers.iter().all(|answer| answer.body == blob), "round {round}: other bytes");
    }
    let mut asked = cluster.asked();
    asked.retain(|line, _| line.starts_with("GET "));
    assert_eq!(asked.len(), 30, "{asked:?}");
    asked.retain(|_, times| *times > 1);
    assert_eq!(asked, BTreeMap::new(), "the bucket was asked for each once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_ends_has_told_the_others_before_it_is_gone() {
    let mut cluster = Cluster::of(3, &[]).await;
    let mut leaving = cluster.nodes.pop().expect("there are three");
    leaving.stop().await;
    for node in &cluster.nodes {
        assert_eq!(members(node).await, (3, 2), "it is known, and owns nothing");
    }
}
