//! Nodes that do not know the same others.

use crate::{
    cluster::{Cluster, Traits},
    content::Blob,
    network::Number,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_knows_others() {
    let known: [&[Number]; 5] = [&[1], &[0, 2], &[0, 1, 3, 4], &[], &[0, 3]];
    let blobs = Blob::some();
    let mut cluster = Cluster::prepared(known.len()).await;
    let all = cluster.all();
    for (node, known) in known.iter().enumerate() {
        let traits = Traits { knows: Some(known.to_vec()), ..Traits::default() };
        cluster.start(node, &traits).await;
    }
    for (node, known) in known.iter().enumerate() {
        cluster.sees(node, &[known, &[node][..]].concat()).await;
    }
    cluster.take_turn().await;
    cluster.pull(&all, &blobs).await;
    // As often as there are different views.
    cluster.expect_reads(&blobs, |blob| known.len() * blob.parts());
}
